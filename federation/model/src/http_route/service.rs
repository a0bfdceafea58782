//! The routes of services: what the own cluster's clients go by where they call one.
//!
//! They are rules of those who call, applied at their side, and say nothing about who may: nothing that has to be kept out
//! hangs on them.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use super::table::{Entry, Request, entries, first, has_part, order};
use super::{Action, Condition, HeaderChange, HttpRoute, Match, Parent, PathMatch, PathRewrite, Rule};
use crate::name::{NamespacedName, ServiceName};

/// Matches of all routes of one service. A request may be compared with each of them; the Gateway API allows 128 of a single
/// route.
pub const MATCHES_PER_SERVICE_MAX: usize = 1_024;
/// The text in all routes of one service: 256 bytes for each match. A sidecar is told all of it in one message, with its other
/// services.
pub const TEXT_PER_SERVICE_MAX: usize = 256 * 1024;

/// The routes of one service, in the order of precedence. A copy costs nothing, and neither do none.
#[derive(Clone, Debug, Default)]
pub struct ServiceRoutes(Option<Arc<Table>>);

#[derive(Debug)]
struct Table {
    routes: Vec<ServiceRoute>,
    /// What follows from the routes.
    entries: Vec<Entry<Arc<[u16]>>>,
}

/// A route, as far as it is about one service.
#[derive(Clone, Debug)]
pub struct ServiceRoute {
    /// The service's ports that it is for, sorted; none means all.
    pub ports: Arc<[u16]>,
    /// What to do with requests.
    pub rules: Arc<[Rule]>,
}

/// More routes than a service can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "all routes of a service have {} matches and {} bytes of text at most",
    MATCHES_PER_SERVICE_MAX,
    TEXT_PER_SERVICE_MAX
)]
pub struct TooLarge;

impl PartialEq for ServiceRoute {
    fn eq(&self, other: &Self) -> bool {
        self.ports == other.ports && (Arc::ptr_eq(&self.rules, &other.rules) || self.rules == other.rules)
    }
}

impl Eq for ServiceRoute {}

impl PartialEq for ServiceRoutes {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(own), Some(other)) => Arc::ptr_eq(own, other) || own.routes == other.routes,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }
}

impl Eq for ServiceRoutes {}

impl ServiceRoutes {
    /// The table of `routes`, which are in the order of their names.
    ///
    /// # Errors
    /// When they are more than a service can have.
    pub fn new(routes: Vec<ServiceRoute>) -> Result<Self, TooLarge> {
        let mut size = Size::default();
        if routes.iter().all(|route| size.takes(&route.rules)) { Ok(Self::of(routes)) } else { Err(TooLarge) }
    }

    /// What matches nothing is left out: it says nothing.
    fn of(mut routes: Vec<ServiceRoute>) -> Self {
        routes.retain(|route| route.rules.iter().any(|rule| !rule.matches.is_empty()));
        if routes.is_empty() {
            return Self(None);
        }
        let mut all: Vec<_> = routes.iter().flat_map(|route| entries(&route.rules, &route.ports)).collect();
        order(&mut all);
        Self(Some(Arc::new(Table { routes, entries: all })))
    }

    /// The routes, in the order in which they were given.
    #[must_use]
    pub fn routes(&self) -> &[ServiceRoute] {
        self.0.as_ref().map_or(&[], |table| &table.routes)
    }

    /// The routes for a port; `None` where there are none, so that a request goes to the service itself.
    #[must_use]
    pub fn for_port(&self, port: u16) -> Option<PortRoutes<'_>> {
        let entries = &self.0.as_ref()?.entries;
        has_part(entries, |ports| is_among(port, ports)).then_some(PortRoutes { entries, port })
    }
}

fn is_among(port: u16, ports: &[u16]) -> bool {
    ports.is_empty() || ports.contains(&port)
}

/// The routes of one port of a service, of which there is at least one.
#[derive(Clone, Copy, Debug)]
pub struct PortRoutes<'a> {
    entries: &'a [Entry<Arc<[u16]>>],
    port: u16,
}

impl<'a> PortRoutes<'a> {
    /// The rule that holds for a request, and which path it matched by. `None`: no rule is for it.
    #[must_use]
    pub fn find(&self, request: &impl Request) -> Option<(&'a Rule, &'a PathMatch)> {
        first(self.entries, |ports| is_among(self.port, ports), request)
    }
}

/// How much some routes are.
#[derive(Debug, Default)]
struct Size {
    matches: usize,
    text: usize,
}

