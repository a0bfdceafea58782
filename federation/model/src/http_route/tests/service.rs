//! The table of one service.

use super::*;

const SERVICE: &str = "shop/reviews";

fn service_name(text: &str) -> ServiceName {
    text.parse().expect("valid")
}

fn for_service(port: Option<u16>, rules: Vec<Rule>) -> HttpRoute {
    let parents = vec![Parent::Service { service: service_name(SERVICE), port }];
    HttpRoute { parents, hostnames: Vec::new(), rules: rules.into() }
}

fn named(number: usize) -> NamespacedName {
    NamespacedName { namespace: "shop".parse().expect("valid"), name: format!("r{number:02}") }
}

fn all(routes: Vec<HttpRoute>) -> OrdMap<NamespacedName, Arc<HttpRoute>> {
    routes.into_iter().enumerate().map(|(number, route)| (named(number), Arc::new(route))).collect()
}

fn table(routes: Vec<HttpRoute>) -> ServiceRoutes {
    ByService::of(&all(routes)).table(&service_name(SERVICE))
}

/// The service that a request goes to; "itself" where the port has no routes.
fn found(routes: &ServiceRoutes, port: u16, asked: &Asked) -> String {
    let Some(routes) = routes.for_port(port) else { return "itself".to_owned() };
    let rule = routes.find(asked).and_then(|(rule, _)| rule.backend(0));
    rule.map_or("-".to_owned(), |backend| backend.service.name.to_string())
}

#[test]
fn a_port_without_routes_is_told_from_one_where_none_matches() {
    let canary = Match { headers: vec![condition("x-canary", "1")], ..Match::default() };
    let mut elsewhere = for_service(None, vec![rule(vec![Match::default()], to("other"))]);
    elsewhere.parents = vec![
        Parent::Service { service: service_name("shop/ratings"), port: None },
        Parent::Gateway { gateway: "reviews".to_owned(), section: None },
    ];
    let mut hosted = for_service(Some(80), vec![rule(vec![prefix("/api")], to("api"))]);
    hosted.hostnames = vec!["www.example.com".parse().expect("valid")];
    let routes = table(vec![elsewhere, hosted, for_service(Some(81), vec![rule(vec![canary], to("canary"))])]);
    let marked = Asked { headers: vec![("x-canary".to_owned(), "1".to_owned())], ..get("/") };
    for (port, asked, expected) in [
        (80, get("/api/x"), "api"),
        (80, get("/"), "-"),
        (80, marked.clone(), "-"),
        (81, marked, "canary"),
        (81, get("/api"), "-"),
        (82, get("/api"), "itself"),
    ] {
        assert_eq!(found(&routes, port, &asked), expected, "{port} {asked:?}");
    }
    assert_eq!(found(&ServiceRoutes::default(), 80, &get("/")), "itself");
    assert_eq!(found(&table(vec![for_service(None, vec![])]), 80, &get("/")), "itself", "it says nothing");
}

#[test]
fn the_most_special_match_holds_and_of_equals_the_first_by_name() {
    let routes = table(vec![
        for_service(None, vec![rule(vec![prefix("/")], to("root"))]),
        for_service(Some(80), vec![rule(vec![prefix("/api")], to("first")), rule(vec![exact("/api")], to("exact"))]),
        for_service(None, vec![rule(vec![prefix("/api/")], to("second"))]),
    ]);
    for (port, path, expected) in [
        (80, "/api/x", "first"),
        (81, "/api/x", "second"),
        (80, "/api", "exact"),
        (81, "/api", "second"),
        (81, "/apis", "root"),
    ] {
        assert_eq!(found(&routes, port, &get(path)), expected, "{port} {path}");
    }
    let ports: Vec<&[u16]> = routes.routes().iter().map(|route| &*route.ports).collect();
    assert_eq!(ports, [&[][..], &[80], &[]], "as they were read");
}

#[test]
fn one_parent_without_a_port_is_all_ports() {
    let mut route = for_service(Some(80), vec![rule(vec![Match::default()], to("any"))]);
    route.parents.push(Parent::Service { service: service_name(SERVICE), port: Some(81) });
    let two = table(vec![route.clone()]);
    assert_eq!([80, 81, 82].map(|port| two.for_port(port).is_some()), [true, true, false]);
    route.parents.push(Parent::Service { service: service_name(SERVICE), port: None });
    assert!(table(vec![route]).for_port(82).is_some());
}

#[test]
fn what_is_too_much_is_left_out_from_the_first_that_does_not_fit() {
    let matches = |count| for_service(None, vec![rule(vec![Match::default(); count], to("any")); 16]);
    let long = "a".repeat(4_096);
    let wordy = Match { headers: vec![condition("a", &long); 16], ..Match::default() };
    let wordy = for_service(None, vec![rule(vec![wordy; 4], to("any"))]);
    for (routes, taken) in [
        (vec![matches(64)], 1),
        (vec![matches(60), matches(8), matches(1)], 1),
        (vec![matches(32), matches(32), matches(1)], 2),
        (vec![wordy.clone(), matches(1)], 0),
        (vec![matches(1), wordy], 1),
    ] {
        let left_out = routes.len() - taken;
        let routes = all(routes);
        let by_service = ByService::of(&routes);
        assert_eq!(by_service.table(&service_name(SERVICE)).routes().len(), taken);
        let told: Vec<_> = by_service.left_out().map(|(_, name)| name.clone()).collect();
        assert_eq!(told, (taken..taken + left_out).map(named).collect::<Vec<_>>());
        let given = routes.values().map(|route| ServiceRoute { ports: Arc::from([]), rules: route.rules.clone() });
        assert_eq!(ServiceRoutes::new(given.collect()).is_ok(), left_out == 0);
    }
}

#[test]
fn a_parent_reads_as_it_is_written() {
    let text = r#"[{"gateway":"public","section":"http"},{"service":"shop/reviews","port":80}]"#;
    let parents: Vec<Parent> = serde_json::from_str(text).expect("parents");
    let service = Parent::Service { service: service_name(SERVICE), port: Some(80) };
    assert_eq!(parents, [public(Some(Scheme::Http)), service]);
    assert_eq!(serde_json::to_string(&parents).expect("JSON"), text);
}

proptest! {
    #[test]
    fn following_changes_comes_to_the_same_as_beginning_anew(
        steps in prop::collection::vec((0..4_usize, prop::option::of((prop::option::of(80..82_u16), 0..3_usize))), 0..12),
    ) {
        let (mut catalog, mut followed) = (OrdMap::new(), ByService::default());
        for (number, route) in steps {
            let before = catalog.clone();
            match route {
                Some((port, rules)) => {
                    let rules = vec![rule(vec![Match::default()], to("any")); rules];
                    catalog.insert(named(number), Arc::new(for_service(port, rules)));
                }
                None => drop(catalog.remove(&named(number))),
            }
            followed.follow(&before, &catalog);
            let name = service_name(SERVICE);
            prop_assert_eq!(followed.table(&name), ByService::of(&catalog).table(&name));
        }
    }
}
