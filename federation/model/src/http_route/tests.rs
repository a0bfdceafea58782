mod service;

use std::sync::Arc;

use imbl::OrdMap;
use proptest::prelude::*;

use super::*;
use crate::name::NamespacedName;

#[derive(Clone, Debug, Default)]
struct Asked {
    path: String,
    method: String,
    headers: Vec<(String, String)>,
    query: Vec<(String, String)>,
}

impl Request for Asked {
    fn path(&self) -> &str {
        &self.path
    }

    fn method(&self) -> &str {
        &self.method
    }

    fn has_header(&self, name: &str, value: &str) -> bool {
        self.headers.contains(&(name.to_owned(), value.to_owned()))
    }

    fn has_parameter(&self, name: &str, value: &str) -> bool {
        self.query.iter().find(|(known, _)| known == name).is_some_and(|(_, known)| known == value)
    }
}

fn get(path: &str) -> Asked {
    Asked { path: path.to_owned(), method: "GET".to_owned(), ..Asked::default() }
}

fn to(service: &str) -> Action {
    Action::Forward(vec![Backend { service: format!("shop/{service}").parse().expect("valid"), port: 80, weight: 1 }])
}

fn rule(matches: Vec<Match>, action: Action) -> Rule {
    Rule {
        matches,
        request_headers: HeaderChange::default(),
        response_headers: HeaderChange::default(),
        rewrite: None,
        action,
        timeout: None,
    }
}

fn prefix(path: &str) -> Match {
    Match { path: PathMatch::Prefix(path.to_owned()), ..Match::default() }
}

fn exact(path: &str) -> Match {
    Match { path: PathMatch::Exact(path.to_owned()), ..Match::default() }
}

fn condition(name: &str, value: &str) -> Condition {
    Condition { name: name.to_owned(), value: value.to_owned() }
}

fn public(section: Option<Scheme>) -> Parent {
    Parent::Gateway { gateway: "public".to_owned(), section }
}

fn route(hosts: &[&str], rules: Vec<Rule>) -> HttpRoute {
    let hostnames = hosts.iter().map(|host| host.parse().expect("valid")).collect();
    HttpRoute { parents: vec![public(None)], hostnames, rules: rules.into() }
}

fn routes(routes: Vec<HttpRoute>) -> Routes {
    let named = routes.into_iter().enumerate().map(|(number, route)| {
        let name = NamespacedName { namespace: "shop".parse().expect("valid"), name: format!("r{number}") };
        (name, Arc::new(route))
    });
    Routes::of(&named.collect::<OrdMap<_, _>>(), "public")
}

/// The service that a request goes to.
fn found(routes: &Routes, host: &str, asked: &Asked) -> String {
    let rule = routes.find(Scheme::Https, host, asked);
    rule.and_then(|(rule, _)| rule.backend(0)).map_or("-".to_owned(), |backend| backend.service.name.to_string())
}

