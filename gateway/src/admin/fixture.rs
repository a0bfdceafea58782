//! A federation of two clusters in memory, as the gateway of one of them sees it. For tests only.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use isthmus_federation::replicas::{ReplicaView, Replicas};
use isthmus_federation::status::Role;
use isthmus_federation::{ProposeError, RegistryStatus};
use isthmus_identity::{BearerToken, OpeningKey};
use isthmus_model::catalog::{AppProtocol, Endpoint, LocalCatalog, LocalService, ServicePort};
use isthmus_model::command::{Command, Entry, Introduction, Outcome, Refusal};
use isthmus_model::fixture;
use isthmus_model::health::{Agreement, Capacity, FailedEndpoints, PeerHealth, PeerTable, Reach};
use isthmus_model::registry::Registry;
use isthmus_model::registry::token::Digest;
use isthmus_model::shared::OrdMap;
use isthmus_model::snapshot::Sources;
use isthmus_model::time::UnixMillis;
use isthmus_sources::{Problem, Severity, SourceState};
use tokio::sync::watch;

use super::{AdminState, Proposals};
use crate::config::GatewayConfig;
use crate::vips::Served;

const CONFIG: &str = "
federation: acme.mesh
cluster: us-east
locality: us-east-1/a
data_dir: data
manifests: manifests
vip_range: 10.11.0.0/16
";

/// What us-east's gateway sees, and the registry behind it.
pub(crate) struct World {
    pub(crate) state: AdminState,
    pub(crate) registry: Arc<Mutex<Registry>>,
    pub(crate) publish: watch::Sender<Arc<Registry>>,
}

fn introduction(cluster: &str, key: u8, port: u16) -> Introduction {
    let east_west = ([127, 0, 0, 1], port).into();
    Introduction { east_west, ..fixture::introduction(cluster, "gw-1", &format!("{cluster}-1"), key) }
}

fn catalog() -> LocalCatalog {
    let endpoint = |last: u8, ready| Endpoint {
        address: [127, 0, 11, last].into(),
        ports: BTreeMap::from([(80, 8080)]),
        sidecar_port: Some(15006),
        workload: "shop/reviews".parse().expect("valid"),
        ready,
    };
    let reviews = LocalService {
        ports: vec![ServicePort { name: None, port: 80, protocol: AppProtocol::Http }],
        endpoints: Arc::from([endpoint(21, true), endpoint(22, false)]),
        exported: true,
    };
    let services = OrdMap::unit("shop/reviews".parse().expect("valid"), reviews);
    LocalCatalog { services, ..LocalCatalog::default() }
}

fn apply(registry: &mut Registry, origin: &str, command: Command) -> Result<Outcome, Refusal> {
    registry.apply(&Entry { origin: origin.parse().expect("valid"), at: SystemTime::now().into(), command })
}

/// us-east founded, us-west joined; both export shop/reviews.
fn agreed() -> Registry {
    let federation = "acme.mesh".parse().expect("valid");
    let mut registry = Registry::default();
    let (east, west) = (introduction("us-east", 1, 15443), introduction("us-west", 2, 25443));
    let token = BearerToken::mint(federation, west.cluster.clone(), Vec::new(), Digest([0; 32]));
    let (id, secret_hash, gateway) = (token.id, token.secret.hash(), east.gateway.clone());
    let expires_at = UnixMillis::from(SystemTime::now()).saturating_add(Duration::from_secs(60));
    let grant = fixture::join("us-west");
    let steps = [
        fixture::found(token.federation, east),
        Command::MintToken {
            id: id.clone(),
            secret_hash,
            grant,
            expires_at,
            gateway,
            root: Digest([fixture::ROOT; 32]),
        },
        Command::RedeemToken { id, secret_hash, newcomer: west, from: None },
        fixture::issue(2, 2, fixture::ROOT),
    ];
    for step in steps.into_iter().chain(catalog().diff(&OrdMap::new())) {
        apply(&mut registry, "us-east", step).expect("accepted");
    }
    for step in catalog().diff(&OrdMap::new()) {
        apply(&mut registry, "us-west", step).expect("accepted");
    }
    registry
}

