//! Who may call what, by the rules of the cluster where a call lands.
//!
//! The words and the order are Istio's (`AuthorizationPolicy`, `security.istio.io/v1`): a request that a policy denies is denied;
//! otherwise, where policies allow anything, one of them has to allow it; otherwise it may. All of that comes after the default
//! ([`crate::policy`]), which no rule here can loosen.
//!
//! What is not known is decided against the caller: what only a request of HTTP has is in doubt for bytes, and a path that different
//! readers read in different ways is denied if one of the readings is, and allowed if all are.
//!
//! Rules are valid by construction as far as their texts go ([`Pattern`]); whoever reads them from elsewhere asks
//! [`Ruleset::check`] for their bounds. Conditions that are not here yet (Istio's `when`, `ipBlocks`, `requestPrincipals`, `hosts`)
//! come with a later [`FORM`], so that nobody takes rules without them for all there is.

mod judge;
mod pattern;
mod reading;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::name::{Label, ServiceName};
use crate::spiffe::WorkloadName;

pub use judge::{Asking, Denial, Http, Permitted, judge};
pub use pattern::{PATTERN_BYTES_MAX, Pattern, PatternError};

/// The latest form of rules that this version understands. It grows with each further kind of condition: a data plane of an
/// earlier form would leave that one out, and let in more than the rule says. Before the first there were no rules.
pub const FORM: u32 = 1;
/// Rules, sources, operations and values of one policy, together: each request may be compared with all of them.
pub const SIZE_MAX: usize = 4_096;

/// A policy, and whom it is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authorization {
    /// It is about the workloads that one of these selects.
    pub selects: Vec<Selector>,
    /// What it says.
    pub says: Arc<Ruleset>,
}

/// Workloads of the own cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Selector {
    /// All. A sidecar's view has only policies that are about its workload, and all of them as this.
    All,
    /// Those of a namespace.
    Namespace(Label),
    /// Those that run as this.
    Workload(WorkloadName),
    /// The instances of a service, by whatever name they are called.
    Service(ServiceName),
}

/// What becomes of requests that match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// They may, and of those that no such policy allows none may.
    Allow,
    /// They may not, whatever else allows them.
    Deny,
}

/// What a policy says. Without rules it matches nothing: such a one that allows lets nobody in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ruleset {
    /// What becomes of requests that one of the rules matches.
    pub action: Action,
    /// The rules.
    pub rules: Vec<Rule>,
}

/// What a request has to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// From one of these; none means from anybody.
    pub from: Vec<Source>,
    /// For one of these; none means for anything.
    pub to: Vec<Operation>,
}

/// Who calls: all of it. Without an identity nobody is anything of it, and whoever is excluded may be behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The caller's SPIFFE ID.
    pub principals: Choice<Pattern>,
    /// The namespace of the workload that calls. A gateway has none.
    pub namespaces: Choice<Pattern>,
    /// The cluster that vouches for the caller.
    pub clusters: Choice<Pattern>,
}

/// What is called: all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// The service by which the workload is called.
    pub services: Choice<ServiceName>,
    /// The port on which the application listens.
    pub ports: Choice<u16>,
    /// The method of a request of HTTP. A websocket is asked for by GET.
    pub methods: Choice<Pattern>,
    /// Its path, in canonical form and without the query.
    pub paths: Choice<Pattern>,
}

/// One of some values, and none of others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice<T> {
    /// One of these; none means any.
    pub of: Vec<T>,
    /// None of these.
    pub not: Vec<T>,
}

impl<T> Default for Choice<T> {
    fn default() -> Self {
        Self { of: Vec::new(), not: Vec::new() }
    }
}

impl<T> Choice<T> {
    /// One of these.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = T>) -> Self {
        Self { of: values.into_iter().collect(), not: Vec::new() }
    }

    /// None of these.
    #[must_use]
    pub fn not(values: impl IntoIterator<Item = T>) -> Self {
        Self { of: Vec::new(), not: values.into_iter().collect() }
    }

    /// Whether it says nothing.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.of.is_empty() && self.not.is_empty()
    }

    fn holds(&self, is: impl Fn(&T) -> bool) -> bool {
        (self.of.is_empty() || self.of.iter().any(&is)) && !self.not.iter().any(&is)
    }

    fn size(&self) -> usize {
        self.of.len() + self.not.len()
    }
}

/// A policy that is too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it has {0} rules, sources, operations and values; {SIZE_MAX} together are possible: split it")]
pub struct TooLarge(pub usize);

impl Ruleset {
    /// Whether it is within its bounds.
    ///
    /// # Errors
    /// [`TooLarge`].
    pub fn check(&self) -> Result<(), TooLarge> {
        let size = self.rules.iter().map(Rule::size).sum();
        if size <= SIZE_MAX { Ok(()) } else { Err(TooLarge(size)) }
    }

    /// Whether any of its rules asks for a path.
    #[must_use]
    pub fn is_about_paths(&self) -> bool {
        self.rules.iter().flat_map(|rule| &rule.to).any(|operation| !operation.paths.is_any())
    }
}

impl Rule {
    fn size(&self) -> usize {
        let from = self.from.iter().map(|source| {
            let Source { principals, namespaces, clusters } = source;
            1 + principals.size() + namespaces.size() + clusters.size()
        });
        let to = self.to.iter().map(|operation| {
            let Operation { services, ports, methods, paths } = operation;
            1 + services.size() + ports.size() + methods.size() + paths.size()
        });
        1 + from.sum::<usize>() + to.sum::<usize>()
    }
}

#[cfg(test)]
mod tests;
