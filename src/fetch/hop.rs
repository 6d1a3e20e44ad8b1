//! Whether a signed link, or a redirect behind it, may be followed. Pure.
//!
//! Sources of the address classes: the IANA special-purpose address registries (RFC 6890), RFC 6598
//! for carrier-grade NAT, RFC 6052 and RFC 8215 for NAT64, RFC 3056 for 6to4, and the clouds'
//! documentation for the metadata addresses.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

use crate::domain::text::shown;
use crate::transport::{
    RefusedAddress, has_userinfo, is_loopback_host, is_plain_loopback, same_origin,
};

#[derive(Debug)]
pub(crate) struct HopRules {
    api: Url,
    allowed_hosts: BTreeSet<String>,
    /// The operator has chosen the proxy, so it may have any address; but no link may lead to it.
    proxy_host: Option<String>,
}

/// Why a hop is not taken. Safe to show.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HopRefusal {
    #[error("the link is not https")]
    Scheme,
    #[error("the link names no host")]
    NoHost,
    #[error("the link has a user or password in it")]
    Userinfo,
    /// The proxy's address is exempt from the rules for addresses.
    #[error("the link leads to the proxy itself")]
    Proxy,
    /// After the first hop away, no request may go to the API's origin.
    #[error("the link leads back to the API")]
    BackToApi,
    #[error(transparent)]
    Address(#[from] RefusedAddress),
}

impl HopRules {
    /// Rules for links from the API at `api`. Brackets around a host make no difference.
    pub(crate) fn new(api: Url, allowed_hosts: &[String], proxy_host: Option<&str>) -> Self {
        let allowed_hosts = allowed_hosts.iter().map(|host| normal(host)).collect();
        Self { api, allowed_hosts, proxy_host: proxy_host.map(normal) }
    }

    /// Judges a URL before a request is sent. Names are judged again once they are resolved.
    pub(crate) fn judge(&self, url: &Url) -> Result<(), HopRefusal> {
        let plain_http = url.scheme() == "http" && is_plain_loopback(&self.api);
        if url.scheme() != "https" && !plain_http {
            return Err(HopRefusal::Scheme);
        }
        if has_userinfo(url) {
            return Err(HopRefusal::Userinfo);
        }
        if same_origin(url, &self.api) {
            return Err(HopRefusal::BackToApi);
        }
        let host = url.host_str().ok_or(HopRefusal::NoHost)?;
        if self.is_proxy(host) && !self.allows(host) {
            return Err(HopRefusal::Proxy);
        }
        let address = match url.host().ok_or(HopRefusal::NoHost)? {
            Host::Ipv4(address) => IpAddr::V4(address),
            Host::Ipv6(address) => IpAddr::V6(address),
            Host::Domain(_) => return Ok(()),
        };
        Ok(self.judge_address(host, address)?)
    }

    /// Judges an address of a link's host or of the proxy.
    pub(crate) fn judge_address(&self, host: &str, address: IpAddr) -> Result<(), RefusedAddress> {
        if self.allows(host) || self.is_proxy(host) {
            return Ok(());
        }
        let class = match (is_loopback_host(&self.api), class_of(address)) {
            (true, Some("loopback")) | (false, None) => return Ok(()),
            (true, None) => "public",
            (_, Some(class)) => class,
        };
        Err(RefusedAddress { host: shown(host, &[]), address, class })
    }

    fn allows(&self, host: &str) -> bool {
        self.allowed_hosts.contains(&normal(host))
    }

    fn is_proxy(&self, host: &str) -> bool {
        self.proxy_host.as_deref() == Some(normal(host).as_str())
    }
}

/// A host as it is compared: lower case, without brackets and without the root's dot.
fn normal(host: &str) -> String {
    let bare = host.trim().trim_start_matches('[').trim_end_matches(']');
    bare.strip_suffix('.').unwrap_or(bare).to_ascii_lowercase()
}

/// The class of an address that no link from outside may lead to; `None` for public addresses.
fn class_of(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => class_of_v4(address),
        IpAddr::V6(address) => class_of_v6(address),
    }
}

