//! Who leads the registry. The Raft library counts the votes; when a voter stands, and when a leader goes, is decided here.
//!
//! The library alone would have a voter stand whenever it heard no leader for a while, with a patience that is drawn
//! once for good. A voter that is cut off would then come back with a later term and unseat a leader that served all others;
//! two voters of the same patience would split the votes again and again; and a leader that is heard by all but reached by
//! none would stay. So:
//!
//! - a voter first asks the others whether they would vote for it (pre-vote, §9.6 of Ongaro's thesis), and stands only if most
//!   would: nobody has heard a leader for a while, and it has all that they have;
//! - its patience is drawn anew each time, and that of the foremost candidate is the shortest;
//! - a leader that no quorum answers falls silent, so that the others elect one that they reach;
//! - a leader hands over before it stops, and to a voter that is much nearer to the others than it is (§3.10).
//!
//! Safety is the library's: whatever is wrong here costs time, not entries.

mod canvass;
mod handover;
mod patience;
mod placement;
mod service;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use isthmus_model::registry::node::NodeId;
use openraft::RaftMetrics;
use openraft::storage::RaftLogStorage;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clocks::Clocks;
use crate::dial::Dialer;
use crate::lineage::LineageCheck;
use crate::node::Timing;
use crate::quorum::QuorumWord;
use crate::raft_types::{LogId, Peer, Raft};
use crate::store::LogStore;
use crate::writer::{Rest, Writer};

pub use handover::NotHandedOver;
use patience::Patience;
pub(crate) use service::ElectionService;

/// How often a replica looks whether it is time for something: a small part of any patience.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How often voters ask each other how far apart they are, and a leader whether another is better placed.
const SOUNDING_INTERVAL: Duration = Duration::from_secs(10);
/// How long what a voter told of its distance counts.
const DISTANCE_FRESH: Duration = Duration::from_secs(60);
/// How long a leader leads at least before it hands over to one that is better placed: distances have settled by then.
const PLACEMENT_AFTER: Duration = Duration::from_secs(60);

/// One replica's part in elections. Clones share it.
#[derive(Clone)]
pub(crate) struct Election {
    raft: Raft,
    log: LogStore,
    dialer: Dialer,
    lineage: LineageCheck,
    clocks: Clocks,
    quorum: QuorumWord,
    writer: Writer,
    /// While it is set, no entries are sent.
    rest: Rest,
    timing: Timing,
    shared: Arc<Shared>,
}

struct Shared {
    /// When a leader was last heard, or a vote given.
    heard: Mutex<Instant>,
    /// How far away other voters are.
    round_trips: Mutex<BTreeMap<NodeId, Duration>>,
    /// How far they say that they are from the others.
    distances: Mutex<BTreeMap<NodeId, (Duration, Instant)>>,
    handing_over: AtomicBool,
}

/// What a leader has to remember.
struct Leading {
    /// Since when it is heard: since it leads, or since it last spoke again.
    since: Instant,
    /// Since when it is silent, because no quorum answered it, or when it last asked whether one would have it back.
    silent_since: Option<Instant>,
    sounded: Instant,
}

fn voters(metrics: &RaftMetrics<NodeId, Peer>) -> BTreeSet<NodeId> {
    metrics.membership_config.membership().voter_ids().collect()
}

impl Election {
    pub(crate) fn new(
        (raft, log, writer): (Raft, LogStore, Writer),
        dialer: Dialer,
        lineage: LineageCheck,
        clocks: Clocks,
        quorum: QuorumWord,
        rest: Rest,
        timing: Timing,
    ) -> Self {
        let shared = Shared {
            heard: Mutex::new(Instant::now()),
            round_trips: Mutex::default(),
            distances: Mutex::default(),
            handing_over: AtomicBool::default(),
        };
        Self { raft, log, dialer, lineage, clocks, quorum, writer, rest, timing, shared: Arc::new(shared) }
    }

