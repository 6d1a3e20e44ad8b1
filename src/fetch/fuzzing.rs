//! Gives `crate::fuzzing` access to private items of this room.

use std::net::IpAddr;

use url::Url;

use super::hop::HopRules;

pub(crate) struct Hops(HopRules);

impl Hops {
    pub(crate) fn new(api: Url, allowed_hosts: &[String], proxy_host: Option<&str>) -> Self {
        Self(HopRules::new(api, allowed_hosts, proxy_host))
    }

    /// Whether a URL may be requested; else why not.
    pub(crate) fn judge(&self, url: &Url) -> Result<(), String> {
        self.0.judge(url).map_err(|refusal| refusal.to_string())
    }

    /// Whether this address of `host` may be contacted.
    pub(crate) fn allows_address(&self, host: &str, address: IpAddr) -> bool {
        self.0.judge_address(host, address).is_ok()
    }
}
