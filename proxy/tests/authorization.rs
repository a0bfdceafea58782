//! Who may call what, judged where a call lands: for each request, for bytes, in a tunnel, and at a gateway.

#![allow(missing_docs)]

mod federation;

use std::net::SocketAddr;
use std::sync::Arc;

use federation::{
    Federation, HOST, HTTP, SERVICE, TCP, Workload, app, echo, endpoint, exchange, get, read_head, remote, request,
    reviews, splicing_gateway, status,
};
use isthmus_model::authorization::{
    Action, Authorization, Choice, Operation, Pattern, Rule, Ruleset, Selector, Source,
};
use isthmus_model::catalog::AppProtocol;
use isthmus_model::locality::Proximity::OtherRegion;
use isthmus_model::name::NamespacedName;
use isthmus_model::shared::OrdMap;
use isthmus_model::snapshot::{RemoteBackend, Service, Snapshot};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;

const CALLER: &str = "spiffe://us-east.acme.mesh/ns/shop/sa/productpage";

fn paths(texts: &[&str]) -> Rule {
    let paths = Choice::of(texts.iter().map(|text| Pattern::of_paths(text).expect("a path")));
    Rule { to: vec![Operation { paths, ..Operation::default() }], ..Rule::default() }
}

fn principal(text: &str) -> Rule {
    let principals = Choice::of([Pattern::of_principals(text).expect("a principal")]);
    Rule { from: vec![Source { principals, ..Source::default() }], ..Rule::default() }
}

/// From now on this is all that is said about the workloads that `selector` selects.
fn say(view: &watch::Sender<Arc<Snapshot>>, selector: &Selector, policies: &[(Action, Vec<Rule>)]) {
    let policy = |(number, (action, rules)): (usize, &(Action, Vec<Rule>))| {
        let name = NamespacedName { namespace: "shop".parse().expect("valid"), name: format!("p{number}") };
        let says = Arc::new(Ruleset { action: *action, rules: rules.clone() });
        (name, Authorization { selects: vec![selector.clone()], says })
    };
    let authorizations: OrdMap<_, _> = policies.iter().enumerate().map(policy).collect();
    view.send_modify(|view| *view = Arc::new(Snapshot { authorizations, ..Snapshot::clone(view) }));
}

/// A workload in another cluster, and a client of it.
async fn pair(federation: &Federation) -> (Workload, SocketAddr) {
    let west = federation.workload("us-west", app("west").await, echo().await).await;
    let offer = remote("us-west", OtherRegion, splicing_gateway(west.address).await);
    let east = federation.outbound("us-east", reviews(vec![], vec![offer])).await;
    (west, east.address)
}

