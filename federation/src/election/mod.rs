//! Who leads the registry. The Raft library counts the votes; when a voter stands, and when a leader goes, is decided here.
//!
//! The library alone would have a voter stand whenever it heard no leader for a while, with a patience that is drawn
//! once for good. A voter that is cut off would then come back with a later term and unseat a leader that served all others;
//! two voters of the same patience would split the votes again and again; and a leader that is heard by all but reached by
//! none would stay. So:
//!
//! - a voter first asks the others whether they would vote for it (pre-vote, §9.6 of Ongaro's thesis), and stands only if most
//!   would: nobody has heard a leader for a while, and it has all that they have;
//! - its patience is drawn anew each time;
//! - a leader that no quorum answers falls silent, so that the others elect one that they reach;
//! - a leader hands over before it stops, and to a voter that is much nearer to the others than it is (§3.10).
//!
//! Safety is the library's: whatever is wrong here costs time, not entries.

mod patience;
mod placement;
mod service;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use isthmus_model::registry::NODES_MAX;
use isthmus_model::registry::node::NodeId;
use isthmus_wire::peer::election_client::ElectionClient;
use isthmus_wire::peer::{Candidacy, Opinion};
use openraft::RaftMetrics;
use openraft::storage::RaftLogStorage;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};

use crate::clocks::Clocks;
use crate::dial::Dialer;
use crate::lineage::LineageCheck;
use crate::node::Timing;
use crate::quorum::QuorumWord;
use crate::raft_types::{LogId, Peer, Raft};
use crate::store::LogStore;
use crate::writer::Writer;

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
/// How long a handover may take: the successor has all entries at once, or is not in step.
const HANDOVER_MAX: Duration = Duration::from_secs(2);

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
    timing: Timing,
    shared: Arc<Shared>,
}