fn class_of_v4(address: Ipv4Addr) -> Option<&'static str> {
    Some(match address.octets() {
        [0, ..] => "this-network",
        [127, ..] => "loopback",
        // Link-local or not, the clouds' metadata services have a class of their own.
        [169, 254, 169, 254] | [168, 63, 129, 16] | [100, 100, 100, 200] => "metadata",
        [169, 254, ..] => "link-local",
        [10, ..] | [192, 168, ..] | [172, 16..=31, ..] => "private",
        [100, 64..=127, ..] => "carrier-grade nat",
        [192, 0, 0, _] | [198, 18..=19, ..] | [192, 88, 99, _] => "special-purpose",
        [224..=239, ..] => "multicast",
        [255, 255, 255, 255] => "broadcast",
        [240..=255, ..] => "reserved",
        _ => return None,
    })
}

fn class_of_v6(address: Ipv6Addr) -> Option<&'static str> {
    Some(match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => "unspecified",
        [0, 0, 0, 0, 0, 0, 0, 1] => "loopback",
        [0, 0, 0, 0, 0, 0xffff, ..] => "ipv4-mapped",
        [0, 0, 0, 0, 0, 0, ..] => "ipv4-compatible",
        // A translator of the network passes it on to the IPv4 address that it ends with (RFC 6052).
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            let [a, b] = high.to_be_bytes();
            let [c, d] = low.to_be_bytes();
            return class_of_v4(Ipv4Addr::new(a, b, c, d)).map(|_| "nat64");
        }
        [0x64, 0xff9b, 1, ..] => "nat64",
        [0xfe80..=0xfebf, ..] => "link-local",
        [0xfec0..=0xfeff, ..] => "site-local",
        [0xfc00..=0xfdff, ..] => "unique-local",
        [0xff00..=0xffff, ..] => "multicast",
        [0x2002, ..] => "6to4",
        [0x2001, 0, ..] => "teredo",
        [0x2000..=0x3fff, ..] => return None,
        // Only 2000::/3 is handed out for the public internet.
        _ => "reserved",
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PUBLIC: [&str; 6] = [
        "93.184.216.34",
        "1.1.1.1",
        "172.32.0.1",
        "[2606:4700::1111]",
        "[64:ff9b::93.184.216.34]",
        "store.example",
    ];
    const INWARD: [(&str, &str); 35] = [
        ("0.0.0.0", "this-network"),
        ("0.1.2.3", "this-network"),
        ("10.1.2.3", "private"),
        ("172.16.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.168.1.1", "private"),
        ("100.64.0.1", "carrier-grade nat"),
        ("100.127.255.255", "carrier-grade nat"),
        ("100.100.100.200", "metadata"),
        ("169.254.1.1", "link-local"),
        ("169.254.169.254", "metadata"),
        ("168.63.129.16", "metadata"),
        ("192.0.0.8", "special-purpose"),
        ("198.18.0.1", "special-purpose"),
        ("224.0.0.1", "multicast"),
        ("239.255.255.250", "multicast"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", "broadcast"),
        ("[::]", "unspecified"),
        ("[::ffff:10.0.0.1]", "ipv4-mapped"),
        ("[::ffff:93.184.216.34]", "ipv4-mapped"),
        ("[::ffff:127.0.0.1]", "ipv4-mapped"),
        ("[::10.0.0.1]", "ipv4-compatible"),
        ("[64:ff9b::10.0.0.1]", "nat64"),
        ("[64:ff9b::127.0.0.1]", "nat64"),
        ("[64:ff9b::169.254.169.254]", "nat64"),
        ("[64:ff9b:1::1]", "nat64"),
        ("[fe80::1]", "link-local"),
        ("[fec0::1]", "site-local"),
        ("[fd00:ec2::254]", "unique-local"),
        ("[fc00::1]", "unique-local"),
        ("[ff02::1]", "multicast"),
        ("[2002:a00:1::1]", "6to4"),
        ("[2001::1]", "teredo"),
        ("[4000::1]", "reserved"),
    ];
    const NONE: &[&str] = &[];
    /// Other spellings of loopback that a URL parser takes.
    const LOOPBACK: [&str; 6] =
        ["127.0.0.1", "127.9.9.9", "[::1]", "0x7f.1", "2130706433", "0177.0.0.1"];

    fn rules(api: &str, allowed: &[impl AsRef<str>]) -> HopRules {
        let allowed: Vec<_> = allowed.iter().map(|host| host.as_ref().to_owned()).collect();
        HopRules::new(api.parse().unwrap(), &allowed, None)
    }

    fn judge(rules: &HopRules, url: &str) -> Result<(), HopRefusal> {
        rules.judge(&url.parse().unwrap())
    }

    fn class(verdict: Result<(), HopRefusal>) -> Result<Option<&'static str>, HopRefusal> {
        match verdict {
            Ok(()) => Ok(None),
            Err(HopRefusal::Address(refused)) => Ok(Some(refused.class)),
            Err(other) => Err(other),
        }
    }

    #[test]
    fn from_a_public_api_links_lead_to_public_hosts_over_https_only() {
        let rules = rules("https://api.example/2.11", NONE);
        for port in ["", ":443", ":8443"] {
            for host in PUBLIC {
                assert_eq!(judge(&rules, &format!("https://{host}{port}/x?s")), Ok(()), "{host}");
                for scheme in ["http", "ftp", "ws", "gopher"] {
                    let verdict = judge(&rules, &format!("{scheme}://{host}{port}/x"));
                    assert_eq!(verdict, Err(HopRefusal::Scheme), "{scheme} {host}");
                }
            }
            for (host, expected) in
                INWARD.into_iter().chain(LOOPBACK.map(|host| (host, "loopback")))
            {
                let verdict = judge(&rules, &format!("https://{host}{port}/"));
                assert_eq!(class(verdict), Ok(Some(expected)), "{host}");
            }
        }
        for other in ["data:text/plain,x", "file:///etc/passwd", "unix:/run/x"] {
            assert_eq!(judge(&rules, other), Err(HopRefusal::Scheme), "{other}");
        }
    }

    /// Scheme by host by port by user, from each kind of API, with the host listed and not listed.
    #[test]
    fn every_combination_is_judged_by_the_first_rule_that_it_breaks() {
        let apis = [
            "https://api.example/2.11",
            "https://127.0.0.1:9000/2.11",
            "http://127.0.0.1:9000/2.11",
        ];
        let classed = INWARD.into_iter().chain(LOOPBACK.map(|host| (host, "loopback")));
        let hosts: Vec<_> = classed.chain(PUBLIC.map(|host| (host, "public"))).collect();
        let mut judged = 0;
        for (api, listed, user) in apis.iter().flat_map(|api| {
            [(*api, false, ""), (*api, false, "u@"), (*api, true, ""), (*api, true, ":p@")]
        }) {
            let (local, plain) = (api.contains("127.0.0.1"), api.starts_with("http:"));
            for (host, class_of_host) in &hosts {
                let url: Url = format!("https://{host}/").parse().unwrap();
                let name = url.host_str().unwrap().to_owned();
                let rules = rules(api, if listed { std::slice::from_ref(&name) } else { &[] });
                for (scheme, port) in
                    ["https", "http", "ftp", "wss"].into_iter().flat_map(|scheme| {
                        ["", ":80", ":443", ":8443", ":9000"].map(|port| (scheme, port))
                    })
                {
                    let url = format!("{scheme}://{user}{host}{port}/x?s");
                    let is_api = local
                        && name == "127.0.0.1"
                        && port == ":9000"
                        && api.starts_with(&format!("{scheme}:"));
                    let is_name = host.starts_with(char::is_alphabetic);
                    let expected = match scheme {
                        "https" | "http" if scheme == "http" && !plain => Err(HopRefusal::Scheme),
                        "ftp" | "wss" => Err(HopRefusal::Scheme),
                        _ if !user.is_empty() => Err(HopRefusal::Userinfo),
                        _ if is_api => Err(HopRefusal::BackToApi),
                        _ if listed || is_name => Ok(None),
                        _ if local == (*class_of_host == "loopback")
                            && (local || *class_of_host == "public") =>
                        {
                            Ok(None)
                        }
                        _ => Ok(Some(*class_of_host)),
                    };
                    let verdict = class(judge(&rules, &url));
                    assert_eq!(verdict, expected, "{url} from {api}, listed: {listed}");
                    judged += 1;
                }
            }
        }
        assert_eq!(judged, 3 * 4 * hosts.len() * 20);
    }

    #[test]
    fn no_hop_returns_to_the_api_or_names_a_user() {
        let rules = rules("https://api.example/2.11", NONE);
        assert_eq!(judge(&rules, "https://api.example/x"), Err(HopRefusal::BackToApi));
        assert_eq!(judge(&rules, "https://API.example:443/x"), Err(HopRefusal::BackToApi));
        assert_eq!(judge(&rules, "https://api.example:8443/x"), Ok(()));
        assert_eq!(judge(&rules, "https://user@store.example/"), Err(HopRefusal::Userinfo));
        assert_eq!(judge(&rules, "https://:p@store.example/"), Err(HopRefusal::Userinfo));
    }

    #[test]
    fn links_of_an_api_on_loopback_lead_to_loopback_only() {
        for (api, http) in [
            ("http://127.0.0.1:9000/2.11", Ok(())),
            ("http://localhost:9000/2.11", Ok(())),
            ("http://[::1]:9000/2.11", Ok(())),
            ("https://127.0.0.1:9000/2.11", Err(HopRefusal::Scheme)),
        ] {
            let rules = rules(api, NONE);
            for host in LOOPBACK {
                assert_eq!(judge(&rules, &format!("http://{host}:9001/")), http, "{api} {host}");
                assert_eq!(judge(&rules, &format!("https://{host}:9001/")), Ok(()), "{api} {host}");
            }
            for (host, expected) in INWARD {
                let verdict = judge(&rules, &format!("https://{host}/"));
                assert_eq!(class(verdict), Ok(Some(expected)), "{api} {host}");
            }
            assert_eq!(class(judge(&rules, "https://93.184.216.34/")), Ok(Some("public")));
            let resolved = rules.judge_address("store.example", "93.184.216.34".parse().unwrap());
            assert_eq!(resolved.unwrap_err().class, "public");
        }
    }

    #[test]
    fn a_listed_host_may_lead_anywhere_but_not_over_http() {
        let rules =
            rules("https://api.example/", &["Minio.Internal", "10.0.0.5", "[fd00::5]", "fd00::6"]);
        for url in ["https://10.0.0.5/", "https://[fd00::5]/", "https://[fd00::6]:9000/"] {
            assert_eq!(judge(&rules, url), Ok(()), "{url}");
        }
        assert_eq!(judge(&rules, "http://10.0.0.5/"), Err(HopRefusal::Scheme));
        assert_eq!(class(judge(&rules, "https://10.0.0.6/")), Ok(Some("private")));
        let inward = "10.9.9.9".parse().unwrap();
        for host in ["minio.internal", "MINIO.internal."] {
            assert_eq!(rules.judge_address(host, inward), Ok(()), "{host}");
        }
        assert!(rules.judge_address("evil.minio.internal", inward).is_err());
    }

    #[test]
    fn the_proxys_address_is_exempt_but_no_link_leads_to_it() {
        let api: Url = "https://api.example/".parse().unwrap();
        let inward = "10.0.0.3".parse().unwrap();
        for proxy in ["Proxy.corp", "10.0.0.3", "[fd00::3]"] {
            let rules = HopRules::new(api.clone(), &[], Some(proxy));
            assert_eq!(rules.judge_address(proxy, inward), Ok(()), "{proxy}");
            assert!(rules.judge_address("store.example", inward).is_err(), "{proxy}");
            let verdict = judge(&rules, &format!("https://{proxy}:3128/"));
            assert_eq!(verdict, Err(HopRefusal::Proxy), "{proxy}");
            let vouched = HopRules::new(api.clone(), &[proxy.to_owned()], Some(proxy));
            assert_eq!(judge(&vouched, &format!("https://{proxy}/")), Ok(()), "{proxy}");
        }
    }

    #[test]
    fn a_refusal_names_the_host_and_hides_the_path() {
        let refusal =
            judge(&rules("https://api.example/", NONE), "https://10.0.0.1/s3cr3t?sig=s3cr3t");
        let text = format!("{refusal:?} {}", refusal.as_ref().unwrap_err());
        assert!(text.contains("10.0.0.1") && text.contains("allowed_hosts"), "{text}");
        assert!(!text.contains("s3cr3t"), "{text}");
    }

    proptest! {
        #[test]
        fn whatever_the_standard_library_calls_inward_is_refused(bits: u32) {
            let address = Ipv4Addr::from_bits(bits);
            let inward = address.is_private() || address.is_loopback() || address.is_link_local()
                || address.is_multicast() || address.is_broadcast() || address.is_unspecified();
            prop_assert!(!inward || class_of_v4(address).is_some());
        }
    }
}
