//! Istio's order, what is not known, and what hostile callers write.

use proptest::prelude::*;

use super::*;
use crate::name::NamespacedName;
use crate::path::canonical;
use crate::spiffe::SpiffeId;

const REVIEWS: &str = "spiffe://us-east.acme.mesh/ns/shop/sa/reviews";
const PAGE: &str = "spiffe://us-west.acme.mesh/ns/shop/sa/productpage";
const GATEWAY: &str = "spiffe://us-east.acme.mesh/gateway/gw-1";
const PORT: u16 = 8080;

fn principals(texts: &[&str]) -> Vec<Pattern> {
    texts.iter().map(|text| Pattern::of_principals(text).expect("a principal")).collect()
}

fn paths(texts: &[&str]) -> Vec<Pattern> {
    texts.iter().map(|text| Pattern::of_paths(text).expect("a path")).collect()
}

fn labels(texts: &[&str]) -> Vec<Pattern> {
    texts.iter().map(|text| Pattern::of_labels(text).expect("a label")).collect()
}

fn methods(texts: &[&str]) -> Vec<Pattern> {
    texts.iter().map(|text| Pattern::of_methods(text).expect("a method")).collect()
}

fn from(source: Source) -> Rule {
    Rule { from: vec![source], ..Rule::default() }
}

fn to(operation: Operation) -> Rule {
    Rule { to: vec![operation], ..Rule::default() }
}

fn from_principals(texts: &[&str]) -> Rule {
    from(Source { principals: Choice::of(principals(texts)), ..Source::default() })
}

fn to_paths(texts: &[&str]) -> Rule {
    to(Operation { paths: Choice::of(paths(texts)), ..Operation::default() })
}

fn allow(rules: Vec<Rule>) -> Ruleset {
    Ruleset { action: Action::Allow, rules }
}

fn deny(rules: Vec<Rule>) -> Ruleset {
    Ruleset { action: Action::Deny, rules }
}

/// What is asked by whom; of HTTP if there is a method.
#[derive(Clone, Copy)]
struct Ask<'a>(Option<&'a str>, Option<(&'a str, &'a str)>);

impl Ask<'_> {
    fn get(path: &str) -> Ask<'_> {
        Ask(Some(PAGE), Some(("GET", path)))
    }

    fn of(self, policies: &[Ruleset]) -> Result<Permitted, Denial> {
        let name = |number| NamespacedName { namespace: "shop".parse().expect("valid"), name: format!("p{number}") };
        let names: Vec<NamespacedName> = (0..policies.len()).map(name).collect();
        let peer = self.0.map(|peer| peer.parse::<SpiffeId>().expect("an identity"));
        let services = ["shop/reviews".parse().expect("valid")];
        let http = self.1.map(|(method, path)| Http { method, path });
        let asking = Asking { peer: peer.as_ref(), services: &services, port: PORT, http };
        let policies: Vec<Arc<Ruleset>> = policies.iter().cloned().map(Arc::new).collect();
        judge(names.iter().zip(&policies), &asking)
    }

    fn may(self, policies: &[Ruleset]) -> bool {
        self.of(policies).is_ok()
    }
}

#[test]
fn a_denial_comes_before_a_permission_and_a_permission_excludes_the_rest() {
    let page = allow(vec![from_principals(&[PAGE])]);
    assert!(Ask::get("/").may(&[]), "no policy is about it");
    assert!(Ask::get("/").may(std::slice::from_ref(&page)));
    assert_eq!(Ask(Some(REVIEWS), Some(("GET", "/"))).of(std::slice::from_ref(&page)), Err(Denial::NotAllowed));
    let both = [page.clone(), deny(vec![from_principals(&["spiffe://us-west.acme.mesh/*"])])];
    assert!(matches!(Ask::get("/").of(&both), Err(Denial::Denied(name)) if name.name == "p1"));
    assert!(Ask::get("/").may(&[page.clone(), allow(vec![])]), "one that allows it is enough");
    assert!(!Ask::get("/").may(&[allow(vec![])]), "nothing is allowed");
    assert!(Ask::get("/").may(&[deny(vec![])]), "nothing is denied");
    assert!(!Ask::get("/").may(&[deny(vec![Rule::default()])]), "everything is denied");
    assert!(Ask::get("/").may(&[allow(vec![Rule::default()])]));
}

