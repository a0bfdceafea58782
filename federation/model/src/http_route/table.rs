//! All routes of one gateway, ordered so that the first that matches is the one that holds.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use imbl::OrdMap;

use super::{HostPattern, HttpRoute, Match, PathMatch, Rule, Scheme};
use crate::name::NamespacedName;

/// Routes by host, each host's in the order of precedence. A copy costs nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes(Arc<Hosts>);

#[derive(Debug, Default, PartialEq, Eq)]
struct Hosts {
    exact: HashMap<String, Vec<Entry>>,
    below: HashMap<String, Vec<Entry>>,
    any: Vec<Entry>,
}

/// One match of one rule.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    route: Arc<HttpRoute>,
    rule: usize,
    /// Which of the rule's matches; beyond them, the one that everything is.
    matched: usize,
    sections: Vec<Scheme>,
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
            let parents = || route.parents.iter().filter(|parent| parent.gateway == gateway);
            if parents().next().is_none() {
                continue;
            }
            let everywhere = parents().any(|parent| parent.section.is_none());
            let sections = [Scheme::Http, Scheme::Https].into_iter();
            let sections = sections.filter(|one| everywhere || parents().any(|parent| parent.section == Some(*one)));
            let sections: Vec<Scheme> = sections.collect();
            if route.hostnames.is_empty() {
                hosts.any.extend(entries(route, &sections));
            }
            for host in &route.hostnames {
                let of_host = match host {
                    HostPattern::Exact(name) => hosts.exact.entry(name.clone()).or_default(),
                    HostPattern::Below(name) => hosts.below.entry(name.clone()).or_default(),
                };
                of_host.extend(entries(route, &sections));
            }
        }
        // Stable: of equals, the route that comes first by name, and of its rules the first.
        hosts.exact.values_mut().chain(hosts.below.values_mut()).for_each(|of| of.sort_by_key(Entry::precedence));
        hosts.any.sort_by_key(Entry::precedence);
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
        let holds = |entry: &&Entry| entry.sections.contains(&section) && entry.condition().holds(request);
        let entry = self.of_host(section, host).iter().find(holds)?;
        let rule = entry.route.rules.get(entry.rule)?;
        Some((rule, &entry.condition().path))
    }

    fn of_host(&self, section: Scheme, host: &str) -> &[Entry] {
        let served = |entries: &&Vec<Entry>| entries.iter().any(|entry| entry.sections.contains(&section));
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

fn entries(route: &Arc<HttpRoute>, sections: &[Scheme]) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (number, rule) in route.rules.iter().enumerate() {
        let entry = |matched| Entry { route: route.clone(), rule: number, matched, sections: sections.to_vec() };
        entries.extend((0..rule.matches.len()).map(entry));
    }
    entries
}

impl Entry {
    fn condition(&self) -> &Match {
        &self.route.rules[self.rule].matches[self.matched]
    }

    /// Exact paths first, then the longest, then what names a method, the most headers, the most parameters.
    fn precedence(&self) -> impl Ord + use<> {
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
