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
    destinations: Vec<Destination>,
}

#[derive(Clone, Debug)]
struct Destination {
    key: DestinationKey,
    proximity: Proximity,
    /// Whether it may be tried over.
    promptly: bool,
}

impl Tried {
    /// Remembers a destination, and whether it failed so `promptly` that it may be tried over.
    pub fn note(&mut self, pick: &Pick, promptly: bool) {
        self.destinations.push(Destination { key: pick.key().clone(), proximity: pick.proximity, promptly });
    }

    /// Whether there are any that never failed but promptly.
    #[must_use]
    pub fn has_prompt(&self) -> bool {
        self.destinations.iter().any(|tried| self.is_prompt(&tried.key))
    }

    /// From now on, those count as not tried. How many they were.
    pub fn forget_prompt(&mut self) -> usize {
        let before = std::mem::take(self);
        let (prompt, rest): (Vec<_>, Vec<_>) =
            before.destinations.iter().cloned().partition(|tried| before.is_prompt(&tried.key));
        self.destinations = rest;
        let is_first = |at: &usize| prompt[..*at].iter().all(|earlier: &Destination| earlier.key != prompt[*at].key);
        (0..prompt.len()).filter(is_first).count()
    }

    fn is_prompt(&self, key: &DestinationKey) -> bool {
        self.destinations.iter().filter(|tried| tried.key == *key).all(|tried| tried.promptly)
    }

    /// Whether a destination failed this request.
    #[must_use]
    pub fn contains(&self, key: &DestinationKey) -> bool {
        self.destinations.iter().any(|tried| tried.key == *key)
    }

    /// Whether trying a destination again could reach another instance than before.
    pub(super) fn may_repeat(&self, key: &DestinationKey) -> bool {
        let tries = self.destinations.iter().filter(|tried| tried.key == *key).count();
        matches!(key, DestinationKey::Remote(..)) && tries < TRIES_PER_GATEWAY
    }

    /// Whether enough of a level failed this request.
    pub(super) fn has_enough_of(&self, level: Proximity) -> bool {
        self.destinations.iter().filter(|tried| tried.proximity == level).count() >= TRIES_PER_LEVEL
    }
}