#[test]
fn the_most_special_host_decides_then_the_most_special_match() {
    let routes = routes(vec![
        route(&[], vec![rule(vec![Match::default()], to("any"))]),
        route(&["*.example.com"], vec![rule(vec![prefix("/")], to("below"))]),
        route(&["*.a.example.com"], vec![rule(vec![prefix("/")], to("deeper"))]),
        route(
            &["www.example.com"],
            vec![
                rule(vec![prefix("/")], to("root")),
                rule(vec![prefix("/api/"), prefix("/v2")], to("api")),
                rule(vec![exact("/api/health")], to("health")),
                rule(vec![Match { method: Some("POST".to_owned()), ..prefix("/api") }], to("post")),
                rule(vec![Match { headers: vec![condition("x-canary", "1")], ..prefix("/api") }], to("canary")),
                rule(vec![Match { query: vec![condition("v", "2")], ..prefix("/api") }], to("second")),
            ],
        ),
        route(&["only.example.com"], vec![rule(vec![exact("/x")], to("only"))]),
    ]);
    let canary = vec![("x-canary".to_owned(), "1".to_owned())];
    let second = vec![("v".to_owned(), "2".to_owned()), ("v".to_owned(), "3".to_owned())];
    for (host, asked, expected) in [
        ("elsewhere.org", get("/"), "any"),
        ("b.example.com", get("/"), "below"),
        ("example.com", get("/"), "any"),
        ("x.a.example.com", get("/"), "deeper"),
        ("a.example.com", get("/"), "below"),
        ("www.example.com", get("/apis"), "root"),
        ("www.example.com", get("/api"), "api"),
        ("www.example.com", get("/api/"), "api"),
        ("www.example.com", get("/v2/x"), "api"),
        ("www.example.com", get("/api/health"), "health"),
        ("www.example.com", Asked { method: "POST".to_owned(), ..get("/api") }, "post"),
        ("www.example.com", Asked { headers: canary.clone(), ..get("/api") }, "canary"),
        ("www.example.com", Asked { method: "POST".to_owned(), headers: canary, ..get("/api") }, "post"),
        ("www.example.com", Asked { query: second, ..get("/api") }, "second"),
        ("only.example.com", get("/y"), "-"),
    ] {
        assert_eq!(found(&routes, host, &asked), expected, "{host} {asked:?}");
    }
}

#[test]
fn a_route_is_for_its_parents_only() {
    let mut http = route(&["a.example"], vec![rule(vec![Match::default()], to("clear"))]);
    http.parents = vec![public(Some(Scheme::Http))];
    let mut other = route(&["a.example"], vec![rule(vec![exact("/x")], to("other"))]);
    other.parents = vec![
        Parent::Gateway { gateway: "internal".to_owned(), section: None },
        Parent::Service { service: "shop/public".parse().expect("valid"), port: None },
    ];
    let secure = route(&["*.example"], vec![rule(vec![Match::default()], to("secure"))]);
    let routes = routes(vec![http, other, secure]);
    assert_eq!(
        found(&routes, "a.example", &get("/x")),
        "secure",
        "a host that is not served over TLS hides nothing there"
    );
    let clear = routes.find(Scheme::Http, "a.example", &get("/x")).and_then(|(rule, _)| rule.backend(0));
    assert_eq!(clear.map(|backend| backend.service.name.to_string()).as_deref(), Some("clear"));
}

#[test]
fn hosts_are_what_they_say() {
    for text in ["", "*", "*.", "a..b", "A.b", "a.b.", "*.*.a", "10.0.0.1", "a.b:80", "a_b"] {
        assert!(text.parse::<HostPattern>().is_err(), "{text}");
    }
    let below: HostPattern = "*.a.b".parse().expect("valid");
    assert!(below.matches("x.a.b") && below.matches("y.x.a.b") && !below.matches("a.b") && !below.matches("xa.b"));
    assert!(!below.matches(".a.b"));
}

#[test]
fn paths_are_rewritten_by_what_matched() {
    let replace = |to: &str| PathRewrite::Prefix(to.to_owned());
    let matched = |path: &str| PathMatch::Prefix(path.to_owned());
    for (rewrite, matched, path, expected) in [
        (replace("/xyz"), matched("/foo"), "/foo/bar", "/xyz/bar"),
        (replace("/xyz/"), matched("/foo/"), "/foo/bar", "/xyz/bar"),
        (replace("/xyz"), matched("/foo"), "/foo", "/xyz"),
        (replace("/"), matched("/foo"), "/foo", "/"),
        (replace("/"), matched("/foo"), "/foo/bar", "/bar"),
        (replace("/xyz"), matched("/"), "/bar", "/xyz/bar"),
        (replace("/xyz"), PathMatch::Exact("/foo".to_owned()), "/foo", "/xyz"),
        (PathRewrite::Full("/all".to_owned()), matched("/foo"), "/foo/bar", "/all"),
    ] {
        assert_eq!(rewrite.apply(&matched, path), expected, "{rewrite:?} {matched:?} {path}");
    }
}

