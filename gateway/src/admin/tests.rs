use std::net::SocketAddr;

use axum::Router;
use axum::body::Body;
use http_body_util::BodyExt;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use isthmus_federation::ProposeError;
use isthmus_federation::status::Role;
use isthmus_identity::BearerToken;
use isthmus_model::locality::Proximity;
use serde_json::{Value, json};

use super::fixture::World;
use super::*;

impl World {
    fn on(&self, surface: Surface) -> Asked {
        Asked { router: router(self.state.clone(), surface), host: "127.0.0.1:15000" }
    }
}

struct Asked {
    router: Router,
    host: &'static str,
}

impl Asked {
    async fn call(&self, method: &str, path: &str, body: impl Into<Body>) -> (u16, Value) {
        let request = http::Request::builder().method(method).uri(path).header("host", self.host);
        let request = request.body(body.into()).expect("valid");
        let response = TowerToHyperService::new(self.router.clone()).call(request).await.expect("infallible");
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&body))))
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> T {
        let (status, body) = self.call("GET", path, "").await;
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_value(body).expect("the answer is of its documented type")
    }

    async fn refusal(&self, method: &str, path: &str, body: impl Into<Body>) -> (u16, String) {
        let (status, body) = self.call(method, path, body).await;
        (status, body["error"].as_str().unwrap_or_default().to_owned())
    }
}

#[tokio::test]
async fn status_tells_who_leads_and_how_old_the_state_is() {
    let status: api::Status = World::new().on(Surface::Loopback).get("/v1/status").await;
    assert_eq!((status.registry.node, status.registry.role, status.registry.term), (1, Role::Leader, 3));
    let leader = status.registry.leader.expect("known");
    assert_eq!(leader.cluster.as_ref().map(|cluster| cluster.as_str()), Some("us-east"));
    assert!(status.registry.stale_for_ms.expect("stale") >= 12_000);
    assert_eq!((status.clusters.up, status.clusters.down, status.clusters.unknown), (2, 0, 0));
    assert_eq!((status.exports, status.services, status.problems), (1, 1, 1));
}

#[tokio::test]
async fn clusters_and_problems_are_listed() {
    let asked = World::new().on(Surface::Loopback);
    let clusters: api::Clusters = asked.get("/v1/clusters").await;
    let seats: Vec<_> = clusters.clusters.iter().flat_map(|c| &c.gateways).map(|gateway| gateway.seat).collect();
    assert_eq!(seats, [api::Seat::Leader, api::Seat::Learner]);
    assert_eq!(clusters.clusters[0].proximity, Proximity::SameCluster);
    assert_eq!(clusters.clusters[1].proximity, Proximity::OtherRegion);
    assert!(clusters.clusters[1].gateways[0].heard_ago_ms.is_some());
    let problems: api::Problems = asked.get("/v1/problems").await;
    assert_eq!(problems.problems[0].line, Some(3));
    let age: api::SnapshotAge = asked.get("/v1/snapshot").await;
    assert_eq!((age.generation, age.services, age.clusters), (7, 1, 1));
}

#[tokio::test]
async fn services_tell_their_backends_and_endpoints_their_shares() {
    let asked = World::new().on(Surface::Loopback);
    let services: api::Services = asked.get("/v1/services").await;
    let reviews = &services.services[0];
    assert_eq!(reviews.vip, Some([10, 11, 0, 1].into()));
    let ready: Vec<_> = reviews.backends.iter().map(|b| (b.cluster.as_str(), b.ready, b.total)).collect();
    assert_eq!(ready, [("us-east", 1, 2), ("us-west", 3, 4)]);

    let endpoints: api::Endpoints = asked.get("/v1/endpoints/shop/reviews").await;
    assert_eq!(endpoints.port, Some(80));
    let shares: Vec<_> = endpoints.levels.iter().map(|level| (level.proximity, level.share_permille)).collect();
    assert_eq!(shares, [(Proximity::SameCluster, 700), (Proximity::OtherRegion, 300)]);
    let local: Vec<_> = endpoints.levels[0].destinations.iter().map(|d| (d.address.to_string(), d.used)).collect();
    assert_eq!(local, [("127.0.11.21:15006".to_owned(), true), ("127.0.11.22:15006".to_owned(), false)]);
    let shares: Vec<_> = endpoints.levels[0].destinations.iter().map(|d| d.share_permille).collect();
    assert_eq!(shares, [700, 0], "of the destination, not of its level");
    let remote = &endpoints.levels[1].destinations[0];
    assert_eq!(remote.identities[0].to_string(), "spiffe://us-west.acme.mesh/ns/shop/sa/reviews");
    assert_eq!(remote.address.port(), 25443);
}

