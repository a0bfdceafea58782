//! One service's traffic: its plans, kept between requests, and the choice within them.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use isthmus_model::catalog::ENDPOINTS_PER_SERVICE_MAX;
use isthmus_model::locality::Proximity;
use isthmus_model::name::ServiceName;
use isthmus_model::route::{Destination, DestinationKey, Level, Plan, plan};
use isthmus_model::snapshot::Service;

use super::budget::RetryBudget;
use super::ejection::Failure;
use super::load::{Load, Target, lighter};
use super::tried::Tried;
use crate::metrics::{Metrics, ServiceLabels};

/// Destinations remembered per service before those that left the plans are forgotten.
const TARGETS_MAX: usize = 2 * ENDPOINTS_PER_SERVICE_MAX;

/// The traffic of one service.
#[derive(Debug)]
pub struct Traffic {
    service: ServiceName,
    metrics: Arc<Metrics>,
    targets: Mutex<HashMap<DestinationKey, Arc<Target>>>,
    /// One per port; ports are bounded by the model.
    plans: Mutex<HashMap<u16, Arc<Planned>>>,
    /// Counts ejections and readmissions: a plan of an older count is stale.
    turn: AtomicU64,
    budget: Mutex<RetryBudget>,
}

/// A plan with the shared state of its destinations, level by level.
#[derive(Debug)]
struct Planned {
    /// What it was made from; compared by address, which holding it keeps unique.
    service: Arc<Service>,
    turn: u64,
    /// When the first ejection runs out.
    expires: Option<Instant>,
    plan: Plan,
    levels: Vec<Vec<Candidate>>,
}

#[derive(Debug)]
struct Candidate {
    weight: u32,
    target: Arc<Target>,
}

/// A destination chosen for one attempt.
#[derive(Debug)]
pub struct Pick {
    /// Where to.
    pub destination: Destination,
    pub(super) proximity: Proximity,
    traffic: Arc<Traffic>,
    load: Load,
}

impl Pick {
    /// Its identity.
    #[must_use]
    pub fn key(&self) -> &DestinationKey {
        &self.load.0.key
    }

    /// The destination answered.
    pub fn succeeded(&self) {
        let target = &self.load.0;
        if target.is_marked() && target.change(super::ejection::Record::succeed) {
            self.traffic.turn.fetch_add(1, Ordering::AcqRel);
            tracing::info!(service = %self.traffic.service, destination = ?target.key, "answers again");
        }
    }

    /// The destination failed.
    pub fn failed(&self, failure: Failure, now: Instant) {
        let target = &self.load.0;
        let Some(ejected_for) = target.change(|record| record.fail(failure, now)) else { return };
        self.traffic.turn.fetch_add(1, Ordering::AcqRel);
        let labels = ServiceLabels { service: self.traffic.service.to_string() };
        self.traffic.metrics.ejections.get_or_create(&labels).inc();
        tracing::warn!(service = %self.traffic.service, destination = ?target.key, ?failure, ?ejected_for, "ejected");
    }

    /// Ends the choice; what is returned counts as load until dropped.
    #[must_use]
    pub fn into_load(self) -> Load {
        self.load
    }
}

impl Traffic {
    pub(super) fn new(service: ServiceName, metrics: Arc<Metrics>) -> Self {
        metrics.begin_service(service.to_string());
        Self {
            service,
            metrics,
            targets: Mutex::default(),
            plans: Mutex::default(),
            turn: AtomicU64::new(0),
            budget: Mutex::new(RetryBudget::new(Instant::now())),
        }
    }

    /// The retry budget.
    pub fn budget(&self) -> MutexGuard<'_, RetryBudget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Chooses a destination for `port` that was not tried. `None` when there is no other.
    #[must_use]
    pub fn pick(
        self: &Arc<Self>,
        service: &Arc<Service>,
        port: u16,
        tried: &Tried,
        random: u64,
        now: Instant,
    ) -> Option<Pick> {
        let planned = self.planned(service, port, now);
        let low = u32::try_from(random & 0xFFFF_FFFF).unwrap_or(0);
        let fits = |c: &Candidate| !tried.contains(&c.target.key) && c.target.admit(now);
        let from = |level: &Level| {
            let index = planned.plan.levels.iter().position(|other| other.proximity == level.proximity)?;
            let chosen = choose(&planned.levels[index], random >> 32, fits)?;
            let target = &planned.levels[index][chosen].target;
            Some(self.picked(level.proximity, level.destinations[chosen].clone(), target))
        };
        let fresh = planned.plan.order(low).filter(|level| !tried.has_enough_of(level.proximity));
        let rest = planned.plan.order(low).filter(|level| tried.has_enough_of(level.proximity));
        fresh.chain(rest).find_map(from).or_else(|| self.last_resort(service, port, tried))
    }

