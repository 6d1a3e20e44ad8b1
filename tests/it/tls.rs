//! https: one TLS configuration for both clients, system roots plus `ca_file`, and a connection
//! that cannot be trusted fails.

use batch_export_watcher::simulator::{Content, Script, SimExport, SimFile, SimProject, Simulator};

use super::support::home::Home;
use super::support::tls_front::{Authority, TlsFront};

const PROJECT: &str = "project_tls";
const KEY: &str = "key-of-tls";

struct Stage {
    sim: Simulator,
    _fronts: [TlsFront; 2],
    home: Home,
    content: Content,
}

/// An API and a store behind TLS, and a watcher that trusts `trusted`; the store's certificate is
/// for `store_name`.
async fn stage(authority: &Authority, trusted: &Authority, store_name: &str) -> Stage {
    let content = Content::Generated { bytes: 300_000, seed: 7 };
    let export = SimExport::finished("export_1", vec![SimFile::new("file_1", 1, content.clone())]);
    let sim = Simulator::start(Script::new(vec![SimProject::new(PROJECT, KEY, vec![export])]))
        .await
        .expect("two free ports on loopback");
    let api = authority.front("127.0.0.1", sim.api_address()).await;
    let store = authority.front(store_name, sim.store_address()).await;
    sim.set_link_origin(&store.origin());
    let home = Home::new(&format!("{}/2.11", api.origin()))
        .project("shop", PROJECT, KEY, &["export_1"])
        .with("[api]\nca_file = \"ca.pem\"");
    home.write("ca.pem", trusted.pem());
    Stage { sim, _fronts: [api, store], home, content }
}

#[tokio::test]
async fn both_origins_are_reached_over_https_with_a_ca_file() {
    let authority = Authority::new();
    let stage = stage(&authority, &authority, "127.0.0.1").await;
    let (code, output) = stage.home.start(&["--exit-when-settled"]).wait().await;
    assert_eq!(code, 0, "{output:?}");
    stage.home.assert_whole("shop", "export_1", &[&stage.content]);
}

#[tokio::test]
async fn an_api_whose_authority_is_not_trusted_gets_no_request() {
    let stage = stage(&Authority::new(), &Authority::new(), "127.0.0.1").await;
    let watcher = stage.home.start(&[]);
    watcher.wait_for_log(|line| line.contains("poll failed") && line.contains("certificate")).await;
    assert!(stage.sim.requests().is_empty(), "no key travels to whom we do not trust");
}

#[tokio::test]
async fn a_store_with_a_certificate_for_another_name_gets_no_request() {
    let authority = Authority::new();
    let stage = stage(&authority, &authority, "store.example").await;
    let watcher = stage.home.start(&[]);
    watcher.wait_for_log(|line| line.contains("part failed") && line.contains("certificate")).await;
    assert!(!stage.sim.requests().iter().any(|request| request.is_fetch_of("file_1")));
    assert!(stage.home.try_manifest("shop", "export_1").is_none());
}