#[tokio::test]
async fn unknown_services_ports_and_routes_are_not_found() {
    let asked = World::new().on(Surface::Loopback);
    for (path, status) in [
        ("/v1/endpoints/shop/nothing", 404),
        ("/v1/endpoints/shop/reviews?port=81", 404),
        ("/v1/endpoints/shop/reviews?port=x", 400),
        ("/v1/endpoints/Shop/reviews", 400),
        ("/v1/nothing", 404),
        ("/", 404),
    ] {
        let (found, error) = asked.refusal("GET", path, "").await;
        assert_eq!(found, status, "{path}");
        assert!(!error.is_empty(), "{path}");
    }
}

#[tokio::test]
async fn the_replicas_are_told_with_their_gateways() {
    let view: api::RegistryView = World::new().on(Surface::Loopback).get("/v1/registry").await;
    let roles: Vec<_> = view.replicas.iter().map(|replica| (replica.member.node, &*replica.role)).collect();
    assert_eq!(roles, [(1, "leader"), (2, "learner")]);
    assert_eq!((view.quorum_margin, view.replicas[1].lag_entries), (Some(0), Some(3)));
    assert_eq!(view.replicas[1].member.cluster.as_ref().map(|name| name.as_str()), Some("us-west"));
}

#[tokio::test]
async fn a_join_token_is_minted_listed_and_revoked() {
    let world = World::new();
    let asked = world.on(Surface::Socket);
    let request = json!({ "grant": { "join": { "cluster": "eu-central" } }, "ttl_seconds": 600 });
    let (status, created) = asked.call("POST", "/v1/tokens", request.to_string()).await;
    assert_eq!(status, 201, "{created}");
    let created: api::TokenCreated = serde_json::from_value(created).expect("its documented type");
    let token: BearerToken = created.token.parse().expect("a token");
    assert_eq!(token.cluster.as_ref().map(|name| name.as_str()), Some("eu-central"));
    let ports: Vec<u16> = token.contacts.iter().map(SocketAddr::port).collect();
    assert_eq!(ports, [15443, 25443], "the gateway that minted comes first");

    let on_record = world.registry.lock().expect("free").token(&token.id).expect("on record").clone();
    assert_eq!(on_record.secret_hash, token.secret.hash());
    let listed: api::Tokens = asked.get("/v1/tokens").await;
    assert_eq!(listed.tokens.len(), 2);
    let path = format!("/v1/tokens/{}", token.id);
    for changed in [true, false] {
        let (status, revoked) = asked.call("DELETE", &path, "").await;
        assert_eq!((status, revoked["changed"].as_bool()), (200, Some(changed)));
        assert_eq!(revoked["known"].as_bool(), Some(true));
    }
    let used = listed.tokens.iter().find(|token| token.state == api::TokenState::Used).expect("us-west joined");
    assert_eq!(asked.refusal("DELETE", &format!("/v1/tokens/{}", used.id), "").await.0, 409);
    // What a token vouched for is taken back also when its record is gone.
    let (status, unknown) = asked.call("DELETE", "/v1/tokens/0000000000000000", "").await;
    assert_eq!((status, unknown["known"].as_bool(), unknown["changed"].as_bool()), (200, Some(false), Some(true)));
    assert_eq!(asked.refusal("DELETE", "/v1/tokens/nothing", "").await.0, 400);
}

