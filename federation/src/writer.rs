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
/// Writes in one entry.
const BATCH_MAX: usize = 64;
/// Bytes after which an entry takes no further write: with the widest one it still passes a slow link within a heartbeat.
const BATCH_LEN_MAX: usize = 64 << 10;
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

/// Whether this replica leads and is not to be heard: it takes no writes and sends no entries. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rest(Arc<AtomicBool>);

impl Rest {
    pub(crate) fn set(&self, rests: bool) {
        self.0.store(rests, Ordering::Relaxed);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Takes writes. Clones share it.
#[derive(Clone)]
pub(crate) struct Writer {
    queue: mpsc::Sender<Waiting>,
    /// As if it did not lead.
    closed: Rest,
}

impl Writer {
    /// One for `raft`, and what does its work until told to stop.
    pub(crate) fn new(
        raft: Raft,
        protocols: Protocols,
        shutdown: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (waiting, queue) = mpsc::channel(WAITING_MAX);
        let closed = Rest::default();
        let shut = closed.clone();
        let work = async move {
            shutdown.run_until_cancelled(work(raft, protocols, shut, queue)).await;
        };
        (Self { queue: waiting, closed }, work)
    }

    /// Takes nothing while it is closed: as if this replica did not lead.
    pub(crate) fn close(&self, closed: bool) {
        self.closed.set(closed);
    }

    /// Writes.
    pub(crate) async fn write(&self, entry: Entry) -> Written {
        if self.closed.is_set() {
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

async fn work(raft: Raft, protocols: Protocols, closed: Rest, mut queue: mpsc::Receiver<Waiting>) {
    let under_way = Arc::new(Semaphore::new(UNDER_WAY_MAX));
    loop {
        let Some(first) = queue.recv().await else { return };
        let (weight, most) = if takes_batches(&raft, &protocols) { (BATCH_WEIGHT, BATCH_MAX) } else { (1, 1) };
        // Nobody closes it.
        let Ok(place) = under_way.clone().acquire_many_owned(weight).await else { return };
        // Meanwhile a replica may have come that knows no batches.
        let most = if takes_batches(&raft, &protocols) { most } else { 1 };
        let batch = gather(first, most, &mut queue);
        let (entries, answers): (Vec<_>, Vec<_>) = batch.into_iter().map(|one| (one.entry, one.answer)).unzip();
        if closed.is_set() {
            tell_all(answers, || Written::Elsewhere(None));
            continue;
        }
        if entries.is_empty() {
            continue;
        }
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

/// What waits, up to the bounds of a batch. Who does not wait any more has come again, or given up.
fn gather(first: Waiting, most: usize, queue: &mut mpsc::Receiver<Waiting>) -> Vec<Waiting> {
    let mut batch = Vec::new();
    let (mut next, mut len) = (Some(first), 0);
    while let Some(waiting) = next.take() {
        if !waiting.answer.is_closed() {
            len += written_len(&waiting.entry);
            batch.push(waiting);
        }
        if batch.len() < most && len < BATCH_LEN_MAX {
            next = queue.try_recv().ok();
        }
    }
    batch
}

/// Bytes of an entry as it is written.
fn written_len(entry: &Entry) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // What cannot be written is not counted; that it cannot is told where it is written.
    let _ = serde_json::to_writer(&mut count, entry);
    count.0
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