impl Size {
    /// Adds a route's rules. Whether a service can have all that were added.
    fn takes(&mut self, rules: &[Rule]) -> bool {
        self.matches += rules.iter().map(|rule| rule.matches.len()).sum::<usize>();
        self.text += rules.iter().map(text_of).sum::<usize>();
        self.matches <= MATCHES_PER_SERVICE_MAX && self.text <= TEXT_PER_SERVICE_MAX
    }
}

fn text_of(rule: &Rule) -> usize {
    let conditions = |all: &[Condition]| all.iter().map(|one| one.name.len() + one.value.len()).sum::<usize>();
    let change = |change: &HeaderChange| {
        let removed: usize = change.remove.iter().map(String::len).sum();
        conditions(&change.set) + conditions(&change.add) + removed
    };
    let matched = |condition: &Match| {
        let (PathMatch::Exact(path) | PathMatch::Prefix(path)) = &condition.path;
        path.len() + conditions(&condition.headers) + conditions(&condition.query)
    };
    let rewrite = |rewrite: &Option<PathRewrite>| match rewrite {
        Some(PathRewrite::Full(path) | PathRewrite::Prefix(path)) => path.len(),
        None => 0,
    };
    let action = match &rule.action {
        Action::Forward(backends) => {
            let names =
                backends.iter().map(|one| one.service.namespace.as_str().len() + one.service.name.as_str().len());
            names.sum()
        }
        Action::Redirect(to) => to.host.as_ref().map_or(0, String::len) + rewrite(&to.path),
    };
    let matches: usize = rule.matches.iter().map(matched).sum();
    matches + change(&rule.request_headers) + change(&rule.response_headers) + rewrite(&rule.rewrite) + action
}

/// The routes of a cluster by name, as its catalog has them.
type Named = OrdMap<NamespacedName, Arc<HttpRoute>>;

/// The routes that differ, each as it was before and as it is now.
pub fn changed<'a>(
    before: &'a Named,
    now: &'a Named,
) -> impl Iterator<Item = (&'a NamespacedName, Option<&'a HttpRoute>, Option<&'a HttpRoute>)> {
    before.diff(now).map(|item| match item {
        DiffItem::Add(name, is) => (name, None, Some(&**is)),
        DiffItem::Remove(name, was) => (name, Some(&**was), None),
        DiffItem::Update { old: (_, was), new: (name, is) } => (name, Some(&**was), Some(&**is)),
    })
}

/// All routes of a cluster by the services that they are for. A copy costs nothing.
#[derive(Clone, Debug, Default)]
pub struct ByService(OrdMap<Place, ServiceRoute>);

/// A service, and the name of one of its routes; without a name, its routes begin.
type Place = (ServiceName, Option<NamespacedName>);

impl ByService {
    /// Those of a catalog.
    #[must_use]
    pub fn of(routes: &Named) -> Self {
        let mut all = Self::default();
        all.follow(&Named::new(), routes);
        all
    }

    /// Takes over what changed in the catalog.
    pub fn follow(&mut self, before: &Named, now: &Named) {
        for (name, was, is) in changed(before, now) {
            for service in was.into_iter().flat_map(HttpRoute::services) {
                self.0.remove(&(service.clone(), Some(name.clone())));
            }
            let Some(route) = is else { continue };
            for service in route.services() {
                self.0.insert((service.clone(), Some(name.clone())), part(route, service));
            }
        }
    }

    /// The routes of a service: of more than it can have, the first by name.
    #[must_use]
    pub fn table(&self, service: &ServiceName) -> ServiceRoutes {
        let mut size = Size::default();
        let all = self.0.range((service.clone(), None)..).take_while(|((of, _), _)| of == service);
        let taken = all.map(|(_, route)| route).take_while(|route| size.takes(&route.rules));
        ServiceRoutes::of(taken.cloned().collect())
    }

    /// The routes that are more than their service can have, and are not used for it.
    pub fn left_out(&self) -> impl Iterator<Item = (&ServiceName, &NamespacedName)> {
        let (mut size, mut last) = (Size::default(), None);
        self.0.iter().filter_map(move |((service, name), route)| {
            if last != Some(service) {
                (size, last) = (Size::default(), Some(service));
            }
            // Once it is too much, it stays so.
            if size.takes(&route.rules) { None } else { Some((service, name.as_ref()?)) }
        })
    }
}

/// What `route` says about one of its services.
fn part(route: &HttpRoute, of: &ServiceName) -> ServiceRoute {
    let asked = route.parents.iter().filter_map(|parent| match parent {
        Parent::Service { service, port } if service == of => Some(*port),
        Parent::Service { .. } | Parent::Gateway { .. } => None,
    });
    // One parent without a port is all ports.
    let ports: Option<BTreeSet<u16>> = asked.collect();
    ServiceRoute { ports: ports.unwrap_or_default().into_iter().collect(), rules: route.rules.clone() }
}
