//! From the agent's state to what is served, and the moments when that changes.

use std::sync::Arc;
use std::time::SystemTime;

use isthmus_identity::ExportedSvid;
use tokio::sync::watch;

use super::bundles::Bundles;
use crate::agent::AgentHandle;

/// What is served at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Material {
    /// The certificate and its key, while it is valid.
    pub(super) svid: Option<ExportedSvid>,
    /// The bundles, once a view is published.
    pub(super) bundles: Option<Arc<Bundles>>,
    /// Nothing will be served any more.
    pub(super) stopping: bool,
}

impl Material {
    fn of(agent: &AgentHandle, now: SystemTime) -> Self {
        let svid = agent.identity.export_svid().filter(|svid| now < svid.not_after());
        let view = agent.view.borrow().clone();
        // The first view may be held back while its roots are in use already: without its clusters they are not
        // the whole.
        let trust = agent.identity.trust().filter(|_| view.generation > 0);
        let bundles = trust.map(|trust| Arc::new(Bundles::new(&view, &trust)));
        Self { svid, bundles, stopping: false }
    }

    fn is_same_as(&self, other: &Self) -> bool {
        let same_svid = match (&self.svid, &other.svid) {
            (Some(ours), Some(theirs)) => ours.is_same_as(theirs),
            (ours, theirs) => ours.is_none() && theirs.is_none(),
        };
        same_svid && self.bundles == other.bundles
    }
}

/// What is served, for all streams together.
#[derive(Debug)]
pub(super) struct Feed {
    agent: AgentHandle,
    served: watch::Sender<Material>,
}

impl Feed {
    pub(super) fn new(agent: AgentHandle) -> Self {
        Self { agent, served: watch::Sender::new(Material::default()) }
    }

    /// What is served now and from now on. Not behind what the agent has.
    pub(super) fn subscribe(&self) -> watch::Receiver<Material> {
        self.refresh();
        self.served.subscribe()
    }

    /// Why there is nothing to serve.
    pub(super) fn problem(&self) -> String {
        let state = self.agent.state.borrow();
        state.problem.clone().unwrap_or_else(|| "waiting for the gateway".to_owned())
    }

    /// Keeps what is served current, as long as there is an agent.
    pub(super) async fn follow(&self) {
        let (mut state, mut view) = (self.agent.state.clone(), self.agent.view.clone());
        loop {
            state.mark_unchanged();
            view.mark_unchanged();
            self.refresh();
            let changed = tokio::select! {
                changed = state.changed() => changed,
                changed = view.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// Ends every stream.
    pub(super) fn stop(&self) {
        self.served.send_replace(Material { stopping: true, ..Material::default() });
    }

    /// Publishes what changed, if anything did: the agent's state also changes when a gateway is merely heard.
    /// Under the lock of what is served, so that a late refresh cannot undo a later one.
    fn refresh(&self) {
        self.served.send_if_modified(|served| {
            let now = Material::of(&self.agent, SystemTime::now());
            let modified = !served.stopping && !now.is_same_as(served);
            if modified {
                *served = now;
            }
            modified
        });
    }
}
