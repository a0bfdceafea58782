//! The gateway, put together.
//!
//! The order matters: listeners that others know by address are bound first, then the membership is taken
//! up, then the replica runs, then the parts that read the snapshot, and readiness last.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use isthmus_dns::{DnsConfig, DnsServer};
use isthmus_federation::data_dir::DataDir;
use isthmus_federation::dial::Connect;
use isthmus_federation::enroll::{self, Member, Patience};
use isthmus_federation::{NotHandedOver, Options, Replica, Timing, Voting, exports, publish, serve};
use isthmus_identity::{BearerToken, LiveIdentity};
use isthmus_model::catalog::LocalCatalog;
use isthmus_model::snapshot::Snapshot;
use isthmus_proxy::accept::patiently;
use isthmus_proxy::opening::LoadBalancers;
use isthmus_proxy::outbound::{Mode, OutboundListener};
use isthmus_proxy::unix_socket::UnixServer;
use isthmus_proxy::{DataPlane, Metrics};
use isthmus_sources::{FileSource, SourceState};
use isthmus_wire::control::control_server::ControlServer;
use isthmus_wire::peer::health_server::HealthServer;
use prometheus_client::registry::Registry as MetricsRegistry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{AdminServer, AdminState};
use crate::config::{GatewayConfig, is_loopback};
use crate::control::{self, ControlListener, ControlService};
use crate::east_west::EastWestListener;
use crate::own_identity::OwnIdentity;
use crate::peers::{HealthService, PeerWatcher};
use crate::rotation::OwnRotation;
use crate::telemetry::Telemetry;
use crate::vips::Vips;
use crate::{ingress, probe, process};

/// A control message from a sidecar: questions or a certificate request.
const CONTROL_MESSAGE_LEN_MAX: usize = 1 << 20;

/// Runs a gateway until it is told to stop by SIGTERM or SIGINT.
///
/// # Errors
/// What kept it from starting.
pub async fn run(config: GatewayConfig, join: Option<BearerToken>) -> anyhow::Result<()> {
    isthmus_proxy::accept::raise_file_limit();
    let (told_to_stop, shutdown) = (CancellationToken::new(), CancellationToken::new());
    let tasks = TaskTracker::new();
    tasks.spawn(process::cancel_on_signal(told_to_stop.clone()));
    let started = tokio::select! {
        started = Gateway::start(Arc::new(config), join, shutdown.clone()) => started,
        () = told_to_stop.cancelled() => return Ok(()),
    };
    let gateway = started.inspect_err(|_| told_to_stop.cancel())?;
    told_to_stop.cancelled().await;
    tracing::info!("stopping");
    gateway.hand_over().await;
    shutdown.cancel();
    gateway.finish().await;
    Ok(())
}

/// A running gateway.
pub struct Gateway {
    replica: Replica,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    /// How long requests under way may take to finish.
    drain: Duration,
    /// Watches the manifests as long as it lives.
    _source: FileSource,
}

