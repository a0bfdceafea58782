//! Matches in the order of precedence, and all routes of one gateway.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use imbl::OrdMap;

use super::{HostPattern, HttpRoute, Match, Parent, PathMatch, Rule, Scheme};
use crate::name::NamespacedName;

/// Routes by host, each host's in the order of precedence. A copy costs nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes(Arc<Hosts>);

#[derive(Debug, Default, PartialEq, Eq)]
struct Hosts {
    exact: HashMap<String, Vec<Sectioned>>,
    below: HashMap<String, Vec<Sectioned>>,
    any: Vec<Sectioned>,
}

/// A match, and the gateway's listeners that it is for.
type Sectioned = Entry<Vec<Scheme>>;

/// One match of one rule, and what of a parent it is for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry<P> {
    rules: Arc<[Rule]>,
    rule: usize,
    matched: usize,
    part: P,
}

/// What a request says, as far as rules ask for it.
pub trait Request {
    /// The canonical path.
    fn path(&self) -> &str;
    /// The method.
    fn method(&self) -> &str;
    /// Whether a header, by its lower-case name, has this value: of several, one after the other with commas between them.
    fn has_header(&self, name: &str, value: &str) -> bool;
    /// Whether the first parameter of this name in the query has this value.
    fn has_parameter(&self, name: &str, value: &str) -> bool;
}

impl Routes {
    /// The routes that are for `gateway`.
    #[must_use]
    pub fn of(routes: &OrdMap<NamespacedName, Arc<HttpRoute>>, gateway: &str) -> Self {
        let mut hosts = Hosts::default();
        for route in routes.values() {
            let asked = route.parents.iter().filter_map(|parent| match parent {
                Parent::Gateway { gateway: named, section } if named == gateway => Some(*section),
                Parent::Gateway { .. } | Parent::Service { .. } => None,
            });
            let asked: Vec<Option<Scheme>> = asked.collect();
            let sections = [Scheme::Http, Scheme::Https].into_iter();
            let sections = sections.filter(|one| asked.contains(&None) || asked.contains(&Some(*one)));
            let sections: Vec<Scheme> = sections.collect();
            if sections.is_empty() {
                continue;
            }
            if route.hostnames.is_empty() {
                hosts.any.extend(entries(&route.rules, &sections));
            }
            for host in &route.hostnames {
                let of_host = match host {
                    HostPattern::Exact(name) => hosts.exact.entry(name.clone()).or_default(),
                    HostPattern::Below(name) => hosts.below.entry(name.clone()).or_default(),
                };
                of_host.extend(entries(&route.rules, &sections));
            }
        }
        hosts.exact.values_mut().chain(hosts.below.values_mut()).for_each(|of| order(of));
        order(&mut hosts.any);
        Self(Arc::new(hosts))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.exact.is_empty() && self.0.below.is_empty() && self.0.any.is_empty()
    }

    /// The rule that holds for a request to `host`, in lower case and without a dot at its end, on a listener; and which path it
    /// matched by. The most special host that there are rules for decides, also when none of them matches.
    #[must_use]
    pub fn find(&self, section: Scheme, host: &str, request: &impl Request) -> Option<(&Rule, &PathMatch)> {
        first(self.of_host(section, host), |sections| sections.contains(&section), request)
    }

    fn of_host(&self, section: Scheme, host: &str) -> &[Sectioned] {
        let served = |entries: &&Vec<Sectioned>| has_part(entries, |sections| sections.contains(&section));
        if let Some(exact) = self.0.exact.get(host).filter(served) {
            return exact;
        }
        let mut rest = host;
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(below) = self.0.below.get(parent).filter(served) {
                return below;
            }
            rest = parent;
        }
        &self.0.any
    }
}

/// All matches of a route's rules.
pub(super) fn entries<P: Clone>(rules: &Arc<[Rule]>, part: &P) -> impl Iterator<Item = Entry<P>> {
    let matches = rules.iter().enumerate().flat_map(|(rule, of)| (0..of.matches.len()).map(move |one| (rule, one)));
    matches.map(|(rule, matched)| Entry { rules: rules.clone(), rule, matched, part: part.clone() })
}

/// Brings matches into the order of precedence. Stable: of equals, the route that comes first by name, and of its rules the
/// first.
pub(super) fn order<P>(entries: &mut [Entry<P>]) {
    entries.sort_by_key(Entry::precedence);
}

/// Whether any match is for a part of the parent.
pub(super) fn has_part<P>(entries: &[Entry<P>], is_meant: impl Fn(&P) -> bool) -> bool {
    entries.iter().any(|entry| is_meant(&entry.part))
}

/// The rule that holds for a request to a part of the parent, and which path it matched by.
pub(super) fn first<'a, P>(
    entries: &'a [Entry<P>],
    is_meant: impl Fn(&P) -> bool,
    request: &impl Request,
) -> Option<(&'a Rule, &'a PathMatch)> {
    let entry = entries.iter().find(|entry| is_meant(&entry.part) && entry.condition().holds(request))?;
    Some((&entry.rules[entry.rule], &entry.condition().path))
}

impl<P> Entry<P> {
    fn condition(&self) -> &Match {
        &self.rules[self.rule].matches[self.matched]
    }

    /// Exact paths first, then the longest, then what names a method, the most headers, the most parameters.
    fn precedence(&self) -> impl Ord + use<P> {
        let condition = self.condition();
        let (exact, length) = match &condition.path {
            PathMatch::Exact(path) => (true, path.len()),
            PathMatch::Prefix(path) => (false, path.trim_end_matches('/').len()),
        };
        let conditions = (condition.headers.len(), condition.query.len());
        Reverse((exact, length, condition.method.is_some(), conditions))
    }
}

impl Match {
    fn holds(&self, request: &impl Request) -> bool {
        self.path.matches(request.path())
            && self.method.as_deref().is_none_or(|method| method == request.method())
            && self.headers.iter().all(|header| request.has_header(&header.name, &header.value))
            && self.query.iter().all(|parameter| request.has_parameter(&parameter.name, &parameter.value))
    }
}