#[tokio::test]
async fn a_workload_token_is_for_the_own_cluster() {
    let asked = World::new().on(Surface::Socket);
    let request = json!({ "grant": { "workload": { "workload": "shop/reviews" } }, "ttl_seconds": 86_400 });
    let (status, created) = asked.call("POST", "/v1/tokens", request.to_string()).await;
    assert_eq!(status, 201, "{created}");
    let token: BearerToken = created["token"].as_str().expect("text").parse().expect("a token");
    assert_eq!(token.cluster.as_ref().map(|name| name.as_str()), Some("us-east"));
    assert_eq!(token.contacts, [SocketAddr::from(([127, 0, 0, 1], 15012))], "sidecars call the control port");
}

#[tokio::test]
async fn bad_token_requests_change_nothing() {
    let world = World::new();
    let asked = world.on(Surface::Socket);
    let join = |ttl: u64| json!({ "grant": { "join": { "cluster": "eu" } }, "ttl_seconds": ttl }).to_string();
    for (body, status) in [
        (String::new(), 400),
        ("{}".to_owned(), 400),
        (join(0), 400),
        (join(u64::MAX), 400),
        (json!({ "grant": { "join": {} }, "ttl_seconds": 1 }).to_string(), 400),
        (json!({ "grant": { "join": { "cluster": "eu", "uses": 0 } }, "ttl_seconds": 1 }).to_string(), 409),
        (json!({ "grant": { "join": { "cluster": "eu", "from": "10.0.0.0/99" } }, "ttl_seconds": 1 }).to_string(), 400),
        (json!({ "grant": { "join": { "cluster": "EU" } }, "ttl_seconds": 1 }).to_string(), 400),
        (json!({ "grant": { "root": {} }, "ttl_seconds": 1 }).to_string(), 400),
        (json!({ "grant": { "join": { "cluster": "eu" } }, "ttl_seconds": 1, "more": 1 }).to_string(), 400),
        (" ".repeat(5_000), 413),
    ] {
        assert_eq!(asked.refusal("POST", "/v1/tokens", body.clone()).await.0, status, "{body:.80}");
    }
    assert_eq!(world.registry.lock().expect("free").tokens().len(), 1);
}

#[tokio::test]
async fn a_gateway_without_a_federation_mints_nothing() {
    let world = World::new();
    world.publish.send_replace(Arc::default());
    let request = json!({ "grant": { "join": { "cluster": "eu" } }, "ttl_seconds": 600 });
    assert_eq!(world.on(Surface::Socket).refusal("POST", "/v1/tokens", request.to_string()).await.0, 503);
}

#[tokio::test]
async fn without_a_quorum_the_answer_says_so() {
    let mut world = World::new();
    world.state.proposals =
        Proposals::new(|_| std::future::ready(Err(ProposeError::NoQuorum { last: "no leader is known".to_owned() })));
    let request = json!({ "grant": { "join": { "cluster": "eu" } }, "ttl_seconds": 600 });
    assert_eq!(world.on(Surface::Socket).refusal("POST", "/v1/tokens", request.to_string()).await.0, 503);
}

#[tokio::test]
async fn the_loopback_port_only_reads() {
    let asked = World::new().on(Surface::Loopback);
    let request = json!({ "grant": { "join": { "cluster": "eu" } }, "ttl_seconds": 600 }).to_string();
    let (status, error) = asked.refusal("POST", "/v1/tokens", request).await;
    assert_eq!(status, 405);
    assert!(error.contains("admin.sock"), "{error}");
    assert_eq!(asked.refusal("PUT", "/v1/status", "").await.0, 405);
    assert!(asked.refusal("DELETE", "/v1/tokens/0000000000000000", "").await.0 >= 404);
    let tokens: Value = asked.get("/v1/tokens").await;
    assert!(!tokens.to_string().contains("secret"), "{tokens}");
}

