//! `[server]`: where the status page listens, and which host names requests may use.

use std::net::{Ipv4Addr, SocketAddr};

use toml::Spanned;

use super::ServerConfig;
use super::checker::Checker;
use super::endpoint::parse_host;
use super::raw::RawServer;

/// On this machine alone, on a port that no known program uses.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9847);
/// The value of `server.listen` for no status page.
const OFF: &str = "off";

pub(super) fn server(checker: &mut Checker<'_>, raw: &RawServer) -> ServerConfig {
    const KEY: &str = "server.listen";
    let listen = checker.parsed(KEY, raw.listen.as_ref(), parse_listen).unwrap_or(Some(LISTEN));
    let allowed_hosts = checker.all("server.allowed_hosts", &raw.allowed_hosts, parse_host);
    if listen.is_some_and(|address| !address.ip().is_loopback()) && raw.allowed_hosts.is_empty() {
        let address = raw.listen.as_ref().map_or("", |value| value.get_ref().as_str());
        let message = format!(
            "`{address}` can be reached from other machines: list the host names that clients use \
             in server.allowed_hosts, such as [\"watcher.internal\"]"
        );
        checker.fault(KEY, raw.listen.as_ref().map_or(0..0, Spanned::span), message);
    }
    ServerConfig { listen, allowed_hosts }
}

fn parse_listen(text: &str) -> Result<Option<SocketAddr>, &'static str> {
    if text == OFF {
        return Ok(None);
    }
    let help = "is not an address: write an IP address with a port, such as 127.0.0.1:9847, or off";
    text.parse().map(Some).map_err(|_| help)
}

impl ServerConfig {
    /// `listen` as the configuration spells it.
    pub(super) fn shown_address(&self) -> String {
        self.listen.map_or_else(|| OFF.to_owned(), |address| address.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::super::scene::{Scene, holds};
    use super::*;

    #[test]
    fn an_address_with_a_port_or_off() {
        assert_eq!(parse_listen("off"), Ok(None));
        assert_eq!(parse_listen("[::1]:0"), Ok(Some("[::1]:0".parse().unwrap())));
        assert_eq!(parse_listen("127.0.0.1:9847"), Ok(Some(LISTEN)));
        let bad = "|on|localhost:80|127.0.0.1|:80|127.0.0.1:65536|http://127.0.0.1:80";
        for text in bad.split('|') {
            assert!(parse_listen(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_public_address_needs_allowed_hosts() {
        let scene = Scene::new();
        let found = |text: &str| scene.load_with_shop(text).map(|config| config.server);
        for listen in ["0.0.0.0:9847", "[::]:1", "10.0.0.7:80"] {
            let faults = found(&format!("[server]\nlisten = \"{listen}\"\n")).unwrap_err();
            let expected = format!("server.listen: `{listen}` can be reached from other machines");
            holds(&faults.to_string(), &format!("c.toml:2: {expected}"));
        }
        let text = "[server]\nlisten = \"0.0.0.0:80\"\n\
                    allowed_hosts = [\"Watcher.Internal\", \"10.0.0.7\"]\n";
        let allowed_hosts = vec!["watcher.internal".to_owned(), "10.0.0.7".to_owned()];
        assert_eq!(found(text).unwrap().allowed_hosts, allowed_hosts);
        let faults = found("[server]\nallowed_hosts = [\"a:80\"]\n").unwrap_err().to_string();
        holds(&faults, "c.toml:2:18: server.allowed_hosts: `a:80` is not a host");
    }
}
