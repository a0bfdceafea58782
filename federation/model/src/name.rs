//! Names of federations, clusters, namespaces and services, valid by construction.
//!
//! Every name is lower-case on the inside, so that equality of names is equality of bytes; parsing
//! refuses upper case instead of folding it where the source of the name is a manifest, a certificate
//! or a peer. Only host names typed by a client are folded, in [`ServiceName::from_host`].

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The zone of multi-cluster names (KEP-1645, DNS schema 1.0.0).
pub const CLUSTERSET_ZONE: &str = "clusterset.local";
/// The longest RFC 1123 label.
pub const LABEL_LEN_MAX: usize = 63;
/// The longest federation domain: leaves room for `<service>.<namespace>.svc.<cluster>.` within the
/// 253 characters of a host name.
pub const DOMAIN_LEN_MAX: usize = 56;

/// Why a string is not a name. The text says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not an RFC 1123 label.
    #[error(
        "{0:?} is not an RFC 1123 label: use 1 to 63 of a-z, 0-9 and '-', starting and ending with a letter or digit"
    )]
    Label(String),
    /// Not a federation domain or trust domain.
    #[error(
        "{0:?} is not a domain: use two or more RFC 1123 labels joined by dots, {DOMAIN_LEN_MAX} characters at most"
    )]
    Domain(String),
    /// Not `namespace/name`.
    #[error("{0:?} is not a service name: write namespace/name, for example shop/reviews")]
    Service(String),
    /// Not a SPIFFE ID of a kind that Isthmus issues.
    #[error("{0:?} is not a SPIFFE ID of this federation: {1}")]
    Spiffe(String, &'static str),
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    bytes.len() <= LABEL_LEN_MAX
        && bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.iter().all(|b| alphanumeric(b) || *b == b'-')
}

fn is_domain(text: &str) -> bool {
    text.len() <= DOMAIN_LEN_MAX && text.contains('.') && text.split('.').all(is_label)
}

/// Declares a name type over a shared string with one validity rule.
macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $valid:expr, $error:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) { Ok(Self(text.into())) } else { Err($error(text.to_owned())) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    };
}

name_type!(
    /// A lower-case RFC 1123 label: a namespace, a service account, a port name, a gateway's name.
    Label,
    is_label,
    NameError::Label
);
name_type!(
    /// A cluster's name: an RFC 1123 label, immutable while the cluster is a member.
    ClusterName,
    is_label,
    NameError::Label
);
name_type!(
    /// The DNS-like domain that names a federation, e.g. `acme.mesh`.
    FederationDomain,
    is_domain,
    NameError::Domain
);

impl FederationDomain {
    /// The trust domain of one of its clusters: `us-east.acme.mesh`.
    #[must_use]
    pub fn trust_domain(&self, cluster: &ClusterName) -> TrustDomain {
        TrustDomain { cluster: cluster.clone(), federation: self.clone() }
    }

    /// The SNI under which any gateway answers a join: `join.acme.mesh`. It cannot be a cluster's
    /// name, because a cluster's names have at least one more label.
    #[must_use]
    pub fn join_sni(&self) -> String {
        format!("join.{self}")
    }
}

/// A cluster's SPIFFE trust domain: one per cluster, directly below the federation domain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain {
    /// The cluster that the domain belongs to.
    pub cluster: ClusterName,
    /// The federation above it.
    pub federation: FederationDomain,
}

impl TrustDomain {
    /// The SNI of the cluster's gateways: `gateway.us-east.acme.mesh`.
    #[must_use]
    pub fn gateway_sni(&self) -> String {
        format!("gateway.{self}")
    }

    /// The SNI of a service in this cluster: `reviews.shop.svc.us-east.acme.mesh`.
    #[must_use]
    pub fn service_sni(&self, service: &ServiceName) -> String {
        format!("{}.{}.svc.{self}", service.name, service.namespace)
    }

    /// The service named by an SNI of this trust domain, if it has the form of
    /// [`service_sni`](Self::service_sni). Case is folded, as RFC 6066 §3 makes SNI case-insensitive.
    #[must_use]
    pub fn service_of_sni(&self, sni: &str) -> Option<ServiceName> {
        let sni = sni.to_ascii_lowercase();
        let host = sni.strip_suffix(&self.to_string())?.strip_suffix('.')?;
        parse_service_labels(host)
    }
}