    /// Anything that was not tried, ejected or not, then gateways again: a request that may fail beats one
    /// that must.
    fn last_resort(self: &Arc<Self>, service: &Service, port: u16, tried: &Tried) -> Option<Pick> {
        let untried = |key: &DestinationKey| !tried.contains(key);
        let again = |key: &DestinationKey| tried.may_repeat(key);
        self.any(service, port, untried).or_else(|| self.any(service, port, again))
    }

    fn any(self: &Arc<Self>, service: &Service, port: u16, fits: impl Fn(&DestinationKey) -> bool) -> Option<Pick> {
        plan(service, port, &fits).levels.into_iter().find_map(|level| {
            let mut destinations = level.destinations.into_iter();
            let destination = destinations.find(|destination| fits(&destination.key(port)))?;
            let target = self.target(destination.key(port));
            Some(self.picked(level.proximity, destination, &target))
        })
    }

    fn picked(self: &Arc<Self>, proximity: Proximity, destination: Destination, target: &Arc<Target>) -> Pick {
        Pick { destination, proximity, traffic: self.clone(), load: Load::on(target) }
    }

    fn planned(&self, service: &Arc<Service>, port: u16, now: Instant) -> Arc<Planned> {
        let turn = self.turn.load(Ordering::Acquire);
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = plans.get(&port) {
            let fresh = Arc::ptr_eq(&known.service, service)
                && known.turn == turn
                && known.expires.is_none_or(|expires| now < expires);
            if fresh {
                return known.clone();
            }
        }
        // Ports that the service no longer has would otherwise stay for ever.
        plans.retain(|port, _| service.port(*port).is_some());
        let planned = Arc::new(self.make(service, port, turn, now));
        plans.insert(port, planned.clone());
        planned
    }

    fn make(&self, service: &Arc<Service>, port: u16, turn: u64, now: Instant) -> Planned {
        let expires: Cell<Option<Instant>> = Cell::new(None);
        let plan = plan(service, port, |key| {
            let target = self.target(key.clone());
            let usable = target.usable(now);
            if !usable && let Some(until) = target.ejected_until() {
                expires.set(Some(expires.get().map_or(until, |earliest| earliest.min(until))));
            }
            usable
        });
        let candidate = |destination: &Destination| Candidate {
            weight: destination.weight(),
            target: self.target(destination.key(port)),
        };
        let levels = plan.levels.iter().map(|level| level.destinations.iter().map(candidate).collect()).collect();
        Planned { service: service.clone(), turn, expires: expires.get(), plan, levels }
    }

    fn target(&self, key: DestinationKey) -> Arc<Target> {
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        if targets.len() >= TARGETS_MAX && !targets.contains_key(&key) {
            targets.retain(|_, target| Arc::strong_count(target) > 1 || target.is_marked());
        }
        targets.entry(key).or_insert_with_key(|key| Arc::new(Target::new(key.clone()))).clone()
    }
}

/// Two random choices: the lighter of two random candidates that fit, else the first that fits.
fn choose(candidates: &[Candidate], random: u64, fits: impl Fn(&Candidate) -> bool) -> Option<usize> {
    let count = u64::try_from(candidates.len()).ok().filter(|count| *count > 0)?;
    let at = |number: u64| usize::try_from(number % count).unwrap_or(0);
    let first = at(random & 0xFFFF);
    // Distinct from the first wherever there are two.
    let second = if count > 1 { (first + 1 + at((random >> 16) % (count - 1))) % candidates.len() } else { first };
    let (a, b) = (&candidates[first], &candidates[second]);
    let a_is_lighter = !lighter(b.target.in_flight(), b.weight, a.target.in_flight(), a.weight);
    let pair = if a_is_lighter { [first, second] } else { [second, first] };
    let mut in_order = pair.into_iter().chain(0..candidates.len());
    in_order.find(|index| fits(&candidates[*index]))
}
