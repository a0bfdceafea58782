//! Containment: what a stolen signing key of one cluster is good for beyond that cluster, which is nothing.
//!
//! The thief has `cluster.key` and `cluster.crt` of us-west, taken from its data directory, and everything public.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use isthmus_federation::data_dir::DataDir;
use isthmus_federation::dial::{Connect, channel};
use isthmus_identity::{GatewayCredentials, LiveIdentity, OpeningKey, PeerUsage, PrivateKey, TrustBundle, VerifyError};
use isthmus_model::catalog::{AppProtocol, Export, ServicePort};
use isthmus_model::command::{Command, Refusal};
use isthmus_model::spiffe::SpiffeId;
use isthmus_wire::peer::election_client::ElectionClient;
use isthmus_wire::peer::health_client::HealthClient;
use isthmus_wire::peer::join_client::JoinClient;
use isthmus_wire::peer::join_reply::Result as JoinResult;
use isthmus_wire::peer::propose_reply::Result as ProposeResult;
use isthmus_wire::peer::raft_client::RaftClient;
use isthmus_wire::peer::registry_client::RegistryClient;
use isthmus_wire::peer::{Candidacy, HealthRequest, JoinRequest, ProposeRequest, RaftMessage, SnapshotPiece, Spoken};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tonic::Code;
use tonic::transport::Channel;

use crate::federation::{Cluster, DOMAIN, port, start};
use crate::hostile::takes_session;
use crate::workload::{Client, INBOUND, Workload, answers_from};

const EAST_GATEWAY: &str = "spiffe://us-east.acme.mesh/gateway/gw-1";
const WEST_GATEWAY: &str = "spiffe://us-west.acme.mesh/gateway/gw-1";
const EAST_WORKLOAD: &str = "spiffe://us-east.acme.mesh/ns/shop/sa/productpage";
const WEST_WORKLOAD: &str = "spiffe://us-west.acme.mesh/ns/shop/sa/productpage";
/// Of a cluster that does not exist.
const FURTHER_WORKLOAD: &str = "spiffe://eu-central.acme.mesh/ns/shop/sa/productpage";
const FURTHER_GATEWAY: &str = "spiffe://eu-central.acme.mesh/gateway/gw-1";

/// Who stole a cluster's signing key.
struct Thief {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    roots: Vec<Vec<u8>>,
}

fn chain_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    let now = SystemTime::now();
    params.not_before = (now - Duration::from_secs(60)).into();
    params.not_after = (now + Duration::from_secs(3600)).into();
    params.subject_alt_names = vec![rcgen::SanType::URI(name.try_into().expect("ASCII"))];
    params
}

fn leaf_params(id: &str) -> CertificateParams {
    let mut params = chain_params(id);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    params
}

