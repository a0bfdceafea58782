//! The sidecar put together: agent, data plane, its two listeners, a status port and the Workload API.
//!
//! Order matters twice. At the start everything is bound before anything serves, so that an address in use
//! is an error and not half a sidecar. At the end the listeners drain first and the agent stops last:
//! requests under way may still need a name or a renewed certificate.

mod status;

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Parser;
use prometheus_client::registry::Registry;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::accept::{BindError, patiently};
use crate::agent::{Agent, AgentHandle};
use crate::config::SidecarConfig;
use crate::inbound::InboundListener;
use crate::metrics::Metrics;
use crate::outbound::{Mode, OutboundListener};
use crate::plane::DataPlane;
use crate::unix_socket;
use crate::workload_api::WorkloadApi;
use status::StatusListener;

/// The most worker threads: more than any machine that a sidecar shares with its application has to spare.
const THREADS_MAX: u16 = 64;

/// The sidecar proxy of Isthmus: gives one workload its identity, reaches services of the whole federation
/// for it, and admits callers from there.
#[derive(Clone, Debug, Parser)]
#[command(name = "isthmus-proxy", version, after_help = EXAMPLES)]
pub struct Args {
    /// Configuration file, YAML.
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
    /// Print the effective configuration, without the token's secret, and exit.
    #[arg(long)]
    pub print_config: bool,
    /// Validate the configuration and exit.
    #[arg(long)]
    pub check: bool,
    /// What to log, instead of what the configuration says, e.g. debug or info,isthmus_proxy=trace.
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<Targets>,
    /// Worker threads. One, the calling thread itself, takes the least memory.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=i64::from(THREADS_MAX)))]
    pub threads: u16,
}

const EXAMPLES: &str = "\
Examples:
  A workload token, on one of the cluster's gateways:
    isthmus --admin unix:PATH token create --workload shop/reviews --ttl 720h > token
  The smallest configuration, sidecar.yaml:
    token_file: token
    gateways: [10.0.0.5:15012]
    workload_address: 10.0.7.21
  Validate it, see what it means, run it:
    isthmus-proxy --config sidecar.yaml --check
    isthmus-proxy --config sidecar.yaml --print-config
    isthmus-proxy --config sidecar.yaml
  Call a service of the federation through it:
    curl -x http://10.0.7.21:15001 http://reviews.shop.svc.clusterset.local:9080/

Signals:
  SIGTERM, SIGINT   stop accepting, let requests finish for drain_seconds, exit";

/// The runtime for `threads` worker threads. One means the calling thread and no other: every thread costs
/// a stack and a malloc arena of its own, and a sidecar is counted in megabytes.
///
/// # Errors
/// When the system has no threads or descriptors to give.
pub fn runtime(threads: u16) -> std::io::Result<Runtime> {
    let mut builder = match threads {
        0 | 1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    if threads > 1 {
        builder.worker_threads(usize::from(threads));
    }
    builder.enable_all().build()
}

/// Does what `args` say: prints, validates, or runs the sidecar until SIGTERM or SIGINT. Runs on whatever
/// runtime it is polled by, so `threads` is for the caller (see [`runtime`]). Sets the process's log output up,
/// unless that is done already.
///
/// # Errors
/// A configuration that is refused, or an address that cannot be listened on.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let mut config = SidecarConfig::load(&args.config)?;
    config.log = args.log.unwrap_or(config.log);
    if args.print_config {
        write!(std::io::stdout(), "{config}").context("cannot write the configuration")?;
        return Ok(());
    }
    if args.check {
        writeln!(std::io::stdout(), "{}: valid", args.config.display()).context("cannot write the verdict")?;
        return Ok(());
    }
    log_to_stderr(config.log.clone());
    crate::accept::raise_file_limit();
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let bound = patiently(async || Sidecar::bind(config.clone())).await;
    // Its text has its causes already.
    let sidecar = bound.map_err(|error| anyhow!("{error}"))?;
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let signalled = async move {
        tokio::select! {
            _ = terminate.recv() => info!("SIGTERM: draining"),
            _ = interrupt.recv() => info!("SIGINT: draining"),
        }
        stop.cancel();
    };
    tokio::join!(Box::pin(sidecar.serve(shutdown)), signalled);
    Ok(())
}

