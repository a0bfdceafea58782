//! Which `apiVersion` and `kind` is what.

use super::Kind;

/// What is known of a kind.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Class {
    Catalog(Kind),
    List,
    Unused,
    /// A kind of the catalog in a version that is not read. Says which one is.
    WrongVersion(&'static str),
    /// Not a kind of its group, which is one of the catalog's: a slip of the pen.
    Misspelt,
    Unknown,
}

/// The kinds of the catalog: group, kind, versions that are read, and how to write the newest.
const CATALOG_KINDS: &[(&str, &str, &[&str], &str, Kind)] = &[
    ("", "Service", &["v1"], "v1", Kind::Service),
    ("discovery.k8s.io", "EndpointSlice", &["v1"], "discovery.k8s.io/v1", Kind::EndpointSlice),
    (
        "multicluster.x-k8s.io",
        "ServiceExport",
        &["v1alpha1", "v1beta1"],
        "multicluster.x-k8s.io/v1beta1",
        Kind::ServiceExport,
    ),
    ("gateway.networking.k8s.io", "HTTPRoute", &["v1", "v1beta1"], "gateway.networking.k8s.io/v1", Kind::HttpRoute),
    (
        "networking.istio.io",
        "ServiceEntry",
        &["v1", "v1beta1", "v1alpha3"],
        "networking.istio.io/v1",
        Kind::ServiceEntry,
    ),
];

/// Kinds of the same groups that are kinds, and that nothing here understands.
const UNSUPPORTED_KINDS: &[(&str, &[&str])] = &[
    (
        "gateway.networking.k8s.io",
        &[
            "BackendTLSPolicy",
            "GRPCRoute",
            "Gateway",
            "GatewayClass",
            "ReferenceGrant",
            "TCPRoute",
            "TLSRoute",
            "UDPRoute",
        ],
    ),
    (
        "networking.istio.io",
        &[
            "DestinationRule",
            "EnvoyFilter",
            "Gateway",
            "ProxyConfig",
            "Sidecar",
            "VirtualService",
            "WorkloadEntry",
            "WorkloadGroup",
        ],
    ),
];

/// Kinds that applications are deployed with and that say nothing about who can be reached. Listed one by one
/// rather than by group, so that a misspelt kind is still found out.
const UNUSED_KINDS: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "ConfigMap",
            "Endpoints",
            "Event",
            "LimitRange",
            "Namespace",
            "Node",
            "PersistentVolume",
            "PersistentVolumeClaim",
            "Pod",
            "PodTemplate",
            "ReplicationController",
            "ResourceQuota",
            "Secret",
            "ServiceAccount",
        ],
    ),
    ("apps", &["ControllerRevision", "DaemonSet", "Deployment", "ReplicaSet", "StatefulSet"]),
    ("batch", &["CronJob", "Job"]),
    ("autoscaling", &["HorizontalPodAutoscaler"]),
    ("policy", &["PodDisruptionBudget"]),
    ("networking.k8s.io", &["Ingress", "IngressClass", "NetworkPolicy"]),
    ("rbac.authorization.k8s.io", &["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"]),
    ("storage.k8s.io", &["StorageClass"]),
    ("scheduling.k8s.io", &["PriorityClass"]),
    ("coordination.k8s.io", &["Lease"]),
    ("apiextensions.k8s.io", &["CustomResourceDefinition"]),
    // Made by MCS controllers out of exports, never by hand; copies of a cluster's objects contain it.
    ("multicluster.x-k8s.io", &["ServiceImport"]),
];

/// Looks a kind up. `api_version` is `version` or `group/version`.
pub(super) fn classify(api_version: &str, kind: &str) -> Class {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    if (group, version, kind) == ("", "v1", "List") {
        return Class::List;
    }
    if let Some((.., versions, newest, known)) = CATALOG_KINDS.iter().find(|(g, k, ..)| (*g, *k) == (group, kind)) {
        return if versions.contains(&version) { Class::Catalog(*known) } else { Class::WrongVersion(newest) };
    }
    if UNUSED_KINDS.iter().any(|(g, kinds)| *g == group && kinds.contains(&kind)) {
        return Class::Unused;
    }
    if UNSUPPORTED_KINDS.iter().any(|(g, kinds)| *g == group && kinds.contains(&kind)) {
        return Class::Unknown;
    }
    if CATALOG_KINDS.iter().any(|(g, ..)| *g == group) { Class::Misspelt } else { Class::Unknown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_apart_by_group_and_version() {
        for (api_version, kind, class) in [
            ("v1", "Service", Class::Catalog(Kind::Service)),
            ("discovery.k8s.io/v1", "EndpointSlice", Class::Catalog(Kind::EndpointSlice)),
            ("discovery.k8s.io/v1beta1", "EndpointSlice", Class::WrongVersion("discovery.k8s.io/v1")),
            ("multicluster.x-k8s.io/v1alpha1", "ServiceExport", Class::Catalog(Kind::ServiceExport)),
            ("multicluster.x-k8s.io/v1beta1", "ServiceExport", Class::Catalog(Kind::ServiceExport)),
            ("v1", "List", Class::List),
            ("apps/v1", "Deployment", Class::Unused),
            ("serving.knative.dev/v1", "Service", Class::Unknown),
            ("apps/v1", "Deploymnet", Class::Unknown),
            ("v1", "Servce", Class::Misspelt),
            ("v1", "service", Class::Misspelt),
            ("multicluster.x-k8s.io/v1beta1", "ServiceExprot", Class::Misspelt),
            ("gateway.networking.k8s.io/v1", "HTTPRoute", Class::Catalog(Kind::HttpRoute)),
            ("gateway.networking.k8s.io/v1", "Gateway", Class::Unknown),
            ("networking.istio.io/v1", "VirtualService", Class::Unknown),
            ("networking.istio.io/v1", "ServiceEntri", Class::Misspelt),
        ] {
            assert_eq!(classify(api_version, kind), class, "{api_version} {kind}");
        }
    }
}