#[test]
fn weights_share_requests_out() {
    let weighted = |weights: &[u32]| {
        let backend = |(number, weight): (usize, &u32)| Backend {
            service: format!("shop/b{number}").parse().expect("valid"),
            port: 80,
            weight: *weight,
        };
        rule(vec![Match::default()], Action::Forward(weights.iter().enumerate().map(backend).collect()))
    };
    let shared = weighted(&[3, 0, 1]);
    let hits = |service: &str| {
        (0..400).filter(|random| shared.backend(*random).is_some_and(|b| b.service.name.as_str() == service)).count()
    };
    assert_eq!((hits("b0"), hits("b1"), hits("b2")), (300, 0, 100));
    assert_eq!(weighted(&[0, 0]).backend(7), None);
    assert_eq!(weighted(&[]).backend(7), None);
}

/// What the table finds is what looking at every rule finds.
fn slowly<'a>(all: &'a [HttpRoute], host: &str, asked: &Asked) -> Option<&'a Rule> {
    let specificity = |route: &HttpRoute| -> Option<usize> {
        if route.hostnames.is_empty() {
            return Some(0);
        }
        let matching = route.hostnames.iter().filter(|pattern| pattern.matches(host));
        matching
            .map(|pattern| match pattern {
                HostPattern::Exact(name) => 1_000 + name.len(),
                HostPattern::Below(name) => 1 + name.len(),
            })
            .max()
    };
    let best = all.iter().filter_map(specificity).max()?;
    let mut candidates: Vec<(_, &Rule)> = Vec::new();
    for route in all.iter().filter(|route| specificity(route) == Some(best)) {
        for rule in route.rules.iter() {
            for condition in &rule.matches {
                let method = condition.method.as_deref().is_none_or(|method| method == asked.method);
                if condition.path.matches(&asked.path) && method {
                    let (exact, length) = match &condition.path {
                        PathMatch::Exact(path) => (1, path.len()),
                        PathMatch::Prefix(path) => (0, path.trim_end_matches('/').len()),
                    };
                    candidates.push(((exact, length, usize::from(condition.method.is_some())), rule));
                }
            }
        }
    }
    let top = candidates.iter().map(|(rank, _)| *rank).max()?;
    candidates.into_iter().find(|(rank, _)| *rank == top).map(|(_, rule)| rule)
}

fn any_route() -> impl Strategy<Value = HttpRoute> {
    let host = prop::sample::subsequence(vec!["a.b", "*.b", "*.a.b", "c.a.b"], 0..3);
    let path = prop_oneof!["(/[xy]){1,2}/?".prop_map(PathMatch::Prefix), "(/[xy]){1,2}".prop_map(PathMatch::Exact)];
    let method = prop::option::of(prop::sample::select(vec!["GET".to_owned(), "POST".to_owned()]));
    let matches = prop::collection::vec((path, method), 1..3).prop_map(|all| {
        all.into_iter().map(|(path, method)| Match { path, method, ..Match::default() }).collect::<Vec<_>>()
    });
    (host, prop::collection::vec(matches, 1..4), any::<u16>()).prop_map(|(hosts, rules, salt)| {
        let rules =
            rules.into_iter().enumerate().map(|(number, matches)| rule(matches, to(&format!("s{salt}-{number}"))));
        route(&hosts, rules.collect())
    })
}

proptest! {
    #[test]
    fn the_table_finds_what_looking_at_every_rule_finds(
        all in prop::collection::vec(any_route(), 0..5),
        host in prop::sample::select(vec!["a.b", "c.a.b", "d.a.b", "b", "z"]),
        path in "(/[xy]){1,3}",
        method in prop::sample::select(vec!["GET", "POST"]),
    ) {
        let asked = Asked { method: method.to_owned(), ..get(&path) };
        let table = routes(all.clone());
        let fast = table.find(Scheme::Https, host, &asked).map(|(rule, _)| rule);
        prop_assert_eq!(fast, slowly(&all, host, &asked));
    }
}
