//! Metrics and readiness, each on a port of its own that may be exposed to a scraper or a kubelet.

mod replica_gauges;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use isthmus_model::health::Reach;
use isthmus_model::time::UnixMillis;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::admin::{AdminState, serve_http};
use crate::config::Listen;
use replica_gauges::ReplicaGauges;

/// The content type of the exposition (OpenMetrics 1.0).
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Why a port did not open.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} (`listen.{name}`): {source}; is the address this machine's and the port free?")]
pub struct BindError {
    name: &'static str,
    address: SocketAddr,
    source: std::io::Error,
}

/// The two ports, bound.
pub struct Telemetry {
    metrics: TcpListener,
    readiness: TcpListener,
}

/// Gauges that are read off the watched state at each scrape.
struct Gauges {
    registry: Registry,
    problems: Gauge,
    exports: Gauge,
    peers_up: Gauge,
    peers_down: Gauge,
    term: Gauge,
    leads: Gauge,
    applied: Gauge,
    stale_seconds: Gauge,
    generation: Gauge,
    vips_unbound: Gauge,
    issuance_waiting: Gauge,
    issuance_wait_seconds: Gauge,
    certificates_end: Gauge,
    replicas: ReplicaGauges,
    state: AdminState,
}

impl Telemetry {
    /// Binds both.
    ///
    /// # Errors
    /// [`BindError`].
    pub async fn bind(listen: &Listen) -> Result<Self, BindError> {
        let bind = async |name: &'static str, address: SocketAddr| {
            TcpListener::bind(address).await.map_err(|source| BindError { name, address, source })
        };
        Ok(Self {
            metrics: bind("metrics", listen.metrics).await?,
            readiness: bind("readiness", listen.readiness).await?,
        })
    }

    /// Serves until told to stop.
    pub async fn serve(self, state: AdminState, registry: Registry, shutdown: CancellationToken) {
        let gauges = Arc::new(Gauges::register(state.clone(), registry));
        let metrics = Router::new().route("/metrics", get(exposition)).with_state(gauges);
        let readiness = Router::new().route("/readyz", get(readyz)).route("/livez", get(livez)).with_state(state);
        tokio::join!(
            serve_http(self.metrics, metrics, shutdown.clone()),
            serve_http(self.readiness, readiness, shutdown)
        );
    }
}

impl Gauges {
    fn register(state: AdminState, mut registry: Registry) -> Self {
        let group = registry.sub_registry_with_prefix("isthmus");
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            group.register(name, help, gauge.clone());
            gauge
        };
        let problems = gauge("manifest_problems", "Problems in the cluster's manifests");
        let exports = gauge("exports", "Services that the federation offers");
        let peers_up = gauge("peers_up", "Other gateways whose health stream lives");
        let peers_down = gauge("peers_down", "Other gateways that do not answer");
        let term = gauge("registry_term", "Current term of the registry");
        let leads = gauge("registry_leader", "1 on the gateway that leads the registry");
        let applied = gauge("registry_applied_index", "Last entry applied here");
        let help = "Seconds since a quorum last stood behind what this gateway knows; 0 while one does";
        let stale_seconds = gauge("registry_stale_seconds", help);
        let generation = gauge("snapshot_generation", "Generation of the published snapshot");
        let vips_unbound = gauge("vips_unbound", "Virtual addresses that cannot be listened on");
        let issuance_waiting = gauge("issuance_waiting", "Gateways that wait for the root to certify them");
        let help = "Seconds for which the first of these waits; 0 while none does";
        let issuance_wait_seconds = gauge("issuance_longest_wait_seconds", help);
        let help = "When this gateway's own certificates end, in seconds since the Unix epoch; 0 before it has any";
        let certificates_end = gauge("certificates_end_timestamp_seconds", help);
        let replicas = ReplicaGauges::register(group);
        Self {
            registry,
            problems,
            exports,
            peers_up,
            peers_down,
            term,
            leads,
            applied,
            stale_seconds,
            generation,
            vips_unbound,
            issuance_waiting,
            issuance_wait_seconds,
            certificates_end,
            replicas,
            state,
        }
    }

    fn read(&self) {
        let state = &self.state;
        let int = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let long = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let source = state.source.borrow();
        self.problems.set(int(source.problems.len() + source.problems_suppressed));
        self.exports.set(int(state.registry.borrow().exports().len()));
        let peers = state.peers.borrow();
        self.peers_up.set(int(peers.values().filter(|peer| peer.reach == Reach::Up).count()));
        self.peers_down.set(int(peers.values().filter(|peer| peer.reach == Reach::Down).count()));
        let status = state.status.borrow();
        self.term.set(long(status.term));
        self.leads.set(i64::from(status.leader == Some(status.node)));
        self.applied.set(long(status.applied));
        let now = UnixMillis::from(SystemTime::now());
        let issuance = state.read(now).issuance();
        self.issuance_waiting.set(int(issuance.waiting));
        self.issuance_wait_seconds.set(issuance.longest_wait_ms.map_or(0, |wait| long(wait / 1000)));
        self.certificates_end.set(issuance.own_certificates_end.map_or(0, |end| long(end.0 / 1000)));
        self.replicas.read(&state.replicas());
        self.stale_seconds.set(status.stale_since.map_or(0, |since| long(now.since(since).as_secs())));
        self.generation.set(long(state.snapshots.borrow().generation));
        self.vips_unbound.set(int(state.vips.borrow().unbound.len()));
    }
}

async fn exposition(State(gauges): State<Arc<Gauges>>) -> impl IntoResponse {
    gauges.read();
    let mut text = String::new();
    match encode(&mut text, &gauges.registry) {
        Ok(()) => Ok(([(header::CONTENT_TYPE, OPENMETRICS)], text)),
        Err(_) => Err(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

/// Ready once the gateway knows the federation that it serves. Losing the quorum later does not make it
/// unready: it goes on with what was agreed.
async fn readyz(State(state): State<AdminState>) -> (StatusCode, &'static str) {
    if state.registry.borrow().federation().is_some() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "waiting for the registry\n")
    }
}

async fn livez() -> &'static str {
    "ok\n"
}