struct Shared {
    /// When a leader was last heard, or a vote given.
    heard: Mutex<Instant>,
    /// How far other voters say that they are from the others.
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

/// Why a leader did not hand over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotHandedOver {
    /// Nothing to hand over.
    #[error("this gateway does not lead the registry")]
    DoesNotLead,
    /// Nobody to hand over to.
    #[error("no other voter is in step and answers")]
    NoSuccessor,
    /// Nobody leads in its place yet: the others will elect one.
    #[error("the successor was not elected in time")]
    NotElected,
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
        timing: Timing,
    ) -> Self {
        let shared = Shared {
            heard: Mutex::new(Instant::now()),
            distances: Mutex::default(),
            handing_over: AtomicBool::default(),
        };
        Self { raft, log, dialer, lineage, clocks, quorum, writer, timing, shared: Arc::new(shared) }
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
    }

    /// Lets this replica be heard as a leader, or not. One that is not heard takes no writes either, for sending them
    /// would be heard.
    fn speak(&self, aloud: bool) {
        self.raft.runtime_config().heartbeat(aloud);
        self.writer.rest(!aloud);
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
            if leading.since.elapsed() >= PLACEMENT_AFTER {
                self.make_way(own, voters).await;
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
            self.stand().await;
            return;
        }
        if self.clocks.is_fit() && patience.is_over(self.last_heard(), Instant::now()) {
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

    /// Whether most voters would vote for this replica.
    async fn would_be_elected(&self, own: NodeId, voters: &BTreeSet<NodeId>) -> bool {
        let needed = voters.len() / 2 + 1;
        let mut answers = self.canvass(own, voters).await;
        let mut willing = 1;
        while willing < needed {
            match answers.next().await {
                Some((_, Some(opinion))) => willing += usize::from(opinion.would_vote),
                Some((_, None)) => {}
                None => return false,
            }
        }
        // Meanwhile another may have been elected.
        self.is_abandoned()
    }

    /// Asks all other voters for their opinion of this replica. Opinions come as they are given, in good time or not at
    /// all.
    async fn canvass(
        &self,
        own: NodeId,
        voters: &BTreeSet<NodeId>,
    ) -> FuturesUnordered<impl Future<Output = (NodeId, Option<Opinion>)>> {
        let last = self.last_entry().await;
        let peers: Vec<(NodeId, Peer)> = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            let membership = metrics.membership_config.membership();
            let others = voters.iter().filter(|voter| **voter != own);
            others.filter_map(|voter| Some((*voter, membership.get_node(voter)?.clone()))).collect()
        };
        peers.into_iter().map(|(voter, peer)| async move { (voter, self.ask(own, voter, &peer, last).await) }).collect()
    }

    fn candidacy(&self, own: NodeId, last: Option<LogId>) -> Candidacy {
        let (term, leader) = last.map_or((0, 0), |last| (last.leader_id.term, last.leader_id.node_id));
        let index = last.map_or(0, |last| last.index);
        Candidacy { node: own, term, leader, index, lineage: self.lineage.own(), clock_ms: Some(self.clocks.own().0) }
    }

    async fn ask(&self, own: NodeId, voter: NodeId, peer: &Peer, last: Option<LogId>) -> Option<Opinion> {
        let mut client = ElectionClient::new(self.dialer.channel(peer.0.as_ref()?));
        let asked = Instant::now();
        let answer =
            timeout(self.timing.heartbeat, client.canvass(Request::new(self.candidacy(own, last)))).await.ok()?;
        match answer {
            Ok(opinion) => {
                let opinion = opinion.into_inner();
                self.clocks.note(voter, opinion.clock_ms, Some(asked.elapsed()));
                if let Some(micros) = opinion.distance_us {
                    self.note_distance(voter, Duration::from_micros(micros));
                }
                Some(opinion)
            }
            // A version that knows no opinions: it will say so by its vote.
            Err(status) if status.code() == Code::Unimplemented => {
                Some(Opinion { would_vote: true, ..Opinion::default() })
            }
            Err(status) => {
                tracing::debug!(voter, %status, "a voter gives no opinion");
                None
            }
        }
    }

    /// Measures how far the other voters are, and hears how far they are from each other.
    async fn sound(&self, own: NodeId, voters: &BTreeSet<NodeId>) {
        let mut answers = self.canvass(own, voters).await;
        while answers.next().await.is_some() {}
    }

    fn note_distance(&self, voter: NodeId, distance: Duration) {
        let mut distances = self.shared.distances.lock().unwrap_or_else(PoisonError::into_inner);
        distances.retain(|_, (_, at)| at.elapsed() <= DISTANCE_FRESH);
        if distances.len() < NODES_MAX {
            distances.insert(voter, (distance, Instant::now()));
        }
    }

    /// The median of the round trips to the other voters, once all are known.
    fn own_distance(&self, own: NodeId, voters: &BTreeSet<NodeId>) -> Option<Duration> {
        let others = voters.iter().filter(|voter| **voter != own);
        placement::median(others.map(|voter| self.clocks.round_trip(*voter)).collect::<Option<Vec<_>>>()?)
    }

    /// Voters that could lead at once, with their distance from the others if they told it.
    fn candidates(&self, own: NodeId, voters: &BTreeSet<NodeId>) -> BTreeMap<NodeId, Option<Duration>> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let distances = self.shared.distances.lock().unwrap_or_else(PoisonError::into_inner);
        let in_step = |voter: &NodeId| {
            let matched = metrics.replication.as_ref()?.get(voter)?.as_ref()?;
            let lately = self.clocks.heard(*voter)? <= self.timing.election_min;
            (lately && Some(matched.index) >= metrics.last_log_index).then_some(*voter)
        };
        let others = voters.iter().filter(|voter| **voter != own).filter_map(in_step);
        let fresh = |voter: NodeId| {
            let (distance, at) = distances.get(&voter)?;
            (at.elapsed() <= DISTANCE_FRESH).then_some(*distance)
        };
        others.map(|voter| (voter, fresh(voter))).collect()
    }

    /// Hands over to a voter that is much better placed, if there is one.
    async fn make_way(&self, own: NodeId, voters: &BTreeSet<NodeId>) {
        let Some(distance) = self.own_distance(own, voters) else { return };
        let Some(successor) = placement::better(distance, &self.candidates(own, voters)) else { return };
        tracing::info!(successor, "another voter is nearer to all others: it is to lead the registry");
        if let Err(error) = self.hand_over_to(own, successor).await {
            tracing::info!(successor, %error, "the registry's leader stays");
        }
    }

    /// Hands over to the voter that is best placed, before this replica stops.
    pub(crate) async fn hand_over(&self) -> Result<NodeId, NotHandedOver> {
        let (own, voters) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            if !metrics.state.is_leader() {
                return Err(NotHandedOver::DoesNotLead);
            }
            (metrics.id, voters(&metrics))
        };
        let successor = placement::nearest(&self.candidates(own, &voters)).ok_or(NotHandedOver::NoSuccessor)?;
        self.hand_over_to(own, successor).await?;
        Ok(successor)
    }

    /// Falls silent until voters are free to vote for another, and lets the successor stand.
    async fn hand_over_to(&self, own: NodeId, successor: NodeId) -> Result<(), NotHandedOver> {
        self.shared.handing_over.store(true, Ordering::Relaxed);
        self.speak(false);
        let handed_over = timeout(HANDOVER_MAX, async {
            // As long as the library's voters keep to a leader that they heard.
            tokio::time::sleep(crate::node::lease(self.timing)).await;
            let peer = {
                let metrics = self.raft.metrics();
                let metrics = metrics.borrow();
                metrics.membership_config.membership().get_node(&successor).and_then(|peer| peer.0.clone())
            };
            let peer = peer.ok_or(NotHandedOver::NoSuccessor)?;
            let candidacy = self.candidacy(own, self.last_entry().await);
            let mut client = ElectionClient::new(self.dialer.channel(&peer));
            client.stand(Request::new(candidacy)).await.map_err(|status: Status| {
                tracing::debug!(successor, %status, "the successor does not stand");
                NotHandedOver::NotElected
            })?;
            let elected = self.raft.wait(None).metrics(|metrics| !metrics.state.is_leader(), "another leads").await;
            elected.map(drop).map_err(|_| NotHandedOver::NotElected)
        });
        let handed_over = handed_over.await.unwrap_or(Err(NotHandedOver::NotElected));
        self.shared.handing_over.store(false, Ordering::Relaxed);
        self.speak(true);
        handed_over
    }
}
