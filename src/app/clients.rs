//! The two HTTP clients, made from the configuration over one TLS configuration, and each project's
//! way to the API.

use std::sync::Arc;

use rustls::ClientConfig;

use super::StartError;
use crate::api::{Api, ApiClient, ApiSettings};
use crate::config::{Config, Environment, ProjectConfig};
use crate::engine::Access;
use crate::fetch::{StoreClient, StorePolicy};
use crate::transport::tls_config;

#[derive(Debug, Clone)]
pub(super) struct Clients {
    pub(super) api: Api,
    pub(super) store: StoreClient,
    policy: StorePolicy,
}

impl Clients {
    /// New ones. Blocks: certificates are read.
    pub(super) fn new(config: &Config) -> Result<Self, StartError> {
        let tls = tls(config)?;
        let policy = store_policy(config);
        Ok(Self { api: api(config, &tls)?, store: StoreClient::new(&tls, &policy), policy })
    }

    /// Those of another configuration, where they are others: what it leaves as it was keeps its
    /// connections. Blocks.
    pub(super) fn successor(
        &self,
        current: &Config,
        next: &Config,
    ) -> Result<Option<Self>, StartError> {
        // What is in a file of certificates may be new although its name is not.
        let same_api = current.api == next.api && next.api.ca_file.is_none();
        let policy = store_policy(next);
        if same_api && policy == self.policy {
            return Ok(None);
        }
        let tls = tls(next)?;
        let api = if same_api { self.api.clone() } else { api(next, &tls)? };
        Ok(Some(Self { api, store: self.store.successor(&tls, &policy), policy }))
    }

    /// One way to the API a project, in configuration order, each with its key.
    pub(super) fn accesses(
        &self,
        config: &Config,
        environment: &Arc<Environment>,
    ) -> Result<Vec<Access>, StartError> {
        let clients = clients_of(&self.api, config, environment)?;
        let access = |(project, client): (&ProjectConfig, ApiClient)| {
            let (name, key_source) = (project.name.clone(), project.key_source.clone());
            Access::new(name, client, key_source, Arc::clone(environment))
        };
        Ok(config.projects.iter().zip(clients).map(access).collect())
    }
}

/// One client a project, in configuration order, each with its key: to ask the API once.
pub fn api_clients(
    config: &Config,
    environment: &Environment,
) -> Result<Vec<ApiClient>, StartError> {
    clients_of(&api(config, &tls(config)?)?, config, environment)
}

/// The one TLS configuration of both clients. Without system roots it is an error only where https
/// is spoken.
fn tls(config: &Config) -> Result<ClientConfig, StartError> {
    Ok(tls_config(config.api.ca_file.as_deref(), !config.api.is_loopback_http())?)
}

fn api(config: &Config, tls: &ClientConfig) -> Result<Api, StartError> {
    let settings = ApiSettings {
        base_url: config.api.base_url.clone(),
        connect_timeout: config.api.connect_timeout,
        request_timeout: config.api.request_timeout,
    };
    Ok(Api::new(&settings, tls)?)
}

fn clients_of(
    api: &Api,
    config: &Config,
    environment: &Environment,
) -> Result<Vec<ApiClient>, StartError> {
    let client = |project: &ProjectConfig| {
        let unusable = |cause: String| StartError::Key { project: project.name.clone(), cause };
        let key = project
            .key_source
            .read(environment)
            .map_err(|error| unusable(format!("{} {error}", project.key_source)))?;
        api.project(&project.project_key, key.secret()).map_err(|error| unusable(error.to_string()))
    };
    config.projects.iter().map(client).collect()
}

fn store_policy(config: &Config) -> StorePolicy {
    StorePolicy {
        api_origin: config.api.base_url.clone(),
        allowed_hosts: config.download.allowed_hosts.clone(),
        connect_timeout: config.api.connect_timeout,
        headers_timeout: config.api.request_timeout,
        stall_timeout: config.download.stall_timeout,
        min_rate_bytes_per_second: config.download.min_rate_bytes_per_second,
        bandwidth: config.download.bandwidth,
    }
}
