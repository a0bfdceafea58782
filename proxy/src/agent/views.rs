//! From the messages of one stream after another to the views that are published: pure.
//!
//! Each stream starts from nothing, but the data plane must not notice: what it knew stays published until
//! the new stream has told it as much. So the first views of a stream are held back until they answer
//! every question, or until somebody waits no longer.

use std::collections::{BTreeSet, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use isthmus_identity::TrustBundle;
use isthmus_model::registry::Epoch;
use isthmus_model::registry::token::Digest;
use isthmus_model::snapshot::{Coverage, Site, Snapshot};
use isthmus_wire::{control, view};
use tracing::warn;

use super::error::SessionError;
use super::questions::Questions;

/// The view of the current stream and the count of published ones.
#[derive(Debug)]
pub(super) struct Views {
    current: Arc<Snapshot>,
    /// The last generation that was given out. Grows over all streams, whatever gateways count.
    generation: u64,
    holding: bool,
    /// The latest that any stream told of whom to trust.
    trusted: Option<Trusted>,
}

/// Whom to trust, by the state of the registry that it is of.
#[derive(Debug)]
struct Trusted {
    roots: Arc<[Vec<u8>]>,
    denied: Arc<BTreeSet<Digest>>,
    epoch: Epoch,
}

/// A view that knows nothing yet.
pub(super) fn blank(site: Site) -> Snapshot {
    let coverage = Coverage::Partial { absent: HashSet::new(), absent_addresses: HashSet::new() };
    Snapshot::empty(site, coverage)
}

impl Views {
    pub(super) fn new(site: Site) -> Self {
        Self { current: Arc::new(blank(site)), generation: 0, holding: true, trusted: None }
    }

    /// A new stream starts.
    pub(super) fn begin(&mut self, site: Site) {
        self.current = Arc::new(blank(site));
        self.holding = true;
    }

    /// How late the state is that roots and denials are known of.
    pub(super) fn known(&self) -> Epoch {
        self.trusted.as_ref().map(|trusted| trusted.epoch).unwrap_or_default()
    }

    /// Where the cluster's gateways take sidecars, as the stream told.
    pub(super) fn control_ports(&self) -> Arc<[SocketAddr]> {
        self.current.control_ports.clone()
    }

    /// Takes an update over. Returns whom to trust from now on, if that is news.
    pub(super) fn take(&mut self, update: control::Update) -> Result<Option<TrustBundle>, SessionError> {
        let told = update.roots.is_some();
        let mut next = view::apply(&self.current, update)?;
        let news = if told { self.judge(&mut next)? } else { None };
        self.current = Arc::new(next);
        Ok(news)
    }

    /// What `next` says of whom to trust. A gateway that lags behind another one does not know yet what was taken back:
    /// the view then keeps what is known, until that gateway has caught up.
    fn judge(&mut self, next: &mut Snapshot) -> Result<Option<TrustBundle>, SessionError> {
        let bundle = TrustBundle::new(next.site.federation.clone(), next.roots.to_vec())?;
        match &self.trusted {
            Some(known) if next.epoch < known.epoch => {
                if (&next.roots, &next.denied) != (&known.roots, &known.denied) {
                    warn!(told = ?next.epoch, known = ?known.epoch, "the gateway tells older roots or denials: the later ones stay");
                }
                (next.roots, next.denied, next.epoch) = (known.roots.clone(), known.denied.clone(), known.epoch);
                Ok(None)
            }
            _ => {
                let (roots, denied, epoch) = (next.roots.clone(), next.denied.clone(), next.epoch);
                let bundle = bundle.with_denied(denied.clone());
                self.trusted = Some(Trusted { roots, denied, epoch });
                Ok(Some(bundle))
            }
        }
    }

    /// Whether a view is held back for want of answers.
    pub(super) fn holding(&self) -> bool {
        self.holding
    }

    /// The view to publish now, if it may be: when it answers all `questions`, or `impatient` and it has
    /// anything at all. No view is anything without roots.
    pub(super) fn publish(&mut self, questions: &Questions, impatient: bool) -> Option<Arc<Snapshot>> {
        if self.current.roots.is_empty() {
            return None;
        }
        if self.holding && !impatient && !questions.answered_by(&self.current) {
            return None;
        }
        self.holding = false;
        self.generation += 1;
        Arc::make_mut(&mut self.current).generation = self.generation;
        Some(self.current.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;
    use std::time::SystemTime;

    use isthmus_identity::RootAuthority;
    use isthmus_model::route::Question;

    use super::*;

    fn site() -> Site {
        Site {
            federation: "acme.mesh".parse().expect("valid"),
            cluster: "us-east".parse().expect("valid"),
            locality: "us-east-1/a".parse().expect("valid"),
        }
    }

    fn root() -> Vec<u8> {
        static ROOT: LazyLock<Vec<u8>> = LazyLock::new(|| {
            let root = RootAuthority::create(&site().federation, SystemTime::now()).expect("made");
            root.certificate().to_vec()
        });
        ROOT.clone()
    }

    fn roots(generation: u64) -> control::Update {
        let roots = Some(control::Roots { der: vec![root()], ..control::Roots::default() });
        control::Update { generation, roots, ..control::Update::default() }
    }

    fn absent(name: &str) -> control::Update {
        control::Update { absent: vec![name.to_owned()], ..control::Update::default() }
    }

    #[test]
    fn generations_grow_over_streams_whatever_the_gateway_counts() {
        let (mut views, questions) = (Views::new(site()), Questions::default());
        let mut published = Vec::new();
        for generation in [90, 2, 2] {
            views.begin(site());
            views.take(roots(generation)).expect("valid");
            published.extend(views.publish(&questions, false).map(|view| view.generation));
        }
        assert_eq!(published, [1, 2, 3]);
    }

    #[test]
    fn a_new_stream_is_held_back_until_it_answers_what_was_known() {
        let (mut views, mut questions) = (Views::new(site()), Questions::default());
        questions.add(Question::Service("shop/reviews".parse().expect("valid")));
        assert_eq!(views.publish(&questions, true), None, "nothing without roots");
        views.take(roots(1)).expect("valid");
        assert_eq!(views.publish(&questions, false), None);
        assert!(views.holding());
        views.take(absent("shop/reviews")).expect("valid");
        assert!(views.publish(&questions, false).is_some());
        questions.add(Question::Service("shop/ratings".parse().expect("valid")));
        views.take(roots(3)).expect("valid");
        assert!(views.publish(&questions, false).is_some(), "new questions hold nothing back");
    }

    #[test]
    fn impatience_publishes_what_there_is() {
        let (mut views, mut questions) = (Views::new(site()), Questions::default());
        questions.add(Question::Service("shop/reviews".parse().expect("valid")));
        views.take(roots(1)).expect("valid");
        assert!(views.publish(&questions, true).is_some());
        assert!(!views.holding());
    }

    /// Roots with so many denied keys, of that state.
    fn told(denied: u8, restored_at: u64, revision: u64) -> control::Update {
        let denied = (0..denied).map(|key| vec![key; 32]).collect();
        let roots = Some(control::Roots { der: vec![root()], denied, restored_at, revision });
        control::Update { roots, ..control::Update::default() }
    }

    #[test]
    fn what_was_denied_is_not_trusted_again_because_a_gateway_lags_behind() {
        let (mut views, questions) = (Views::new(site()), Questions::default());
        assert!(views.take(told(2, 0, 9)).expect("valid").is_some());
        // The next gateway has not heard of the second denial.
        views.begin(site());
        assert!(views.take(told(1, 0, 8)).expect("valid").is_none());
        let view = views.publish(&questions, false).expect("with the roots that are known");
        assert_eq!((view.denied.len(), view.roots.to_vec()), (2, vec![root()]));
        assert_eq!(views.known(), Epoch { revision: 9, ..Epoch::default() }, "it tells the gateway so");
        // It catches up, and says so; a key may come to be trusted again then.
        assert!(views.take(told(1, 0, 10)).expect("valid").is_some());
        // A registry that was restored is later than what was lost, whatever it counts.
        views.begin(site());
        assert!(views.take(told(0, 1, 3)).expect("valid").is_some());
        assert!(views.take(told(1, 0, 11)).expect("valid").is_none());
        // What is malformed is no state at all, however late.
        let mut malformed = told(0, 2, 0);
        malformed.roots.as_mut().expect("told").der = vec![vec![0; 16]];
        views.take(malformed).expect_err("no certificate");
        assert!(views.take(told(1, 1, 4)).expect("valid").is_some());
    }
}
