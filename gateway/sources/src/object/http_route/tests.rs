use serde_json::{Value, json};

use super::super::{Kind, Object, ObjectKey, check};
use super::*;

fn read(spec: Value) -> (Result<HttpRoute, String>, Vec<String>) {
    let manifest = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "web", "namespace": "shop"}, "spec": spec,
    });
    let namespace = "shop".parse().expect("valid");
    let key = ObjectKey { kind: Kind::HttpRoute, namespace, name: "web".to_owned() };
    let rules = Rules { ingress: Some("public".to_owned()), ..Rules::default() };
    let mut warnings = Vec::new();
    let read = check(&key, &manifest, &rules, &mut warnings).map(|object| match object {
        Object::HttpRoute(route) => route,
        other => panic!("{other:?}"),
    });
    (read.map_err(|remark| remark.reason), warnings.into_iter().map(|remark| remark.reason).collect())
}

#[test]
fn a_route_as_people_write_it() {
    let (route, warnings) = read(json!({
        "parentRefs": [{"name": "public", "sectionName": "https"}],
        "hostnames": ["www.example.com", "*.example.org"],
        "rules": [{
            "matches": [{"path": {"type": "PathPrefix", "value": "/api"}, "method": "GET",
                         "headers": [{"name": "X-Canary", "value": "1"}]}],
            "filters": [
                {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "X-A", "value": "b"}], "remove": ["X-C"]}},
                {"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}}},
            ],
            "backendRefs": [{"name": "reviews", "port": 9080, "weight": 90}, {"name": "next", "port": 80, "weight": 10}],
            "timeouts": {"request": "1m30s"},
        }, {
            "filters": [{"type": "RequestRedirect", "requestRedirect": {"scheme": "https", "statusCode": 301}}],
        }],
    }));
    let route = route.expect("valid");
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(route.parents, [Parent { gateway: "public".to_owned(), section: Some(Scheme::Https) }]);
    let rule = &route.rules[0];
    assert_eq!(rule.matches[0].headers, [Condition { name: "x-canary".to_owned(), value: "1".to_owned() }]);
    assert_eq!(rule.request_headers.remove, ["x-c"]);
    assert_eq!(rule.rewrite, Some(PathRewrite::Prefix("/".to_owned())));
    assert_eq!(rule.timeout, Some(Duration::from_secs(90)));
    let Action::Forward(backends) = &rule.action else { panic!("{rule:?}") };
    assert_eq!((backends[0].service.to_string().as_str(), backends[0].weight), ("shop/reviews", 90));
    assert!(matches!(&route.rules[1].action, Action::Redirect(redirect) if redirect.status == 301));
    assert_eq!(route.rules[1].matches, [Match::default()], "a rule without matches is for everything");
}

#[test]
fn what_is_not_understood_refuses_the_route() {
    let rule = |rule: Value| json!({"rules": [rule]});
    for (spec, expected) in [
        (json!({"hostnames": ["10.0.0.1"]}), "not a host name"),
        (json!({"parentRefs": [{"name": "public", "sectionName": "tls"}]}), "the listeners are http and https"),
        (rule(json!({"matches": [{"path": {"type": "RegularExpression", "value": "/a"}}]})), "use Exact or PathPrefix"),
        (rule(json!({"matches": [{"path": {"value": "/a/../b"}}]})), "write \"/b\""),
        (rule(json!({"matches": [{"path": {"value": "a"}}]})), "does not begin with a slash"),
        (rule(json!({"matches": [{"method": "get"}]})), "is none of GET"),
        (rule(json!({"matches": [{"headers": [{"name": "a b", "value": "1"}]}]})), "not the name of a header"),
        (
            rule(json!({"matches": [{"queryParams": [{"type": "RegularExpression", "name": "a", "value": "1"}]}]})),
            "use Exact",
        ),
        (rule(json!({"filters": [{"type": "RequestMirror"}]})), "filters.type: RequestMirror"),
        (
            rule(
                json!({"filters": [{"type": "URLRewrite", "urlRewrite": {}}, {"type": "URLRewrite", "urlRewrite": {}}]}),
            ),
            "twice",
        ),
        (rule(json!({"filters": [{"type": "ExtensionRef", "extensionRef": {}}]})), "unknown field `extensionRef`"),
        (
            rule(json!({"filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier":
                {"set": [{"name": "X-Forwarded-Client-Cert", "value": "a"}]}}]})),
            "cannot be written by a route",
        ),
        (
            rule(json!({"filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier":
                {"set": [{"name": "a", "value": "b\r\nc: d"}]}}]})),
            "control characters",
        ),
        (rule(json!({"backendRefs": [{"name": "a", "port": 80, "namespace": "other"}]})), "another namespace"),
        (rule(json!({"backendRefs": [{"name": "a"}]})), "needs a port"),
        (rule(json!({"backendRefs": [{"name": "a", "port": 80, "kind": "Bucket"}]})), "use Service or ServiceImport"),
        (rule(json!({"timeouts": {"request": "10"}})), "not a duration"),
        (rule(json!({"timeouts": {"backendRequest": "10s"}})), "unknown field `backendRequest`"),
        (rule(json!({"retry": {}})), "unknown field `retry`"),
        (json!({"rules": vec![json!({}); 17]}), "16 are allowed"),
    ] {
        let error = read(spec.clone()).0.expect_err(expected);
        assert!(error.contains(expected), "{spec}: {error}");
    }
}

#[test]
fn a_parent_that_is_not_here_is_told() {
    let parents = json!({"parentRefs": [{"name": "other"}, {"kind": "Service", "group": "", "name": "reviews"}]});
    let (route, warnings) = read(parents);
    assert_eq!(route.expect("valid").parents.len(), 1);
    assert!(warnings[0].contains("`ingress.gateway` is \"public\"") && warnings[1].contains("for gateways only"));
}

#[test]
fn durations_are_those_of_the_gateway_api() {
    for (text, expected) in [
        ("10s", Some(10_000)),
        ("500ms", Some(500)),
        ("1h1m1s1ms", Some(3_661_001)),
        ("0s", None),
        ("24h", Some(86_400_000)),
    ] {
        assert_eq!(timeout(text).expect(text), expected.map(Duration::from_millis), "{text}");
    }
    for text in ["", "s", "1", "1.5s", "-1s", "1d", "25h", "123456ms", "1 s"] {
        assert!(timeout(text).is_err(), "{text}");
    }
}
