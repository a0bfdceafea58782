//! Routes of a service, at its callers' side: where its requests go, and what becomes of them on the way.

#![allow(missing_docs)]

mod federation;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use federation::{ANY_PORT, Federation, HOST, HTTP, Outbound, SERVICE, TCP, echo, endpoint, exchange, reviews, status};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use isthmus_model::catalog::{AppProtocol, ServicePort};
use isthmus_model::http_route::{
    Action, Backend, ByService, Condition, HeaderChange, HttpRoute, Match, Parent, PathMatch, PathRewrite, Redirect,
    Rule, Scheme,
};
use isthmus_model::locality::Proximity::OtherRegion;
use isthmus_model::name::{NamespacedName, ServiceName};
use isthmus_model::shared::OrdMap;
use isthmus_model::snapshot::{Coverage, Service, Snapshot};
use isthmus_proxy::metrics::{Direction, RequestLabels, ServiceLabels};
use isthmus_proxy::outbound::Mode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// Another version of the service.
const NEXT: &str = "shop/next";
/// Takes what is sent there, and never answers.
const SILENT: &str = "shop/silent";

/// An application that answers with its name and the head of the request.
async fn mirror(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind(ANY_PORT).await.expect("bound");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                loop {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = stream.read_u8().await else { return };
                        head.push(byte);
                    }
                    let text = format!("{name}|{}", String::from_utf8_lossy(&head).trim_end());
                    let length = text.len();
                    let answer = format!("HTTP/1.1 200 OK\r\nx-app: 1\r\ncontent-length: {length}\r\n\r\n{text}");
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

fn name(text: &str) -> ServiceName {
    text.parse().expect("valid")
}

fn insert(view: &mut Arc<Snapshot>, service: Service) {
    *view = Arc::new(Snapshot::clone(view).with([service]));
}

/// A client of the service, of its next version and of one that never answers, all without sidecars.
async fn client(federation: &Federation) -> Outbound {
    let tcp = echo().await;
    let at = |address| reviews(vec![endpoint(SERVICE, address, tcp, None)], vec![]);
    let client = federation.outbound("us-east", at(mirror("now").await)).await;
    let (silent, listener) = federation::frozen().await;
    let next = Service { name: name(NEXT), ..at(mirror("next").await) };
    let silent = Service { name: name(SILENT), ..at(silent) };
    client.view.send_modify(|view| *view = Arc::new(Snapshot::clone(view).with([next, silent])));
    let shutdown = federation.shutdown.clone();
    tokio::spawn(async move {
        shutdown.cancelled().await;
        drop(listener);
    });
    client
}

fn to(backends: &[(&str, u32)]) -> Action {
    let backend = |(service, weight): &(&str, u32)| Backend { service: name(service), port: HTTP, weight: *weight };
    Action::Forward(backends.iter().map(backend).collect())
}

fn below(path: &str) -> Match {
    Match { path: PathMatch::Prefix(path.to_owned()), ..Match::default() }
}

fn field(name: &str, value: &str) -> Condition {
    Condition { name: name.to_owned(), value: value.to_owned() }
}

fn rule(matched: Match, action: Action) -> Rule {
    Rule {
        matches: vec![matched],
        request_headers: HeaderChange::default(),
        response_headers: HeaderChange::default(),
        rewrite: None,
        action,
        timeout: None,
    }
}

/// The service, with these rules for its port of HTTP.
fn routed(service: &Service, rules: Vec<Rule>) -> Service {
    let parents = vec![Parent::Service { service: service.name.clone(), port: Some(HTTP) }];
    let route = HttpRoute { parents, hostnames: Vec::new(), rules: rules.into() };
    let key = NamespacedName { namespace: service.name.namespace.clone(), name: "all".to_owned() };
    let routes = ByService::of(&OrdMap::unit(key, Arc::new(route))).table(&service.name);
    Service { routes, ..service.clone() }
}

/// From now on, the service has these rules.
fn route(client: &Outbound, rules: Vec<Rule>) {
    client.view.send_modify(|view| {
        let service = routed(&view.services[&name(SERVICE)], rules);
        insert(view, service);
    });
}

async fn get(outbound: SocketAddr, target: &str, fields: &str) -> String {
    let text = format!(
        "GET http://{HOST}:{HTTP}{target} HTTP/1.1\r\nHost: {HOST}:{HTTP}\r\nConnection: close\r\n{fields}\r\n"
    );
    exchange(outbound, &text).await
}

/// The application that answered, and the line that it read.
fn answered(response: &str) -> (&str, &str) {
    let body = response.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let (name, head) = body.split_once('|').unwrap_or(("nobody", ""));
    (name, head.lines().next().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_shared_out_by_weight_and_counted_for_who_got_them() {
    let federation = Federation::found(&["us-east"]);
    let client = client(&federation).await;
    route(&client, vec![rule(below("/"), to(&[(SERVICE, 3), (NEXT, 1)]))]);
    let mut next = 0;
    for _ in 0..200 {
        let response = get(client.address, "/", "").await;
        assert_eq!(status(&response), "200", "{response}");
        next += usize::from(answered(&response).0 == "next");
    }
    assert!((20..90).contains(&next), "{next} of 200, a quarter was to be");
    let counted = |service: &str| {
        let cluster = "us-east".to_owned();
        let labels =
            RequestLabels { direction: Direction::Outbound, service: service.to_owned(), cluster, code: "2xx" };
        client.plane.metrics().requests.get_or_create_owned(&labels).get()
    };
    assert_eq!((counted(NEXT), counted(SERVICE)), (next as u64, 200 - next as u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_gets_what_asks_for_it_and_a_change_holds_for_the_next_request() {
    let federation = Federation::found(&["us-east"]);
    let client = client(&federation).await;
    let mut stream = TcpStream::connect(client.address).await.expect("connected");
    let canary = || Match { headers: vec![field("x-canary", "1")], ..Match::default() };
    let with_canary = vec![rule(Match::default(), to(&[(SERVICE, 1)])), rule(canary(), to(&[(NEXT, 1)]))];
    for (rules, fields, expected) in [
        (vec![], "x-canary: 1\r\n", "now"),
        (with_canary.clone(), "x-canary: 1\r\n", "next"),
        (with_canary.clone(), "x-canary: 2\r\n", "now"),
        (with_canary, "", "now"),
        (vec![rule(Match::default(), to(&[(NEXT, 1)]))], "", "next"),
        (vec![], "x-canary: 1\r\n", "now"),
    ] {
        route(&client, rules);
        // On one connection all the while.
        let text = format!("GET http://{HOST}:{HTTP}/ HTTP/1.1\r\nHost: {HOST}:{HTTP}\r\n{fields}\r\n");
        stream.write_all(text.as_bytes()).await.expect("written");
        let head = federation::read_head(&mut stream).await;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
        let mut body = vec![0; length.parse().expect("a number")];
        stream.read_exact(&mut body).await.expect("a body");
        let body = String::from_utf8_lossy(&body);
        assert!(body.starts_with(&format!("{expected}|")), "{fields}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_are_matched_and_passed_on_in_one_form_and_rewritten() {
    let federation = Federation::found(&["us-east"]);
    let client = client(&federation).await;
    // Without routes, paths go as they are.
    let response = get(client.address, "/a/%2e%2e//api/x?q=%2e", "").await;
    assert_eq!(answered(&response), ("now", "GET /a/%2e%2e//api/x?q=%2e HTTP/1.1"));
    let v2 = Rule { rewrite: Some(PathRewrite::Prefix("/".to_owned())), ..rule(below("/v2"), to(&[(NEXT, 1)])) };
    route(&client, vec![rule(below("/api"), to(&[(SERVICE, 1)])), v2]);
    for (target, expected) in [
        ("/api/x?q=/../%2e", ("now", "GET /api/x?q=/../%2e HTTP/1.1")),
        ("/v2/x/y?q", ("next", "GET /x/y?q HTTP/1.1")),
        ("/v2", ("next", "GET / HTTP/1.1")),
        ("/api/%2e%2e/v2/x", ("next", "GET /x HTTP/1.1")),
        ("//v2//x", ("next", "GET /x HTTP/1.1")),
        ("/%76%32/x%2fy", ("next", "GET /x%2Fy HTTP/1.1")),
    ] {
        let response = get(client.address, target, "").await;
        assert_eq!(answered(&response), expected, "{target}: {response}");
    }
    for (target, expected) in
        [("/", "404"), ("/apis", "404"), ("/v2%2fx", "404"), ("/api/..%2fv2", "400"), ("/v2/..;/api", "400")]
    {
        let response = get(client.address, target, "").await;
        assert_eq!(status(&response), expected, "{target}: {response}");
    }
    // The other port has no routes: it is asked as ever.
    let text = format!("CONNECT {HOST}:{TCP} HTTP/1.1\r\nHost: {HOST}:{TCP}\r\n\r\n");
    let mut stream = TcpStream::connect(client.address).await.expect("connected");
    stream.write_all(text.as_bytes()).await.expect("written");
    assert_eq!(status(&federation::read_head(&mut stream).await), "200");
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_are_changed_behind_what_the_client_has_a_say_in() {
    let federation = Federation::found(&["us-east"]);
    let client = client(&federation).await;
    let request_headers = HeaderChange {
        set: vec![field("x-version", "2")],
        add: vec![field("x-more", "b")],
        remove: vec!["x-secret".to_owned()],
    };
    let response_headers =
        HeaderChange { set: vec![field("x-route", "ä")], remove: vec!["x-app".to_owned()], ..Default::default() };
    let changing = Rule { request_headers, response_headers, ..rule(below("/"), to(&[(NEXT, 1)])) };
    route(&client, vec![changing]);
    let fields =
        "X-Version: 1\r\nX-More: a\r\nX-Secret: 1\r\nX-Isthmus-Anything: 1\r\nConnection: x-version, x-more\r\n";
    let response = get(client.address, "/", fields).await;
    let (head, body) = response.split_once("\r\n\r\n").expect("a head");
    assert!(head.contains("x-route: ä") && !head.contains("x-app"), "{head}");
    assert!(body.contains("x-version: 2") && body.contains("x-more: b"), "{body}");
    assert!(!body.contains("x-more: a") && !body.contains("secret") && !body.contains("isthmus"), "{body}");
    assert!(body.contains("host: next.shop.svc.clusterset.local:9080"), "{body}");
    // What the mesh says itself is not the application's.
    let response_headers = HeaderChange { set: vec![field("x-route", "1")], ..Default::default() };
    route(&client, vec![Rule { response_headers, ..rule(below("/"), to(&[("shop/nobody", 1)])) }]);
    let response = get(client.address, "/", "").await;
    assert!(status(&response) == "500" && !response.contains("x-route"), "{response}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirection_goes_to_what_was_called_where_it_does_not_say_otherwise() {
    let federation = Federation::found(&["us-east"]);
    let client = client(&federation).await;
    let elsewhere = |scheme, host: Option<&str>, path: Option<&str>| {
        let path = path.map(|path| PathRewrite::Prefix(path.to_owned()));
        Action::Redirect(Redirect { scheme, host: host.map(str::to_owned), port: None, path, status: 307 })
    };
    let rules = vec![
        rule(below("/same"), elsewhere(None, None, Some("/other"))),
        rule(below("/host"), elsewhere(None, Some("next.shop.svc.clusterset.local"), None)),
        rule(below("/https"), elsewhere(Some(Scheme::Https), None, None)),
    ];
    route(&client, rules);
    for (target, expected) in [
        ("/same/x?q", format!("http://{HOST}:9080/other/x?q")),
        ("/host", "http://next.shop.svc.clusterset.local:9080/host".to_owned()),
        ("/https/a/../b", format!("https://{HOST}/https/b")),
    ] {
        let response = get(client.address, target, "").await;
        assert_eq!(status(&response), "307", "{response}");
        assert!(response.contains(&format!("location: {expected}\r\n")), "{target}: {response}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_of_a_route_are_told_apart_from_a_service_that_is_down() {
    let federation = Federation::found(&["us-east"]);
    let client = client(&federation).await;
    let empty = Service { name: name("shop/empty"), ..reviews(vec![], vec![]) };
    client.view.send_modify(|view| insert(view, empty));
    let tcp = Action::Forward(vec![Backend { service: name(SERVICE), port: TCP, weight: 1 }]);
    let hasty = Rule { timeout: Some(Duration::from_millis(100)), ..rule(below("/slow"), to(&[(SILENT, 1)])) };
    let rules = vec![
        rule(below("/nobody"), to(&[("shop/nobody", 1)])),
        rule(below("/no-http"), tcp),
        rule(below("/none"), to(&[])),
        rule(below("/weightless"), to(&[(NEXT, 0)])),
        rule(below("/empty"), to(&[("shop/empty", 1)])),
        hasty,
        rule(below("/itself"), to(&[(SERVICE, 1)])),
    ];
    route(&client, rules);
    for (target, expected) in [
        ("/nobody", "500"),
        ("/no-http", "500"),
        ("/none", "500"),
        ("/weightless", "500"),
        ("/empty", "503"),
        ("/slow", "504"),
        ("/itself", "200"),
    ] {
        let response = get(client.address, target, "").await;
        assert_eq!(status(&response), expected, "{target}: {response}");
    }
    // A backend has routes of its own, which are for those who call it.
    client.view.send_modify(|view| {
        let next = routed(&view.services[&name(NEXT)], vec![rule(below("/"), to(&[(SILENT, 1)]))]);
        insert(view, next);
    });
    route(&client, vec![rule(below("/"), to(&[(NEXT, 1)]))]);
    assert_eq!(answered(&get(client.address, "/", "").await).0, "next");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_does_not_tell_of_a_backend_is_503() {
    let federation = Federation::found(&["us-east"]);
    let service = reviews(vec![endpoint(SERVICE, mirror("now").await, echo().await, None)], vec![]);
    let mut partial = federation.view("us-east", routed(&service, vec![rule(below("/"), to(&[(NEXT, 1)]))]));
    partial.coverage = Coverage::Partial { absent: Default::default(), absent_addresses: Default::default() };
    let (demand, mut questions) = mpsc::channel(8);
    let client = federation.outbound_asking(partial, demand);
    let response = get(client.address, "/", "").await;
    assert_eq!(status(&response), "503", "{response}");
    assert!(questions.recv().await.is_some(), "it was asked");
}

/// Clients without a sidecar, of a gateway's forward proxy and of a virtual address.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_goes_by_the_routes_for_its_clients() {
    let federation = Federation::found(&["us-east"]);
    let client = client(&federation).await;
    let canary = Match { headers: vec![field("x-canary", "1")], ..Match::default() };
    route(&client, vec![rule(Match::default(), to(&[(SERVICE, 1)])), rule(canary, to(&[(NEXT, 1)]))]);
    let egress = federation.listen_as(&client, Mode::Egress { allow_loopback: false });
    let vip = federation.listen_as(&client, Mode::Service { name: name(SERVICE), port: HTTP });
    for (fields, expected) in [("x-canary: 1\r\n", "next"), ("", "now")] {
        let response = get(egress, "/", fields).await;
        assert_eq!(answered(&response).0, expected, "{response}");
        assert!(response.contains("x-forwarded-for: 127.0.0.1"), "{response}");
        let text = format!("GET / HTTP/1.1\r\nHost: as-it-is-called\r\nConnection: close\r\n{fields}\r\n");
        let response = exchange(vip, &text).await;
        assert_eq!(answered(&response).0, expected, "{response}");
    }
    // From outside, the gateway's own routes count alone.
    let ingress = federation.ingress(&client);
    let response = exchange(ingress, "GET / HTTP/1.1\r\nHost: a\r\nx-canary: 1\r\nConnection: close\r\n\r\n").await;
    assert_eq!(answered(&response).0, "now", "{response}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_goes_where_a_get_would() {
    const SWITCHED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let federation = Federation::found(&["us-east"]);
    let client = client(&federation).await;
    let listener = TcpListener::bind(ANY_PORT).await.expect("bound");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let asked = federation::read_head(&mut stream).await;
            stream.write_all(&[SWITCHED, asked.as_bytes()].concat()).await.expect("written");
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        }
    });
    // Behind a sidecar.
    let workload = federation.workload("us-east", address, echo().await).await;
    let chat = Service { name: name(SERVICE), ..reviews(vec![workload.endpoint.clone()], vec![]) };
    client.view.send_modify(|view| insert(view, chat));
    let matched = Match { method: Some("GET".to_owned()), ..below("/chat") };
    let rewrite = Some(PathRewrite::Full("/ws".to_owned()));
    route(&client, vec![Rule { rewrite, ..rule(matched, to(&[(SERVICE, 1)])) }]);
    let ask = async |path: &str| {
        let mut stream = TcpStream::connect(client.address).await.expect("connected");
        let request = format!(
            "GET http://{HOST}:{HTTP}{path} HTTP/1.1\r\nHost: {HOST}:{HTTP}\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\nearly"
        );
        stream.write_all(request.as_bytes()).await.expect("written");
        (federation::read_head(&mut stream).await, stream)
    };
    let (head, mut stream) = ask("/chat").await;
    assert_eq!(status(&head), "101", "{head}");
    let asked = federation::read_head(&mut stream).await;
    assert!(asked.starts_with("GET /ws HTTP/1.1\r\n"), "{asked}");
    stream.shutdown().await.expect("half closed");
    let mut echoed = String::new();
    stream.read_to_string(&mut echoed).await.expect("the end is passed on");
    assert_eq!(echoed, "early");
    // One that is refused leaves a connection on which no request can follow.
    let (head, _stream) = ask("/other").await;
    assert!(status(&head) == "404" && head.contains("connection: close"), "{head}");
}

/// gRPC is HTTP/2 with its status in the trailers.
#[tokio::test(flavor = "multi_thread")]
async fn grpc_goes_by_routes_and_keeps_its_trailers() {
    let federation = Federation::found(&["us-east", "us-west"]);
    let workload = federation.workload_as("us-west", NEXT, grpc_app().await, echo().await, true).await;
    let http2 = |text: &str, service: Service| {
        let ports = service.ports.iter().cloned();
        let ports = ports.map(|port| ServicePort { protocol: AppProtocol::Http2, ..port }).collect();
        Service { name: name(text), ports, ..service }
    };
    workload.view.send_modify(|view| insert(view, http2(NEXT, reviews(vec![workload.endpoint.clone()], vec![]))));
    let gateway = federation::splicing_gateway(workload.address).await;
    let mut offer = federation::remote("us-west", OtherRegion, gateway);
    offer.identities = [NEXT.parse().expect("valid")].into();
    let client = federation.outbound("us-east", http2(SERVICE, reviews(vec![], vec![]))).await;
    client.view.send_modify(|view| insert(view, http2(NEXT, reviews(vec![], vec![offer]))));
    let exact = Match { path: PathMatch::Exact("/shop.Reviews/Get".to_owned()), ..Match::default() };
    route(&client, vec![rule(exact, to(&[(NEXT, 1)]))]);

    let stream = TcpStream::connect(client.address).await.expect("connected");
    let (mut send, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("a connection");
    tokio::spawn(connection);
    let request = http::Request::post(format!("http://{HOST}:{HTTP}/shop.Reviews/Get"));
    let request = request.header("content-type", "application/grpc").header("te", "trailers");
    let request = request.body(Full::new(Bytes::from_static(b"\0\0\0\0\0"))).expect("a request");
    let response = send.send_request(request).await.expect("an answer");
    assert_eq!(response.status(), 200);
    let collected = response.into_body().collect().await.expect("a body");
    assert_eq!(collected.trailers().map(|trailers| trailers["grpc-status"].clone()), Some("0".parse().expect("valid")));
    let text = String::from_utf8_lossy(&collected.to_bytes()).into_owned();
    assert_eq!(text, "http://next.shop.svc.clusterset.local:9080/shop.Reviews/Get 5");
}

/// An application of HTTP/2 that answers with what it was asked, and trailers.
async fn grpc_app() -> SocketAddr {
    let listener = TcpListener::bind(ANY_PORT).await.expect("bound");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = service_fn(|request: http::Request<Incoming>| async move {
                let target = request.uri().to_string();
                let body = request.into_body().collect().await?.to_bytes();
                let trailers = [("grpc-status".parse().expect("valid"), "0".parse().expect("valid"))];
                let trailers = std::future::ready(Some(Ok(trailers.into_iter().collect())));
                let body = Full::new(Bytes::from(format!("{target} {}", body.len()))).with_trailers(trailers);
                Ok::<_, hyper::Error>(http::Response::new(body))
            });
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(connection.serve_connection(TokioIo::new(stream), answer));
        }
    });
    address
}

#[tokio::test]
async fn what_is_said_in_pieces_is_matched_as_a_whole() {
    let federation = Federation::found(&["us-east"]);
    let client = client(&federation).await;
    let with = |headers: Vec<Condition>, query: Vec<Condition>| Match { headers, query, ..below("/") };
    route(
        &client,
        vec![
            rule(with(vec![field("cookie", "a=1; b=2")], vec![]), to(&[(NEXT, 1)])),
            rule(with(vec![field("x-list", "a,b")], vec![field("q", "1")]), to(&[(NEXT, 1)])),
            rule(below("/"), to(&[(SERVICE, 1)])),
        ],
    );
    for (target, fields, expected) in [
        ("/", "Cookie: a=1\r\nCookie: b=2\r\n", "next"),
        ("/", "Cookie: a=1; b=2\r\n", "next"),
        ("/", "Cookie: a=1,b=2\r\n", "now"),
        ("/?q=1&q=2", "X-List: a\r\nX-List: b\r\n", "next"),
        ("/?q=2&q=1", "X-List: a,b\r\n", "now"),
        ("/?q=1", "X-List: a\r\nX-List: b\r\nX-List: c\r\n", "now"),
        ("/?q=1", "X-List: a\r\n", "now"),
    ] {
        let response = get(client.address, target, fields).await;
        assert_eq!(answered(&response).0, expected, "{target} {fields:?}: {response}");
    }
}

#[tokio::test]
async fn what_is_asked_about_the_server_goes_by_the_rules_for_everything() {
    let federation = Federation::found(&["us-east"]);
    let client = client(&federation).await;
    route(&client, vec![rule(below("/sub"), to(&[(SERVICE, 1)])), rule(below("/"), to(&[(NEXT, 1)]))]);
    let text = format!("OPTIONS * HTTP/1.1\r\nHost: {HOST}:{HTTP}\r\nConnection: close\r\n\r\n");
    let response = exchange(client.address, &text).await;
    assert_eq!(answered(&response), ("next", "OPTIONS * HTTP/1.1"), "{response}");
    let elsewhere =
        Redirect { scheme: None, host: Some("a.example".to_owned()), port: Some(80), path: None, status: 302 };
    route(&client, vec![rule(below("/"), Action::Redirect(elsewhere))]);
    let response = exchange(client.address, &text).await;
    assert!(response.to_ascii_lowercase().contains("location: http://a.example/\r\n"), "{response}");
}

#[tokio::test]
async fn a_client_that_is_slow_is_held_against_no_instance() {
    let federation = Federation::found(&["us-east"]);
    let client = client(&federation).await;
    let hasty = Rule { timeout: Some(Duration::from_millis(200)), ..rule(below("/"), to(&[(SERVICE, 1)])) };
    route(&client, vec![hasty]);
    for _ in 0..10 {
        let mut stream = TcpStream::connect(client.address).await.expect("connected");
        let head = format!("POST http://{HOST}:{HTTP}/ HTTP/1.1\r\nHost: {HOST}:{HTTP}\r\nContent-Length: 2\r\n\r\nx");
        stream.write_all(head.as_bytes()).await.expect("written");
        let answer = federation::read_head(&mut stream).await;
        assert_eq!(status(&answer), "408", "{answer}");
    }
    let ejections =
        client.plane.metrics().ejections.get_or_create_owned(&ServiceLabels { service: SERVICE.to_owned() });
    assert_eq!(ejections.get(), 0);
    assert_eq!(status(&get(client.address, "/", "").await), "200");
}
