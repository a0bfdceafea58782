//! What every listener shares: the view, the identity, and the state that outlives requests.

use std::sync::Arc;
use std::time::Duration;

use isthmus_identity::tls::LiveIdentity;
use isthmus_model::name::ServiceName;
use isthmus_model::route::{Found, Question};
use isthmus_model::snapshot::Snapshot;
use std::net::SocketAddr;
use tokio::sync::{mpsc, watch};

use crate::balance::Balancer;
use crate::metrics::Metrics;
use crate::plaintext;
use crate::tunnel;

/// How long a request waits for a partial view to be completed. The gateway answers from memory, so that
/// more means that it is gone.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Asks the gateway for what a partial view lacks. The same question may be sent many times.
pub type Demand = mpsc::Sender<Question>;

/// The data plane of one process. Clones share everything.
#[derive(Clone)]
pub struct DataPlane(Arc<Shared>);

struct Shared {
    view: watch::Receiver<Arc<Snapshot>>,
    demand: Option<Demand>,
    identity: LiveIdentity,
    metrics: Arc<Metrics>,
    balancer: Balancer,
    tunnels: tunnel::Pool,
    apps: plaintext::Pool,
}

impl DataPlane {
    /// A data plane over `view`. `demand` is `None` where the view is complete.
    #[must_use]
    pub fn new(
        view: watch::Receiver<Arc<Snapshot>>,
        demand: Option<Demand>,
        identity: LiveIdentity,
        metrics: Arc<Metrics>,
    ) -> Self {
        let tunnels = tunnel::Pool::new(view.clone(), identity.clone(), metrics.clone());
        let balancer = Balancer::new(metrics.clone());
        let apps = plaintext::Pool::default();
        Self(Arc::new(Shared { view, demand, identity, metrics, balancer, tunnels, apps }))
    }

    /// The current view.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.0.view.borrow().clone()
    }

    /// A receiver of every later view.
    #[must_use]
    pub fn view(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.0.view.clone()
    }

    /// The identity that this process answers and calls with.
    #[must_use]
    pub fn identity(&self) -> &LiveIdentity {
        &self.0.identity
    }

    /// Where this data plane counts.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.0.metrics
    }

    pub(crate) fn balancer(&self) -> &Balancer {
        &self.0.balancer
    }

    pub(crate) fn tunnels(&self) -> &tunnel::Pool {
        &self.0.tunnels
    }

    pub(crate) fn apps(&self) -> &plaintext::Pool {
        &self.0.apps
    }

    /// The service that `host`:`port` means; asks for it and waits when the view is partial.
    /// [`Found::Unasked`] comes back only when nobody answered within [`ANSWER_WITHIN`].
    pub async fn find_host(&self, host: &str, port: u16) -> Found {
        self.find(|snapshot| snapshot.find_host(host, port)).await
    }

    /// As [`find_host`](Self::find_host), by name.
    pub async fn find_service(&self, service: &ServiceName, port: u16) -> Found {
        self.find(|snapshot| snapshot.find_service(service, port)).await
    }

    /// As [`find_host`](Self::find_host), by virtual address.
    pub async fn find_address(&self, address: SocketAddr) -> Found {
        self.find(|snapshot| snapshot.find_address(address)).await
    }

    async fn find(&self, look: impl Fn(&Snapshot) -> Found) -> Found {
        let found = look(&self.0.view.borrow());
        match (&found, &self.0.demand) {
            (Found::Unasked(_), Some(demand)) => {
                let answer = self.ask(demand, look);
                tokio::time::timeout(ANSWER_WITHIN, answer).await.unwrap_or(found)
            }
            _ => found,
        }
    }

    /// Asks until the view has an answer. An address may turn into a name that has to be asked for in turn.
    async fn ask(&self, demand: &Demand, look: impl Fn(&Snapshot) -> Found) -> Found {
        let mut view = self.0.view.clone();
        let mut asked = None;
        loop {
            let found = look(&view.borrow_and_update());
            let Found::Unasked(question) = &found else { return found };
            if asked.as_ref() != Some(question) {
                if demand.send(question.clone()).await.is_err() {
                    return found;
                }
                asked = Some(question.clone());
            }
            if view.changed().await.is_err() {
                return found;
            }
        }
    }
}
