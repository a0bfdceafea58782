//! The agent against gateways that speak the protocol over real TLS but have no federation behind them.

pub(crate) mod gateway;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use isthmus_model::authorization::{Action, Authorization, Ruleset, Selector};
use isthmus_model::catalog::{AppProtocol, ServicePort};
use isthmus_model::name::{NamespacedName, ServiceName};
use isthmus_model::route::Found;
use isthmus_model::snapshot::Service;
use tokio::sync::watch;

use super::*;
use gateway::{FakeGateway, Federation, LIFETIME, Seen};

/// More than any step takes; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

async fn eventually<T: Clone>(watched: &watch::Receiver<T>, condition: impl FnMut(&T) -> bool) -> T {
    let mut watched = watched.clone();
    let waiting = tokio::time::timeout(PATIENCE, watched.wait_for(condition));
    waiting.await.expect("in time").expect("the sender lives").clone()
}

fn name(text: &str) -> ServiceName {
    text.parse().expect("valid")
}

/// A service that is exported somewhere and runs nowhere.
fn service(text: &str) -> Arc<Service> {
    let port = ServicePort { name: None, port: 80, protocol: AppProtocol::Http };
    let endpoints = Arc::from([]);
    let (vip, federated, exported_here) = (None, true, false);
    Arc::new(Service {
        name: name(text),
        vip,
        ports: vec![port],
        federated,
        exported_here,
        endpoints,
        remotes: Vec::new(),
        traffic: isthmus_model::traffic::TrafficPolicy::usual(),
        routes: isthmus_model::http_route::ServiceRoutes::default(),
    })
}

/// What the gateways know: the roots and these services.
fn full(federation: &Federation, services: &[&str]) -> Snapshot {
    let services = services.iter().map(|text| (name(text), service(text))).collect();
    Snapshot { services, ..federation.snapshot() }
}

