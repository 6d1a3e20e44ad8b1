//! The simulator behind two servers that speak raw bytes, over http or https, and a watcher that
//! knows nothing of it.

use std::time::Duration;

use batch_export_watcher::simulator::{Script, SimExport, SimProject, Simulator};

use crate::support::PATIENCE;
use crate::support::home::Home;
use crate::support::process::{Output, Watcher};
use crate::support::raw::{RawServer, Scripts};
use crate::support::scene::{project_key, rest_key};
use crate::support::tls_front::Authority;

/// The project's name.
pub(super) const SHOP: &str = "shop";

/// What both origins are reached over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
}

/// The world of one watcher.
pub(super) struct Stage {
    pub(super) sim: Simulator,
    pub(super) api: RawServer,
    pub(super) store: RawServer,
    pub(super) home: Home,
}

impl Stage {
    /// One project with these exports; what is not scripted goes through to the simulator.
    pub(super) async fn new(
        scheme: Scheme,
        exports: Vec<SimExport>,
        api: Scripts,
        store: Scripts,
    ) -> Self {
        let ids: Vec<_> = exports.iter().map(|export| export.id.clone()).collect();
        let ids: Vec<_> = ids.iter().map(String::as_str).collect();
        let project = SimProject::new(&project_key(SHOP), &rest_key(SHOP), exports);
        let sim =
            Simulator::start(Script::new(vec![project])).await.expect("two free ports on loopback");
        let authority = (scheme == Scheme::Https).then(Authority::new);
        let tls = || authority.as_ref().map(|authority| authority.acceptor("127.0.0.1"));
        let api = RawServer::api(sim.api_address(), tls(), api).await;
        let store = RawServer::store(sim.store_address(), tls(), store).await;
        sim.set_link_origin(store.origin());
        let mut home = Home::new(&format!("{}/2.11", api.origin()))
            .project(SHOP, &project_key(SHOP), &rest_key(SHOP), &ids)
            .with("[api]\nrequests_per_second = 1000\nrequest_timeout = \"30s\"")
            .with("[download]\nmax_parts = 64\nstall_timeout = \"10s\"");
        if let Some(authority) = &authority {
            home.write("ca.pem", authority.pem());
            home.merge("[api]\nca_file = \"ca.pem\"");
        }
        Self { sim, api, store, home }
    }

    /// What the certificates of both origins are signed by.
    pub(super) fn pem(&self) -> String {
        std::fs::read_to_string(self.home.path().join("ca.pem")).expect("a stage over https")
    }

    /// Starts a run that ends when all is settled.
    pub(super) fn start(&self) -> Watcher {
        self.home.start(&["--exit-when-settled"])
    }

    /// Waits for the end of such a run, and demands that it went well and that the store got
    /// nothing it does not need.
    pub(super) async fn settled(&self, mut watcher: Watcher) -> Output {
        let (code, output) = watcher.wait_within(3 * PATIENCE).await;
        assert_eq!(code, 0, "{}", output.stderr.join("\n"));
        self.store.assert_no_forbidden_header();
        output
    }

    /// Final names of parts and manifests that are there.
    pub(super) fn visible(&self) -> Vec<String> {
        self.home.tree().into_keys().filter(|path| path.ends_with(".json")).collect()
    }
}

/// The waits between requests, each of which has to be one that the program meant to take.
pub(super) fn assert_paused(name: &str, instants: &[tokio::time::Instant]) {
    for pair in instants.windows(2) {
        let pause = pair[1] - pair[0];
        assert!(pause >= Duration::from_millis(10), "{name}: asked again after {pause:?}");
    }
}
