//! Cutting a session off when its peer's key is denied, or it is of no more use.

use std::sync::Arc;

use isthmus_identity::Peer;
use isthmus_identity::tls::Guarded;

/// Breaks `stream` when the key of `peer` is denied. Other reasons to distrust it leave time to finish.
pub(crate) fn cut_when_revoked<S>(stream: S, peer: Arc<Peer>) -> Guarded<S> {
    cut_when_revoked_or(stream, peer, std::future::pending())
}

/// The same, and when it is `lost`.
pub(crate) fn cut_when_revoked_or<S>(
    stream: S,
    peer: Arc<Peer>,
    lost: impl Future<Output = ()> + Send + 'static,
) -> Guarded<S> {
    Guarded::new(stream, async move {
        tokio::select! {
            biased;
            () = peer.revoked() => tracing::warn!(peer = %peer.id(), "session cut: its key is denied"),
            () = lost => tracing::debug!(peer = %peer.id(), "session cut: nothing is on it that will end"),
        }
    })
}