fn status() -> RegistryStatus {
    let now = UnixMillis::from(SystemTime::now());
    RegistryStatus {
        node: 1,
        role: Role::Leader,
        term: 3,
        leader: Some(1),
        voters: vec![1],
        learners: vec![2],
        last_log: 9,
        applied: 9,
        stale_since: Some(UnixMillis(now.0 - 12_000)),
    }
}

fn source() -> SourceState {
    let problem = Problem {
        file: Some("shop.yaml".to_owned()),
        line: Some(3),
        object: None,
        severity: Severity::Error,
        reason: "broken".to_owned(),
    };
    SourceState {
        catalog: Arc::new(catalog()),
        problems: vec![problem],
        problems_suppressed: 0,
        files: 1,
        scanned_at: SystemTime::now(),
    }
}

/// us-east leads and votes alone; us-west is three entries behind.
fn replicas() -> Replicas {
    let replica = |node, votes, lag, heard_ms_ago| ReplicaView {
        node,
        votes,
        lag_entries: Some(lag),
        lag_ms: Some(lag * 100),
        heard_ms_ago,
    };
    Replicas {
        replicas: vec![replica(1, true, 0, None), replica(2, false, 3, Some(40))],
        quorum_margin: Some(0),
        snapshot: 5_000,
        purged: 4_000,
        file_bytes: 1_600_000,
        disk_free_bytes: 20_000_000_000,
    }
}

/// us-west is up, with three of four instances.
fn peers() -> PeerTable {
    let capacity = Capacity { ready: 3, total: 4 };
    let west = PeerHealth {
        reach: Reach::Up,
        heard_at: Some(SystemTime::now().into()),
        stale: false,
        services: OrdMap::unit("shop/reviews".parse().expect("valid"), capacity),
    };
    PeerTable::unit(2, west)
}

/// The one virtual address, which is not routed to the machine.
fn served() -> Served {
    let address = ([10, 11, 0, 1], 80).into();
    Served { bound: 0, unbound: BTreeMap::from([(address, "not available".to_owned())]) }
}

impl World {
    pub(crate) fn new() -> Self {
        let config = Arc::new(GatewayConfig::parse(CONFIG, Path::new("")).expect("valid"));
        let registry = agreed();
        let sources = Sources {
            site: Arc::new(config.site()),
            registry: Arc::new(registry.clone()),
            catalog: Arc::new(catalog()),
            peers: Arc::new(peers()),
            failed: Arc::new(FailedEndpoints::new()),
            vip_range: config.vip_range,
            ingress: None,
            agreement: Agreement { leader: None, stale_since: None },
        };
        let snapshot = Arc::new(sources.build(7));
        let publish = watch::Sender::new(Arc::new(registry.clone()));
        let registry = Arc::new(Mutex::new(registry));
        let (proposed, published) = (registry.clone(), publish.clone());
        let proposals = Proposals::new(move |command| {
            let mut registry = proposed.lock().expect("no panic holds it");
            let outcome = apply(&mut registry, "us-east", command);
            published.send_replace(Arc::new(registry.clone()));
            std::future::ready(outcome.map_err(ProposeError::from))
        });
        let state = AdminState {
            config,
            snapshots: watch::Sender::new(snapshot).subscribe(),
            registry: publish.subscribe(),
            status: watch::Sender::new(status()).subscribe(),
            source: watch::Sender::new(Arc::new(source())).subscribe(),
            peers: watch::Sender::new(Arc::new(peers())).subscribe(),
            vips: watch::Sender::new(Arc::new(served())).subscribe(),
            proposals,
            replicas: Arc::new(replicas),
            opening_key: OpeningKey::generate().expect("made"),
        };
        Self { state, registry, publish }
    }
}
