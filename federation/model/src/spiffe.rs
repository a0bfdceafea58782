//! SPIFFE IDs (SPIFFE-ID spec) of the two kinds that a federation issues.
//!
//! Parsing is strict and literal: no percent-decoding, no case folding, no dot segments. Anything else
//! in a certificate is not an identity of this federation.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::{Label, NameError, TrustDomain};

/// A workload's name within its cluster: namespace and service account.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkloadName {
    /// The namespace.
    pub namespace: Label,
    /// The service account.
    pub service_account: Label,
}

impl FromStr for WorkloadName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let (namespace, account) = text.split_once('/').ok_or_else(|| NameError::Service(text.to_owned()))?;
        Ok(Self { namespace: namespace.parse()?, service_account: account.parse()? })
    }
}

impl TryFrom<String> for WorkloadName {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<WorkloadName> for String {
    fn from(name: WorkloadName) -> String {
        name.to_string()
    }
}

impl fmt::Display for WorkloadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.service_account)
    }
}

/// What holds an identity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Principal {
    /// `/ns/<namespace>/sa/<service account>`.
    Workload(WorkloadName),
    /// `/gateway/<name>`: may speak to other gateways, which a workload may not.
    Gateway(Label),
}

/// A SPIFFE ID of this federation: a principal within a cluster's trust domain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    /// The trust domain that vouches for it.
    pub trust_domain: TrustDomain,
    /// Who it is.
    pub principal: Principal,
}

impl SpiffeId {
    /// The identity of a workload.
    #[must_use]
    pub fn workload(trust_domain: TrustDomain, workload: WorkloadName) -> Self {
        Self { trust_domain, principal: Principal::Workload(workload) }
    }

    /// The identity of a gateway.
    #[must_use]
    pub fn gateway(trust_domain: TrustDomain, gateway: Label) -> Self {
        Self { trust_domain, principal: Principal::Gateway(gateway) }
    }

    /// The workload whose identity this is.
    #[must_use]
    pub fn as_workload(&self) -> Option<&WorkloadName> {
        match &self.principal {
            Principal::Workload(workload) => Some(workload),
            Principal::Gateway(_) => None,
        }
    }

    /// Whether this is a gateway's identity.
    #[must_use]
    pub fn is_gateway(&self) -> bool {
        matches!(self.principal, Principal::Gateway(_))
    }
}

/// Reads `spiffe://<trust domain>` without a path: what a signing certificate carries.
///
/// # Errors
/// [`NameError::Spiffe`] for anything else.
pub fn parse_trust_domain_uri(uri: &str) -> Result<TrustDomain, NameError> {
    let authority = uri
        .strip_prefix("spiffe://")
        .ok_or_else(|| NameError::Spiffe(uri.to_owned(), "it does not start with spiffe://"))?;
    authority.parse().map_err(|_| NameError::Spiffe(uri.to_owned(), "expected a trust domain without a path"))
}

impl FromStr for SpiffeId {
    type Err = NameError;
    fn from_str(uri: &str) -> Result<Self, NameError> {
        let error = |why| NameError::Spiffe(uri.to_owned(), why);
        let rest = uri.strip_prefix("spiffe://").ok_or_else(|| error("it does not start with spiffe://"))?;
        let (authority, path) = rest.split_once('/').ok_or_else(|| error("it has no path"))?;
        let trust_domain = authority.parse().map_err(|_| error("its trust domain is not <cluster>.<federation>"))?;
        let label = |text: &str| text.parse::<Label>().map_err(|_| error("a path segment is not an RFC 1123 label"));
        let segments: Vec<&str> = path.split('/').collect();
        let principal = match segments.as_slice() {
            ["ns", namespace, "sa", account] => {
                Principal::Workload(WorkloadName { namespace: label(namespace)?, service_account: label(account)? })
            }
            ["gateway", name] => Principal::Gateway(label(name)?),
            _ => return Err(error("its path is neither /ns/<namespace>/sa/<account> nor /gateway/<name>")),
        };
        Ok(Self { trust_domain, principal })
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> String {
        id.to_string()
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}", self.trust_domain)?;
        match &self.principal {
            Principal::Workload(workload) => {
                write!(f, "/ns/{}/sa/{}", workload.namespace, workload.service_account)
            }
            Principal::Gateway(name) => write!(f, "/gateway/{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_round_trip() {
        for id in ["spiffe://us-east.acme.mesh/ns/shop/sa/reviews", "spiffe://us-east.acme.mesh/gateway/gw-1"] {
            assert_eq!(id.parse::<SpiffeId>().expect(id).to_string(), id);
        }
    }

    #[test]
    fn look_alikes_are_refused() {
        for id in [
            "spiffe://US-EAST.acme.mesh/ns/shop/sa/reviews",
            "SPIFFE://us-east.acme.mesh/ns/shop/sa/reviews",
            "spiffe://us-east.acme.mesh/ns/shop/sa/reviews/",
            "spiffe://us-east.acme.mesh//ns/shop/sa/reviews",
            "spiffe://us-east.acme.mesh/ns/shop/../sa/reviews",
            "spiffe://us-east.acme.mesh/ns/sh%6fp/sa/reviews",
            "spiffe://us-east.acme.mesh/ns/shop/sa/reviews?x",
            "spiffe://us-east.acme.mesh/ns/shop/sa/reviews#x",
            "spiffe://us-east.acme.mesh:443/ns/shop/sa/reviews",
            "spiffe://user@us-east.acme.mesh/ns/shop/sa/reviews",
            "spiffe://us-east.acme.mesh./ns/shop/sa/reviews",
            "spiffe://*.acme.mesh/ns/shop/sa/reviews",
            "spiffe://us-east.acme.mesh/ns//sa/reviews",
            "spiffe://us-east.acme.mesh/ns/shop/sa/rev\r\niews",
            "spiffe://mesh/ns/shop/sa/reviews",
            "spiffe://us-east.acme.mesh",
            "https://us-east.acme.mesh/ns/shop/sa/reviews",
        ] {
            assert!(id.parse::<SpiffeId>().is_err(), "{id}");
        }
    }

    #[test]
    fn a_signing_uri_has_no_path() {
        assert!(parse_trust_domain_uri("spiffe://us-east.acme.mesh").is_ok());
        assert!(parse_trust_domain_uri("spiffe://us-east.acme.mesh/").is_err());
        assert!(parse_trust_domain_uri("spiffe://us-east.acme.mesh/ns/a/sa/b").is_err());
    }
}
