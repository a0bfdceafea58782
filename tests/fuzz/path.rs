//! The one form of a path, by which requests from outside are matched, and the rules that match it.

use std::sync::Arc;

use bolero::check;
use isthmus_model::http_route::{
    Action, Backend, ByService, HeaderChange, HttpRoute, Match, Parent, PathMatch, PathRewrite, Request, Routes, Rule,
    Scheme,
};
use isthmus_model::name::NamespacedName;
use isthmus_model::path::canonical;
use isthmus_model::shared::OrdMap;

use crate::bends::{Bends, corpus};

struct Asked<'a>(&'a str);

impl Request for Asked<'_> {
    fn path(&self) -> &str {
        self.0
    }

    fn method(&self) -> &str {
        "GET"
    }

    fn has_header(&self, _: &str, _: &str) -> bool {
        false
    }

    fn has_parameter(&self, _: &str, _: &str) -> bool {
        false
    }
}

fn rule(path: PathMatch, port: u16) -> Rule {
    let backend = Backend { service: "shop/reviews".parse().expect("valid"), port, weight: 1 };
    Rule {
        matches: vec![Match { path, ..Match::default() }],
        request_headers: HeaderChange::default(),
        response_headers: HeaderChange::default(),
        rewrite: None,
        action: Action::Forward(vec![backend]),
        timeout: None,
    }
}

/// The port of the rule that holds, at the edge as in the mesh: 1 for exactly `path`, 2 below `prefix`, 3 for all else.
fn found(path: &str, prefix: &str, asked: &str) -> Option<u16> {
    let rules = vec![
        rule(PathMatch::Prefix("/".to_owned()), 3),
        rule(PathMatch::Prefix(prefix.to_owned()), 2),
        rule(PathMatch::Exact(path.to_owned()), 1),
    ];
    let service = "shop/reviews".parse().expect("valid");
    let parents =
        vec![Parent::Gateway { gateway: "public".to_owned(), section: None }, Parent::Service { service, port: None }];
    let route = HttpRoute { parents, hostnames: Vec::new(), rules: rules.into() };
    let name = NamespacedName { namespace: "shop".parse().expect("valid"), name: "all".to_owned() };
    let all = OrdMap::unit(name, Arc::new(route));
    let (routes, of_service) =
        (Routes::of(&all, "public"), ByService::of(&all).table(&"shop/reviews".parse().expect("valid")));
    let in_mesh = of_service.for_port(80).expect("it has routes").find(&Asked(asked));
    let at_edge = routes.find(Scheme::Https, "example.com", &Asked(asked));
    assert_eq!(at_edge, in_mesh);
    let (rule, _) = at_edge?;
    rule.backend(0).map(|backend| backend.port)
}

fn holds(bytes: &[u8]) {
    let Some(path) = std::str::from_utf8(bytes).ok() else { return };
    let Ok(once) = canonical(path) else { return };
    assert_eq!(canonical(&once).as_deref(), Ok(&*once), "the one form is its own");
    assert!(once.starts_with('/') && !once.contains("//"), "{once}");
    assert!(once.split('/').all(|segment| segment != "." && segment != ".."), "{once}");
    assert!(!once.bytes().any(|byte| byte.is_ascii_control() || b" ?#".contains(&byte)), "{once}");
    // It is matched as itself, below every directory of its own, and below none of another.
    assert_eq!(found(&once, "/elsewhere", &once), Some(1));
    let depth = once.trim_end_matches('/').matches('/').count();
    for end in once.match_indices('/').map(|(at, _)| at).skip(1).take(depth) {
        assert_eq!(found("/elsewhere", &once[..end], &once), Some(2), "{once} below {}", &once[..end]);
    }
    let beside = format!("{}x", once.trim_end_matches('/'));
    assert_eq!(found("/elsewhere", &beside, &once), Some(3), "{once} below {beside}");
    // What a rule makes of it is a path of the same form.
    let rewritten = PathRewrite::Prefix("/there".to_owned()).apply(&PathMatch::Prefix("/".to_owned()), &once);
    assert_eq!(canonical(&rewritten).as_deref(), Ok(&*rewritten), "{once}");
}

#[test]
fn bytes() {
    check!(name = "path").with_iterations(2_000).for_each(holds);
}

#[test]
fn bent() {
    let seeds = corpus("path");
    check!().with_iterations(10_000).with_type::<Bends>().for_each(|bends| holds(&bends.of(&seeds)));
}
