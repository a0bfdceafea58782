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
    assert_eq!(route.parents, [Parent::Gateway { gateway: "public".to_owned(), section: Some(Scheme::Https) }]);
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
    let parents = json!({"parentRefs": [
        {"name": "other"}, {"kind": "Service", "name": "reviews"}, {"kind": "Bucket", "group": "", "name": "reviews"},
    ]});
    let (route, warnings) = read(parents);
    assert_eq!(route.expect("valid").parents.len(), 1);
    assert!(warnings[0].contains("`ingress.gateway` is \"public\""));
    assert!(
        warnings[1].contains("has no effect") && warnings[1].contains("the group of Service is \"\""),
        "{warnings:?}"
    );
    assert!(warnings[2].contains("routes are for gateways and services"), "{warnings:?}");
}

#[test]
fn services_of_the_own_namespace_are_parents_too() {
    let (route, warnings) = read(json!({
        "parentRefs": [
            {"group": "", "kind": "Service", "name": "reviews", "port": 9080},
            {"group": "multicluster.x-k8s.io", "kind": "ServiceImport", "name": "ratings", "namespace": "shop"},
            {"name": "public"},
        ],
        "hostnames": ["www.example.com"],
        "rules": [{"backendRefs": [{"name": "next", "port": 80}]}],
    }));
    assert_eq!(warnings, Vec::<String>::new(), "the gateway goes by the host");
    let service = |name: &str, port| Parent::Service { service: name.parse().expect("valid"), port };
    let gateway = Parent::Gateway { gateway: "public".to_owned(), section: None };
    let expected = [service("shop/reviews", Some(9080)), service("shop/ratings", None), gateway];
    assert_eq!(route.expect("valid").parents, expected);
    let (route, warnings) = read(json!({
        "parentRefs": [{"group": "", "kind": "Service", "name": "reviews"}], "hostnames": ["www.example.com"],
    }));
    assert!(route.is_ok() && warnings[0].contains("hostnames have no effect"), "{warnings:?}");
}

#[test]
fn what_a_route_for_a_service_cannot_say_refuses_it() {
    let parent = |more: Value| {
        let mut parent = json!({"group": "", "kind": "Service", "name": "reviews"});
        parent.as_object_mut().expect("a mapping").extend(more.as_object().expect("a mapping").clone());
        json!({"parentRefs": [parent]})
    };
    let connect = json!([{"matches": [{"method": "CONNECT"}]}]);
    let mut connecting = parent(json!({}));
    connecting["rules"] = connect.clone();
    for (spec, expected) in [
        (parent(json!({"namespace": "other"})), "consumer route"),
        (parent(json!({"sectionName": "http"})), "use port"),
        (parent(json!({"port": 0})), "no port"),
        (parent(json!({"name": "a.b"})), "parentRefs.name"),
        (json!({"parentRefs": [{"name": "public", "port": 80}]}), "chosen by sectionName"),
        (json!({"parentRefs": vec![json!({"name": "public"}); 33]}), "32 are allowed"),
        (connecting, "the rule would never hold"),
    ] {
        let error = read(spec.clone()).0.expect_err(expected);
        assert!(error.contains(expected), "{spec}: {error}");
    }
    let at_gateway = json!({"parentRefs": [{"name": "public"}], "rules": connect});
    assert!(read(at_gateway).0.is_ok(), "as before");
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
    for text in ["", "s", "1", "1.5s", "-1s", "1d", "25h", "24h1ms", "123456ms", "1 s"] {
        assert!(timeout(text).is_err(), "{text}");
    }
}
