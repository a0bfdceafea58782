//! Authorization policies: told with the services that they are about, or nobody is let in.

use isthmus_model::authorization::{
    Action, Authorization, Choice, FORM, Operation, Pattern, PatternError, Rule, Ruleset, Selector, Source,
};
use isthmus_model::name::NamespacedName;

use super::*;

/// Policies about the workload, about one of its services, or about others.
pub(super) fn authorizations() -> impl Strategy<Value = OrdMap<NamespacedName, Authorization>> {
    let selector = prop_oneof![
        Just(Selector::All),
        Just(Selector::Namespace("shop".parse().expect("valid"))),
        Just(Selector::Workload("shop/default".parse().expect("valid"))),
        Just(Selector::Workload("shop/other".parse().expect("valid"))),
        (0..8_u8).prop_map(|number| Selector::Service(service_name(number))),
    ];
    let pattern = |read: fn(&str) -> Result<Pattern, PatternError>, texts: &[&'static str]| {
        let pattern = prop::sample::select(texts.to_vec()).prop_map(move |text| read(text).expect("valid"));
        (vec(pattern.clone(), 0..2), vec(pattern, 0..2)).prop_map(|(of, not)| Choice { of, not })
    };
    let principals = pattern(Pattern::of_principals, &["spiffe://own.acme.mesh/ns/shop/*", "*/sa/default", "*"]);
    let labels = || pattern(Pattern::of_labels, &["shop", "sh*", "*op"]);
    let source = (principals, labels(), labels());
    let source = source.prop_map(|(principals, namespaces, clusters)| Source { principals, namespaces, clusters });
    let methods = pattern(Pattern::of_methods, &["GET", "P*"]);
    let paths = pattern(Pattern::of_paths, &["/", "/a%2Fb/*", "*.jpg"]);
    let operation = (vec((0..3_u8).prop_map(service_name), 0..2), vec(any::<u16>(), 0..2), methods, paths);
    let operation = operation.prop_map(|(services, ports, methods, paths)| Operation {
        services: Choice::of(services),
        ports: Choice::not(ports),
        methods,
        paths,
    });
    let rule = (vec(source, 0..2), vec(operation, 0..2)).prop_map(|(from, to)| Rule { from, to });
    let action = prop_oneof![Just(Action::Allow), Just(Action::Deny)];
    let policy = (vec(selector, 1..3), action, vec(rule, 0..2))
        .prop_map(|(selects, action, rules)| Authorization { selects, says: Arc::new(Ruleset { action, rules }) });
    let name = |number| NamespacedName { namespace: "shop".parse().expect("valid"), name: format!("p{number}.x") };
    btree_map((0..4_u8).prop_map(name), policy, 0..4).prop_map(|policies| policies.into_iter().collect())
}

/// `shop/s1` with two instances, of which one is at the sidecar's address, and a policy about all workloads.
fn guarded() -> Snapshot {
    let mut full = two_services(Reach::Up);
    let endpoint = |host| Endpoint {
        address: [127, 1, 0, host].into(),
        ports: BTreeMap::from([(80, 8080)]),
        sidecar_port: Some(15006),
        workload: "shop/default".parse().expect("valid"),
        ready: true,
    };
    let service = Service::clone(&full.services[&service_name(1)]);
    full.insert(Arc::new(Service { endpoints: Arc::from([endpoint(1), endpoint(2)]), ..service }));
    let name = NamespacedName { namespace: "shop".parse().expect("valid"), name: "nobody".to_owned() };
    let says = Arc::new(Ruleset { action: Action::Allow, rules: Vec::new() });
    full.authorizations.insert(name, Authorization { selects: std::vec![Selector::All], says });
    full
}

#[test]
fn policies_come_with_the_services_that_they_are_about_or_nobody_is_let_in() {
    let full = guarded();
    let asked = |rules_form| Asked { own_address: Some(OWN_ADDRESS.into()), rules_form, ..asking(&[1]) };
    let told = |form| {
        let (to, update) = difference(&start(), &full, &asked(form));
        let applied = apply(&start(), update.expect("news")).expect("own message");
        assert_eq!(applied, to);
        applied
    };
    let instances = |view: &Snapshot| view.services[&service_name(1)].endpoints.len();
    let view = told(FORM);
    assert_eq!((view.authorizations.len(), instances(&view)), (1, 2));
    let view = told(0);
    assert_eq!((view.authorizations.len(), instances(&view)), (0, 1), "only the one elsewhere");
    assert!(is_overtaxed(&full, &asked(0)) && !is_overtaxed(&full, &asked(FORM)));
    // Without policies it is told all; with one that comes later, its own instance is taken back.
    let open = Snapshot { authorizations: OrdMap::new(), ..full.clone() };
    let (from, _) = difference(&start(), &open, &asked(0));
    assert_eq!(instances(&from), 2);
    let (to, update) = difference(&from, &full, &asked(0));
    assert_eq!((instances(&to), apply(&from, update.expect("news"))), (1, Ok(to.clone())));
    // A policy that goes is told too.
    let (from, _) = difference(&start(), &full, &asked(FORM));
    let (to, update) = difference(&from, &open, &asked(FORM));
    assert_eq!(apply(&from, update.expect("news")), Ok(to.clone()));
    assert!(to.authorizations.is_empty());
}

#[test]
fn a_bad_policy_is_refused_with_the_field_that_is_bad() {
    let asked = Asked { own_address: Some(OWN_ADDRESS.into()), rules_form: FORM, ..asking(&[1]) };
    let (_, update) = difference(&start(), &guarded(), &asked);
    let update = update.expect("news");
    let refused = |spoil: &dyn Fn(&mut control::Authorization)| {
        let mut update = update.clone();
        spoil(&mut update.authorizations.as_mut().expect("told").policies[0]);
        apply(&start(), update).map_err(|error| error.to_string()).err().unwrap_or_default()
    };
    let paths = |text: &str| control::Rule {
        to: std::vec![control::Operation {
            paths: Some(control::Choice { of: std::vec![text.to_owned()], not: Vec::new() }),
            ..control::Operation::default()
        }],
        ..control::Rule::default()
    };
    assert_eq!(refused(&|_| ()), "");
    assert!(refused(&|policy| policy.action = 0).contains("authorizations.action"), "an action that is not known");
    assert!(refused(&|policy| policy.action = 3).contains("authorizations.action"));
    assert!(refused(&|policy| policy.rules = std::vec![paths("/a/../b")]).contains("authorizations.paths"));
    assert!(refused(&|policy| policy.rules = std::vec![paths(&"/a".repeat(1_000))]).contains("authorizations.paths"));
    let many = std::vec![control::Rule::default(); 4_097];
    assert!(refused(&|policy| policy.rules = many.clone()).contains("authorizations.rules"));
    let mut twice = update.clone();
    let policies = &mut twice.authorizations.as_mut().expect("told").policies;
    policies.push(policies[0].clone());
    assert!(matches!(apply(&start(), twice), Err(WireError::Duplicate { field: "authorizations.name", .. })));
}
