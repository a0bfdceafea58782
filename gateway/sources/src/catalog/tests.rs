use super::*;
use crate::document;
use crate::object::Rules;

/// Reads manifests and joins them.
fn build_text(text: &str) -> (LocalCatalog, Vec<String>) {
    let reading = document::read("shop.yaml", text.as_bytes(), &Rules { allow_loopback: true, ..Rules::default() });
    assert!(reading.problems.list.is_empty(), "{:?}", reading.problems);
    let (catalog, mismatches) = build(reading.accepted.iter().map(|accepted| (&accepted.key, &*accepted.object)));
    let mismatches = mismatches.into_iter().map(|mismatch| format!("{}: {}", mismatch.key, mismatch.reason));
    (catalog, mismatches.collect())
}

fn reviews(catalog: &LocalCatalog) -> &LocalService {
    catalog.services.get(&"shop/reviews".parse::<ServiceName>().expect("valid")).expect("in the catalog")
}

const SERVICE: &str = "---
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec:
  ports:
  - {name: http, port: 9080, targetPort: web}
  - {name: tcp-admin, port: 9000}
";
const EXPORT: &str = "---
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: {name: reviews, namespace: shop}
";

/// A slice of `reviews` whose ports and endpoints are given as flow YAML.
fn slice(name: &str, annotations: &str, ports: &str, endpoints: &str) -> String {
    format!(
        "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}
  namespace: shop
  labels: {{kubernetes.io/service-name: reviews}}
  annotations: {{{annotations}}}
addressType: IPv4
ports: [{ports}]
endpoints: [{endpoints}]
"
    )
}

const HTTP: &str = "{name: http, port: 8080}";

#[test]
fn a_service_its_slices_and_its_export_are_joined() {
    let first = slice(
        "reviews-1",
        "isthmus.dev/sidecar-port: '15006', isthmus.dev/service-account: reviews",
        "{name: http, port: 8080}, {name: tcp-admin, port: 9000}",
        "{addresses: [10.0.0.2]}, {addresses: [10.0.0.1], conditions: {ready: false}}",
    );
    let (catalog, mismatches) = build_text(&format!("{EXPORT}{first}{SERVICE}"));
    assert!(mismatches.is_empty(), "{mismatches:?}");
    let service = reviews(&catalog);
    assert!(service.exported);
    assert_eq!(service.ports[0].port, 9000);
    assert_eq!(service.ports[1].protocol, AppProtocol::Http);
    let addresses: Vec<String> = service.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect();
    assert_eq!(addresses, ["10.0.0.1", "10.0.0.2"]);
    let endpoint = &service.endpoints[1];
    assert_eq!(endpoint.ports, BTreeMap::from([(9080, 8080), (9000, 9000)]));
    assert_eq!(endpoint.sidecar_port, Some(15006));
    assert_eq!(endpoint.workload.to_string(), "shop/reviews");
    assert!(endpoint.ready && !service.endpoints[0].ready);
}

#[test]
fn an_export_waits_for_its_service() {
    let (catalog, mismatches) = build_text(EXPORT);
    assert!(catalog.services.is_empty());
    assert!(mismatches[0].starts_with("ServiceExport shop/reviews: no Service of this name"), "{mismatches:?}");
    let (catalog, mismatches) = build_text(SERVICE);
    assert!(!reviews(&catalog).exported && mismatches.is_empty());
}

#[test]
fn a_name_in_another_namespace_is_another_service() {
    let (catalog, mismatches) = build_text(&format!("{SERVICE}{}", EXPORT.replace("shop", "store")));
    assert!(!reviews(&catalog).exported);
    assert_eq!(mismatches.len(), 1);
}

#[test]
fn ports_meet_by_name_and_unnamed_ones_meet_each_other() {
    let service =
        "apiVersion: v1\nkind: Service\nmetadata: {name: reviews, namespace: shop}\nspec: {ports: [{port: 80}]}\n";
    for (ports, expected) in
        [("{port: 8080}", Some(8080)), ("{name: '', port: 8080}", Some(8080)), ("{}", Some(80)), (HTTP, None)]
    {
        let (catalog, mismatches) =
            build_text(&format!("{service}{}", slice("s", "", ports, "{addresses: [10.0.0.1]}")));
        assert_eq!(reviews(&catalog).endpoints[0].ports.get(&80).copied(), expected, "{ports}");
        assert_eq!(mismatches.is_empty(), expected.is_some(), "{mismatches:?}");
    }
}

