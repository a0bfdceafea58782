use serde_json::json;

use super::*;

fn key_of(manifest: &Value) -> ObjectKey {
    match subject(manifest).expect("readable") {
        Subject::Known(key) => key,
        other => unreachable!("expected a known kind, got {other:?}"),
    }
}

#[test]
fn an_object_without_a_namespace_is_in_the_default_one() {
    let key = key_of(&json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "reviews"}}));
    assert_eq!(key.to_string(), "Service default/reviews");
}

#[test]
fn names_are_checked_by_kind() {
    let named = |kind: &str, api: &str, name: &str| {
        subject(&json!({"apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": "shop"}}))
    };
    assert!(named("EndpointSlice", "discovery.k8s.io/v1", "reviews.v1-x2").is_ok());
    assert!(named("EndpointSlice", "discovery.k8s.io/v1", "reviews..v1").is_err());
    assert!(named("Service", "v1", "reviews.v1").is_err());
    assert!(named("Service", "v1", "../../etc").is_err());
}

#[test]
fn what_is_no_object_is_told_so() {
    for manifest in [
        json!("text"),
        json!([1, 2]),
        json!({"kind": "Service"}),
        json!({"apiVersion": "v1", "kind": "Service"}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": 7}}),
        json!({"apiVersion": "discovery.k8s.io/v1beta1", "kind": "EndpointSlice", "metadata": {"name": "x"}}),
    ] {
        assert!(subject(&manifest).is_err(), "{manifest}");
    }
}

#[test]
fn misspelt_fields_are_reported_with_their_path() {
    let manifest = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "reviews", "labels": {"any": "thing"}},
        "spec": {"ports": [{"port": 80, "targtPort": 8080}], "selectr": {"app": "x"}, "clusterIP": null},
    });
    let mut warnings = Vec::new();
    check(&key_of(&manifest), &manifest, &Rules::default(), &mut warnings).expect("still usable");
    let reasons: String = warnings.iter().map(|warning| warning.reason.as_str()).collect();
    assert!(reasons.contains("spec.ports[0].targtPort") && reasons.contains("spec.selectr"), "{reasons}");
    assert_eq!(warnings.len(), 2);
}

#[test]
fn an_export_is_its_existence_and_other_fields_are_reported() {
    let manifest = json!({
        "apiVersion": "multicluster.x-k8s.io/v1alpha1", "kind": "ServiceExport",
        "metadata": {"name": "reviews", "namespace": "shop"}, "spec": {"exportedLabels": {}},
    });
    let mut warnings = Vec::new();
    let object = check(&key_of(&manifest), &manifest, &Rules::default(), &mut warnings).expect("valid");
    assert_eq!(object, Object::ServiceExport);
    assert!(warnings[0].reason.contains("field spec is not known"));
}
