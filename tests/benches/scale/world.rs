//! A federation in memory, as one of its gateways sees it.

use std::collections::BTreeMap;
use std::sync::Arc;

use isthmus_model::blob::Blob;
use isthmus_model::catalog::{AppProtocol, Endpoint, Export, LocalCatalog, LocalService, ServicePort};
use isthmus_model::command::{Command, Entry, Introduction};
use isthmus_model::fixture::{self, ROOT};
use isthmus_model::health::{Agreement, Capacity, PeerHealth, PeerTable, Reach};
use isthmus_model::name::{ClusterName, ServiceName};
use isthmus_model::registry::Registry;
use isthmus_model::registry::node::{NodeId, Requests, SealingKey};
use isthmus_model::registry::token::{Digest, Grant, Invitation, TokenId};
use isthmus_model::snapshot::{Site, Sources};
use isthmus_model::time::UnixMillis;

/// Clusters of the federation, a gateway each.
pub(crate) const CLUSTERS: usize = 200;

pub(crate) fn cluster(number: usize) -> ClusterName {
    format!("cluster-{number}").parse().expect("valid")
}

pub(crate) fn service(number: usize) -> ServiceName {
    format!("team-{}/service-{number:05}", number % 100).parse().expect("valid")
}

pub(crate) fn export(port: u16) -> Export {
    let ports = [("http", port, AppProtocol::Http), ("grpc", port + 1, AppProtocol::Http2)];
    let ports =
        ports.map(|(name, port, protocol)| ServicePort { name: Some(name.parse().expect("valid")), port, protocol });
    let identities = ["shop/reviews", "shop/reviews-canary"].map(|identity| identity.parse().expect("valid"));
    Export { ports: ports.into(), identities: identities.into(), terminated: false }
}

/// An entry as the leader writes it into the log.
pub(crate) fn entry(origin: usize, command: Command) -> Entry {
    Entry { origin: cluster(origin), at: UnixMillis(1_790_000_000_000), command }
}

/// Two digests that only this gateway has.
fn key(number: usize, which: u8) -> Digest {
    let mut digest = [which; 32];
    digest[..8].copy_from_slice(&(number as u64).to_be_bytes());
    Digest(digest)
}

fn introduction(number: usize) -> Introduction {
    let requests = Requests {
        gateway_key: key(number, 1),
        authority_key: key(number, 2),
        // As large as real ones.
        gateway: Blob(vec![1; 350]),
        authority: Blob(vec![2; 350]),
    };
    let [high, low] = (number as u16).to_be_bytes();
    Introduction {
        cluster: cluster(number),
        gateway: "gw-1".parse().expect("valid"),
        locality: format!("region-{}/zone-{}", number % 5, number % 3).parse().expect("valid"),
        east_west: ([127, 9, high, low], 15443).into(),
        sealing_key: SealingKey(key(number, 3)),
        requests,
    }
}

/// The registry of a federation that offers so many services, each by one cluster.
pub(crate) fn registry(exports: usize) -> Registry {
    let mut registry = Registry::default();
    let mut apply = |origin, command| registry.apply(&entry(origin, command)).expect("a legal command");
    apply(0, fixture::found("acme.mesh".parse().expect("valid"), introduction(0)));
    let (id, secret_hash, root) = (TokenId::from_random([1; 8]), Digest([7; 32]), Digest([ROOT; 32]));
    let grant = Grant::Join(Invitation { cluster: None, region: None, from: None, uses: CLUSTERS as u32 });
    let (expires_at, gateway) = (UnixMillis(u64::MAX), "gw-1".parse().expect("valid"));
    apply(0, Command::MintToken { id: id.clone(), secret_hash, grant, expires_at, gateway, root });
    for number in 1..CLUSTERS {
        let newcomer = introduction(number);
        let authority_key = newcomer.requests.authority_key;
        apply(0, Command::RedeemToken { id: id.clone(), secret_hash, newcomer, from: None });
        let mut certificates = fixture::certificates(ROOT);
        (certificates.gateway, certificates.intermediate) = (Blob(vec![3; 700]), Blob(vec![4; 700]));
        apply(0, Command::Issue { node: number as NodeId + 1, authority_key, certificates });
    }
    for number in 0..exports {
        apply(number % CLUSTERS, Command::SetExport { service: service(number), export: export(8080) });
    }
    registry
}

/// What the gateway of the first cluster knows: its own services run on two instances each, and every other gateway
/// has told of its own.
pub(crate) fn sources(registry: Registry, exports: usize) -> Sources {
    let mut catalog = LocalCatalog::default();
    let mut told: BTreeMap<NodeId, PeerHealth> = BTreeMap::new();
    for number in 0..exports {
        let owner = number % CLUSTERS;
        if owner == 0 {
            let local = LocalService { ports: export(8080).ports, endpoints: endpoints(number), exported: true };
            catalog.services.insert(service(number), local);
        } else {
            let heard = told.entry(owner as NodeId + 1).or_default();
            (heard.reach, heard.heard_at) = (Reach::Up, Some(UnixMillis(1)));
            heard.services.insert(service(number), Capacity { ready: 2, total: 2 });
        }
    }
    let introduction = introduction(0);
    let federation = "acme.mesh".parse().expect("valid");
    let site = Site { federation, cluster: introduction.cluster, locality: introduction.locality };
    Sources {
        site: Arc::new(site),
        registry: Arc::new(registry),
        catalog: Arc::new(catalog),
        peers: Arc::new(told.into_iter().collect::<PeerTable>()),
        failed: Arc::default(),
        vip_range: Some("10.0.0.0/15".parse().expect("valid")),
        ingress: None,
        agreement: Agreement::default(),
    }
}

fn endpoints(number: usize) -> Arc<[Endpoint]> {
    let [_, _, high, low] = (number as u32).to_be_bytes();
    let endpoint = |which: u8| Endpoint {
        address: [10, 100 + which, high, low].into(),
        ports: BTreeMap::from([(8080, 8080), (8081, 8081)]),
        sidecar_port: Some(15006),
        workload: "shop/reviews".parse().expect("valid"),
        ready: true,
    };
    [endpoint(0), endpoint(1)].into()
}