#[test]
fn an_endpoint_in_two_slices_is_one_endpoint() {
    let unready = slice("a", "", HTTP, "{addresses: [10.0.0.1], conditions: {ready: false}}");
    let admin = slice("b", "", "{name: tcp-admin, port: 9000}", "{addresses: [10.0.0.1]}");
    let (catalog, _) = build_text(&format!("{SERVICE}{unready}{admin}"));
    let endpoints = &reviews(&catalog).endpoints;
    assert_eq!(endpoints.len(), 1);
    assert!(endpoints[0].ready);
    assert_eq!(endpoints[0].ports, BTreeMap::from([(9080, 8080), (9000, 9000)]));
}

#[test]
fn two_processes_at_one_address_are_two_endpoints() {
    let first = slice("a", "", HTTP, "{addresses: [127.0.0.1]}");
    let second = slice("b", "", "{name: http, port: 8081}", "{addresses: [127.0.0.1]}");
    let (catalog, _) = build_text(&format!("{SERVICE}{first}{second}"));
    assert_eq!(reviews(&catalog).endpoints.len(), 2);
}

#[test]
fn draining_endpoints_serve_only_when_nothing_else_does() {
    let draining = "{addresses: [10.0.0.1], conditions: {ready: false, serving: true, terminating: true}}";
    let (catalog, _) = build_text(&format!("{SERVICE}{}", slice("a", "", HTTP, draining)));
    assert!(reviews(&catalog).endpoints[0].ready);
    let both = format!("{draining}, {{addresses: [10.0.0.2]}}");
    let (catalog, _) = build_text(&format!("{SERVICE}{}", slice("a", "", HTTP, &both)));
    let ready: Vec<bool> = reviews(&catalog).endpoints.iter().map(|endpoint| endpoint.ready).collect();
    assert_eq!(ready, [false, true]);
}

#[test]
fn endpoints_of_a_service_are_bounded() {
    let slices: String = (0..11)
        .map(|part| {
            let endpoints: Vec<String> =
                (0..1_000).map(|n| format!("{{addresses: [10.{part}.{}.{}]}}", n / 250, n % 250)).collect();
            slice(&format!("s{part}"), "", HTTP, &endpoints.join(","))
        })
        .collect();
    let (catalog, mismatches) = build_text(&format!("{SERVICE}{slices}"));
    assert_eq!(reviews(&catalog).endpoints.len(), ENDPOINTS_PER_SERVICE_MAX);
    assert!(mismatches[0].contains("11000 endpoints"), "{mismatches:?}");
}

/// A route for `reviews` with as many matches as are asked for, in whole rules.
fn route(name: &str, matches: usize) -> String {
    let rules = "  - matches: [{}]\n".replace("{}", &vec!["{path: {value: /a}}"; 64].join(", ")).repeat(matches / 64);
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: shop}}
spec:
  parentRefs: [{{group: \"\", kind: Service, name: reviews, port: 9080}}]
  rules:
{rules}"
    )
}

#[test]
fn a_route_for_a_service_is_in_the_catalog_as_far_as_there_is_room() {
    let text = format!("{SERVICE}{}{}{}", route("a", 512), route("b", 512), route("c", 64));
    let (catalog, mismatches) = build_text(&text);
    let names: Vec<&str> = catalog.routes.keys().map(|name| name.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    let service: ServiceName = "shop/reviews".parse().expect("valid");
    let table = ByService::of(&catalog.routes).table(&service);
    assert_eq!(table.routes().len(), 2);
    assert!(table.for_port(9080).is_some() && table.for_port(9000).is_none());
    assert_eq!(mismatches.len(), 1, "{mismatches:?}");
    assert!(mismatches[0].starts_with("HttpRoute shop/c: it is not used for shop/reviews"), "{mismatches:?}");
}

#[test]
fn a_route_for_a_port_that_takes_no_requests_is_told_so() {
    let at = |port| route("a", 64).replace("port: 9080", &format!("port: {port}"));
    for (port, expected) in [
        (9080, None),
        (9000, Some("port 9000 of shop/reviews takes no requests")),
        (8080, Some("port 8080 of shop/reviews is not there: check parentRefs.port")),
    ] {
        let (_, mismatches) = build_text(&format!("{SERVICE}{}", at(port)));
        assert_eq!(mismatches.len(), usize::from(expected.is_some()), "{mismatches:?}");
        assert!(expected.is_none_or(|expected| mismatches[0].contains(expected)), "{mismatches:?}");
    }
    let (_, mismatches) = build_text(&at(8080));
    assert!(mismatches.is_empty(), "another cluster's may have it: {mismatches:?}");
}
