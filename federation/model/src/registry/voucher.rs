//! Workload tokens whose word counts no more.
//!
//! Certificates name the token that vouched for them, and are renewed on its word long after the token itself has
//! expired and its record is gone. So what is taken back is kept apart from the records, by cluster: a token's id is
//! known to every member, and none of them shall end what another one's token vouches for.

use std::time::Duration;

use super::token::TokenId;
use super::{Registry, retain};
use crate::name::ClusterName;
use crate::time::UnixMillis;

/// Those of one cluster. With more, the earliest are forgotten.
pub const WITHDRAWN_PER_CLUSTER_MAX: usize = 2_500;
/// How long they are kept: longer than a gateway that hears nothing of the registry can go on (its certificates end
/// after 90 days) and with it the sidecars that it renews.
pub const WITHDRAWN_KEPT: Duration = Duration::from_secs(100 * 24 * 3600);

impl Registry {
    /// Whether what this token vouched for in `cluster` is not renewed any more.
    #[must_use]
    pub fn is_withdrawn(&self, cluster: &ClusterName, token: &TokenId) -> bool {
        self.withdrawn.get(cluster).is_some_and(|withdrawn| withdrawn.contains_key(token))
    }

    /// Takes a token's word back. `false` when it was.
    pub(super) fn withdraw_voucher(&mut self, cluster: &ClusterName, token: &TokenId, at: UnixMillis) -> bool {
        let clusters: Vec<ClusterName> = self.withdrawn.keys().cloned().collect();
        for cluster in &clusters {
            if let Some(withdrawn) = self.withdrawn.get_mut(cluster) {
                retain(withdrawn, |since| since.saturating_add(WITHDRAWN_KEPT) > at);
            }
        }
        retain(&mut self.withdrawn, |withdrawn| !withdrawn.is_empty());
        let withdrawn = self.withdrawn.entry(cluster.clone()).or_default();
        if withdrawn.contains_key(token) {
            return false;
        }
        if withdrawn.len() >= WITHDRAWN_PER_CLUSTER_MAX {
            let earliest = withdrawn.iter().min_by_key(|(_, since)| **since).map(|(token, _)| token.clone());
            earliest.map(|token| withdrawn.remove(&token));
        }
        withdrawn.insert(token.clone(), at);
        true
    }
}