fn log_to_stderr(targets: Targets) {
    let stderr =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    if tracing_subscriber::registry().with(targets).with(stderr).try_init().is_err() {
        warn!("log output was set up before: the sidecar's own log configuration is not used");
    }
}

/// An address of the configuration that cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// One of the listeners.
    #[error("{field}: {source}")]
    Address {
        /// Which field.
        field: &'static str,
        /// Why not.
        source: BindError,
    },
    /// The Workload API's socket.
    #[error("workload_api: {0}")]
    WorkloadApi(#[from] unix_socket::BindError),
}

/// A sidecar whose addresses are bound.
pub struct Sidecar {
    /// Identity and view.
    pub agent: AgentHandle,
    agent_shutdown: CancellationToken,
    outbound: OutboundListener,
    inbound: InboundListener,
    status: Option<StatusListener>,
    workload_api: Option<WorkloadApi>,
    drain: Duration,
}

impl Sidecar {
    /// Binds all addresses, then starts attaching to a gateway. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When an address cannot be listened on.
    pub fn bind(config: SidecarConfig) -> Result<Self, ListenError> {
        let failed = |field| move |source| ListenError::Address { field, source };
        let mut registry = Registry::default();
        let metrics = Arc::new(Metrics::register(&mut registry));
        let workload = config.workload();
        let agent_shutdown = CancellationToken::new();
        let agent = Agent::start(config.agent, agent_shutdown.clone());
        // The agent has not run yet; it is dropped again when an address is taken.
        let undo = agent_shutdown.clone().drop_guard();
        let plane = DataPlane::new(agent.view.clone(), Some(agent.demand.clone()), agent.identity.clone(), metrics);
        let outbound = OutboundListener::bind(config.outbound, plane.clone(), Mode::Proxy);
        let outbound = outbound.map_err(failed("outbound"))?;
        let inbound = InboundListener::bind(config.inbound, plane, workload);
        let inbound = inbound.map_err(failed("inbound"))?;
        let status = config.metrics.map(|address| {
            let bound = StatusListener::bind(address, registry, agent.state.clone());
            bound.map_err(|source| failed("metrics")(BindError { address, source }))
        });
        let status = status.transpose()?;
        let workload_api = config.workload_api.map(|config| WorkloadApi::bind(config, agent.clone())).transpose()?;
        undo.disarm();
        Ok(Self { agent, agent_shutdown, outbound, inbound, status, workload_api, drain: config.drain })
    }

    /// Where applications' connections arrive.
    #[must_use]
    pub fn outbound_addr(&self) -> SocketAddr {
        self.outbound.local_addr()
    }

    /// Where tunnels arrive.
    #[must_use]
    pub fn inbound_addr(&self) -> SocketAddr {
        self.inbound.local_addr()
    }

    /// Where `/metrics` and `/readyz` are served.
    #[must_use]
    pub fn status_addr(&self) -> Option<SocketAddr> {
        self.status.as_ref().map(StatusListener::local_addr)
    }

