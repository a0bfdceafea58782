//! Where a request of HTTP goes by what it says: rules of routes, and which of them holds.
//!
//! The words and the order of precedence are the Gateway API's (`HTTPRoute`, `gateway.networking.k8s.io/v1`). A route is valid by
//! construction: whoever reads one, from a manifest or from a message, holds it to [`valid`]. Of several rules that match,
//! the most special one holds, whatever file it is from; [`Routes`] and [`ServiceRoutes`] have them in that order.
//!
//! A route is for requests from outside, by the gateway that takes them, or for those of the own cluster's clients to a
//! service (Gateway API for mesh, "GAMMA"), or for both.

mod service;
mod table;
pub mod valid;

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::name::{Label, ServiceName};

pub use service::{
    ByService, MATCHES_PER_SERVICE_MAX, PortRoutes, ServiceRoute, ServiceRoutes, TEXT_PER_SERVICE_MAX, TooLarge,
    changed,
};
pub use table::{Request, Routes};

/// Parents of one route, as the Gateway API has it.
pub const PARENTS_MAX: usize = 32;
/// Rules of one route, as the Gateway API has it.
pub const RULES_MAX: usize = 16;
/// Matches of one rule.
pub const MATCHES_MAX: usize = 64;
/// Headers, and parameters, of one match.
pub const CONDITIONS_MAX: usize = 16;
/// Backends of one rule.
pub const BACKENDS_MAX: usize = 16;
/// Host names of one route.
pub const HOSTNAMES_MAX: usize = 16;
/// The most that a backend can weigh.
pub const WEIGHT_MAX: u32 = 1_000_000;

/// A host name, or all below one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum HostPattern {
    /// This name.
    Exact(String),
    /// Names that have one label or more before this one (`*.example.com`).
    Below(String),
}

/// A host name that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a host name: use lower-case RFC 1123 labels joined by dots, with *. before them for all below")]
pub struct HostError(pub String);

impl FromStr for HostPattern {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        let (below, name) = text.strip_prefix("*.").map_or((false, text), |name| (true, name));
        let labels = name.split('.').all(|label| label.parse::<Label>().is_ok());
        // A name whose last label is a number would be read as an address (WHATWG URL, "ends in a number").
        let address = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
        if !labels || address || name.len() > 253 {
            return Err(HostError(text.to_owned()));
        }
        Ok(if below { Self::Below(name.to_owned()) } else { Self::Exact(name.to_owned()) })
    }
}

impl HostPattern {
    /// Whether `host`, in lower case and without a dot at its end, is meant.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => name == host,
            Self::Below(name) => {
                host.strip_suffix(name.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
        }
    }
}

/// Rules for hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpRoute {
    /// What it is for.
    pub parents: Vec<Parent>,
    /// The hosts; none means all. Of no meaning for services.
    pub hostnames: Vec<HostPattern>,
    /// What to do with requests.
    pub rules: Arc<[Rule]>,
}

/// What a route is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Parent {
    /// What comes to a gateway from outside.
    Gateway {
        /// The gateway's name.
        gateway: String,
        /// One of its listeners; none means all.
        section: Option<Scheme>,
    },
    /// What the own cluster's clients send to a service of the route's own namespace: one that could be about another namespace's
    /// service would let whoever writes it take that one's requests.
    Service {
        /// The service.
        service: ServiceName,
        /// One of its ports; none means all.
        port: Option<u16>,
    },
}

/// How a client speaks HTTP: each is a listener of a gateway, of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    /// As URIs have it.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that an authority without one means.
    #[must_use]
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl HttpRoute {
    /// The services that it is for. One may come twice.
    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.parents.iter().filter_map(|parent| match parent {
            Parent::Service { service, .. } => Some(service),
            Parent::Gateway { .. } => None,
        })
    }
}

