//! Which destination gets a request.
//!
//! The model's plan says which levels of destinations share the traffic; here one destination of a level
//! is chosen by two random choices over latency, load and weight ([`load`]), and destinations that fail are left out for a
//! while ([`ejection`]). Plans are kept between requests ([`plans`]), retries are rationed ([`budget`]), and all that is under
//! way is bounded ([`permits`]).

pub mod budget;
pub mod ejection;
mod latency;
mod load;
pub mod permits;
mod plans;
mod tried;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use isthmus_model::name::ServiceName;
use isthmus_model::snapshot::Service;

use crate::metrics::Metrics;

pub use load::Load;
pub use plans::{Pick, Traffic};
pub use tried::{TRIES_PER_GATEWAY, TRIES_PER_LEVEL, Tried};

/// Services whose load and failures are remembered. A sidecar uses dozens; a gateway's clients all of the
/// federation's. Beyond it, services without traffic at the moment are forgotten.
pub const SERVICES_MAX: usize = 16_384;

/// Load, failures and retry budgets of every service in use.
#[derive(Debug)]
pub struct Balancer {
    services: RwLock<HashMap<ServiceName, Arc<Traffic>>>,
    chance: Chance,
    metrics: Arc<Metrics>,
}

impl Balancer {
    /// A balancer that knows of no failure yet.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { services: RwLock::default(), chance: Chance::seeded(), metrics }
    }

    /// The traffic of one service. Its policy is asked of the service each time, so that a change of it holds at once.
    pub fn traffic(&self, service: &Service) -> Arc<Traffic> {
        let name = &service.name;
        let known = self.services.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        if let Some(known) = known {
            return known;
        }
        let mut services = self.services.write().unwrap_or_else(PoisonError::into_inner);
        if services.len() >= SERVICES_MAX {
            services.retain(|_, traffic| Arc::strong_count(traffic) > 1 || traffic.permits().are_taken());
        }
        let new = || Arc::new(Traffic::new(service, self.metrics.clone()));
        services.entry(name.clone()).or_insert_with(new).clone()
    }

    /// A random number; see [`Chance`].
    pub fn random(&self) -> u64 {
        self.chance.next()
    }
}

/// Random numbers for spreading load (splitmix64 over a shared counter): cheap, lock-free, not secret.
#[derive(Debug)]
struct Chance(AtomicU64);

impl Chance {
    fn seeded() -> Self {
        Self(AtomicU64::new(RandomState::new().hash_one(0)))
    }

    fn next(&self) -> u64 {
        const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
        let mut z = self.0.fetch_add(GOLDEN, Ordering::Relaxed).wrapping_add(GOLDEN);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