async fn connect(outbound: SocketAddr, port: u16, said: &str) -> String {
    exchange(outbound, &format!("CONNECT {HOST}:{port} HTTP/1.1\r\nHost: {HOST}:{port}\r\n\r\n{said}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_is_judged_by_who_asks_for_what_as_it_is_said_now() {
    let federation = Federation::found(&["us-east", "us-west"]);
    let (west, east) = pair(&federation).await;
    assert_eq!(status(&get(east, "/admin").await), "200", "nothing is said");

    let selector = Selector::Workload(SERVICE.parse().expect("valid"));
    let page = (Action::Allow, vec![principal(CALLER)]);
    let admin = (Action::Deny, vec![paths(&["/admin", "/admin/*"])]);
    say(&west.view, &selector, &[page.clone(), admin.clone()]);
    assert_eq!(status(&get(east, "/public").await), "200");
    for path in
        ["/admin", "/admin/x", "//admin", "/public/../admin", "/%61dmin", "/admin;x", "/admin%2Fx", "/..;/admin"]
    {
        let response = get(east, path).await;
        assert_eq!(status(&response), "403", "{path}: {response}");
        assert!(response.contains("polic") && !response.contains("x-isthmus"), "{response}");
    }
    let response = get(east, "/a/.//../public/%7Eme?q=/../x").await;
    assert!(response.contains("west|GET /public/~me?q=/../x HTTP/1.1|"), "what was judged is passed on: {response}");
    assert_eq!(status(&connect(east, TCP, "").await), "503", "bytes may be a request for /admin");

    // Of the same name elsewhere.
    say(&west.view, &selector, &[(Action::Allow, vec![principal("spiffe://us-west.acme.mesh/*")])]);
    assert_eq!(status(&get(east, "/public").await), "403");
    say(&west.view, &selector, &[(Action::Allow, vec![principal("spiffe://us-eastxacme.mesh.mesh/ns/shop/*")])]);
    assert_eq!(status(&get(east, "/public").await), "403");
    // About another workload.
    say(&west.view, &Selector::Workload("shop/other".parse().expect("valid")), &[(Action::Allow, vec![])]);
    let response = get(east, "/a/..//public").await;
    assert!(response.contains("west|GET /a/..//public HTTP/1.1|"), "no rule is about its path: {response}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_rule_opens_what_is_not_exported() {
    let federation = Federation::found(&["us-east", "us-west"]);
    let west = federation.workload_as("us-west", SERVICE, app("west").await, echo().await, false).await;
    let offer = remote("us-west", OtherRegion, splicing_gateway(west.address).await);
    let east = federation.outbound("us-east", reviews(vec![], vec![offer])).await;
    say(&west.view, &Selector::All, &[(Action::Allow, vec![Rule::default()])]);
    assert_eq!(status(&get(east.address, "/").await), "403");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_let_through_by_what_holds_for_bytes() {
    let federation = Federation::found(&["us-east", "us-west"]);
    let (west, east) = pair(&federation).await;
    let page = (Action::Allow, vec![principal(CALLER)]);
    for (policies, expected) in [
        (vec![page.clone()], "200"),
        (vec![(Action::Allow, vec![paths(&["/*"])])], "503"),
        (vec![page, (Action::Deny, vec![paths(&["/admin"])])], "503"),
    ] {
        say(&west.view, &Selector::All, &policies);
        let mut stream = TcpStream::connect(east).await.expect("connected");
        let opening = format!("CONNECT {HOST}:{TCP} HTTP/1.1\r\nHost: {HOST}:{TCP}\r\n\r\n");
        stream.write_all(opening.as_bytes()).await.expect("written");
        assert_eq!(status(&read_head(&mut stream).await), expected, "{policies:?}");
    }
}

/// The service, with its port for HTTP declared as nothing.
fn undeclared(service: &Service) -> Service {
    let mut service = service.clone();
    service.ports.iter_mut().filter(|port| port.port == HTTP).for_each(|port| port.protocol = AppProtocol::Detect);
    service
}

#[tokio::test(flavor = "multi_thread")]
async fn what_turns_out_to_be_a_request_in_a_tunnel_is_judged_as_one() {
    let federation = Federation::found(&["us-east", "us-west"]);
    let west = federation.workload("us-west", app("west").await, echo().await).await;
    west.view.send_modify(|view| {
        let service = undeclared(&view.services[&federation::service()]);
        *view = Arc::new(Snapshot::clone(view).with([service]));
    });
    let offer = remote("us-west", OtherRegion, splicing_gateway(west.address).await);
    // The caller's side takes the port for bytes.
    let mut service = reviews(vec![], vec![offer]);
    service.ports.iter_mut().for_each(|port| port.protocol = AppProtocol::Tcp);
    let east = federation.outbound("us-east", service).await;
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: {HOST}:{HTTP}\r\nConnection: close\r\n\r\n");

    // Bytes of this caller may pass. There is a rule about paths, though it is about somebody else.
    let other = principal("spiffe://us-west.acme.mesh/*").from;
    let admin = Rule { from: other, ..paths(&["/admin"]) };
    say(&west.view, &Selector::All, &[(Action::Allow, vec![principal(CALLER)]), (Action::Deny, vec![admin])]);
    let response = connect(east.address, HTTP, &ask("/x/../b")).await;
    assert!(response.contains("west|GET /b HTTP/1.1|"), "{response}");
    let response = connect(east.address, HTTP, &ask("/..;/b")).await;
    assert!(response.contains("HTTP/1.1 403") && !response.contains("west|"), "{response}");
    // What would be allowed as a request is not as bytes, and nobody knows yet that it is one.
    say(&west.view, &Selector::All, &[(Action::Allow, vec![paths(&["/*"])])]);
    assert_eq!(status(&connect(east.address, HTTP, &ask("/b")).await), "503");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_judges_for_instances_without_a_sidecar() {
    let federation = Federation::found(&["us-east", "us-west"]);
    let tcp = echo().await;
    let open = endpoint("shop/open", app("open").await, tcp, None);
    let closed = endpoint("shop/closed", app("closed").await, tcp, None);
    let gateway = federation.terminating("us-west", reviews(vec![open, closed], vec![])).await;
    let offer = RemoteBackend { terminated: true, ..remote("us-west", OtherRegion, gateway.address) };
    let east = federation.outbound("us-east", reviews(vec![], vec![offer])).await;
    let nobody = [(Action::Allow, vec![])];

    say(&gateway.view, &Selector::Workload("shop/closed".parse().expect("valid")), &nobody);
    for number in 0..20 {
        let response = get(east.address, &format!("/{number}")).await;
        assert!(response.contains("\r\n\r\nopen|"), "{response}");
    }
    say(&gateway.view, &Selector::Service(federation::service()), &nobody);
    let response = request(east.address, "POST", "/", "", "body").await;
    assert_eq!(status(&response), "403", "{response}");
}
