//! Writes of many, agreed together while this replica leads.
//!
//! The Raft library syncs each entry of its log before it takes the next, so that one write an entry means one sync a
//! write. What comes while an entry is under way goes into the next one together, as databases do it (group commit). Each
//! write has its own answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use isthmus_model::command::{Entry, Outcome, Refusal};
use isthmus_model::registry::node::NodeId;
use openraft::error::ClientWriteError;
use openraft::raft::ClientWriteResponse;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::protocol::Protocols;
use crate::raft_types::{Applied, Batch, Peer, Raft, RegistryRaft};

/// Writes that wait for their turn. More are held back where they come from.
const WAITING_MAX: usize = 1_024;
/// Writes in one entry: with the widest exports it stays below the largest message.
const BATCH_MAX: usize = 64;
/// Entries of single writes under way at once.
const UNDER_WAY_MAX: usize = 64;
/// As many of them does a batch stand for, so that two are under way: one is on its way to the others while the next is
/// synced here, and what comes meanwhile gathers.
const BATCH_WEIGHT: u32 = 32;

/// What became of a write.
pub(crate) enum Written {
    /// By the entry at that index.
    Settled(Result<Outcome, Refusal>, u64),
    /// Another replica leads, or none that is known.
    Elsewhere(Option<NodeId>),
    /// It is not known whether it will be agreed.
    Unclear(String),
}

struct Waiting {
    entry: Entry,
    answer: oneshot::Sender<Written>,
}

/// Takes writes. Clones share it.
#[derive(Clone)]
pub(crate) struct Writer {
    queue: mpsc::Sender<Waiting>,
    /// Whether this replica leads and is not to be heard, which sending entries would be.
    rests: Arc<AtomicBool>,
}

impl Writer {
    /// One for `raft`, and what does its work until told to stop.
    pub(crate) fn new(
        raft: Raft,
        protocols: Protocols,
        shutdown: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (waiting, queue) = mpsc::channel(WAITING_MAX);
        let work = async move {
            shutdown.run_until_cancelled(work(raft, protocols, queue)).await;
        };
        (Self { queue: waiting, rests: Arc::default() }, work)
    }

    /// Takes nothing for as long as this replica `rests`: as if it did not lead.
    pub(crate) fn rest(&self, rests: bool) {
        self.rests.store(rests, Ordering::Relaxed);
    }

    /// Writes.
    pub(crate) async fn write(&self, entry: Entry) -> Written {
        if self.rests.load(Ordering::Relaxed) {
            return Written::Elsewhere(None);
        }
        let stopped = || Written::Unclear("this gateway is stopping".to_owned());
        let (answer, answered) = oneshot::channel();
        if self.queue.send(Waiting { entry, answer }).await.is_err() {
            return stopped();
        }
        answered.await.unwrap_or_else(|_| stopped())
    }
}

async fn work(raft: Raft, protocols: Protocols, mut queue: mpsc::Receiver<Waiting>) {
    let under_way = Arc::new(Semaphore::new(UNDER_WAY_MAX));
    loop {
        let Some(first) = queue.recv().await else { return };
        let (weight, most) = if takes_batches(&raft, &protocols) { (BATCH_WEIGHT, BATCH_MAX) } else { (1, 1) };
        // Nobody closes it.
        let Ok(place) = under_way.clone().acquire_many_owned(weight).await else { return };
        let mut batch = vec![first];
        while batch.len() < most
            && let Ok(next) = queue.try_recv()
        {
            batch.push(next);
        }
        let (entries, answers): (Vec<_>, Vec<_>) = batch.into_iter().map(|one| (one.entry, one.answer)).unzip();
        match raft.client_write_ff(Batch::new(entries)).await {
            Ok(written) => {
                tokio::spawn(async move {
                    let written = written.await;
                    drop(place);
                    match written {
                        Ok(written) => tell(written, answers),
                        Err(_) => tell_all(answers, || Written::Unclear("the replica stopped".to_owned())),
                    }
                });
            }
            Err(error) => tell_all(answers, || Written::Unclear(error.to_string())),
        }
    }
}

/// Whether every replica can read an entry of several writes.
fn takes_batches(raft: &Raft, protocols: &Protocols) -> bool {
    let metrics = raft.metrics();
    let metrics = metrics.borrow();
    protocols.check_batches(metrics.id, metrics.membership_config.membership()).is_ok()
}

type Answer = Result<ClientWriteResponse<RegistryRaft>, ClientWriteError<NodeId, Peer>>;

fn tell(written: Answer, answers: Vec<oneshot::Sender<Written>>) {
    match written {
        Ok(ClientWriteResponse { data: Applied::Each(results), log_id, .. }) if results.len() == answers.len() => {
            for (result, answer) in results.into_iter().zip(answers) {
                // Who does not wait any more does not need it.
                let _ = answer.send(Written::Settled(result, log_id.index));
            }
        }
        Ok(_) => tell_all(answers, || Written::Unclear("the entry was not applied".to_owned())),
        Err(ClientWriteError::ForwardToLeader(forward)) => tell_all(answers, || Written::Elsewhere(forward.leader_id)),
        Err(error) => tell_all(answers, || Written::Unclear(error.to_string())),
    }
}

fn tell_all(answers: Vec<oneshot::Sender<Written>>, what: impl Fn() -> Written) {
    for answer in answers {
        let _ = answer.send(what());
    }
}
