//! The admin API: what a gateway tells an operator, and the few things that an operator may change.
//!
//! One router with two surfaces. The loopback port only reads: it has no authentication, so it must not matter
//! who asks. The Unix socket in the data directory has every route; who may open it (mode 0600) may change
//! things. [`api`] has the JSON, `view` makes it from the watched state, `tokens` has the changes.
//!
//! Deliberately absent: CORS headers (no web page is meant to read this), TLS and passwords (neither surface
//! leaves the machine), and metrics, which have a port of their own that may be exposed.

pub mod api;
mod backup;
pub mod ca;
mod ca_requests;
mod failure;
#[cfg(test)]
pub(crate) mod fixture;
mod membership;
mod routes;
mod server;
mod tokens;
mod view;

use std::pin::Pin;
use std::sync::Arc;

use isthmus_federation::replicas::Replicas;
use isthmus_federation::{Handle, ProposeError, RegistryStatus};
use isthmus_identity::OpeningKey;
use isthmus_model::command::{Command, Outcome};
use isthmus_model::health::PeerTable;
use isthmus_model::registry::Registry;
use isthmus_model::snapshot::Snapshot;
use isthmus_sources::SourceState;
use tokio::sync::watch;

use crate::config::GatewayConfig;
use crate::vips::Served;

pub use routes::{Surface, router};
pub use server::{AdminServer, BindError, serve_http};

/// Everything that the admin API reads, and its way to change the registry. Cheap to clone.
#[derive(Clone)]
pub struct AdminState {
    /// The effective configuration.
    pub config: Arc<GatewayConfig>,
    /// What data planes see.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// What is agreed.
    pub registry: watch::Receiver<Arc<Registry>>,
    /// How the registry stands.
    pub status: watch::Receiver<RegistryStatus>,
    /// What the own cluster has.
    pub source: watch::Receiver<Arc<SourceState>>,
    /// What other gateways tell.
    pub peers: watch::Receiver<Arc<PeerTable>>,
    /// Which virtual addresses are served.
    pub vips: watch::Receiver<Arc<Served>>,
    /// Writes to the registry.
    pub proposals: Proposals,
    /// Takes a look at the registry's replicas.
    pub replicas: Looker,
    /// Opens what is sealed to this gateway: the root's key, for a backup.
    pub opening_key: OpeningKey,
}

/// How the replicas stand when it is called.
pub type Looker = Arc<dyn Fn() -> Replicas + Send + Sync>;

type Proposal = Pin<Box<dyn Future<Output = Result<Outcome, ProposeError>> + Send>>;

/// Where changes to the registry are proposed: a running replica, or a registry in memory.
#[derive(Clone)]
pub struct Proposals(Arc<dyn Fn(Command) -> Proposal + Send + Sync>);

impl Proposals {
    /// Proposes by calling `propose`.
    pub fn new<F>(propose: impl Fn(Command) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Outcome, ProposeError>> + Send + 'static,
    {
        Self(Arc::new(move |command| Box::pin(propose(command))))
    }

    async fn propose(&self, command: Command) -> Result<Outcome, ProposeError> {
        (self.0)(command).await
    }
}

impl From<Handle> for Proposals {
    fn from(handle: Handle) -> Self {
        Self::new(move |command| {
            let handle = handle.clone();
            async move { handle.propose(command).await }
        })
    }
}

#[cfg(test)]
mod tests;
