//! The proxy that the environment names. The HTTP library reads these variables itself, and ignores
//! in silence what it does not understand. Then traffic would go past the proxy.

use std::net::IpAddr;

use hyper::Uri;
use hyper_util::client::proxy::matcher::Matcher;

use super::checker::Checker;
use super::endpoint::parse_host;
use super::environment::Environment;
use super::fault::Fault;
use crate::domain::text;

/// The two spellings of each variable, in the order in which the library looks for them.
const HTTPS: [&str; 2] = ["HTTPS_PROXY", "https_proxy"];
const ALL: [&str; 2] = ["ALL_PROXY", "all_proxy"];
const EXCEPT: [&str; 2] = ["NO_PROXY", "no_proxy"];
/// If it is set, the library takes the process for a CGI program and uses no proxy.
const CGI: &str = "REQUEST_METHOD";

/// Judges the variables that count for https. No message repeats the value of a proxy, which may
/// hold a password.
pub(super) fn check(checker: &mut Checker<'_>) {
    let path = checker.path;
    match judge(checker.environment) {
        Err(message) => checker.faults.push(Fault::new(path, None, message)),
        Ok(doubts) => {
            let warning = |doubt| Fault::new(path, None, doubt).to_string();
            checker.warnings.extend(doubts.into_iter().map(warning));
        }
    }
}

fn judge(environment: &Environment) -> Result<Vec<String>, String> {
    let https = chosen(environment, HTTPS)?;
    let Some((name, proxy)) = https.map_or_else(|| chosen(environment, ALL), |it| Ok(Some(it)))?
    else {
        return Ok(Vec::new());
    };
    if environment.get_os(CGI).is_some() {
        return Err(format!(
            "the environment variable {CGI} is set, as for a CGI program, so the proxy of {name} \
             would not be used: unset {CGI}"
        ));
    }
    if !is_usable(proxy) {
        return Err(format!(
            "the environment variable {name} is not a proxy that can be used: write \
             http://HOST:PORT, or https, socks4, socks4a, socks5 or socks5h instead of http; in a \
             user name or password, write special characters as %XX, such as %23 for #"
        ));
    }
    let Some((name, exceptions)) = chosen(environment, EXCEPT)? else { return Ok(Vec::new()) };
    let entries = exceptions.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    let doubt = |entry| {
        format!(
            "the environment variable {name} has `{}`, which is no host: write a host name, a \
             domain, an address or a network, without * and without a port",
            text::shown(entry, &[])
        )
    };
    Ok(entries.filter(|entry| !is_exception(entry)).map(doubt).collect())
}

/// A variable and its value, if it is neither missing nor empty.
fn chosen<'e>(
    environment: &'e Environment,
    names: [&'static str; 2],
) -> Result<Option<(&'static str, &'e str)>, String> {
    let set = |name| Some((name, environment.get_os(name)?));
    let Some((name, value)) = names.into_iter().find_map(set) else { return Ok(None) };
    let value = value
        .to_str()
        .ok_or_else(|| format!("the environment variable {name} is not UTF-8 text"))?;
    if !value.is_empty() {
        return Ok(Some((name, value)));
    }
    let [_, other] = names;
    if environment.get_os(other).is_some_and(|value| !value.is_empty()) {
        return Err(format!(
            "the environment variable {name} is empty, so {other} would not be used: unset {name}"
        ));
    }
    Ok(None)
}

/// Whether the library takes the text for a proxy, and for the one that was meant: it cuts a
/// password at the first of `/?#@`, ignores a path, and takes any word for a host.
fn is_usable(text: &str) -> bool {
    let proxies = Matcher::builder().all(text).build();
    let Some(proxy) = proxies.intercept(&Uri::from_static("https://store.invalid/")) else {
        return false;
    };
    let (has_scheme, rest) = text.split_once("://").map_or((false, text), |(_, rest)| (true, rest));
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (host, authority) = (proxy.uri().host(), proxy.uri().authority());
    let host = host.filter(|host| !host.is_empty());
    let place = authority.map_or("", |authority| authority.as_str());
    let Some(port) = host.and_then(|host| place.strip_prefix(host)) else { return false };
    let port_is_good = match port {
        "" => has_scheme,
        _ => proxy.uri().port_u16().is_some_and(|port| port > 0),
    };
    port_is_good && !rest.contains(['/', '?', '#']) && rest.matches('@').count() <= 1
}

fn is_exception(entry: &str) -> bool {
    let is_network = |(address, bits): (&str, &str)| {
        address.parse::<IpAddr>().is_ok() && bits.parse::<u8>().is_ok()
    };
    entry == "*"
        || entry.parse::<IpAddr>().is_ok()
        || entry.split_once('/').is_some_and(is_network)
        || (!entry.contains(['*', '[']) && parse_host(entry.trim_start_matches('.')).is_ok())
}