struct Sidecar {
    handle: AgentHandle,
    shutdown: CancellationToken,
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn sidecar(token: BearerToken, gateways: Vec<SocketAddr>) -> Sidecar {
    let shutdown = CancellationToken::new();
    let cluster = token.cluster.clone().expect("a workload token names its cluster");
    let trust_domain = token.federation.trust_domain(&cluster);
    let introduction = Introduction::Token { token, gateways };
    let config = AgentConfig { trust_domain, introduction, workload_address: [127, 0, 0, 9].into() };
    Sidecar { handle: Agent::start(config, shutdown.clone()), shutdown }
}

async fn find(handle: &AgentHandle, service: &str) -> Found {
    let service = name(service);
    let look = |view: &Arc<Snapshot>| view.find_service(&service, 80);
    if let Found::Unasked(question) = look(&handle.view.borrow()) {
        handle.demand.send(question).await.expect("the agent lives");
    }
    look(&eventually(&handle.view, |view| !matches!(look(view), Found::Unasked(_))).await)
}

#[tokio::test]
async fn first_contact_brings_identity_view_and_answers() {
    let federation = Federation::new("us-east");
    let (_facts, known) = watch::channel(full(&federation, &["shop/reviews"]));
    let gateway = FakeGateway::start(&federation, known, LIFETIME).await;
    let token = federation.token();
    let sidecar = sidecar(token.clone(), vec![gateway.address]);
    let handle = &sidecar.handle;

    assert_eq!(handle.view.borrow().generation, 0, "nothing is known at first");
    handle.ready().await;
    assert_eq!(handle.identity.id(), Some(federation.workload()));
    assert_eq!(handle.view.borrow().site.locality, federation.site().locality);
    assert!(handle.identity.trust().is_some());

    assert!(matches!(find(handle, "shop/reviews").await, Found::Service(..)));
    assert_eq!(find(handle, "shop/nothing").await, Found::NotFound);

    let seen = eventually(&gateway.seen, |seen| seen.acknowledged == Some(40)).await;
    assert_eq!(seen.hellos.len(), 1, "one stream");
    let hello = &seen.hellos[0];
    assert_eq!((&hello.token_id, hello.token_secret.as_slice()), (&token.id.to_string(), &token.secret.as_bytes()[..]));
    assert_eq!(hello.workload_address, "127.0.0.9");
}

#[tokio::test]
async fn a_lost_gateway_is_replaced_without_the_data_plane_noticing() {
    let federation = Federation::new("us-east");
    let (facts, known) = watch::channel(full(&federation, &["shop/reviews"]));
    let mut first = FakeGateway::start(&federation, known.clone(), LIFETIME).await;
    let mut second = FakeGateway::start(&federation, known, LIFETIME).await;
    let sidecar = sidecar(federation.token(), vec![first.address, second.address]);
    let handle = &sidecar.handle;
    handle.ready().await;
    assert!(matches!(find(handle, "shop/reviews").await, Found::Service(..)));

    // From here on every published view must know what was known.
    let mut views = handle.view.clone();
    let mut generation = views.borrow_and_update().generation;
    first.stop().await;
    facts.send_modify(|facts| facts.agreement.leader = Some(federation.site().cluster));
    let mut told_by_second = false;
    while !told_by_second {
        tokio::time::timeout(PATIENCE, views.changed()).await.expect("in time").expect("the agent lives");
        let view = views.borrow_and_update().clone();
        assert!(matches!(view.find_service(&name("shop/reviews"), 80), Found::Service(..)));
        assert!(view.generation > generation, "generations grow over gateways");
        generation = view.generation;
        told_by_second = view.agreement.leader.is_some();
    }
    let seen = eventually(&second.seen, |seen| seen.asked.contains("shop/reviews")).await;
    assert!(seen.hellos.iter().all(|hello| hello.token_secret.is_empty()), "the certificate is proof enough");
    assert_eq!(seen.certificates, 0, "the certificate is not due yet");

    // With no gateway at all, everything known stays.
    second.stop().await;
    let state = eventually(&handle.state, |state| state.gateway.is_none() && state.problem.is_some()).await;
    assert!(state.is_ready(SystemTime::now()) && state.heard_at.is_some());
    assert!(matches!(find(handle, "shop/reviews").await, Found::Service(..)));
}

#[tokio::test]
async fn certificates_are_renewed_with_a_new_key_before_they_end() {
    let federation = Federation::new("us-east");
    let (_facts, known) = watch::channel(full(&federation, &[]));
    let gateway = FakeGateway::start(&federation, known, Duration::from_secs(3)).await;
    let sidecar = sidecar(federation.token(), vec![gateway.address]);
    sidecar.handle.ready().await;
    let first = sidecar.handle.identity.lifetime().expect("certified").1;
    let seen = eventually(&gateway.seen, |seen| seen.certificates == 2).await;
    assert_eq!(seen.keys.len(), 2, "each certificate has its own key");
    assert!(SystemTime::now() < first, "in time");
    eventually(&sidecar.handle.state, |state| state.certified_until > Some(first)).await;
}

#[tokio::test]
async fn a_gateway_can_ask_for_a_renewal_before_it_is_due() {
    let federation = Federation::new("us-east");
    let (_facts, known) = watch::channel(full(&federation, &[]));
    let gateway = FakeGateway::start(&federation, known, LIFETIME).await;
    let sidecar = sidecar(federation.token(), vec![gateway.address]);
    sidecar.handle.ready().await;
    eventually(&gateway.seen, |seen| seen.certificates == 1).await;
    gateway.renewals.send_modify(|count| *count += 1);
    let seen = eventually(&gateway.seen, |seen| seen.certificates == 2).await;
    assert_eq!((seen.keys.len(), seen.hellos.len()), (2, 1), "a new key, on the same stream");
}

/// Starts a sidecar that must not trust the gateway, and returns what it says about that.
async fn refused(token: BearerToken, federation: &Federation) -> String {
    let (_facts, known) = watch::channel(full(federation, &[]));
    let gateway = FakeGateway::start(federation, known, LIFETIME).await;
    let sidecar = sidecar(token, vec![gateway.address]);
    let state = eventually(&sidecar.handle.state, |state| state.problem.is_some()).await;
    assert_eq!(*gateway.seen.borrow(), Seen::default(), "nothing was sent to it");
    state.problem.expect("a problem")
}

#[tokio::test]
async fn the_secret_is_not_sent_to_a_gateway_of_another_root_or_cluster() {
    let federation = Federation::new("us-east");
    let mut other_root = federation.token();
    other_root.root.0[0] ^= 1;
    let problem = refused(other_root, &federation).await;
    assert!(problem.contains("certificate is refused"), "{problem}");
    let mut other_cluster = federation.token();
    other_cluster.cluster = Some("us-west".parse().expect("valid"));
    let problem = refused(other_cluster, &federation).await;
    assert!(problem.contains("certificate is refused"), "{problem}");
}

#[tokio::test]
async fn a_refused_update_ends_the_stream_and_changes_nothing() {
    let federation = Federation::new("us-east");
    let (facts, known) = watch::channel(full(&federation, &["shop/reviews"]));
    let gateway = FakeGateway::start(&federation, known, LIFETIME).await;
    let sidecar = sidecar(federation.token(), vec![gateway.address]);
    let handle = &sidecar.handle;
    handle.ready().await;
    let before = handle.identity.trust().expect("roots");

    // Roots that are no certificates.
    facts.send_modify(|facts| facts.roots = Arc::from([vec![0; 16]]));
    let state = eventually(&handle.state, |state| state.problem.is_some()).await;
    assert!(state.problem.expect("a problem").contains("refused"));
    let trust = handle.identity.trust().expect("roots");
    assert!(Arc::ptr_eq(&trust, &before), "the old roots are kept");
    assert!(!handle.view.borrow().roots.is_empty());

    // When the gateway comes to its senses, so does the stream.
    facts.send_modify(|facts| facts.roots = Arc::from([federation.root()]));
    assert!(matches!(find(handle, "shop/reviews").await, Found::Service(..)));
}

#[tokio::test]
async fn roots_and_denials_that_make_no_sense_are_refused_and_the_old_ones_kept() {
    let federation = Federation::new("us-east");
    let good = full(&federation, &["shop/reviews"]);
    let (facts, known) = watch::channel(good.clone());
    let gateway = FakeGateway::start(&federation, known, LIFETIME).await;
    let sidecar = sidecar(federation.token(), vec![gateway.address]);
    let handle = &sidecar.handle;
    handle.ready().await;
    let roots = || handle.identity.trust().expect("roots").roots().map(<[u8]>::to_vec).collect::<Vec<_>>();
    let kept = [federation.root()];
    assert_eq!(roots(), kept);

    let stranger = Federation::new("us-east").root();
    let leaf_for_root = handle.identity.export_svid().expect("credentials").chain().next().expect("a leaf").to_vec();
    let cases: [Vec<Vec<u8>>; 5] = [
        vec![],
        vec![b"nonsense".to_vec()],
        vec![stranger.clone(), b"nonsense".to_vec()],
        vec![leaf_for_root],
        vec![stranger; 9],
    ];
    for broken in cases {
        // The stream that told it ends, and another is begun; what was told is not trusted, in no part.
        let streams = gateway.seen.borrow().hellos.len();
        facts.send_modify(|facts| facts.roots = broken.clone().into());
        eventually(&gateway.seen, |seen| seen.hellos.len() > streams).await;
        assert_eq!(roots(), kept, "{broken:?}");
        assert_eq!(handle.view.borrow().roots.to_vec(), kept);
        facts.send_replace(good.clone());
        eventually(&handle.state, |state| state.is_ready(SystemTime::now()) && state.gateway.is_some()).await;
    }
    assert!(matches!(find(handle, "shop/reviews").await, Found::Service(..)));
}

#[tokio::test]
async fn who_knows_of_policies_does_not_attach_to_a_gateway_that_would_leave_them_out() {
    let federation = Federation::new("us-east");
    let nobody = Ruleset { action: Action::Allow, rules: Vec::new() };
    let policy = Authorization { selects: vec![Selector::All], says: Arc::new(nobody) };
    let named = NamespacedName { namespace: "shop".parse().expect("valid"), name: "nobody".to_owned() };
    let guarded =
        Snapshot { authorizations: [(named, policy)].into_iter().collect(), ..full(&federation, &["shop/reviews"]) };
    let (_facts, known) = watch::channel(guarded);
    let mut first = FakeGateway::start(&federation, known.clone(), LIFETIME).await;
    let earlier = FakeGateway::start(&federation, known, LIFETIME).await;
    earlier.form.send_replace(0);
    let sidecar = sidecar(federation.token(), vec![first.address, earlier.address]);
    eventually(&sidecar.handle.view, |view| !view.authorizations.is_empty()).await;
    first.stop().await;
    eventually(&sidecar.handle.state, |state| {
        state.gateway.is_none() && state.problem.as_ref().is_some_and(|problem| problem.contains("policies"))
    })
    .await;
    assert!(!earlier.seen.borrow().hellos.is_empty());
    assert!(!sidecar.handle.view.borrow().authorizations.is_empty(), "and keeps what it knows");
}