    /// Serves until `shutdown`, then drains.
    pub async fn serve(self, shutdown: CancellationToken) {
        info!(outbound = %self.outbound_addr(), inbound = %self.inbound_addr(), status = ?self.status_addr(), "serving");
        // What an application may still ask while its last requests are answered.
        let drained = CancellationToken::new();
        let status = self.status.map(|status| status.serve(shutdown.clone(), drained.clone()));
        let workload_api = self.workload_api.map(|workload_api| workload_api.serve(drained.clone()));
        let draining = shutdown.clone();
        let listeners = async {
            let both = async { tokio::join!(self.outbound.serve(shutdown.clone()), self.inbound.serve(shutdown)) };
            let overdue = async {
                draining.cancelled().await;
                tokio::time::sleep(self.drain).await;
            };
            tokio::select! {
                _ = both => {}
                () = overdue => warn!(drain_secs = self.drain.as_secs(), "requests under way are cut off"),
            }
            self.agent_shutdown.cancel();
            drained.cancel();
        };
        let status = async {
            if let Some(status) = status {
                status.await;
            }
        };
        let workload_api = async {
            if let Some(workload_api) = workload_api {
                workload_api.await;
            }
        };
        tokio::join!(Box::pin(listeners), status, Box::pin(workload_api));
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;
    use tokio::time::timeout;

    use super::*;
    use crate::agent::tests::gateway::{FakeGateway, Federation, LIFETIME};
    use crate::agent::{AgentConfig, Introduction};
    use crate::config::{TokenSource, WorkloadApiConfig};
    use crate::inbound::Inbound;
    use crate::unix_socket::Callers;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Ports of the system's choice on one loopback address.
    fn config(federation: &Federation, gateway: SocketAddr) -> SidecarConfig {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        SidecarConfig {
            agent: AgentConfig {
                trust_domain: federation.trust_domain(),
                introduction: Introduction::Token { token: federation.token(), gateways: vec![gateway] },
                workload_address: any.ip(),
            },
            token_source: Some(TokenSource::Inline),
            outbound: any,
            inbound: any,
            inbound_mode: Inbound::Strict,
            application_address: any.ip(),
            metrics: Some(any),
            workload_api: None,
            drain: Duration::from_secs(1),
            log: Targets::new(),
        }
    }

    #[tokio::test]
    async fn a_sidecar_gets_ready_and_ends_when_told() {
        let federation = Federation::new("us-east");
        let (_facts, known) = watch::channel(federation.snapshot());
        let gateway = FakeGateway::start(&federation, known, LIFETIME).await;
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("workload.sock");
        let mut config = config(&federation, gateway.address);
        config.workload_api = Some(WorkloadApiConfig { socket: socket.clone(), callers: Callers::Owner });
        let sidecar = Sidecar::bind(config).expect("free ports");
        let (agent, shutdown) = (sidecar.agent.clone(), CancellationToken::new());
        let addresses = [Some(sidecar.outbound_addr()), Some(sidecar.inbound_addr()), sidecar.status_addr()];
        let serving = tokio::spawn(sidecar.serve(shutdown.clone()));
        timeout(PATIENCE, agent.ready()).await.expect("in time");
        for address in addresses.into_iter().flatten() {
            tokio::net::TcpStream::connect(address).await.expect("listening");
        }
        let client = spiffe::WorkloadApiClient::connect_to(format!("unix://{}", socket.display()));
        client.await.expect("listening").fetch_x509_svid().await.expect("certified");
        shutdown.cancel();
        timeout(PATIENCE, serving).await.expect("in time").expect("no panic");
        timeout(PATIENCE, agent.demand.closed()).await.expect("the agent ends too");
        assert!(!socket.exists(), "it takes its socket away");
    }

    #[tokio::test]
    async fn an_address_in_use_is_an_error_that_names_it() {
        let federation = Federation::new("us-east");
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = taken.local_addr().expect("bound");
        for (field, spoil) in [
            ("outbound", (|config, taken| config.outbound = taken) as fn(&mut SidecarConfig, SocketAddr)),
            ("inbound", |config, taken| config.inbound = taken),
            ("metrics", |config, taken| config.metrics = Some(taken)),
        ] {
            let mut config = config(&federation, address);
            spoil(&mut config, address);
            let error = Sidecar::bind(config).err().expect("taken").to_string();
            assert!(error.starts_with(&format!("{field}: cannot listen on {address}")), "{error}");
        }
        let mut config = config(&federation, address);
        let socket = std::path::PathBuf::from("/nonexistent/workload.sock");
        config.workload_api = Some(WorkloadApiConfig { socket, callers: Callers::Owner });
        let error = Sidecar::bind(config).err().expect("no directory").to_string();
        assert!(error.starts_with("workload_api: cannot create /nonexistent/workload.sock"), "{error}");
    }
}