    /// Notes that a leader was heard just now, or a vote given.
    pub(crate) fn heard(&self) {
        *self.shared.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn last_heard(&self) -> Instant {
        *self.shared.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this replica has been without a leader for long enough to vote for another.
    fn is_abandoned(&self) -> bool {
        self.last_heard().elapsed() >= self.timing.election_min
    }

    async fn last_entry(&self) -> Option<LogId> {
        self.log.clone().get_log_state().await.ok()?.last_log_id
    }

    /// Decides until told to stop.
    pub(crate) async fn keep(self, shutdown: CancellationToken) {
        let metrics = self.raft.metrics();
        let mut patience = Patience::new(self.timing);
        let mut leading: Option<Leading> = None;
        let mut sounded = Instant::now();
        let every_round = async {
            loop {
                let (own, voters, leads) = {
                    let metrics = metrics.borrow();
                    (metrics.id, voters(&metrics), metrics.state.is_leader())
                };
                if leads {
                    let now = Instant::now();
                    let leading = leading.get_or_insert(Leading { since: now, silent_since: None, sounded: now });
                    self.lead(leading, own, &voters).await;
                } else {
                    leading = None;
                    self.speak(true);
                    if voters.contains(&own) {
                        self.follow(&mut patience, &mut sounded, own, &voters).await;
                    }
                }
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        };
        shutdown.run_until_cancelled(every_round).await;
        // Nobody is to wait for what stops.
        self.speak(false);
    }

    /// Lets this replica be heard as a leader, or not. One that is not heard takes no writes either, and sends none: that
    /// would be heard.
    fn speak(&self, aloud: bool) {
        if aloud && self.shared.handing_over.load(Ordering::Relaxed) {
            return;
        }
        self.raft.runtime_config().heartbeat(aloud);
        self.rest.set(!aloud);
        self.writer.close(!aloud);
    }

    async fn lead(&self, leading: &mut Leading, own: NodeId, voters: &BTreeSet<NodeId>) {
        if self.shared.handing_over.load(Ordering::Relaxed) {
            return;
        }
        match leading.silent_since {
            None => self.check_answers(leading, voters),
            Some(since) if since.elapsed() >= self.timing.heartbeat => {
                // Who is silent is as good as gone, and votes for another; but it may be the only one that has all entries.
                let wanted = self.would_be_elected(own, voters).await;
                leading.silent_since = (!wanted).then(Instant::now);
                leading.since = Instant::now();
            }
            Some(_) => {}
        }
        let aloud = self.clocks.is_fit() && leading.silent_since.is_none();
        if aloud {
            self.heard();
        }
        self.speak(aloud);
        if leading.sounded.elapsed() >= SOUNDING_INTERVAL {
            leading.sounded = Instant::now();
            self.sound(own, voters).await;
            if leading.since.elapsed() >= PLACEMENT_AFTER && self.make_way(own, voters).await {
                leading.since = Instant::now();
            }
        }
    }

    /// Falls silent when no quorum answers any more.
    fn check_answers(&self, leading: &mut Leading, voters: &BTreeSet<NodeId>) {
        let unanswered = self.quorum.silence().min(leading.since.elapsed());
        if voters.len() > 1 && unanswered > self.timing.election_max {
            tracing::warn!(
                "no quorum answers this gateway, which leads the registry: it falls silent, so that the others elect another"
            );
            leading.silent_since = Some(Instant::now());
        }
    }

    async fn follow(&self, patience: &mut Patience, sounded: &mut Instant, own: NodeId, voters: &BTreeSet<NodeId>) {
        if voters.len() == 1 {
            if patience.has_rested(Instant::now()) {
                self.stand().await;
                patience.stood(Instant::now());
            }
            return;
        }
        let foremost = self.raft.metrics().borrow().vote.leader_id.node_id == own;
        if self.clocks.is_fit() && patience.is_over(self.last_heard(), foremost, Instant::now()) {
            if self.would_be_elected(own, voters).await {
                tracing::info!("no leader of the registry is heard: this gateway stands for election");
                self.heard();
                self.stand().await;
                patience.stood(Instant::now());
            } else {
                patience.turned_down(Instant::now());
            }
        } else if sounded.elapsed() >= SOUNDING_INTERVAL {
            *sounded = Instant::now();
            self.sound(own, voters).await;
        }
    }

    async fn stand(&self) {
        // Fails only when the replica has stopped, which its status tells.
        let _ = self.raft.trigger().elect().await;
    }
}
