//! The sidecar's link to its own gateways: identity and view, kept current over one stream.
//!
//! [`Agent::start`] begins a task that always tries to be attached to one gateway. What it learns goes
//! into a [`LiveIdentity`] and a watched [`Snapshot`], and stays there when the gateway goes away: a sidecar
//! without any gateway serves with its last view and until its certificate ends, and [`AgentState`] tells
//! how old both are. What the data plane lacks comes in as questions, and is asked again on every new stream.
//!
//! Follow a stream through the files: [`attempts`] chooses gateway and proof, `connect` makes the TLS
//! session, `session` speaks; [`questions`], [`renewal`] and `views` decide, without I/O.
//!
//! Deliberately absent: any state on disk. A sidecar that restarts shows its token again, and its key never
//! outlives its memory.

pub mod attempts;
mod connect;
pub mod error;
pub mod questions;
pub mod renewal;
mod session;
mod views;

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use isthmus_identity::{BearerToken, LiveIdentity};
use isthmus_model::locality::Locality;
use isthmus_model::name::TrustDomain;
use isthmus_model::route::Question;
use isthmus_model::snapshot::{Site, Snapshot};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use attempts::{Attempts, ControlAddr};
use questions::Questions;
use views::Views;

/// Questions that wait for the agent. While it is between gateways nobody takes them; requests that find
/// the queue full wait as long as they would for an answer.
pub const DEMAND_LEN: usize = 1024;

/// What the agent has to know.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// The trust domain of the cluster that the workload runs in.
    pub trust_domain: TrustDomain,
    /// How the workload shows who it is.
    pub introduction: Introduction,
    /// The address that the workload is known by in its cluster's endpoints.
    pub workload_address: IpAddr,
}

/// How a workload shows who it is, before it has a certificate.
#[derive(Clone, Debug)]
pub enum Introduction {
    /// By its token.
    Token {
        /// Who it is, and how to know its gateway.
        token: BearerToken,
        /// Control ports of the own cluster's gateways, one at least.
        gateways: Vec<SocketAddr>,
    },
    /// By the user that the sidecar runs as, to the gateway on the same machine: whoever can put a socket in this
    /// place is believed to be that gateway.
    User {
        /// The gateway's control socket.
        socket: PathBuf,
    },
}

impl Introduction {
    fn gateways(&self) -> Vec<ControlAddr> {
        match self {
            Self::Token { gateways, .. } => gateways.iter().copied().map(ControlAddr::Port).collect(),
            Self::User { socket } => vec![ControlAddr::Socket(socket.clone())],
        }
    }
}

/// How the agent is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentState {
    /// The gateway that it is attached to.
    pub gateway: Option<ControlAddr>,
    /// Since when it is attached to that, or to none.
    pub since: SystemTime,
    /// When a gateway last told something: how old the view may be while there is no gateway.
    pub heard_at: Option<SystemTime>,
    /// When the certificate ends.
    pub certified_until: Option<SystemTime>,
    /// The generation of the published view; 0 before the first.
    pub generation: u64,
    /// Why the last session ended, or the last attempt failed; `None` while attached.
    pub problem: Option<String>,
}

impl AgentState {
    /// Whether traffic can be served: there is a view and a valid certificate.
    #[must_use]
    pub fn is_ready(&self, now: SystemTime) -> bool {
        self.generation > 0 && self.certified_until.is_some_and(|until| now < until)
    }
}

/// What the agent provides. The task goes on without the handle until its shutdown token is cancelled.
#[derive(Clone, Debug)]
pub struct AgentHandle {
    /// The view: blank, with generation 0, until a gateway told one.
    pub view: watch::Receiver<Arc<Snapshot>>,
    /// Where to send questions that the view does not answer.
    pub demand: mpsc::Sender<Question>,
    /// The identity.
    pub identity: LiveIdentity,
    /// How the agent is doing.
    pub state: watch::Receiver<AgentState>,
}

