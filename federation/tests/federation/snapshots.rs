//! The registry as a whole: to a learner that joins a large one while writes go on, and from those who may not send it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use isthmus_federation::dial::{Connect, Dialer};
use isthmus_federation::enroll;
use isthmus_federation::raft_types::{Peer, PeerAddress};
use isthmus_federation::snapshot::RATE_DEFAULT;
use isthmus_federation::status::Role;
use isthmus_federation::{Handle, store};
use isthmus_identity::{TrustBundle, random_digest, sha256};
use isthmus_model::command::{Command, Entry};
use isthmus_model::name::ServiceName;
use isthmus_model::registry::Registry;
use isthmus_model::registry::token::Digest;
use isthmus_wire::peer::raft_client::RaftClient;
use isthmus_wire::peer::{RaftMessage, SnapshotPiece, Spoken};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::{Gateway, PATIENCE, Place, SOON, export, founder, joined, set_export};

/// As many as the issue says, which one cluster may export.
const EXPORTS: usize = 50_000;
/// No write waits longer than the Raft library's own timeouts would let pass unseen, on a machine that is busy with tests.
const SLOWEST_WRITE_MAX: Duration = Duration::from_secs(5);

fn service(number: usize) -> ServiceName {
    format!("shop/service-{number}").parse().expect("valid")
}

/// A founder whose registry has the exports already. They are put into its JSON, because proposing them takes longer than
/// the test may.
async fn large_founder() -> (Place, Gateway) {
    let (place, listener) = Place::new("us-east").await;
    let member = enroll::found(&place.name, &place.data()).expect("founds");
    let mut registry = Registry::default();
    for command in [member.founding.clone().expect("the founding"), set_export(9080)] {
        let entry = Entry { origin: place.name.cluster.clone(), at: SystemTime::now().into(), command };
        registry.apply(&entry).expect("taken");
    }
    let mut value = serde_json::to_value(&registry).expect("serializable");
    let offers = value["exports"]["shop/reviews"].clone();
    for number in 1..EXPORTS {
        let name = service(number).to_string();
        value["vips"]["assigned"][&name] = json!(number + 1);
        value["exports"][name] = offers.clone();
    }
    println!("the registry has {} bytes as JSON", value.to_string().len());
    let registry: Registry = serde_json::from_value(value).expect("a registry");
    assert_eq!(registry.exports().len(), EXPORTS);
    let (cluster, gateway) = (place.name.cluster.clone(), place.name.gateway.clone());
    let peer = Peer(Some(PeerAddress { cluster, gateway, east_west: place.name.east_west }));
    let id = random_digest().expect("drawn");
    store::seed(&place.data().registry(), id, member.node, peer, &registry).expect("seeded");
    let gateway = Gateway::run(member, listener).await;
    gateway.stands("it leads", |status| status.role == Role::Leader).await;
    (place, gateway)
}

/// Writes one export after the other until told to stop. Returns how long each took.
async fn write_on(handle: Handle, stop: CancellationToken) -> Vec<Duration> {
    let mut took = Vec::new();
    for port in (1_000..60_000).cycle() {
        if stop.is_cancelled() {
            break;
        }
        let (started, service) = (Instant::now(), service(1 + took.len() % (EXPORTS - 1)));
        let written = handle.propose(Command::SetExport { service, export: export(port) }).await;
        written.expect("every write is agreed");
        took.push(started.elapsed());
    }
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_joins_a_large_registry_while_writes_go_on() {
    let begun = Instant::now();
    let (_east_place, east) = large_founder().await;
    let seeded = begun.elapsed();
    let stop = CancellationToken::new();
    let writing = tokio::spawn(write_on(east.handle.clone(), stop.clone()));

    let joining = Instant::now();
    let (_west_place, west) = joined("us-west", &east).await;
    west.sees("all the exports", |registry| registry.exports().len() >= EXPORTS).await;
    let arrived = joining.elapsed();
    // It follows what is written meanwhile.
    let written = east.handle.registry().borrow().revision();
    west.sees("what was written meanwhile", |registry| registry.revision() >= written).await;
    stop.cancel();
    let took = writing.await.expect("no panic");
    let last = east.handle.registry().borrow().clone();
    west.sees("the last write", |registry| registry.revision() >= last.revision()).await;
    assert_eq!(*west.handle.registry().borrow(), *east.handle.registry().borrow());

    let slowest = took.iter().max().copied().unwrap_or_default();
    let mean = took.iter().sum::<Duration>() / u32::try_from(took.len().max(1)).expect("few");
    println!(
        "{EXPORTS} exports: started after {seeded:?}, there {arrived:?} after the join began; {} writes meanwhile, {mean:?} each, \
         {slowest:?} at most",
        took.len()
    );
    assert!(!took.is_empty() && slowest < SLOWEST_WRITE_MAX, "{} writes, {slowest:?} at most", took.len());
    west.stop().await;
    east.stop().await;
}

/// A link to a gateway that can be cut: all connections at once, and new ones come up again.
struct Link {
    cut: watch::Sender<()>,
    /// Bytes that went to the gateway.
    inward: Arc<AtomicU64>,
}

impl Link {
    /// From `listener` to the gateway at `to`.
    fn new(listener: TcpListener, to: SocketAddr) -> Self {
        let (cut, cuts) = watch::channel(());
        let inward = Arc::<AtomicU64>::default();
        let counted = inward.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (mut cuts, counted) = (cuts.clone(), counted.clone());
                cuts.mark_unchanged();
                tokio::spawn(async move {
                    tokio::select! {
                        _ = cuts.changed() => {}
                        () = carry(stream, to, counted) => {}
                    }
                });
            }
        });
        Self { cut, inward }
    }
}