/// A chain with the key of its leaf.
type Forged = (Vec<CertificateDer<'static>>, KeyPair);

impl Thief {
    fn steal(victim: &Cluster) -> Self {
        let certificate =
            CertificateDer::from_pem_file(victim.path("data/identity/cluster.crt")).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(victim.path("data/identity/cluster.key")).expect("a key");
        let key = KeyPair::try_from(&key).expect("a key");
        let issuer = Issuer::from_ca_cert_der(&certificate, key).expect("an issuer");
        let data = DataDir::open(&victim.path("data")).expect("the victim's");
        let roots = data.read_node().expect("readable").expect("a member's").roots().expect("they decode");
        Self { certificate, issuer, roots }
    }

    fn bundle(&self) -> TrustBundle {
        TrustBundle::new(DOMAIN.parse().expect("valid"), self.roots.clone()).expect("a bundle")
    }

    /// Trusts the federation and shows nothing.
    fn nobody(&self) -> Arc<ClientConfig> {
        let identity = LiveIdentity::new();
        identity.set_trust(self.bundle());
        identity.client_config(Arc::new(|_: &SpiffeId| true), &[b"h2"])
    }

    /// Whatever it wants to be, signed by the stolen key.
    fn forge(&self, id: &str) -> Forged {
        let key = KeyPair::generate().expect("a key");
        let leaf = leaf_params(id).signed_by(&key, &self.issuer).expect("signed").der().clone();
        (vec![leaf, self.certificate.clone()], key)
    }

    /// A cluster of its own below the stolen one.
    fn forge_below(&self, cluster: &str, id: &str) -> Forged {
        let (key, own) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
        let mut params = chain_params(&format!("spiffe://{cluster}.{DOMAIN}"));
        params.distinguished_name.push(rcgen::DnType::CommonName, cluster);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let below = params.signed_by(&own, &self.issuer).expect("signed").der().clone();
        let issuer = Issuer::from_ca_cert_der(&below, own).expect("an issuer");
        let leaf = leaf_params(id).signed_by(&key, &issuer).expect("signed").der().clone();
        (vec![leaf, below, self.certificate.clone()], key)
    }

    /// A client that shows it, where an honest one would refuse to.
    fn client(&self, (chain, key): &Forged) -> Arc<ClientConfig> {
        let mut config = ClientConfig::clone(&self.nobody());
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let certified = CertifiedKey::from_der(chain.clone(), key, config.crypto_provider()).expect("they match");
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(certified));
        Arc::new(config)
    }

    fn forgeries(&self) -> [(&'static str, Forged); 7] {
        [
            ("a workload of another cluster", self.forge(EAST_WORKLOAD)),
            ("a gateway of another cluster", self.forge(EAST_GATEWAY)),
            ("a gateway of the robbed cluster", self.forge(WEST_GATEWAY)),
            ("a workload of a further cluster", self.forge(FURTHER_WORKLOAD)),
            ("a gateway of a further cluster", self.forge(FURTHER_GATEWAY)),
            ("a workload of a cluster below the robbed one", self.forge_below("eu-central", FURTHER_WORKLOAD)),
            ("a gateway of a cluster below the robbed one", self.forge_below("us-east", EAST_GATEWAY)),
        ]
    }
}

fn gateway_of(cluster: &Cluster, config: Arc<ClientConfig>) -> Channel {
    channel(&Connect::tcp(), cluster.at(port::EAST_WEST), format!("gateway.{}.{DOMAIN}", cluster.name), config)
}

fn export() -> Export {
    let port = ServicePort { name: None, port: 9080, protocol: AppProtocol::Http };
    Export { ports: vec![port], identities: Default::default(), terminated: false }
}

fn set_export() -> Command {
    Command::SetExport { service: "shop/details".parse().expect("valid"), export: export() }
}

/// A candidate's message, from the node of that id.
fn vote(node: u64) -> RaftMessage {
    let body =
        format!(r#"{{"vote":{{"leader_id":{{"term":1,"node_id":{node}}},"committed":false}},"last_log_id":null}}"#);
    RaftMessage { format: 2, body: body.into_bytes(), ..RaftMessage::default() }
}

/// A leader's message without entries, from the node of that id.
fn append(node: u64) -> RaftMessage {
    let ballot = format!(r#"{{"leader_id":{{"term":1,"node_id":{node}}},"committed":true}}"#);
    let body = format!(r#"{{"vote":{ballot},"prev_log_id":null,"entries":[],"leader_commit":null}}"#);
    RaftMessage { body: body.into_bytes(), ..vote(node) }
}

/// The first byte of a leader's snapshot of that length, from the node of that id.
fn snapshot(node: u64, term: u64, len: u64) -> SnapshotPiece {
    let ballot = format!(r#"{{"leader_id":{{"term":{term},"node_id":{node}}},"committed":true}}"#);
    let log = r#"{"log_id":null,"membership":{"configs":[],"nodes":{}}}"#;
    let meta = format!(r#"{{"last_log_id":null,"last_membership":{log},"snapshot_id":"large"}}"#);
    let body = format!(r#"{{"vote":{ballot},"meta":{meta},"len":{len},"sha256":"{}"}}"#, "0".repeat(64));
    let spoken = Some(Spoken { earliest: 3, latest: 3, capabilities: 1, software: "0.1.0".to_owned() });
    let message = RaftMessage { format: 3, body: body.into_bytes(), spoken, ..RaftMessage::default() };
    SnapshotPiece { message: Some(message), offset: 0, data: vec![0] }
}

/// The same message, in another term.
fn of_term(message: RaftMessage, term: u64) -> RaftMessage {
    let body = String::from_utf8(message.body).expect("JSON").replace(r#""term":1"#, &format!(r#""term":{term}"#));
    RaftMessage { body: body.into_bytes(), ..message }
}

/// What comes of each call that is for gateways.
async fn calls(channel: Channel) -> [(&'static str, Code); 8] {
    let mut raft = RaftClient::new(channel.clone());
    let code = |result: Result<(), tonic::Status>| result.map_or_else(|status| status.code(), |()| Code::Ok);
    let command = serde_json::to_vec(&set_export()).expect("serializable");
    let propose =
        RegistryClient::new(channel.clone()).propose(ProposeRequest { command, token_secret: Vec::new() }).await;
    let mut election = ElectionClient::new(channel.clone());
    let watch = HealthClient::new(channel).watch(HealthRequest {}).await;
    [
        ("vote", code(raft.vote(vote(2)).await.map(drop))),
        ("append", code(raft.append(vote(2)).await.map(drop))),
        ("install a snapshot", code(raft.install_snapshot(vote(2)).await.map(drop))),
        ("a piece of a snapshot", code(raft.snapshot(snapshot(2, 1, 1)).await.map(drop))),
        ("canvass", code(election.canvass(Candidacy { node: 2, ..Candidacy::default() }).await.map(drop))),
        ("stand", code(election.stand(Candidacy { node: 2, ..Candidacy::default() }).await.map(drop))),
        ("propose", code(propose.map(drop))),
        ("watch health", code(watch.map(drop))),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_cluster_key_is_worth_that_clusters_workloads_and_nothing_else() {
    let [east, west] = start(["us-east", "us-west"]).await;
    let east_details = Workload::exported(&east, "details", 20).await;
    let west_reviews = Workload::exported(&west, "reviews", 21).await;
    let client = Client::run(&west, "productpage", 30).await;
    answers_from(client.outbound(), "details", "us-east").await;
    let thief = Thief::steal(&west);
    let details = (east_details.at(INBOUND), "details.shop.svc.us-east.acme.mesh");
    let reviews = (west_reviews.at(INBOUND), "reviews.shop.svc.us-west.acme.mesh");
    let before = (east.revision().await, west.revision().await);

    // What it is good for: the workloads of us-west. This also shows that what follows is refused for its reason.
    let workload = thief.client(&thief.forge(WEST_WORKLOAD));
    for (address, name) in [details, reviews] {
        assert!(takes_session(address, workload.clone(), name).await, "{name}");
    }
    // No workload may call what is for gateways: votes, replication, writes, health.
    for cluster in [&east, &west] {
        for (what, code) in calls(gateway_of(cluster, workload.clone())).await {
            assert_eq!(code, Code::PermissionDenied, "{what} at {}", cluster.name);
        }
    }

    // Nothing else that it signs is taken by anyone, as a client or as a server.
    for (what, forged) in thief.forgeries() {
        let client = thief.client(&forged);
        for (address, name) in [details, reviews] {
            assert!(!takes_session(address, client.clone(), name).await, "{what} at {name}");
        }
        for cluster in [&east, &west] {
            for (call, code) in calls(gateway_of(cluster, client.clone())).await {
                assert!(
                    ![Code::Ok, Code::PermissionDenied].contains(&code),
                    "{what}: {call} at {}: {code}",
                    cluster.name
                );
            }
        }
        let served = thief.bundle().verify(&forged.0, PeerUsage::Server, SystemTime::now());
        let refused =
            matches!(served, Err(VerifyError::ForeignIssuer { .. } | VerifyError::WrongIssuer | VerifyError::Chain(_)));
        assert!(refused, "{what}: {served:?}");
    }

    // It opens no door for a further cluster: a token is not signed for, and this one was never minted.
    for config in [thief.nobody(), workload] {
        let refusal = redeem(&east, config).await;
        assert_eq!(refusal, Refusal::TokenUnknown);
    }
    // Nor the envelope of the root: the key that opens it is another, and of another kind.
    assert!(OpeningKey::load(&west.path("data/identity/cluster.key")).is_err());
    assert_eq!((east.revision().await, west.revision().await), before, "nothing was written");
    answers_from(client.outbound(), "details", "us-east").await;
}

/// Asks to be admitted with a token that was made up.
async fn redeem(contact: &Cluster, config: Arc<ClientConfig>) -> Refusal {
    let channel = channel(&Connect::tcp(), contact.at(port::EAST_WEST), format!("join.{DOMAIN}"), config);
    let csr = || PrivateKey::generate().and_then(|key| key.csr()).expect("a request");
    let request = JoinRequest {
        token_id: "00000000000000ff".to_owned(),
        token_secret: vec![7; 32],
        cluster: "eu-central".to_owned(),
        gateway: "gw-1".to_owned(),
        locality: "eu-central-1/a".to_owned(),
        east_west: SocketAddr::from(([127, 0, 0, 9], port::EAST_WEST)).to_string(),
        gateway_request: csr(),
        authority_request: csr(),
        sealing_key: OpeningKey::generate().expect("a key").public().0.0.to_vec(),
        spoken: None,
    };
    let reply = JoinClient::new(channel).redeem(request).await.expect("an answer").into_inner();
    let Some(JoinResult::Refusal(refusal)) = reply.result else { unreachable!("a made-up token was taken") };
    serde_json::from_slice(&refusal).expect("a refusal")
}

/// Proposes as that gateway, to the leader.
async fn propose(channel: &Channel, command: &Command) -> Result<(), Refusal> {
    let command = serde_json::to_vec(command).expect("serializable");
    let reply =
        RegistryClient::new(channel.clone()).propose(ProposeRequest { command, token_secret: Vec::new() }).await;
    match reply.expect("an answer").into_inner().result.expect("a result") {
        ProposeResult::Outcome(_) => Ok(()),
        ProposeResult::Refusal(refusal) => Err(serde_json::from_slice(&refusal).expect("a refusal")),
        ProposeResult::NotLeader(leader) => unreachable!("node {leader} leads, and the founder should"),
    }
}

/// A whole gateway of us-west in the wrong hands, with its own certificate: it changes what is us-west's, and nothing
/// of us-east.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_speaks_and_writes_for_its_own_cluster_only() {
    let [east, west] = start(["us-east", "us-west"]).await;
    let _details = Workload::exported(&east, "details", 20).await;
    west.sees("details", "us-east", 1).await;
    let credentials = GatewayCredentials::load(&west.path("data/identity")).expect("a gateway's");
    let identity = LiveIdentity::new();
    identity.set_trust(Thief::steal(&west).bundle());
    identity.set_credentials(credentials.chain(), credentials.key().clone()).expect("they match");
    let channel = gateway_of(&east, identity.client_config(Arc::new(|_: &SpiffeId| true), &[b"h2"]));

    // It may send Raft messages as the node that it is, which is 2, and as no other.
    let mut raft = RaftClient::new(channel.clone());
    raft.vote(vote(2)).await.expect("heard");
    let status = raft.vote(vote(1)).await.expect_err("node 1 is us-east's");
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    assert!(status.message().contains("node 1 is gateway"), "{status}");

    // Neither the terms' end, nor a snapshot that fills the memory with nothing, moves the others.
    let term = east.status().await["registry"]["term"].clone();
    for beyond in [u64::MAX, u64::MAX - 1, 1 << 40] {
        let status = raft.vote(of_term(vote(2), beyond)).await.expect_err("no term of this registry");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        let status = raft.append(of_term(append(2), beyond)).await.expect_err("no term of this registry");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    let next = term.as_u64().expect("a number") + 1;
    for len in [u64::MAX, 1 << 40] {
        let status = raft.snapshot(snapshot(2, next, len)).await.expect_err("no snapshot is as large");
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    }
    let after = east.status().await["registry"].clone();
    assert_eq!((&after["term"], &after["role"]), (&term, &"leader".into()), "{after}");

    // Exports are filed under the proposer's cluster, whatever it proposes.
    let service = || "shop/details".parse().expect("valid");
    propose(&channel, &Command::WithdrawExport { service: service() }).await.expect("it had none to take back");
    west.sees("details", "us-east", 1).await;
    let origin = || "us-west".parse().expect("valid");
    let east_name = || "us-east".parse().expect("valid");
    let moved = Command::UpdateNode {
        node: 1,
        east_west: west.at(port::EAST_WEST),
        control: None,
        locality: "us-east-1/a".parse().expect("valid"),
    };
    assert_eq!(propose(&channel, &moved).await, Err(Refusal::NotOwner { origin: origin() }));
    let fence = Command::Fence { cluster: east_name(), why: "because".to_owned() };
    assert_eq!(propose(&channel, &fence).await, Err(Refusal::NotAdministrator { origin: origin() }));
    assert!(propose(&channel, &Command::Leave { cluster: east_name() }).await.is_err());
    assert!(propose(&channel, &Command::Drain { cluster: east_name(), draining: true }).await.is_err());
    let promote = Command::SetAdministrator { cluster: origin(), administrator: true };
    assert_eq!(propose(&channel, &promote).await, Err(Refusal::NotAdministrator { origin: origin() }));
    west.sees("details", "us-east", 1).await;
}