#[test]
fn all_of_a_source_and_of_an_operation_has_to_hold() {
    let source = Source { namespaces: Choice::of(labels(&["sh*"])), ..Source::default() };
    let west = Source { clusters: Choice::of(labels(&["us-west"])), ..source.clone() };
    let ask = |source: &Source| Ask::get("/").may(&[allow(vec![from(source.clone())])]);
    assert!(ask(&source) && ask(&west));
    assert!(!ask(&Source { clusters: Choice::not(labels(&["us-west"])), ..source }));
    let get = Operation { methods: Choice::of(methods(&["GET"])), ..Operation::default() };
    let on = |operation: &Operation| Ask::get("/").may(&[allow(vec![to(operation.clone())])]);
    assert!(on(&get));
    assert!(!on(&Operation { ports: Choice::of([PORT + 1]), ..get.clone() }));
    assert!(!on(&Operation { services: Choice::of(["shop/ratings".parse().expect("valid")]), ..get.clone() }));
    assert!(on(&Operation { services: Choice::of(["shop/reviews".parse().expect("valid")]), ..get.clone() }));
    assert!(!on(&Operation { methods: Choice::not(methods(&["GET"])), ..Operation::default() }));
    let one_of_two =
        Rule { from: vec![west, Source { clusters: Choice::of(labels(&["x"])), ..Source::default() }], to: vec![] };
    assert!(Ask::get("/").may(&[allow(vec![one_of_two])]));
}

#[test]
fn identities_are_compared_byte_for_byte() {
    let alike = "spiffe://us-east.acmexmesh.mesh/ns/shop/sa/reviews";
    let of = "spiffe://us-east.acme.mesh.mesh/ns/shop/sa/reviews";
    let rule = [allow(vec![from_principals(&[of])])];
    assert!(Ask(Some(of), None).may(&rule) && !Ask(Some(alike), None).may(&rule));
    let end = [allow(vec![from_principals(&["*.acme.mesh/ns/shop/sa/reviews"])])];
    assert!(Ask(Some(REVIEWS), None).may(&end));
    for other in [
        PAGE,
        GATEWAY,
        "spiffe://us-east.xacme.mesh/ns/shop/sa/reviews",
        "spiffe://us-east.acme.mesh/ns/shop/sa/reviews2",
    ] {
        assert!(!Ask(Some(other), None).may(&end), "{other}");
    }
    let deny_start = [deny(vec![from_principals(&["spiffe://us-east.acme.mesh/ns/shop/sa/rev*"])])];
    assert!(!Ask(Some(REVIEWS), None).may(&deny_start) && Ask(Some(PAGE), None).may(&deny_start));
}

#[test]
fn who_shows_no_identity_is_nobody_and_is_let_in_by_no_identity() {
    let stranger = Ask(None, Some(("GET", "/")));
    let not = |texts| from(Source { principals: Choice::not(principals(texts)), ..Source::default() });
    assert!(!stranger.may(&[allow(vec![from_principals(&["*"])])]));
    assert!(!stranger.may(&[allow(vec![not(&[PAGE])])]), "nobody knows that it is not");
    assert!(stranger.may(&[deny(vec![from_principals(&[PAGE])])]), "it is not known to be that one");
    assert!(!stranger.may(&[deny(vec![not(&["*"])])]), "only who shows an identity");
    assert!(stranger.may(&[allow(vec![to(Operation { ports: Choice::of([PORT]), ..Operation::default() })])]));
    // A gateway is of no namespace.
    let shop = from(Source { namespaces: Choice::of(labels(&["*"])), ..Source::default() });
    assert!(!Ask(Some(GATEWAY), None).may(&[allow(vec![shop.clone()])]));
    assert!(Ask(Some(GATEWAY), None).may(&[deny(vec![shop])]));
}

