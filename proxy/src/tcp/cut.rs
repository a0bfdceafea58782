//! Cutting a session off when its peer's key is denied.

use std::sync::Arc;

use isthmus_identity::Peer;
use isthmus_identity::tls::Guarded;

/// Breaks `stream` when the key of `peer` is denied. Other reasons to distrust it leave time to finish.
pub(crate) fn cut_when_revoked<S>(stream: S, peer: Arc<Peer>) -> Guarded<S> {
    Guarded::new(stream, async move {
        peer.revoked().await;
        tracing::warn!(peer = %peer.id(), "session cut: its key is denied");
    })
}
