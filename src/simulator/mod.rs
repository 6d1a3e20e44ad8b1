//! A well-behaved Batch API and object store on loopback, in plain HTTP, for `demo`, tests and
//! benches.
//!
//! Two origins, as in the real world: the API redirects to a store that takes no credentials. What
//! they say is a [`Script`] of plain values. Every request is recorded. Nothing waits for time
//! unless the script says so. Faults below HTTP (resets, garbage, TLS) are out of scope.

mod api;
mod canned;
mod connection;
mod content;
mod record;
mod reply;
mod script;
mod server;
mod steps;
mod store;
mod stored;
mod world;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use canned::Canned;
pub use content::Content;
pub use record::{NotSeen, Origin, Recorded};
pub use script::{
    ChecksumHeader, Declared, Etag, Script, SentChecksum, SimExport, SimFile, SimProject, ViewStep,
};
pub use steps::{LinkStep, Place, Serving, StoreStep};
pub use world::UnknownId;

use world::World;

const API_VERSION: &str = "2.11";

/// Needs a tokio runtime. Dropping it ends its tasks and connections.
#[derive(Debug)]
pub struct Simulator {
    world: Arc<World>,
    api_address: SocketAddr,
    store_address: SocketAddr,
    stop: CancellationToken,
    servers: JoinSet<()>,
}

impl Simulator {
    /// Listens on two free ports of 127.0.0.1 and plays the script.
    pub async fn start(script: Script) -> io::Result<Self> {
        let api = TcpListener::bind("127.0.0.1:0").await?;
        let store = TcpListener::bind("127.0.0.1:0").await?;
        let (api_address, store_address) = (api.local_addr()?, store.local_addr()?);
        let api_base_url = format!("http://{api_address}/{API_VERSION}");
        let store_origin = format!("http://{store_address}");
        // The checksums of large contents take their time.
        let build = move || World::new(script, api_base_url, store_origin);
        let world = Arc::new(tokio::task::spawn_blocking(build).await.map_err(io::Error::other)?);
        let stop = CancellationToken::new();
        let mut servers = JoinSet::new();
        for (listener, origin) in [(api, Origin::Api), (store, Origin::Store)] {
            servers.spawn(server::serve(listener, origin, Arc::clone(&world), stop.clone()));
        }
        Ok(Self { world, api_address, store_address, stop, servers })
    }

    /// Ends every connection, held ones included, and waits until all tasks are gone.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.servers.join_next().await.is_some() {}
    }

    pub fn api_base_url(&self) -> &str {
        &self.world.api_base_url
    }

    pub fn api_address(&self) -> SocketAddr {
        self.api_address
    }

    pub fn store_address(&self) -> SocketAddr {
        self.store_address
    }

    pub fn store_origin(&self) -> String {
        format!("http://{}", self.store_address)
    }

    /// From now on signed links lead to this origin, such as a proxy in front of the store.
    pub fn set_link_origin(&self, origin: &str) {
        origin.clone_into(&mut self.world.state().link_origin);
    }

    pub fn set_link_lifetime(&self, lifetime: Duration) {
        self.world.state().link_lifetime = lifetime;
    }

    /// Every link that was signed so far is refused from now on.
    pub fn expire_links(&self) {
        self.world.state().links.clear();
    }

    /// Releases everything that is held for this export or file ID, until [`Simulator::hold`].
    pub fn release(&self, id: &str) {
        self.world.released.send_if_modified(|released| released.insert(id.to_owned()));
    }

    pub fn hold(&self, id: &str) {
        self.world.released.send_if_modified(|released| released.remove(id));
    }

    /// Every request to this origin gets this answer, until `None`. It uses no step.
    pub fn set_outage(&self, origin: Origin, answer: Option<Canned>) {
        let outages = &mut self.world.state().outages;
        match answer {
            Some(answer) => outages.insert(origin, answer),
            None => outages.remove(&origin),
        };
    }

    /// Every call of this project gets this answer, until `None`. It uses no step.
    pub fn set_project_outage(&self, key: &str, answer: Option<Canned>) -> Result<(), UnknownId> {
        self.world.state().project(key)?.outage = answer;
        Ok(())
    }

    pub fn rotate_key(&self, project_key: &str, rest_api_key: &str) -> Result<(), UnknownId> {
        rest_api_key.clone_into(&mut self.world.state().project(project_key)?.rest_api_key);
        Ok(())
    }

    /// The answer to listings of the project; with `None` they list its exports again.
    pub fn set_listing(&self, project_key: &str, answer: Option<Canned>) -> Result<(), UnknownId> {
        self.world.state().project(project_key)?.listing = answer;
        Ok(())
    }

    /// Adds an export on top of the project's list, or replaces the one with its ID. Calls count
    /// from 0.
    pub fn put_export(&self, project_key: &str, export: SimExport) -> Result<(), UnknownId> {
        let mut state = self.world.state();
        state.project(project_key)?;
        state.register_files(project_key, &export);
        state.project(project_key)?.put(export);
        Ok(())
    }

    /// Removes an export and its files.
    pub fn remove_export(&self, project_key: &str, export_id: &str) -> Result<(), UnknownId> {
        self.world.state().remove_export(project_key, export_id)
    }

    /// The next view call of the export gets the first of these steps. A file of theirs that is new
    /// or changed starts with its first steps, too.
    pub fn set_views(&self, export_id: &str, views: Vec<ViewStep>) -> Result<(), UnknownId> {
        let (project_key, export) = self.world.state().find(export_id)?;
        self.put_export(&project_key, SimExport { views, ..export })
    }

    /// Every request so far, in order of arrival.
    pub fn requests(&self) -> Vec<Recorded> {
        self.world.recorder.requests()
    }

    /// Removes the oldest requests from the record, up to the first one that has not ended: a long
    /// run would fill the memory.
    pub fn take_ended_requests(&self) -> Vec<Recorded> {
        self.world.recorder.take_ended()
    }

    /// Waits until the requests satisfy `seen`, which is checked after each change.
    pub async fn wait_for(
        &self,
        seen: impl FnMut(&[Recorded]) -> bool,
        timeout: Duration,
    ) -> Result<Vec<Recorded>, NotSeen> {
        self.world.recorder.wait_for(seen, timeout).await
    }
}
