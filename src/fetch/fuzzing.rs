//! The doors through which `crate::fuzzing` reaches what is private here.

use std::net::IpAddr;

use url::Url;

use super::hop::HopRules;

pub(crate) struct Hops(HopRules);

impl Hops {
    pub(crate) fn new(api: Url, allowed_hosts: &[String], proxy_host: Option<&str>) -> Self {
        Self(HopRules::new(api, allowed_hosts, proxy_host))
    }

    /// Whether a URL may be asked; else why not, in words.
    pub(crate) fn judge(&self, url: &Url) -> Result<(), String> {
        self.0.judge(url).map_err(|refusal| refusal.to_string())
    }

    /// Whether an address may be asked that `host` was resolved to.
    pub(crate) fn allows_address(&self, host: &str, address: IpAddr) -> bool {
        self.0.judge_address(host, address).is_ok()
    }
}