impl FromStr for TrustDomain {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let error = || NameError::Domain(text.to_owned());
        let (cluster, federation) = text.split_once('.').ok_or_else(error)?;
        Ok(Self { cluster: cluster.parse()?, federation: federation.parse().map_err(|_| error())? })
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<TrustDomain> for String {
    fn from(domain: TrustDomain) -> String {
        domain.to_string()
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.cluster, self.federation)
    }
}

/// A service of the federation: the same namespace and name mean the same service in every cluster
/// (namespace sameness, KEP-1645). Written `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceName {
    /// The namespace.
    pub namespace: Label,
    /// The name within the namespace.
    pub name: Label,
}

impl ServiceName {
    /// The global host name: `reviews.shop.svc.clusterset.local`.
    #[must_use]
    pub fn host(&self) -> String {
        format!("{}.{}.svc.{CLUSTERSET_ZONE}", self.name, self.namespace)
    }

    /// The service that a client's host name means. Case and one trailing dot are folded;
    /// anything but exactly `<name>.<namespace>.svc.clusterset.local` is `None`.
    #[must_use]
    pub fn from_host(host: &str) -> Option<Self> {
        let host = host.strip_suffix('.').unwrap_or(host);
        if host.len() > 253 {
            return None;
        }
        let host = host.to_ascii_lowercase();
        parse_service_labels(host.strip_suffix(CLUSTERSET_ZONE)?.strip_suffix('.')?)
    }
}

/// Parses `<name>.<namespace>.svc`.
fn parse_service_labels(host: &str) -> Option<ServiceName> {
    let (name, namespace) = host.strip_suffix(".svc")?.split_once('.')?;
    Some(ServiceName { namespace: namespace.parse().ok()?, name: name.parse().ok()? })
}

impl FromStr for ServiceName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let (namespace, name) = text.split_once('/').ok_or_else(|| NameError::Service(text.to_owned()))?;
        Ok(Self { namespace: namespace.parse()?, name: name.parse()? })
    }
}

impl TryFrom<String> for ServiceName {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<ServiceName> for String {
    fn from(name: ServiceName) -> String {
        name.to_string()
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What an object of a kind is known by, where its name need not be a label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NamespacedName {
    /// Its namespace.
    pub namespace: Label,
    /// Its name: an RFC 1123 subdomain.
    pub name: String,
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(text: &str) -> ServiceName {
        text.parse().expect("valid")
    }

    #[test]
    fn labels_are_rfc_1123() {
        for good in ["a", "us-east", "0", "a1-b2", &"a".repeat(63)] {
            assert!(good.parse::<Label>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "ü", "a\0", &"a".repeat(64)] {
            assert!(bad.parse::<Label>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn hosts_fold_case_and_one_trailing_dot_only() {
        let reviews = service("shop/reviews");
        for host in ["reviews.shop.svc.clusterset.local", "Reviews.SHOP.svc.ClusterSet.local."] {
            assert_eq!(ServiceName::from_host(host), Some(reviews.clone()));
        }
        for host in [
            "reviews.shop.svc.clusterset.local..",
            "us-east.reviews.shop.svc.clusterset.local",
            "reviews.shop.clusterset.local",
            "shop.svc.clusterset.local",
            "reviews.shop.svc.clusterset.localx",
            "reviews.shop.svcclusterset.local",
        ] {
            assert_eq!(ServiceName::from_host(host), None, "{host}");
        }
    }

    #[test]
    fn sni_names_round_trip_and_stay_in_their_trust_domain() {
        let federation: FederationDomain = "acme.mesh".parse().expect("valid");
        let east = federation.trust_domain(&"us-east".parse().expect("valid"));
        let west = federation.trust_domain(&"us-west".parse().expect("valid"));
        let sni = east.service_sni(&service("shop/reviews"));
        assert_eq!(sni, "reviews.shop.svc.us-east.acme.mesh");
        assert_eq!(east.service_of_sni(&sni), Some(service("shop/reviews")));
        assert_eq!(west.service_of_sni(&sni), None);
        assert_eq!(east.service_of_sni(&east.gateway_sni()), None);
    }
}