#[test]
fn for_bytes_what_only_requests_have_denies_and_does_not_allow() {
    let bytes = Ask(Some(PAGE), None);
    let get = to(Operation { methods: Choice::of(methods(&["GET"])), ..Operation::default() });
    for rule in [get, to_paths(&["/admin"])] {
        assert!(!bytes.may(&[allow(vec![rule.clone()])]));
        assert!(!bytes.may(&[deny(vec![rule.clone()])]));
        let from_reviews = Rule { from: from_principals(&[REVIEWS]).from, ..rule };
        assert!(bytes.may(&[deny(vec![from_reviews])]), "the rest does not match");
    }
    let either = [allow(vec![to_paths(&["/a"]), from_principals(&[PAGE])])];
    assert_eq!(bytes.of(&either).map(Permitted::into_path), Ok(None));
}

#[test]
fn a_service_that_is_not_known_may_be_any() {
    let operation =
        Operation { services: Choice::of(["shop/reviews".parse().expect("valid")]), ..Operation::default() };
    let name = NamespacedName { namespace: "shop".parse().expect("valid"), name: "p".to_owned() };
    let may = |says: &Arc<Ruleset>, services: &[&str]| {
        let services: Vec<ServiceName> = services.iter().map(|name| name.parse().expect("valid")).collect();
        judge([(&name, says)], &Asking { peer: None, services: &services, port: PORT, http: None }).is_ok()
    };
    let (allow, deny) = (Arc::new(allow(vec![to(operation.clone())])), Arc::new(deny(vec![to(operation)])));
    for (services, allowed, denied) in [
        (&["shop/reviews"][..], true, true),
        (&["shop/ratings"], false, false),
        (&["shop/ratings", "shop/reviews"], false, true),
        (&[], false, true),
    ] {
        assert_eq!((may(&allow, services), !may(&deny, services)), (allowed, denied), "{services:?}");
    }
}

#[test]
fn a_denied_path_is_denied_however_it_is_written() {
    let rules = [deny(vec![to_paths(&["/admin", "/admin/*"])])];
    for path in [
        "/admin",
        "//admin",
        "/./admin",
        "/public/../admin",
        "/%61dmin",
        "/public/%2e%2e/admin",
        "/admin/x",
        "/admin%2fx",
        "/admin%5Cx",
        "/admin\\x",
        "/admin;x",
        "/admin;x=1/y",
        "/admin%3bx",
        "/;x/admin",
        "/%2Fadmin",
        "/public/..%2fadmin",
        "/public/..;/admin",
        "/admin%00",
        "*",
        "",
        "admin",
    ] {
        assert!(!Ask::get(path).may(&rules), "{path}");
    }
    assert_eq!(Ask::get("/public/..;/admin").of(&rules), Err(Denial::Path(crate::path::PathError::Ambiguous)));
    assert!(Ask::get("/Admin").may(&rules) && Ask::get("/administrator").may(&rules));
}

#[test]
fn what_is_allowed_by_its_path_is_so_in_every_reading_and_is_passed_on_as_it_was_judged() {
    let rules = [allow(vec![to_paths(&["/public/*", "/a%40b", "/v;1/*"])])];
    let passed_on = Ask::get("/x/..//public/%61;v=1").of(&rules).map(Permitted::into_path);
    assert_eq!(passed_on, Ok(Some("/public/a;v=1".to_owned())));
    assert!(Ask::get("/a%40b").may(&rules) && Ask::get("/v;1/x").may(&rules), "a pattern means what it says");
    for path in ["/public", "/publicity", "/public%2Fx", "/public;/x", "/public\\x", "/a@b", "/v/x"] {
        assert!(!Ask::get(path).may(&rules), "{path}");
    }
    // Where no rule is about paths, they are nobody's business here.
    let rules = [allow(vec![from_principals(&[PAGE])])];
    assert_eq!(Ask::get("/a/..;/b").of(&rules).map(Permitted::into_path), Ok(None));
}

