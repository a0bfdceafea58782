//! Routes: what a manifest can say comes to a sidecar as it is, and what it cannot is refused.

use isthmus_model::http_route::valid::Invalid;
use isthmus_model::http_route::{
    Action, Backend, Condition, HeaderChange, Match, PathMatch, PathRewrite, Redirect, Rule, Scheme, ServiceRoute,
    TooLarge,
};

use super::*;

fn text(choices: &[&'static str]) -> impl Strategy<Value = String> + use<> {
    prop::sample::select(choices.to_vec()).prop_map(str::to_owned)
}

fn conditions(names: &[&'static str]) -> impl Strategy<Value = Vec<Condition>> + use<> {
    let condition = (text(names), text(&["", "1", "ä b"])).prop_map(|(name, value)| Condition { name, value });
    vec(condition, 0..3)
}

fn rewrite() -> impl Strategy<Value = PathRewrite> {
    let path = || text(&["/", "/a%2Fb", "/a/"]);
    prop_oneof![path().prop_map(PathRewrite::Full), path().prop_map(PathRewrite::Prefix)]
}

fn condition() -> impl Strategy<Value = Match> {
    let path = || text(&["/", "/a%2Fb", "/a/"]);
    let path = prop_oneof![path().prop_map(PathMatch::Exact), path().prop_map(PathMatch::Prefix)];
    let method = prop::option::of(text(&["GET", "POST"]));
    (path, method, conditions(&["x-canary", "cookie"]), conditions(&["q", "Ä"]))
        .prop_map(|(path, method, headers, query)| Match { path, method, headers, query })
}

fn action() -> impl Strategy<Value = Action> {
    let backend = (0..9_u8, 1..4_u16, 0..1_000_001_u32).prop_map(|(number, port, weight)| Backend {
        service: service_name(number),
        port,
        weight,
    });
    let scheme = prop::option::of(prop_oneof![Just(Scheme::Http), Just(Scheme::Https)]);
    let host = prop::option::of(text(&["www.example.com"]));
    let status = prop::sample::select(std::vec![301, 302, 303, 307, 308]);
    let redirect = (scheme, host, prop::option::of(1..4_u16), prop::option::of(rewrite()), status)
        .prop_map(|(scheme, host, port, path, status)| Redirect { scheme, host, port, path, status });
    prop_oneof![vec(backend, 0..3).prop_map(Action::Forward), redirect.prop_map(Action::Redirect)]
}

fn change() -> impl Strategy<Value = HeaderChange> {
    let names = ["x-a", "cache-control"];
    (conditions(&names), conditions(&names), vec(text(&names), 0..2)).prop_map(|(set, add, remove)| HeaderChange {
        set,
        add,
        remove,
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let timeout = prop::option::of((1..86_400_001_u64).prop_map(Duration::from_millis));
    let changes = (change(), change(), prop::option::of(rewrite()));
    (vec(condition(), 1..3), changes, action(), timeout).prop_map(|(matches, changes, action, timeout)| {
        let (request_headers, response_headers, rewrite) = changes;
        Rule { matches, request_headers, response_headers, rewrite, action, timeout }
    })
}

/// What sources could have read.
pub(super) fn routes() -> impl Strategy<Value = ServiceRoutes> {
    let ports = prop::collection::btree_set(1..4_u16, 0..3);
    let route = (ports, vec(rule(), 1..3))
        .prop_map(|(ports, rules)| ServiceRoute { ports: ports.into_iter().collect(), rules: rules.into() });
    vec(route, 0..3).prop_map(|routes| ServiceRoutes::new(routes).expect("few"))
}

fn valid() -> control::HttpRoute {
    let backends = std::vec![control::HttpBackend { service: "shop/s2".to_owned(), port: 80, weight: 1 }];
    control::HttpRoute {
        ports: std::vec![80],
        rules: std::vec![control::HttpRule {
            matches: std::vec![control::HttpMatch {
                path: Some(control::http_match::Path::Exact("/a".to_owned())),
                ..Default::default()
            }],
            action: Some(control::http_rule::Action::Forward(control::HttpBackends { backends })),
            ..Default::default()
        }],
    }
}

fn field(name: &str, value: &str) -> control::HttpField {
    control::HttpField { name: name.to_owned(), value: value.to_owned() }
}

fn full_path(path: &str) -> control::PathRewrite {
    control::PathRewrite { to: Some(control::path_rewrite::To::Full(path.to_owned())) }
}

/// What is wrong with a route that was changed for the worse.
fn refused(spoil: impl FnOnce(&mut control::HttpRoute)) -> Option<WireError> {
    let mut route = valid();
    spoil(&mut route);
    spoilt(|update| update.services[0].routes = std::vec![route])
}

fn redirecting(spoil: impl FnOnce(&mut control::HttpRedirect)) -> Option<WireError> {
    let mut redirect = control::HttpRedirect { status: 302, ..Default::default() };
    spoil(&mut redirect);
    refused(|route| route.rules[0].action = Some(control::http_rule::Action::Redirect(redirect)))
}

fn backed(spoil: impl FnOnce(&mut control::HttpBackend)) -> Option<WireError> {
    refused(|route| {
        let Some(control::http_rule::Action::Forward(to)) = &mut route.rules[0].action else { return };
        spoil(&mut to.backends[0]);
    })
}

fn setting(name: &str, value: &str) -> Option<WireError> {
    let change = control::HeaderChange { set: std::vec![field(name, value)], ..Default::default() };
    refused(|route| route.rules[0].response_headers = Some(change))
}

#[test]
fn what_a_manifest_cannot_say_a_message_cannot_either() {
    let invalid = |error: Option<WireError>| match error {
        Some(WireError::Route { source, .. }) => Some(source),
        _ => None,
    };
    assert_eq!(refused(|_| ()), None);
    assert_eq!(redirecting(|_| ()), None);
    let exact = |path: &str| Some(control::http_match::Path::Exact(path.to_owned()));
    let matching = |spoil: &dyn Fn(&mut control::HttpMatch)| refused(|route| spoil(&mut route.rules[0].matches[0]));
    for (error, expected) in [
        (matching(&|one| one.path = exact("/a/../b")), Invalid::NotCanonical("/b".to_owned())),
        (matching(&|one| one.path = exact(&"/a".repeat(600))), Invalid::TooLong(1_024)),
        (matching(&|one| one.method = "get".to_owned()), Invalid::Method),
        (matching(&|one| one.headers = std::vec![field("a b", "1")]), Invalid::HeaderName),
        (matching(&|one| one.headers = std::vec![field("a", "1\r\nb: 2")]), Invalid::Control),
        (matching(&|one| one.query = std::vec![field("a", &"a".repeat(5_000))]), Invalid::TooLong(4_096)),
        (matching(&|one| one.query = std::vec![field(&"a".repeat(300), "")]), Invalid::TooLong(256)),
        (setting("x-forwarded-client-cert", "URI=spiffe://forged"), Invalid::NotWritable),
        (setting("X-Isthmus-Outcome", "denied"), Invalid::NotWritable),
        (setting("host", "elsewhere"), Invalid::NotWritable),
        (refused(|route| route.rules[0].rewrite = Some(full_path("/a/%2e"))), Invalid::NotCanonical("/a/".to_owned())),
        (refused(|route| route.rules[0].timeout = u64::MAX), Invalid::Timeout),
        (refused(|route| route.ports = std::vec![0]), Invalid::Port),
        (backed(|backend| backend.weight = 1_000_001), Invalid::Weight),
        (backed(|backend| backend.port = 0), Invalid::Port),
        (redirecting(|to| to.status = 200), Invalid::Status),
        (redirecting(|to| to.host = "a/b".to_owned()), Invalid::Host),
    ] {
        assert_eq!(invalid(error.clone()).as_ref(), Some(&expected), "{error:?}");
    }
}

#[test]
fn what_is_missing_or_too_much_is_refused_with_its_field() {
    let rule = || valid().rules.remove(0);
    let many_fields = || std::vec![field("a", "b"); 17];
    for (error, expected) in [
        (refused(|route| route.ports = std::vec![80; 33]), "services.routes.ports"),
        (refused(|route| route.ports = std::vec![70_000]), "services.routes.ports"),
        (refused(|route| route.rules = std::vec![rule(); 17]), "services.routes.rules"),
        (
            refused(|route| route.rules[0].matches = std::vec![rule().matches.remove(0); 65]),
            "services.routes.rules.matches",
        ),
        (refused(|route| route.rules[0].matches.clear()), "services.routes.rules.matches is missing"),
        (refused(|route| route.rules[0].matches[0].path = None), "services.routes.rules.matches.path is missing"),
        (refused(|route| route.rules[0].matches[0].headers = many_fields()), "services.routes.rules.matches.headers"),
        (refused(|route| route.rules[0].action = None), "services.routes.rules.action is missing"),
        (
            refused(|route| route.rules[0].rewrite = Some(Default::default())),
            "services.routes.rules.rewrite is missing",
        ),
        (backed(|backend| backend.service = "reviews".to_owned()), "services.routes.rules.backends.service"),
        (redirecting(|to| to.scheme = 9), "services.routes.rules.redirect.scheme"),
        (spoilt(|update| update.services[0].routes = std::vec![valid(); 1_025]), "services.routes"),
    ] {
        let error = error.map(|error| error.to_string()).unwrap_or_default();
        assert!(error.starts_with(expected), "{expected}: {error}");
    }
    let several = |count| spoilt(|update| update.services[0].routes = std::vec![valid(); count]);
    assert_eq!(several(1_024), None);
    let mut two = valid();
    two.rules.push(rule());
    let too_many = spoilt(|update| update.services[0].routes = std::vec![two; 513]);
    assert_eq!(too_many, Some(WireError::Routes(TooLarge)));
}

#[test]
fn a_change_of_routes_alone_is_told() {
    let full = two_services(Reach::Up);
    let (from, _) = difference(&start(), &full, &asking(&[1, 2]));
    let rules = Arc::from([Rule {
        matches: std::vec![Match::default()],
        request_headers: HeaderChange::default(),
        response_headers: HeaderChange::default(),
        rewrite: None,
        action: Action::Forward(Vec::new()),
        timeout: None,
    }]);
    let routes = ServiceRoutes::new(std::vec![ServiceRoute { ports: Arc::from([]), rules }]).expect("one");
    let mut routed = full.clone();
    let service = Service::clone(&full.services[&service_name(1)]);
    routed.insert(Arc::new(Service { routes: routes.clone(), ..service }));
    let (to, update) = difference(&from, &routed, &asking(&[1, 2]));
    let applied = apply(&from, update.expect("news")).expect("own message");
    assert_eq!((&applied, &applied.services[&service_name(1)].routes), (&to, &routes));
    let (to, update) = difference(&to, &full, &asking(&[1, 2]));
    assert_eq!(apply(&applied, update.expect("news")), Ok(to));
}