/// What is done with requests that match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// It holds where one of these does.
    pub matches: Vec<Match>,
    /// What is changed in requests.
    pub request_headers: HeaderChange,
    /// What is changed in responses.
    pub response_headers: HeaderChange,
    /// What the request's path becomes.
    pub rewrite: Option<PathRewrite>,
    /// Where requests go.
    pub action: Action,
    /// How long a request may take until its response has begun. None: as long as it takes.
    pub timeout: Option<Duration>,
}

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// To one of these, by weight. To none if all weigh nothing.
    Forward(Vec<Backend>),
    /// Back to the client, with another location.
    Redirect(Redirect),
}

/// A service that requests go to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// Which.
    pub service: ServiceName,
    /// Its port.
    pub port: u16,
    /// Its part of all weights is its part of the requests.
    pub weight: u32,
}

/// What a request has to be, all of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Match {
    /// Its path.
    pub path: PathMatch,
    /// Its method.
    pub method: Option<String>,
    /// Its headers, by lower-case name.
    pub headers: Vec<Condition>,
    /// Parameters of its query.
    pub query: Vec<Condition>,
}

impl Default for Match {
    fn default() -> Self {
        Self { path: PathMatch::Prefix("/".to_owned()), method: None, headers: Vec::new(), query: Vec::new() }
    }
}

/// What the canonical path has to be ([`crate::path`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathMatch {
    /// This.
    Exact(String),
    /// This, or below it, segment by segment.
    Prefix(String),
}

impl PathMatch {
    /// Whether `path`, in its canonical form, is meant.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == exact,
            Self::Prefix(prefix) => after_prefix(prefix, path).is_some(),
        }
    }
}

/// What `path` has after `prefix`, which is whole segments of it.
fn after_prefix<'a>(prefix: &str, path: &'a str) -> Option<&'a str> {
    let rest = path.strip_prefix(prefix.trim_end_matches('/'))?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

/// A name and the value that it has to have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// The name.
    pub name: String,
    /// The value, to the byte.
    pub value: String,
}

/// What is changed in headers. Names are in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderChange {
    /// Written in place of what is there.
    pub set: Vec<Condition>,
    /// Written beside what is there.
    pub add: Vec<Condition>,
    /// Taken out.
    pub remove: Vec<String>,
}

/// Where a client is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redirect {
    /// Another scheme.
    pub scheme: Option<Scheme>,
    /// Another host.
    pub host: Option<String>,
    /// The port. None: that of `scheme` if it says one, else the listener's.
    pub port: Option<u16>,
    /// Another path.
    pub path: Option<PathRewrite>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// What a path becomes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathRewrite {
    /// This.
    Full(String),
    /// What matched by prefix becomes this, and the rest stays.
    Prefix(String),
}

impl PathRewrite {
    /// What `path`, in its canonical form, becomes where `matched` held.
    #[must_use]
    pub fn apply(&self, matched: &PathMatch, path: &str) -> String {
        match (self, matched) {
            (Self::Full(full), _) => full.clone(),
            (Self::Prefix(replacement), PathMatch::Prefix(prefix)) => {
                let rest = after_prefix(prefix, path).unwrap_or(path);
                let written = format!("{}{rest}", replacement.trim_end_matches('/'));
                if written.is_empty() { "/".to_owned() } else { written }
            }
            // Of a path that matched as a whole, nothing is left.
            (Self::Prefix(replacement), PathMatch::Exact(_)) => replacement.clone(),
        }
    }
}

impl Rule {
    /// The backend that a request gets whose random number is `random`. None if none weighs anything, or the rule does not forward.
    #[must_use]
    pub fn backend(&self, random: u64) -> Option<&Backend> {
        let Action::Forward(backends) = &self.action else { return None };
        let total: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
        let mut left = random.checked_rem(total)?;
        backends.iter().find(|backend| match left.checked_sub(u64::from(backend.weight)) {
            Some(rest) => {
                left = rest;
                false
            }
            None => true,
        })
    }
}

#[cfg(test)]
mod tests;