#[test]
fn what_is_denied_is_so_however_it_is_written() {
    let denied = |pattern, path| !Ask::get(path).may(&[deny(vec![to_paths(&[pattern])])]);
    for (pattern, path) in [
        ("/users/root%40corp", "/users/root@corp"),
        ("/pkg/@scope%2Fname", "/pkg/@scope/name"),
        ("/%C3%A4/*", "/\u{e4}/x"),
        ("/admin;v=1", "/admin"),
    ] {
        assert!(denied(pattern, path), "{path} by {pattern}");
        assert!(!denied(pattern, "/other"), "{pattern}");
    }
    assert!(denied("/admin;v=1*", "/admin") && denied("/admin;v=1*", "/admin/x") && denied("*;v=1", "/a;v=1"));
    assert!(!denied("/admin;v=1*", "/administrator") && !denied("*;v=1", "/other") && !denied("/;x*", "/other"));
    let no_post = [deny(vec![to(Operation { methods: Choice::of(methods(&["POST"])), ..Operation::default() })])];
    for method in ["POST", "post", "Post"] {
        assert!(!Ask(Some(PAGE), Some((method, "/"))).may(&no_post), "{method}");
    }
    let only_get = [allow(vec![to(Operation { methods: Choice::of(methods(&["GET"])), ..Operation::default() })])];
    assert!(!Ask(Some(PAGE), Some(("get", "/"))).may(&only_get));
}

#[test]
fn an_exclusion_is_read_against_the_caller_too() {
    let not = |texts| to(Operation { paths: Choice::not(paths(texts)), ..Operation::default() });
    let only_public = [deny(vec![not(&["/public/*"])])];
    assert!(Ask::get("/public/a").may(&only_public) && !Ask::get("/admin").may(&only_public));
    assert!(!Ask::get("/public%2Fa").may(&only_public), "for some readers it is not below");
    let all_but_admin = [allow(vec![not(&["/admin"])])];
    assert!(Ask::get("/public").may(&all_but_admin));
    assert!(!Ask::get("/admin;x").may(&all_but_admin), "for some readers it is");
}

#[test]
fn a_policy_has_a_size() {
    let rule = Rule {
        from: vec![Source::default()],
        to: vec![Operation { ports: Choice::of([1, 2]), ..Operation::default() }],
    };
    assert_eq!(allow(vec![rule.clone(); SIZE_MAX / 5]).check(), Ok(()));
    assert_eq!(allow(vec![rule; SIZE_MAX / 5 + 1]).check(), Err(TooLarge(4_100)));
}

proptest! {
    /// However the rest of a path is written: what an application that decodes everything and cuts parameters would take for
    /// something below `/admin` is not let through by a rule that denies it.
    #[test]
    fn no_eager_reader_gets_to_what_is_denied(path in "/([ad]|min|/|[.;\\\\]|%2[eEfF]|%5[cC]|%3[bB]|%61dmin|admin){0,10}") {
        let rules = [deny(vec![to_paths(&["/admin", "/admin/*"])])];
        let Ok(permitted) = Ask::get(&path).of(&rules) else { return Ok(()) };
        let passed_on = permitted.into_path().expect("rules are about paths");
        prop_assert!(canonical(&passed_on).is_ok_and(|canonical| canonical == passed_on));
        let lower = passed_on.replace("%2F", "/").replace("%5C", "/").replace('\\', "/").replace("%3B", ";");
        let segments: Vec<&str> =
            lower.split('/').map(|part| part.split(';').next().unwrap_or_default()).filter(|part| !part.is_empty()).collect();
        prop_assert_ne!(segments.first(), Some(&"admin"), "{} by {}", passed_on, path);
    }

    /// More that denies, or less that allows, lets nobody in.
    #[test]
    fn a_further_denial_lets_nobody_in(path in "/[ab]{0,2}", kind in 0..4_u8, stranger in any::<bool>()) {
        let extra = match kind {
            0 => from_principals(&["*"]),
            1 => to_paths(&["/a*"]),
            2 => to(Operation { ports: Choice::of([PORT]), ..Operation::default() }),
            _ => Rule::default(),
        };
        let ask = Ask((!stranger).then_some(PAGE), Some(("GET", &*path)));
        for policies in [vec![], vec![allow(vec![to_paths(&["/*"])])], vec![allow(vec![])]] {
            let before = ask.may(&policies);
            let mut more = policies.clone();
            more.push(deny(vec![extra.clone()]));
            prop_assert!(before || !ask.may(&more));
        }
    }
}