#[tokio::test]
async fn a_backup_is_made_for_whole_recipients_only_and_not_over_the_port() {
    let world = World::new();
    let asked = world.on(Surface::Socket);
    for body in ["", "{}", r#"{"recipient":"isthmus-recipient1.AAAA"}"#, r#"{"recipient":"x","to":"y"}"#] {
        assert_eq!(asked.refusal("POST", "/v1/backup", body).await.0, 400, "{body}");
    }
    let recipient = isthmus_identity::Recipient(world.state.opening_key.public()).to_string();
    let request = json!({ "recipient": recipient }).to_string();
    assert_eq!(world.on(Surface::Loopback).refusal("POST", "/v1/backup", request.clone()).await.0, 405);
    // One that does not keep the root's key says who does.
    let status = isthmus_federation::RegistryStatus { node: 2, ..world.state.status.borrow().clone() };
    let state = AdminState { status: watch::Sender::new(status).subscribe(), ..world.state.clone() };
    let asked = Asked { router: router(state, Surface::Socket), host: "localhost" };
    let (status, error) = asked.refusal("POST", "/v1/backup", request).await;
    assert_eq!(status, 409);
    assert!(error.contains("us-east/gw-1"), "{error}");
}

#[tokio::test]
async fn a_rebound_name_is_refused() {
    let mut asked = World::new().on(Surface::Loopback);
    for host in ["evil.example", "evil.example:15000", "127.0.0.1.evil.example", "10.0.0.1", "x@127.0.0.1", ""] {
        asked.host = host;
        assert_eq!(asked.refusal("GET", "/v1/status", "").await.0, 403, "{host}");
        assert_eq!(asked.refusal("GET", "/", "").await.0, 403, "{host}");
    }
    for host in ["localhost:15000", "LOCALHOST", "[::1]:15000", "127.0.11.1"] {
        asked.host = host;
        let _: api::Status = asked.get("/v1/status").await;
    }
}

/// What waits is listed on both surfaces; an answer is taken on the socket only, and only from the root.
#[tokio::test]
async fn requests_for_the_root_are_listed_and_answers_are_judged() {
    use isthmus_model::command::Entry;
    use isthmus_model::fixture;
    use isthmus_model::time::UnixMillis;

    let world = World::new();
    let renewal = {
        let command = Command::RequestCertificates { node: 2, requests: fixture::requests(9) };
        Entry { origin: "us-west".parse().expect("valid"), at: UnixMillis(0), command }
    };
    let mut registry = world.registry.lock().expect("no panic holds it").clone();
    assert_eq!(registry.apply(&renewal), Ok(Outcome::Changed));
    world.publish.send_replace(Arc::new(registry.clone()));
    *world.registry.lock().expect("no panic holds it") = registry;

    let reading = world.on(Surface::Loopback);
    let waiting: api::CaRequests = reading.get("/v1/ca/requests").await;
    assert!(!waiting.offline);
    let [request] = waiting.requests.as_slice() else { panic!("{waiting:?}") };
    assert_eq!((request.node, request.cluster.as_str()), (2, "us-west"));
    assert_eq!(request.certificates_end, Some(UnixMillis(u64::MAX)));
    assert_eq!(request.requests, fixture::requests(9));
    let status: api::Status = reading.get("/v1/status").await;
    assert_eq!((status.issuance.waiting, status.issuance.longest_wait_ms.is_some()), (1, true));

    let answer = |cluster: &str, key: u8| {
        let certificates = fixture::certificates(fixture::ROOT);
        let authority_key = fixture::requests(key).authority_key;
        json!({ "cluster": cluster, "gateway": "gw-1", "authority_key": authority_key, "certificates": certificates })
    };
    let path = "/v1/ca/certificates";
    let (status, _) = reading.refusal("POST", path, answer("us-west", 9).to_string()).await;
    assert_eq!(status, 405);
    let changing = world.on(Surface::Socket);
    for (body, status, reason) in [
        (answer("us-west", 9).to_string(), 409, "us-west/gw-1: the root certificate cannot be used"),
        (answer("us-west", 8).to_string(), 409, "us-west/gw-1 does not wait for this key"),
        (answer("us-north", 9).to_string(), 404, "us-north/gw-1 is not a gateway"),
        ("{}".to_owned(), 400, "certificates: "),
        ("x".repeat(64 << 10), 413, ""),
    ] {
        let (found, error) = changing.refusal("POST", path, body).await;
        assert_eq!(found, status, "{error}");
        assert!(error.contains(reason), "{error}");
    }
    let (status, known) = changing.call("POST", path, answer("us-west", 2).to_string()).await;
    assert_eq!((status, &known["changed"]), (200, &Value::from(false)), "answered before: {known}");
}
