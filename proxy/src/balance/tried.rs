//! What one request has tried already.

use isthmus_model::locality::Proximity;
use isthmus_model::route::DestinationKey;

use super::Pick;

/// Failures within one level after which a request looks further away first: what fails together usually
/// stands together, and a request has few attempts.
pub const TRIES_PER_LEVEL: usize = 2;

/// How often one request may try the same remote gateway when there is nothing else: each session that it
/// passes on may reach another instance.
pub const TRIES_PER_GATEWAY: usize = 3;

/// Destinations that failed one request.
#[derive(Debug, Default)]
pub struct Tried {
    destinations: Vec<(DestinationKey, Proximity)>,
}

impl Tried {
    /// Remembers a destination.
    pub fn note(&mut self, pick: &Pick) {
        self.destinations.push((pick.key().clone(), pick.proximity));
    }

    /// Whether a destination failed this request.
    #[must_use]
    pub fn contains(&self, key: &DestinationKey) -> bool {
        self.destinations.iter().any(|(tried, _)| tried == key)
    }

    /// Whether trying a destination again could reach another instance than before.
    pub(super) fn may_repeat(&self, key: &DestinationKey) -> bool {
        let tries = self.destinations.iter().filter(|(tried, _)| tried == key).count();
        matches!(key, DestinationKey::Remote(..)) && tries < TRIES_PER_GATEWAY
    }

    /// Whether enough of a level failed this request.
    pub(super) fn has_enough_of(&self, level: Proximity) -> bool {
        self.destinations.iter().filter(|(_, proximity)| *proximity == level).count() >= TRIES_PER_LEVEL
    }
}
