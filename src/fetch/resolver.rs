//! Resolves names for the store client. A name with one forbidden address is refused as a whole.

use std::error::Error;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::dns::Name;
use tower_service::Service;

use super::hop::HopRules;
use crate::transport::Unresolved;

/// Resolves with the system's resolver and judges every address.
#[derive(Clone)]
pub(super) struct JudgingResolver(pub(super) Arc<HopRules>);

impl JudgingResolver {
    /// The addresses of a host, or `Unresolved`, or the `RefusedAddress` among them.
    pub(super) async fn resolve(
        &self,
        host: &str,
    ) -> Result<Vec<SocketAddr>, Box<dyn Error + Send + Sync>> {
        // The connector sets the port.
        let found = tokio::net::lookup_host((host, 0)).await.map_err(|_| Unresolved)?;
        let addresses: Vec<SocketAddr> = found.collect();
        for address in &addresses {
            self.0.judge_address(host, address.ip())?;
        }
        Ok(addresses)
    }
}

impl Service<Name> for JudgingResolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let resolver = self.clone();
        Box::pin(async move { resolver.resolve(name.as_str()).await.map(Vec::into_iter) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::RefusedAddress;

    async fn resolve(
        api: &str,
        allowed: &[String],
        proxy_host: Option<&str>,
    ) -> Result<usize, String> {
        let rules = Arc::new(HopRules::new(api.parse().unwrap(), allowed, proxy_host));
        match JudgingResolver(rules).call("localhost".parse().unwrap()).await {
            Ok(addresses) => Ok(addresses.count()),
            Err(error) => Err(error.downcast_ref::<RefusedAddress>().unwrap().class.to_owned()),
        }
    }

    #[tokio::test]
    async fn a_name_with_an_inward_address_is_refused_unless_it_is_allowed() {
        let public = "https://api.example/";
        assert_eq!(resolve(public, &[], None).await, Err("loopback".to_owned()));
        assert_eq!(resolve(public, &[], Some("proxy.example")).await, Err("loopback".to_owned()));
        assert!(resolve(public, &[], Some("localhost")).await.unwrap() > 0);
        assert!(resolve(public, &["LOCALHOST".to_owned()], None).await.unwrap() > 0);
        assert!(resolve("http://127.0.0.1:1/", &[], None).await.unwrap() > 0);
    }
}
