//! From the messages of one stream after another to the views that are published: pure.
//!
//! Each stream starts from nothing, but the data plane must not notice: what it knew stays published until
//! the new stream has told it as much. So the first views of a stream are held back until they answer
//! every question, or until somebody waits no longer.

use std::collections::HashSet;
use std::sync::Arc;

use isthmus_identity::{IdentityError, TrustBundle};
use isthmus_model::name::FederationDomain;
use isthmus_model::snapshot::{Coverage, Site, Snapshot};
use isthmus_wire::{WireError, control, view};

use super::questions::Questions;

/// The view of the current stream and the count of published ones.
#[derive(Debug)]
pub(super) struct Views {
    current: Arc<Snapshot>,
    /// The last generation that was given out. Grows over all streams, whatever gateways count.
    generation: u64,
    holding: bool,
}

/// A view that knows nothing yet.
pub(super) fn blank(site: Site) -> Snapshot {
    let coverage = Coverage::Partial { absent: HashSet::new(), absent_addresses: HashSet::new() };
    Snapshot::empty(site, coverage)
}

impl Views {
    pub(super) fn new(site: Site) -> Self {
        Self { current: Arc::new(blank(site)), generation: 0, holding: true }
    }

    /// A new stream starts.
    pub(super) fn begin(&mut self, site: Site) {
        self.current = Arc::new(blank(site));
        self.holding = true;
    }

    /// Takes an update over.
    pub(super) fn take(&mut self, update: control::Update) -> Result<(), WireError> {
        self.current = Arc::new(view::apply(&self.current, update)?);
        Ok(())
    }

    /// What the stream told of whom to trust.
    pub(super) fn trust(&self, federation: FederationDomain) -> Result<TrustBundle, IdentityError> {
        let bundle = TrustBundle::new(federation, self.current.roots.to_vec())?;
        Ok(bundle.with_denied(self.current.denied.clone()))
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
    use isthmus_model::route::Question;

    use super::*;

    fn site() -> Site {
        Site {
            federation: "acme.mesh".parse().expect("valid"),
            cluster: "us-east".parse().expect("valid"),
            locality: "us-east-1/a".parse().expect("valid"),
        }
    }

    fn roots(generation: u64) -> control::Update {
        let roots = Some(control::Roots { der: vec![vec![1]], denied: Vec::new() });
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
}