/// What the listeners and tasks share.
struct Parts {
    config: Arc<GatewayConfig>,
    view: watch::Receiver<Arc<Snapshot>>,
    plane: DataPlane,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Gateway {
    /// Starts a gateway. When this returns, every listener is bound and served.
    ///
    /// # Errors
    /// What kept it from starting.
    pub async fn start(
        config: Arc<GatewayConfig>,
        join: Option<BearerToken>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<Self> {
        let east_west = patiently(async || {
            let load_balancers = LoadBalancers::new(&config.proxy_protocol.east_west, "proxy_protocol.east_west");
            EastWestListener::bind(config.listen.east_west, load_balancers)
        })
        .await?;
        let control = patiently(async || ControlListener::bind(config.listen.control)).await?;
        let mut member = enroll(&config, config.advertised(east_west.local_addr()), join).await?;
        let admin = patiently(async || AdminServer::bind(&config).await).await?;
        let control_socket = config.control_socket.as_ref().map(control::bind).transpose().context("control_socket")?;

        let tasks = TaskTracker::new();
        let identity = LiveIdentity::new();
        let (own_identity, authority) = OwnIdentity::start(&member, identity.clone())?;
        let timing = Timing {
            heartbeat: config.raft.heartbeat,
            election_min: config.raft.election_min,
            election_max: config.raft.election_max,
        };
        let voting = Voting { seats: config.raft.voters, replace_after: config.raft.voter_replace_after };
        let snapshot_rate = config.raft.snapshot_rate;
        let options = Options { timing, voting, snapshot_rate, ..Options::default() };
        let replica = Replica::start(&mut member, identity.clone(), options, shutdown.clone()).await?;
        let handle = replica.handle().clone();
        tasks.spawn(own_identity.keep(handle.clone(), shutdown.clone()));
        let rotation = OwnRotation::new(member.node, handle.clone(), identity.clone(), authority);

        let source = FileSource::start(&config.manifests, config.manifest_rules()).await?;
        let catalog = catalog(source.state(), &tasks, shutdown.clone());
        let watcher = PeerWatcher::new(handle.clone(), member.node);
        let peers = watcher.table();
        tasks.spawn(exports::keep(handle.clone(), member.node, catalog.clone(), peers.clone(), shutdown.clone()));
        tasks.spawn(watcher.keep(shutdown.clone()));
        let inputs = publish::Inputs {
            site: Arc::new(config.site()),
            vip_range: config.vip_range,
            ingress: config.ingress.as_ref().map(|ingress| ingress.gateway.as_str().into()),
            registry: handle.registry(),
            catalog: catalog.clone(),
            peers: peers.clone(),
            failed: probe::start(catalog, shutdown.clone()),
            status: handle.status(),
        };
        let view = publish::start(inputs, shutdown.clone());

        let mut metrics = MetricsRegistry::default();
        let plane_metrics = Arc::new(Metrics::register(&mut metrics));
        let plane = DataPlane::new(view.clone(), None, identity, plane_metrics);
        let vips = Vips::new(plane.clone());
        let parts = Parts { config: config.clone(), view, plane, tasks, shutdown };
        let state = AdminState {
            config,
            snapshots: parts.view.clone(),
            registry: handle.registry(),
            status: handle.status(),
            source: source.state(),
            peers,
            vips: vips.served(),
            replicas: {
                let replicating = handle.replicating().clone();
                Arc::new(move || replicating.view())
            },
            proposals: handle.into(),
            opening_key: member.opening_key.clone(),
        };
        parts.serve_gateways(east_west, &replica);
        parts.serve_sidecars(control, control_socket, rotation, &state);
        parts.serve_clients(vips, &mut metrics).await?;
        parts.serve_operators(admin, state, metrics).await?;
        parts.announce();
        let drain = parts.config.drain;
        Ok(Self { replica, tasks: parts.tasks, shutdown: parts.shutdown, drain, _source: source })
    }

    /// Lets another gateway lead the registry, if this one does. It serves on meanwhile.
    pub async fn hand_over(&self) {
        match self.replica.handle().hand_over().await {
            Ok(successor) => tracing::info!(successor, "another gateway leads the registry now"),
            Err(NotHandedOver::DoesNotLead) => {}
            Err(error) => tracing::info!(%error, "the registry has no leader until the others have elected one"),
        }
    }

    /// Lets what is under way finish, once it was told to shut down.
    pub async fn finish(self) {
        self.shutdown.cancelled().await;
        self.tasks.close();
        if tokio::time::timeout(self.drain, self.tasks.wait()).await.is_err() {
            tracing::info!("requests that are still open are dropped");
        }
        self.replica.stop().await;
    }
}

impl Parts {
    /// The east-west port: other gateways, newcomers, and sessions for the own cluster's services.
    fn serve_gateways(&self, listener: EastWestListener, replica: &Replica) {
        let health = HealthServer::new(HealthService::new(self.view.clone(), self.shutdown.clone()));
        let routes = replica.gateway_services().add_service(health);
        let gateways = serve::start(routes, &self.tasks, self.shutdown.clone());
        let newcomers = serve::start(replica.join_services(), &self.tasks, self.shutdown.clone());
        self.tasks.spawn(listener.serve(self.plane.clone(), gateways, newcomers, self.shutdown.clone()));
    }

    /// The control port and socket, and a change of root, which waits for whoever is attached to them.
    fn serve_sidecars(
        &self,
        listener: ControlListener,
        socket: Option<UnixServer>,
        rotation: OwnRotation,
        state: &AdminState,
    ) {
        let users = self.config.control_socket.as_ref().map(|socket| socket.workloads.clone());
        let service = ControlService::new(control::Inputs {
            site: self.config.site(),
            authority: rotation.authority().clone(),
            certificate_ttl: self.config.workload_certificate_ttl,
            users: users.unwrap_or_default(),
            registry: state.registry.clone(),
            view: self.view.clone(),
            attached: rotation.attached().clone(),
            shutdown: self.shutdown.clone(),
        });
        self.tasks.spawn(rotation.keep(self.shutdown.clone()));
        let control = ControlServer::new(service).max_decoding_message_size(CONTROL_MESSAGE_LEN_MAX);
        if let Some(socket) = socket {
            self.tasks.spawn(socket.serve(control.clone(), self.shutdown.clone()));
        }
        let routes = tonic::service::Routes::new(control);
        let server = serve::start(routes, &self.tasks, self.shutdown.clone());
        self.tasks.spawn(listener.serve(self.plane.clone(), server, self.shutdown.clone()));
    }

    /// DNS, the forward proxy and the virtual addresses, for clients without a sidecar; and what is for clients from outside.
    async fn serve_clients(&self, vips: Vips, metrics: &mut MetricsRegistry) -> anyhow::Result<()> {
        let dns_metrics = Arc::new(isthmus_dns::Metrics::default());
        dns_metrics.register(metrics.sub_registry_with_prefix("isthmus"));
        let dns = DnsConfig {
            listen: vec![self.config.listen.dns],
            upstreams: self.config.dns.upstreams.clone(),
            ..DnsConfig::default()
        };
        let bind = async || DnsServer::bind(dns.clone(), self.view.clone(), dns_metrics.clone()).await;
        let dns = patiently(bind).await?;
        self.tasks.spawn(dns.serve(self.shutdown.clone()));
        let mode = Mode::Egress { allow_loopback: is_loopback(self.config.listen.east_west.ip()) };
        let bind = async || OutboundListener::bind(self.config.listen.egress, self.plane.clone(), mode.clone());
        let egress = patiently(bind).await?;
        self.tasks.spawn(egress.serve(self.shutdown.clone()));
        self.tasks.spawn(vips.keep(self.shutdown.clone()));
        if let Some(config) = &self.config.ingress {
            let load_balancers = &self.config.proxy_protocol.ingress;
            ingress::start(config, load_balancers, &self.plane, &self.tasks, &self.shutdown).await?;
        }
        Ok(())
    }

    /// The admin API, metrics and readiness.
    async fn serve_operators(
        &self,
        admin: AdminServer,
        state: AdminState,
        metrics: MetricsRegistry,
    ) -> anyhow::Result<()> {
        let telemetry = patiently(async || Telemetry::bind(&self.config.listen).await).await?;
        self.tasks.spawn(telemetry.serve(state.clone(), metrics, self.shutdown.clone()));
        self.tasks.spawn(admin.serve(state, self.shutdown.clone()));
        Ok(())
    }

    fn announce(&self) {
        let GatewayConfig { federation, cluster, gateway, listen, .. } = &*self.config;
        tracing::info!(%federation, %cluster, %gateway, east_west = %listen.east_west, dns = %listen.dns, "serving");
    }
}

/// Takes up the membership in the data directory, or founds or joins.
async fn enroll(config: &GatewayConfig, east_west: SocketAddr, join: Option<BearerToken>) -> anyhow::Result<Member> {
    let data = DataDir::open(&config.data_dir)?;
    let name = config.gateway_name(east_west);
    if let Some(member) = enroll::resume(&name, &data)? {
        if join.is_some() {
            tracing::info!("this gateway is a member already; the token is not needed");
        }
        return Ok(member);
    }
    let directory = config.data_dir.display();
    match join {
        Some(token) => {
            let patience = Patience { attempt: config.join.attempt, deadline: config.join.deadline };
            let joined = enroll::join(&name, &data, &token, patience, &Connect::tcp()).await;
            joined.with_context(|| format!("cannot join {} as {}", name.federation, name.cluster))
        }
        None if config.found => enroll::found(&name, &data).context("cannot found the federation"),
        None if data.founding_request().exists() => anyhow::bail!(
            "the founding waits for its root, whose key is offline: go on with `isthmus init --signed FILE`"
        ),
        None => anyhow::bail!(
            "{directory} is empty: join with --join TOKEN (from `isthmus token create --cluster {}` at a member), \
             or start a new federation with `isthmus init` or `found: true`",
            config.cluster
        ),
    }
}

/// The catalog alone, of what the source tells.
fn catalog(
    mut source: watch::Receiver<Arc<SourceState>>,
    tasks: &TaskTracker,
    shutdown: CancellationToken,
) -> watch::Receiver<Arc<LocalCatalog>> {
    let (publish, catalog) = watch::channel(source.borrow_and_update().catalog.clone());
    let follow = async move {
        while source.changed().await.is_ok() {
            let next = source.borrow_and_update().catalog.clone();
            publish.send_if_modified(|known| {
                let news = !Arc::ptr_eq(known, &next);
                *known = next;
                news
            });
        }
    };
    tasks.spawn(async move { shutdown.run_until_cancelled(follow).await });
    catalog
}
