//! One service's traffic: its plans, kept between requests, and the choice within them.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use isthmus_model::catalog::ENDPOINTS_PER_SERVICE_MAX;
use isthmus_model::locality::Proximity;
use isthmus_model::name::ServiceName;
use isthmus_model::route::failback::{Shares, hold_back};
use isthmus_model::route::{Destination, DestinationKey, Level, Plan, plan};
use isthmus_model::snapshot::Service;
use isthmus_model::traffic::{Arrival, Ejection, TrafficPolicy};

use super::budget::RetryBudget;
use super::ejection::Failure;
use super::load::{Load, Target};
use super::permits::{Kind, Overflow, Permit, Permits};
use super::tried::Tried;
use crate::metrics::{Metrics, ServiceLabels};

/// Destinations remembered per service before those that left the plans are forgotten.
const TARGETS_MAX: usize = 2 * ENDPOINTS_PER_SERVICE_MAX;

/// How long a plan holds whose shares are moving back to a nearer level.
const MOVING_FOR: Duration = Duration::from_millis(250);

/// The traffic of one service.
#[derive(Debug)]
pub struct Traffic {
    service: ServiceName,
    permits: Permits,
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
    at: Instant,
    /// When the first ejection runs out, or shares have moved on.
    expires: Option<Instant>,
    shares: Shares,
    plan: Plan,
    levels: Vec<Candidates>,
}

/// The destinations of a level.
#[derive(Debug)]
struct Candidates {
    members: Vec<Candidate>,
    /// Where each one's part of all weights ends.
    ends: Vec<u64>,
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
    policy: Arc<TrafficPolicy>,
    load: Load,
    /// What its latency counts from.
    asked_at: Instant,
}

impl Pick {
    /// Its identity.
    #[must_use]
    pub fn key(&self) -> &DestinationKey {
        &self.load.0.key
    }

    /// Takes one of the service's places.
    ///
    /// # Errors
    /// [`Overflow`].
    pub fn take(&self, kind: Kind) -> Result<Permit, Overflow> {
        self.traffic.permits.take(kind, &self.policy.limits)
    }

    /// The destination is asked only now. What it took to open a session is no measure of how it answers: the next requests find the
    /// session open.
    pub fn ask(&mut self, now: Instant) {
        self.asked_at = now;
    }

    /// The destination answered.
    pub fn succeeded(&self, now: Instant) {
        let target = &self.load.0;
        target.observe(now.saturating_duration_since(self.asked_at), now);
        if target.is_marked() && target.change(super::ejection::Record::succeed) {
            target.arrive(now);
            self.traffic.turn.fetch_add(1, Ordering::AcqRel);
            tracing::info!(service = %self.traffic.service, destination = ?target.key, "answers again");
        }
    }

    /// The destination failed.
    pub fn failed(&self, failure: Failure, now: Instant) {
        let target = &self.load.0;
        let policy = &self.policy.ejection;
        let spare = !failure.is_certain() && self.traffic.is_ejected_enough(policy, now);
        let Some(ejected_for) = target.change(|record| record.fail(failure, policy, spare, now)) else { return };
        self.traffic.turn.fetch_add(1, Ordering::AcqRel);
        let labels = ServiceLabels { service: self.traffic.service.to_string() };
        self.traffic.metrics.ejections.get_or_create(&labels).inc();
        tracing::warn!(service = %self.traffic.service, destination = ?target.key, ?failure, ?ejected_for, "ejected");
    }

    /// The destination failed a request that it had failed before, which tells no more about it; unless it is on trial.
    pub fn failed_again(&self, failure: Failure, now: Instant) {
        if self.load.0.is_on_trial() {
            self.failed(failure, now);
        }
    }

    /// Ends the choice; what is returned counts as load until dropped.
    #[must_use]
    pub fn into_load(self) -> Load {
        self.load
    }
}

impl Traffic {
    pub(super) fn new(service: &Service, metrics: Arc<Metrics>) -> Self {
        metrics.begin_service(service.name.to_string());
        Self {
            service: service.name.clone(),
            metrics,
            permits: Permits::default(),
            targets: Mutex::default(),
            plans: Mutex::default(),
            turn: AtomicU64::new(0),
            budget: Mutex::new(RetryBudget::new(&service.traffic.retries, Instant::now())),
        }
    }

    /// What of it is under way.
    #[must_use]
    pub fn permits(&self) -> &Permits {
        &self.permits
    }