async fn carry(outer: TcpStream, to: SocketAddr, counted: Arc<AtomicU64>) {
    let Ok(inner) = TcpStream::connect(to).await else { return };
    let ((mut from, mut back), (mut answers, mut on)) = (outer.into_split(), inner.into_split());
    let inwards = async move {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(len @ 1..) = from.read(&mut buffer).await {
            counted.fetch_add(len as u64, Ordering::Relaxed);
            if on.write_all(&buffer[..len]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = inwards => {}
        _ = tokio::io::copy(&mut answers, &mut back) => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_whose_link_is_cut_again_and_again_goes_on_where_it_was() {
    let (_east_place, east) = large_founder().await;
    let (mut place, listener) = Place::new("us-west").await;
    let outside = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    place.name.east_west = outside.local_addr().expect("bound");
    let link = Link::new(outside, listener.local_addr().expect("bound"));
    let token = east.mint(&place, Duration::from_secs(60)).await;
    let member = enroll::join(&place.name, &place.data(), &token, PATIENCE, &Connect::tcp()).await.expect("joins");
    let (started, west) = (Instant::now(), Gateway::run(member, listener).await);

    let len = serde_json::to_vec(&*east.handle.registry().borrow()).expect("serializable").len() as u64;
    for part in 1..=5 {
        let there = async || link.inward.load(Ordering::Relaxed) >= len * part / 6;
        isthmus_tests::harness::wait_until(SOON, "the transfer to go on", there).await;
        link.cut.send_replace(());
    }
    west.sees("all the exports", |registry| registry.exports().len() >= EXPORTS).await;
    let (took, sent) = (started.elapsed(), link.inward.load(Ordering::Relaxed));
    println!("{len} bytes of registry through a link that was cut five times: {sent} bytes sent in {took:?}");
    assert!(sent < len + len / 3, "{sent} bytes were sent for {len}: it starts over");
    assert!(took.as_secs_f64() > len as f64 / RATE_DEFAULT.get() as f64, "{took:?}: faster than the pace");
    west.stop().await;
    east.stop().await;
}

/// Sends the first piece to `to`, over a connection of its own, as `from`.
async fn send_piece(from: &Gateway, to: &Gateway, head: &Value, data: &[u8]) -> Result<Value, tonic::Status> {
    send_piece_at(0, from, to, head, data).await
}

async fn send_piece_at(
    offset: u64,
    from: &Gateway,
    to: &Gateway,
    head: &Value,
    data: &[u8],
) -> Result<Value, tonic::Status> {
    let registry = to.handle.registry().borrow().clone();
    let node = to.handle.status().borrow().node;
    let address = PeerAddress::from(&registry.nodes()[&node]);
    let spoken = Some(Spoken { earliest: 3, latest: 3, capabilities: 1, software: "0.1.0".to_owned() });
    let message = RaftMessage { format: 3, body: head.to_string().into_bytes(), spoken, ..RaftMessage::default() };
    let piece = SnapshotPiece { message: Some(message), offset, data: data.to_vec() };
    let mut client = RaftClient::new(
        Dialer::new(from.handle.dialer().federation().clone(), from.identity.clone(), Connect::tcp()).channel(&address),
    );
    let reply = client.snapshot(piece).await?.into_inner();
    Ok(serde_json::from_slice(&reply.body).expect("JSON"))
}

fn head(term: u64, node: u64, len: u64, sha256: Digest) -> Value {
    let vote = json!({"leader_id": {"term": term, "node_id": node}, "committed": true});
    let membership = json!({"log_id": null, "membership": {"configs": [], "nodes": {}}});
    let meta = json!({"last_log_id": null, "last_membership": membership, "snapshot_id": "made-up"});
    json!({"vote": vote, "meta": meta, "len": len, "sha256": sha256.to_string()})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_taken_only_from_who_leads_and_only_whole() {
    let (_east_place, east) = founder().await;
    let (_west_place, west) = joined("us-west", &east).await;
    let (_eu_place, eu) = joined("eu-central", &east).await;
    for gateway in [&east, &west, &eu] {
        gateway.stands("three voters", |status| status.voters == [1, 2, 3]).await;
    }
    let term = eu.handle.status().borrow().term;
    let code = |sent: Result<Value, tonic::Status>| sent.expect_err("refused").code();

    // Who leads no more hears whom they follow now; who never led, that it is not who it says.
    let stale = send_piece(&west, &eu, &head(0, 2, 3, sha256(b"abc")), b"abc").await.expect("an answer");
    assert!(stale["Ok"]["settled"]["leader_id"]["term"].as_u64() >= Some(1), "{stale}");
    assert_eq!(
        code(send_piece(&west, &eu, &head(term + 1, 1, 3, sha256(b"abc")), b"abc").await),
        Code::PermissionDenied
    );

    // A gateway that claims to lead can send what it likes: nothing of it is installed, and nothing breaks.
    let claims = term + 1;
    let far = head(u64::MAX, 2, 3, sha256(b"abc"));
    assert_eq!(code(send_piece(&west, &eu, &far, b"abc").await), Code::InvalidArgument);
    let endless = head(claims, 2, u64::MAX, sha256(b"abc"));
    assert_eq!(code(send_piece(&west, &eu, &endless, b"abc").await), Code::ResourceExhausted);
    assert_eq!(code(send_piece(&west, &eu, &head(claims, 2, 2, sha256(b"abc")), b"abc").await), Code::InvalidArgument);
    let begun = send_piece(&west, &eu, &head(claims, 2, 5, sha256(b"abcde")), b"abc").await.expect("begins");
    assert_eq!(begun["Ok"]["next"], 3);
    let asked = send_piece(&west, &eu, &head(claims, 2, 5, sha256(b"abcde")), b"").await.expect("resumes");
    assert_eq!(asked["Ok"]["next"], 3, "over another connection too");
    let rest = send_piece_at(3, &west, &eu, &head(claims, 2, 5, sha256(b"abcde")), b"de").await;
    assert_eq!(code(rest), Code::FailedPrecondition, "it is whole, and no registry");
    assert_eq!(code(send_piece(&west, &eu, &head(claims, 2, 3, sha256(b"abd")), b"abc").await), Code::DataLoss);
    assert_eq!(
        code(send_piece(&west, &eu, &head(claims, 2, 3, sha256(b"abc")), b"abc").await),
        Code::FailedPrecondition
    );
    let of_a_newer = br#"{"meta":{},"registry":{},"quotas":5}"#;
    let newer = head(claims, 2, of_a_newer.len() as u64, sha256(of_a_newer));
    assert_eq!(code(send_piece(&west, &eu, &newer, of_a_newer).await), Code::FailedPrecondition);

    // One that was fenced is not heard at all.
    let fence = Command::Fence { cluster: "us-west".parse().expect("valid"), why: "a test".to_owned() };
    east.handle.propose(fence).await.expect("fenced");
    eu.sees("the fence", |registry| !registry.denied().is_empty()).await;
    let denied = eu.handle.registry().borrow().denied().keys().copied().collect();
    let trust = TrustBundle::clone(&eu.identity.trust().expect("it trusts"));
    eu.identity.set_trust(trust.with_denied(Arc::new(denied)));
    let refused = send_piece(&west, &eu, &head(claims, 2, 3, sha256(b"abc")), b"abc").await.expect_err("refused");
    assert_ne!(refused.code(), Code::FailedPrecondition, "it does not come as far as its bytes: {refused}");
    eu.handle.propose(set_export(9080)).await.expect("agreed, as ever");
    assert_eq!(eu.handle.status().borrow().term, term, "the leader was not disturbed");
    for gateway in [west, eu, east] {
        gateway.stop().await;
    }
}
