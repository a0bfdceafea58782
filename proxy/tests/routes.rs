//! What routes for clients from outside come to: where they lead, and where they do not.

#![allow(missing_docs)]

mod federation;

use std::net::SocketAddr;
use std::sync::Arc;

use federation::{Federation, HTTP, Outbound, SERVICE, TCP, app, echo, endpoint, exchange, reviews, status};
use isthmus_model::http_route::{
    Action, Backend, HeaderChange, HttpRoute, Match, Parent, PathMatch, Redirect, Routes, Rule, Scheme,
};
use isthmus_model::name::NamespacedName;
use isthmus_model::shared::OrdMap;
use isthmus_model::snapshot::Snapshot;

/// Has requests below each path treated so.
fn route(outbound: &Outbound, rules: Vec<(&str, Action)>) {
    let rules = rules.into_iter().map(|(path, action)| Rule {
        matches: vec![Match { path: PathMatch::Prefix(path.to_owned()), ..Match::default() }],
        request_headers: HeaderChange::default(),
        response_headers: HeaderChange::default(),
        rewrite: None,
        action,
        timeout: None,
    });
    let parents = vec![Parent::Gateway { gateway: "public".to_owned(), section: None }];
    let route = HttpRoute { parents, hostnames: Vec::new(), rules: rules.collect() };
    let name = NamespacedName { namespace: "shop".parse().expect("valid"), name: "all".to_owned() };
    let routes = Routes::of(&OrdMap::unit(name, Arc::new(route)), "public");
    outbound.view.send_modify(|view| *view = Arc::new(Snapshot { routes, ..Snapshot::clone(view) }));
}

async fn get(ingress: SocketAddr, host: &str, path: &str) -> String {
    exchange(ingress, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await
}

fn forward(backends: &[(&str, u16, u32)]) -> Action {
    let backend = |(service, port, weight): &(&str, u16, u32)| Backend {
        service: service.parse().expect("valid"),
        port: *port,
        weight: *weight,
    };
    Action::Forward(backends.iter().map(backend).collect())
}

/// The Gateway API wants the mistakes of a route told apart from a service that is down.
#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_is_none_is_500_and_one_without_instances_503() {
    let federation = Federation::found(&["us-east"]);
    for (instances, expected) in
        [(vec![endpoint("shop/legacy", app("app").await, echo().await, None)], "200"), (vec![], "503")]
    {
        let east = federation.outbound("us-east", reviews(instances, vec![])).await;
        let ingress = federation.ingress(&east);
        let rules = vec![
            ("/good", forward(&[(SERVICE, HTTP, 1)])),
            ("/nobody", forward(&[("shop/nobody", HTTP, 1)])),
            ("/no-port", forward(&[(SERVICE, 81, 1)])),
            ("/no-http", forward(&[(SERVICE, TCP, 1)])),
            ("/none", forward(&[])),
            ("/weightless", forward(&[(SERVICE, HTTP, 0)])),
            ("/half", forward(&[(SERVICE, HTTP, 1), ("shop/nobody", HTTP, 1)])),
        ];
        route(&east, rules);
        for (path, expected) in [
            ("/good", expected),
            ("/nobody", "500"),
            ("/no-port", "500"),
            ("/no-http", "500"),
            ("/none", "500"),
            ("/weightless", "500"),
        ] {
            let answer = get(ingress, "a", path).await;
            assert_eq!(status(&answer), expected, "{path}: {answer}");
        }
        // What would have gone to the wrong one.
        let mut halves = Vec::new();
        for _ in 0..40 {
            halves.push(status(&get(ingress, "a", "/half").await).to_owned());
        }
        halves.sort();
        halves.dedup();
        let mut both = ["500", expected];
        both.sort_unstable();
        assert_eq!(halves, both);
    }
}

/// Behind whatever leads here, a client may have called any port; where this listens is known.
#[tokio::test(flavor = "multi_thread")]
async fn a_redirection_goes_to_a_port_that_is_said_or_the_listeners_own() {
    let federation = Federation::found(&["us-east"]);
    let east = federation.outbound("us-east", reviews(vec![], vec![])).await;
    let ingress = federation.ingress(&east);
    let to = |scheme, port, host: Option<&str>| {
        Action::Redirect(Redirect { scheme, host: host.map(str::to_owned), port, path: None, status: 302 })
    };
    let rules = vec![
        ("/as-it-is", to(None, None, None)),
        ("/host", to(None, None, Some("www.example.org"))),
        ("/https", to(Some(Scheme::Https), None, None)),
        ("/http", to(Some(Scheme::Http), None, None)),
        ("/port", to(None, Some(8080), None)),
        ("/well-known", to(None, Some(80), None)),
        ("/other", to(Some(Scheme::Https), Some(80), None)),
        ("/tls", to(Some(Scheme::Https), Some(443), None)),
    ];
    route(&east, rules);
    let own = format!(":{}", ingress.port());
    for (path, authority) in [
        ("/as-it-is", format!("http://www.example.com{own}")),
        ("/host", format!("http://www.example.org{own}")),
        ("/https", "https://www.example.com".to_owned()),
        ("/http", "http://www.example.com".to_owned()),
        ("/port", "http://www.example.com:8080".to_owned()),
        ("/well-known", "http://www.example.com".to_owned()),
        ("/other", "https://www.example.com:80".to_owned()),
        ("/tls", "https://www.example.com".to_owned()),
    ] {
        for host in ["www.example.com", "www.example.com:80", "www.example.com:4711"] {
            let answer = get(ingress, host, &format!("{path}/x?q")).await;
            let expected = format!("location: {authority}{path}/x?q\r\n");
            assert!(
                status(&answer) == "302" && answer.to_ascii_lowercase().contains(&expected),
                "{host}{path}: {answer}"
            );
        }
    }
}
