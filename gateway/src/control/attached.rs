//! The sidecars that are attached: what each is known to trust, and by which authority it is certified. A rotation of
//! the root waits for them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use isthmus_model::registry::token::Digest;
use isthmus_model::spiffe::SpiffeId;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The attached sidecars. Clones share them. There are no more of them than the listener takes connections.
#[derive(Clone, Default)]
pub struct Attached {
    sidecars: watch::Sender<Seats>,
    /// The authority, by its key, that every sidecar shall have its certificate of; `None` while any will do.
    issuer: watch::Sender<Option<Digest>>,
}

#[derive(Default)]
struct Seats {
    next: u64,
    taken: BTreeMap<u64, Sidecar>,
}

/// One attached sidecar.
struct Sidecar {
    identity: SpiffeId,
    since: Instant,
    /// The roots of the last view that it acknowledged.
    roots: Arc<[Vec<u8>]>,
    /// The key of the authority that signed its last certificate on this stream.
    issuer: Option<Digest>,
    detach: CancellationToken,
}

/// What is asked of every sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// That it trusts this root (DER).
    Trust(Vec<u8>),
    /// That it has a certificate of the authority with this key.
    CertifiedBy(Digest),
}

impl Wanted {
    fn is_had_by(&self, sidecar: &Sidecar) -> bool {
        match self {
            Self::Trust(root) => sidecar.roots.contains(root),
            Self::CertifiedBy(key) => sidecar.issuer == Some(*key),
        }
    }
}

impl Attached {
    /// Takes a seat for a sidecar that just attached.
    pub(super) fn sit_down(&self, identity: SpiffeId) -> Seat {
        let detach = CancellationToken::new();
        let sidecar =
            Sidecar { identity, since: Instant::now(), roots: Arc::from([]), issuer: None, detach: detach.clone() };
        let mut number = 0;
        self.sidecars.send_modify(|seats| {
            seats.next += 1;
            number = seats.next;
            seats.taken.insert(number, sidecar);
        });
        Seat { number, detach, issuer: self.issuer.subscribe(), attached: self.clone() }
    }

    /// Asks every sidecar, also those that come later, for a certificate of the authority with that key.
    pub fn ask_for(&self, issuer: Option<Digest>) {
        self.issuer.send_if_modified(|known| {
            let news = *known != issuer;
            *known = issuer;
            news
        });
    }

    /// How many sidecars lack what is wanted.
    #[must_use]
    pub fn lacking(&self, wanted: &Wanted) -> usize {
        self.sidecars.borrow().taken.values().filter(|sidecar| !wanted.is_had_by(sidecar)).count()
    }

    /// Detaches those that lack what is wanted and had `patience` for it. They come back and start over.
    pub fn detach_lacking(&self, wanted: &Wanted, patience: Duration) {
        for sidecar in self.sidecars.borrow().taken.values() {
            let stuck = !wanted.is_had_by(sidecar) && sidecar.since.elapsed() >= patience;
            if stuck && !sidecar.detach.is_cancelled() {
                tracing::warn!(identity = %sidecar.identity, "a sidecar does not follow the new root; it is detached");
                sidecar.detach.cancel();
            }
        }
    }
}

/// An attached sidecar's place; given back when dropped.
pub(super) struct Seat {
    number: u64,
    detach: CancellationToken,
    issuer: watch::Receiver<Option<Digest>>,
    attached: Attached,
}

impl Seat {
    fn note(&self, note: impl FnOnce(&mut Sidecar)) {
        self.attached.sidecars.send_modify(|seats| {
            seats.taken.get_mut(&self.number).map(note);
        });
    }

    /// The sidecar acknowledged a view with these roots.
    pub(super) fn trusts(&self, roots: Arc<[Vec<u8>]>) {
        self.note(|sidecar| sidecar.roots = roots);
    }

    /// The sidecar was given a certificate of the authority with this key.
    pub(super) fn certified(&self, issuer: Digest) {
        self.note(|sidecar| sidecar.issuer = Some(issuer));
    }

    /// Whether the sidecar has to be told to renew its certificate.
    pub(super) fn has_to_renew(&mut self) -> bool {
        let wanted = self.issuer.borrow_and_update().map(Wanted::CertifiedBy);
        let seats = self.attached.sidecars.borrow();
        let own = seats.taken.get(&self.number);
        wanted.is_some_and(|wanted| own.is_some_and(|sidecar| !wanted.is_had_by(sidecar)))
    }

    /// Returns when something else is asked of the sidecar than before.
    pub(super) async fn asked(&mut self) {
        if self.issuer.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Cancelled when the sidecar is to be detached.
    pub(super) fn detached(&self) -> CancellationToken {
        self.detach.clone()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.attached.sidecars.send_modify(|seats| drop(seats.taken.remove(&self.number)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> SpiffeId {
        "spiffe://us-east.acme.mesh/ns/shop/sa/reviews".parse().expect("valid")
    }

    #[test]
    fn a_sidecar_lacks_a_root_until_it_acknowledges_it_and_nothing_once_it_is_gone() {
        let attached = Attached::default();
        let seat = attached.sit_down(identity());
        let wanted = Wanted::Trust(vec![2]);
        assert_eq!(attached.lacking(&wanted), 1);
        seat.trusts(Arc::from([vec![1]]));
        assert_eq!(attached.lacking(&wanted), 1);
        seat.trusts(Arc::from([vec![1], vec![2]]));
        assert_eq!(attached.lacking(&wanted), 0);
        assert_eq!(attached.lacking(&Wanted::Trust(vec![3])), 1);
        drop(seat);
        assert_eq!(attached.lacking(&Wanted::Trust(vec![3])), 0);
    }

    #[test]
    fn sidecars_renew_while_they_have_no_certificate_of_the_authority_that_is_asked_for() {
        let attached = Attached::default();
        let mut early = attached.sit_down(identity());
        assert!(!early.has_to_renew());
        attached.ask_for(Some(Digest([2; 32])));
        let mut late = attached.sit_down(identity());
        early.certified(Digest([1; 32]));
        assert!(early.has_to_renew() && late.has_to_renew());
        late.certified(Digest([2; 32]));
        assert!(!late.has_to_renew());
        assert_eq!(attached.lacking(&Wanted::CertifiedBy(Digest([2; 32]))), 1);
        attached.ask_for(None);
        assert!(!early.has_to_renew());
    }

    #[tokio::test(start_paused = true)]
    async fn only_who_had_time_enough_is_detached() {
        let attached = Attached::default();
        let patience = Duration::from_secs(30);
        let (slow, fine) = (attached.sit_down(identity()), attached.sit_down(identity()));
        fine.trusts(Arc::from([vec![2]]));
        tokio::time::advance(patience).await;
        let late = attached.sit_down(identity());
        attached.detach_lacking(&Wanted::Trust(vec![2]), patience);
        let detached = [&slow, &fine, &late].map(|seat| seat.detached().is_cancelled());
        assert_eq!(detached, [true, false, false]);
    }
}
