//! Fuzzed: the redirects of a download call, from the API to the store and beyond.

use std::net::IpAddr;

use reqwest::header::{HeaderMap, HeaderValue, LOCATION};
use url::{Host, Position, Url};

use crate::api::ApiUrl;
use crate::fetch::HopRules;
use crate::transport::redirect_target;

/// The settings that the first byte chooses from: the API, the hosts that may be inward, the proxy.
const SETTINGS: [(&str, &[&str], Option<&str>); 5] = [
    ("https://api.batch.com/2.11", &[], None),
    ("http://127.0.0.1:9000/2.11", &[], None),
    ("https://localhost:9000/2.11", &[], None),
    ("https://api.batch.com/2.11", &["minio.internal", "10.0.0.5", "fd00::5"], None),
    ("https://api.batch.com/2.11", &[], Some("10.0.0.3")),
];

/// A digit that chooses the settings, then a `Location` a line; a tab separates two headers.
pub fn location(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let choice = lines.next().and_then(|line| line.first()).copied().unwrap_or_default();
    let (api, allowed, proxy) = SETTINGS[usize::from(choice.wrapping_sub(b'0')) % SETTINGS.len()];
    let api: Url = api.parse().expect("a URL");
    let allowed: Vec<_> = allowed.iter().map(|host| (*host).to_owned()).collect();
    let hops = HopRules::new(api.clone(), &allowed, proxy);

    let download = ApiUrl::endpoint(&api, "download").expect("an API has a path");
    let mut with_credentials = Some(download.with("id", "file_1"));
    let mut current = download.with("id", "file_1").as_url().clone();
    for line in lines {
        let mut headers = HeaderMap::new();
        for bytes in line.split(|byte| *byte == b'\t') {
            let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
            headers.append(LOCATION, value);
        }
        let link = match redirect_target(&current, &headers) {
            Ok(link) => link,
            Err(words) => {
                assert!(words.starts_with("a redirect"), "{words}");
                return;
            }
        };
        let target = link.expose().clone();
        assert_eq!(target.fragment(), None);
        // What is sent is what is judged.
        let sent = format!("{}{}", &target[..Position::BeforePath], link.target());
        assert!(target.cannot_be_a_base() || sent.parse() == Ok(target.clone()), "{sent:?}");
        assert!(target.username().is_empty() && target.password().is_none(), "{target}");
        match with_credentials.take().map(|url| url.follow(link.clone())) {
            Some(Ok(on_origin)) => {
                let url = on_origin.as_url();
                assert_eq!(origin(url), origin(&api), "credentials go to {url}");
                with_credentials = Some(on_origin);
            }
            // From here on no request carries credentials: none is an `ApiUrl`.
            Some(Err(_)) | None => match hops.judge(&target) {
                Ok(()) => check(&target, &api, &allowed, proxy, &hops),
                Err(refusal) => {
                    // What is shown of a link does not depend on its secret parts.
                    let mut bare = target.clone();
                    bare.set_path("/");
                    bare.set_query(None);
                    assert_eq!(hops.judge(&bare), Err(refusal));
                    return;
                }
            },
        }
        current = target;
    }
}

/// Checks a hop without credentials against the rules, by other means than the code's.
fn check(url: &Url, api: &Url, allowed: &[String], proxy: Option<&str>, hops: &HopRules) {
    let plain_api = api.scheme() == "http";
    assert!(url.scheme() == "https" || (plain_api && url.scheme() == "http"), "{url}");
    assert_ne!(origin(url), origin(api), "back to the API");
    let host = url.host_str().expect("what is asked has a host");
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if allowed.iter().any(|allowed| allowed == bare) {
        return;
    }
    assert_ne!(Some(bare), proxy, "to the proxy");
    let address: IpAddr = match url.host() {
        Some(Host::Ipv4(address)) => address.into(),
        Some(Host::Ipv6(address)) => address.into(),
        Some(Host::Domain(name)) => {
            assert!(name.parse::<IpAddr>().is_err(), "{name} is an address");
            let host = name.strip_suffix('.').unwrap_or(name);
            if proxy != Some(host) && !allowed.iter().any(|allowed| allowed == host) {
                check_resolved(name, api, hops);
            }
            return;
        }
        None => panic!("{url} has no host"),
    };
    let on_loopback = matches!(api.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
    assert_eq!(address.is_loopback(), on_loopback, "{url} behind {api}");
    if !on_loopback {
        assert!(is_public(address), "{url}");
    }
}

/// A name that is not on the list never leads to an inward address.
fn check_resolved(name: &str, api: &Url, hops: &HopRules) {
    let on_loopback = matches!(api.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
    for address in ["10.0.0.1", "169.254.169.254", "::ffff:10.0.0.1", "fd00::1", "0.0.0.0"] {
        let address = address.parse().expect("an address");
        assert!(hops.judge_address(name, address).is_err(), "{name} may be {address}");
    }
    for address in ["127.0.0.1", "::1"] {
        let address = address.parse().expect("an address");
        assert_eq!(
            hops.judge_address(name, address).is_ok(),
            on_loopback,
            "{name} may be {address}"
        );
    }
}

/// The classes that the standard library knows, and the prefixes that embed another address.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            !(address.is_private()
                || address.is_loopback()
                || address.is_link_local()
                || address.is_broadcast()
                || address.is_unspecified()
                || address.is_multicast()
                || address.octets()[0] >= 240)
        }
        IpAddr::V6(address) => {
            let carries_another =
                address.segments()[0] == 0x2002 || address.segments()[..2] == [0x2001, 0];
            address.segments()[0] >> 13 == 1 && !carries_another
        }
    }
}

fn origin(url: &Url) -> (String, Option<String>, Option<u16>) {
    let host = url.host_str().map(str::to_ascii_lowercase);
    (url.scheme().to_owned(), host, url.port_or_known_default())
}