    /// Whether as many destinations are ejected as may be for what they answered.
    fn is_ejected_enough(&self, policy: &Ejection, now: Instant) -> bool {
        let targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        let ejected = targets.values().filter(|target| !target.usable(now)).count() as u64;
        // Those that have left are in no plan, and neither are the ejected.
        let planned =
            targets.values().filter(|target| target.usable(now) && Arc::strong_count(target) > 1).count() as u64;
        (ejected + 1) * 1_000 > u64::from(policy.share_max_permille) * (ejected + planned)
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
            let candidates = &planned.levels[index];
            let chosen = candidates.choose(random >> 32, &service.traffic.arrival, now, fits)?;
            let target = &candidates.members[chosen].target;
            Some(self.picked(service, level.proximity, level.destinations[chosen].clone(), target, now))
        };
        let fresh = planned.plan.order(low).filter(|level| !tried.has_enough_of(level.proximity));
        let rest = planned.plan.order(low).filter(|level| tried.has_enough_of(level.proximity));
        fresh.chain(rest).find_map(from).or_else(|| self.last_resort(service, port, tried, now))
    }

    /// Anything that was not tried, ejected or not, then gateways again: a request that may fail beats one
    /// that must.
    fn last_resort(self: &Arc<Self>, service: &Service, port: u16, tried: &Tried, now: Instant) -> Option<Pick> {
        let untried = |key: &DestinationKey| !tried.contains(key);
        let again = |key: &DestinationKey| tried.may_repeat(key);
        self.any(service, port, now, untried).or_else(|| self.any(service, port, now, again))
    }

    fn any(
        self: &Arc<Self>,
        service: &Service,
        port: u16,
        now: Instant,
        fits: impl Fn(&DestinationKey) -> bool,
    ) -> Option<Pick> {
        plan(service, port, &fits).levels.into_iter().find_map(|level| {
            let mut destinations = level.destinations.into_iter();
            let destination = destinations.find(|destination| fits(&destination.key(port)))?;
            let target = self.target(destination.key(port), now, false);
            Some(self.picked(service, level.proximity, destination, &target, now))
        })
    }

    fn picked(
        self: &Arc<Self>,
        service: &Service,
        proximity: Proximity,
        destination: Destination,
        target: &Arc<Target>,
        asked_at: Instant,
    ) -> Pick {
        let (traffic, policy) = (self.clone(), service.traffic.clone());
        Pick { destination, proximity, traffic, policy, load: Load::on(target), asked_at }
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
        let before = plans.get(&port).cloned();
        let planned = Arc::new(self.make(service, port, turn, before.as_deref(), now));
        plans.insert(port, planned.clone());
        planned
    }

    fn make(&self, service: &Arc<Service>, port: u16, turn: u64, before: Option<&Planned>, now: Instant) -> Planned {
        let expires: Cell<Option<Instant>> = Cell::new(None);
        // Whoever was there when the first request came is no newcomer.
        let is_first = before.is_none();
        let mut plan = plan(service, port, |key| {
            let target = self.target(key.clone(), now, !is_first);
            let usable = target.usable(now);
            if !usable && let Some(until) = target.ejected_until() {
                expires.set(Some(expires.get().map_or(until, |earliest| earliest.min(until))));
            }
            usable
        });
        let (known, since) = before.map_or((Shares::default(), now), |before| (before.shares.clone(), before.at));
        let shares = hold_back(&mut plan, &known, now.saturating_duration_since(since), &service.traffic.arrival);
        let moves = shares.are_moving().then(|| now + MOVING_FOR);
        let expires = expires.get().into_iter().chain(moves).min();
        let candidate = |destination: &Destination| Candidate {
            weight: destination.weight(),
            target: self.target(destination.key(port), now, false),
        };
        let members = |level: &Level| level.destinations.iter().map(candidate).collect();
        let levels = plan.levels.iter().map(|level| Candidates::new(members(level))).collect();
        Planned { service: service.clone(), turn, at: now, expires, shares, plan, levels }
    }

    /// `arrives`: if it was not known, it has just come.
    fn target(&self, key: DestinationKey, now: Instant, arrives: bool) -> Arc<Target> {
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        if targets.len() >= TARGETS_MAX && !targets.contains_key(&key) {
            targets.retain(|_, target| Arc::strong_count(target) > 1 || target.is_marked());
        }
        let new = |key: &DestinationKey| {
            let target = Target::new(key.clone(), now);
            if arrives {
                target.arrive(now);
            }
            Arc::new(target)
        };
        targets.entry(key).or_insert_with_key(new).clone()
    }
}

impl Candidates {
    fn new(members: Vec<Candidate>) -> Self {
        let ends = members.iter().scan(0, |end, member: &Candidate| {
            *end += u64::from(member.weight.max(1));
            Some(*end)
        });
        Self { ends: ends.collect(), members }
    }

    /// The member on whose part of all weights the last 16 bits of `random` fall.
    fn sample(&self, random: u64) -> usize {
        let whole = u128::from(self.ends.last().copied().unwrap_or(0));
        let point = u64::try_from((u128::from(random & 0xFFFF) * whole) >> 16).unwrap_or(0);
        self.ends.partition_point(|end| *end <= point)
    }

    /// Two random choices by weight: the better one that fits, else the first that fits. Newcomers stand back as often as
    /// they are new.
    fn choose(&self, random: u64, arrival: &Arrival, now: Instant, fits: impl Fn(&Candidate) -> bool) -> Option<usize> {
        let count = self.members.len();
        if count == 0 {
            return None;
        }
        let first = self.sample(random);
        let second = match self.sample(random >> 16) {
            // Distinct from the first wherever there are two.
            same if same == first => (first + 1) % count,
            other => other,
        };
        let (a, b) = (&self.members[first], &self.members[second]);
        let (share_a, share_b) = (a.target.share(arrival, now), b.target.share(arrival, now));
        let second_is_better = if share_a == share_b {
            b.target.cost(b.weight, now).is_below(&a.target.cost(a.weight, now))
        } else {
            let chance = random.wrapping_mul(0x9E37_79B9) >> 16 & 0xFFFF;
            let (newer, share, other) =
                if share_a < share_b { (true, share_a, share_b) } else { (false, share_b, share_a) };
            let stands_back = chance * other >= share << 16;
            if stands_back { newer } else { b.target.cost(b.weight, now).is_below(&a.target.cost(a.weight, now)) }
        };
        let pair = if second_is_better { [second, first] } else { [first, second] };
        let mut in_order = pair.into_iter().chain(0..count);
        in_order.find(|index| fits(&self.members[*index]))
    }
}
