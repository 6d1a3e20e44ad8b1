//! The names that a request may use for the server. Another site can point a name of its own here
//! (DNS rebinding). If that name were accepted, a browser would let the site read the answers.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// The names of loopback, and those that the configuration adds, in its spelling.
#[derive(Debug, Clone)]
pub(super) struct Hosts(Arc<[String]>);

impl Hosts {
    pub(super) fn new(allowed: &[String]) -> Self {
        Self(allowed.into())
    }

    /// Whether a `Host` header names one of them, with any port or none.
    pub(super) fn admit(&self, header: &str) -> bool {
        let Some(host) = without_port(header) else { return false };
        let address = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(host) => {
                let Ok(address) = host.parse() else { return false };
                Some(IpAddr::V6(address))
            }
            None => host.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        };
        let name = address.map_or_else(|| host.to_ascii_lowercase(), |address| address.to_string());
        name == "localhost"
            || address.is_some_and(|address| address.is_loopback())
            || self.0.contains(&name)
    }
}

/// The host of `host[:port]`; an IPv6 address keeps its brackets.
fn without_port(header: &str) -> Option<&str> {
    let end = header.rfind(']').map(|end| end + 1).or(header.find(':')).unwrap_or(header.len());
    let (host, port) = header.split_at_checked(end)?;
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let fits = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
    (fits && !host.is_empty()).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_and_what_is_allowed_by_any_port() {
        let allowed = ["watcher.internal", "10.0.0.7", "fd00::1"].map(str::to_owned);
        let hosts = Hosts::new(&allowed);
        let good = "localhost LocalHost:1 127.0.0.1 127.9.9.9:9847 [::1] [0:0::1]:80 \
                    watcher.internal Watcher.Internal:443 10.0.0.7:80 [FD00:0::1]:80";
        for good in good.split(' ') {
            assert!(hosts.admit(good), "{good}");
        }
        let bad = " :80 evil.example localhost.evil.example evil.example:9847 localhost: \
                   localhost:80:80 localhost:a localhost@evil.example localhost/ 128.0.0.1 127.1 \
                   2130706433 10.0.0.8 ::1 [::1 [::1]x [::2] [localhost] [::ffff:127.0.0.1] fd00::1";
        for bad in bad.split(' ') {
            assert!(!hosts.admit(bad), "{bad}");
        }
    }
}