impl AgentHandle {
    /// Waits until traffic can be served. Never returns when the agent was shut down before.
    pub async fn ready(&self) {
        let mut state = self.state.clone();
        if state.wait_for(|state| state.is_ready(SystemTime::now())).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The agent between and within sessions.
#[derive(Debug)]
pub struct Agent {
    config: AgentConfig,
    identity: LiveIdentity,
    demand: mpsc::Receiver<Question>,
    published: watch::Sender<Arc<Snapshot>>,
    state: watch::Sender<AgentState>,
    attempts: Attempts,
    questions: Questions,
    views: Views,
    /// When to ask for the next certificate; `None` before the first.
    renew_at: Option<SystemTime>,
}

impl Agent {
    /// Starts the agent's task on the current runtime. It ends when `shutdown` is cancelled.
    ///
    /// # Panics
    /// When `config` has no gateway, or outside of a tokio runtime.
    #[must_use]
    pub fn start(config: AgentConfig, shutdown: CancellationToken) -> AgentHandle {
        let gateways = config.introduction.gateways();
        assert!(!gateways.is_empty(), "a sidecar needs a gateway's address");
        let unknown: Locality = "unknown".parse().expect("a label");
        let TrustDomain { federation, cluster } = config.trust_domain.clone();
        let site = Site { federation, cluster, locality: unknown };
        let (published, view) = watch::channel(Arc::new(views::blank(site.clone())));
        let (demand, questions) = mpsc::channel(DEMAND_LEN);
        let (since, identity) = (SystemTime::now(), LiveIdentity::new());
        let blank =
            AgentState { gateway: None, since, heard_at: None, certified_until: None, generation: 0, problem: None };
        let (state, watched) = watch::channel(blank);
        let agent = Self {
            attempts: Attempts::new(gateways),
            config,
            identity: identity.clone(),
            demand: questions,
            published,
            state,
            questions: Questions::default(),
            views: Views::new(site),
            renew_at: None,
        };
        tokio::spawn(async move { shutdown.run_until_cancelled(agent.run()).await });
        AgentHandle { view, demand, identity, state: watched }
    }

    async fn run(mut self) {
        loop {
            let certified = self.identity.trust().is_some() && self.state.borrow().is_ready(SystemTime::now());
            let (gateway, proof) = self.attempts.next(certified);
            let Err(error) = Box::pin(session::run(&mut self, &gateway, proof)).await;
            self.detached(&gateway, &error);
            tokio::time::sleep(self.attempts.delay(random())).await;
        }
    }

    /// Whether policies say who may call the workload.
    fn is_guarded(&self) -> bool {
        !self.published.borrow().authorizations.is_empty()
    }

    fn attached(&self, gateway: &ControlAddr) {
        info!(%gateway, "attached to gateway");
        let now = SystemTime::now();
        self.state.send_modify(|state| {
            (state.gateway, state.since, state.heard_at, state.problem) = (Some(gateway.clone()), now, Some(now), None);
        });
    }

    fn heard(&self) {
        self.state.send_modify(|state| state.heard_at = Some(SystemTime::now()));
    }

    fn detached(&self, gateway: &ControlAddr, error: &error::SessionError) {
        let now = SystemTime::now();
        let heard_at = self.state.borrow().heard_at;
        let silence = heard_at.and_then(|at| now.duration_since(at).ok()).map(|silence| silence.as_secs());
        let generation = self.state.borrow().generation;
        let problem = format!("{gateway}: {error}");
        // A gateway that stays away is one event, not one per attempt.
        if self.state.borrow().problem.as_ref() == Some(&problem) {
            debug!(%gateway, generation, view_age_secs = silence, "still not attached to gateway: {error}");
        } else {
            warn!(%gateway, generation, view_age_secs = silence, "not attached to gateway: {error}");
        }
        self.state.send_modify(|state| {
            if state.gateway.take().is_some() {
                state.since = now;
            }
            state.problem = Some(problem);
        });
    }

    /// Publishes the stream's view, if it may be.
    fn publish(&mut self, impatient: bool) {
        if let Some(view) = self.views.publish(&self.questions, impatient) {
            let generation = view.generation;
            self.published.send_replace(view);
            self.state.send_modify(|state| state.generation = generation);
        }
    }

    /// Notes the certificate that was just set, and when to renew it.
    fn certified(&mut self, now: SystemTime) {
        let until = self.identity.lifetime().map(|(_, not_after)| not_after);
        let remaining = until.and_then(|until| until.duration_since(now).ok()).unwrap_or_default();
        self.renew_at = Some(now + renewal::renew_after(remaining, random()));
        self.state.send_modify(|state| state.certified_until = until);
        info!(
            identity = self.identity.id().map(tracing::field::display),
            lifetime_secs = remaining.as_secs(),
            "certified"
        );
    }

    /// When to ask for the next certificate, by the clock that timers run on.
    fn renewal_due(&self) -> Instant {
        let wait = self.renew_at.and_then(|at| at.duration_since(SystemTime::now()).ok());
        Instant::now() + wait.unwrap_or(Duration::ZERO)
    }
}

/// For jitter only: std's hasher keys are random per process and differ per call.
fn random() -> u64 {
    RandomState::new().hash_one(())
}

#[cfg(test)]
pub(crate) mod tests;
