//! Names into addresses for the store client: a name that leads to an address it must not ask is refused as a whole.

use std::net::SocketAddr;
use std::sync::Arc;

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::hop::HopRules;

/// Stands for any signed link when the environment is asked for its proxy.
const SOME_LINK: &str = "https://signed-link.invalid/";

/// Resolves with the system's resolver and judges every address.
pub(super) struct JudgingResolver(pub(super) Arc<HopRules>);

/// The host of the proxy that the environment names for https, where it does.
pub(super) fn environment_proxy_host() -> Option<String> {
    let intercept = Matcher::from_env().intercept(&hyper::Uri::from_static(SOME_LINK))?;
    intercept.uri().host().map(str::to_owned)
}

impl Resolve for JudgingResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let rules = Arc::clone(&self.0);
        Box::pin(async move {
            let addresses: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            for address in &addresses {
                rules.judge_address(name.as_str(), address.ip())?;
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::RefusedAddress;

    async fn resolve(api: &str, allowed: &[String], proxy_host: Option<&str>) -> Result<usize, String> {
        let rules = Arc::new(HopRules::new(api.parse().unwrap(), allowed, proxy_host));
        match JudgingResolver(rules).resolve("localhost".parse().unwrap()).await {
            Ok(addresses) => Ok(addresses.count()),
            Err(error) => Err(error.downcast_ref::<RefusedAddress>().unwrap().class.to_owned()),
        }
    }

    #[tokio::test]
    async fn a_name_is_refused_for_its_address_unless_someone_vouches() {
        let public = "https://api.example/";
        assert_eq!(resolve(public, &[], None).await, Err("loopback".to_owned()));
        assert_eq!(resolve(public, &[], Some("proxy.example")).await, Err("loopback".to_owned()));
        assert!(resolve(public, &[], Some("localhost")).await.unwrap() > 0);
        assert!(resolve(public, &["LOCALHOST".to_owned()], None).await.unwrap() > 0);
        assert!(resolve("http://127.0.0.1:1/", &[], None).await.unwrap() > 0);
    }
}
