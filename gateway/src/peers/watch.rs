//! The listening side of the health stream.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use isthmus_federation::Handle;
use isthmus_federation::dial::Dialer;
use isthmus_federation::raft_types::PeerAddress;
use isthmus_model::health::{PeerHealth, PeerTable, Reach};
use isthmus_model::registry::node::NodeId;
use isthmus_wire::health::{self, Capacities, HEALTH_UPDATE_BYTES_MAX};
use isthmus_wire::peer::health_client::HealthClient;
use isthmus_wire::peer::{HealthRequest, HealthUpdate};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::SILENCE_MAX;

/// Pause before a gateway that does not answer is asked again: the interval of active probing.
const PROBE_INTERVAL: Duration = Duration::from_millis(250);

/// How often a stream that broke is opened again before the gateway counts as down: a channel may need one failure to
/// notice that its connection is gone. A gateway that was killed refuses at once.
const REOPENINGS: u32 = 2;
/// Pause between those.
const REOPENING_PAUSE: Duration = Duration::from_millis(20);

/// Watches every other gateway of the registry.
pub struct PeerWatcher {
    handle: Handle,
    own: NodeId,
    table: watch::Sender<Arc<PeerTable>>,
}

impl PeerWatcher {
    /// A watcher for the gateway with node id `own`.
    #[must_use]
    pub fn new(handle: Handle, own: NodeId) -> Self {
        Self { handle, own, table: watch::Sender::default() }
    }

    /// What is known of the others. That a peer was merely heard again is stored but not signalled.
    #[must_use]
    pub fn table(&self) -> watch::Receiver<Arc<PeerTable>> {
        self.table.subscribe()
    }

    /// Watches until told to stop.
    pub async fn keep(self, shutdown: CancellationToken) {
        let mut registry = self.handle.registry();
        let mut watched: BTreeMap<NodeId, (PeerAddress, CancellationToken)> = BTreeMap::new();
        loop {
            let wanted: BTreeMap<NodeId, PeerAddress> = {
                let registry = registry.borrow_and_update();
                let others = registry.members().filter(|(id, _)| **id != self.own);
                others.map(|(id, node)| (*id, PeerAddress::from(node))).collect()
            };
            watched.retain(|id, (address, stop)| {
                let keep = wanted.get(id) == Some(address);
                if !keep {
                    stop.cancel();
                }
                keep
            });
            for (id, address) in &wanted {
                watched.entry(*id).or_insert_with(|| {
                    let stop = shutdown.child_token();
                    let peer = Peer { id: *id, address: address.clone(), table: self.table.clone() };
                    tokio::spawn(stop.clone().run_until_cancelled_owned(peer.follow(self.handle.dialer().clone())));
                    (address.clone(), stop)
                });
            }
            self.table.send_if_modified(|table| {
                let gone: Vec<NodeId> = table.keys().filter(|id| !wanted.contains_key(id)).copied().collect();
                for id in &gone {
                    Arc::make_mut(table).remove(id);
                }
                !gone.is_empty()
            });
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = registry.changed() => if changed.is_err() { return },
            }
        }
    }
}

/// How a health stream ended.
enum Ended {
    /// The connection broke, after a word of health or before.
    Broken { why: String, after_word: bool },
    /// The gateway ended it, fell silent, or told nonsense.
    Over(String),
}

/// One other gateway.
struct Peer {
    id: NodeId,
    address: PeerAddress,
    table: watch::Sender<Arc<PeerTable>>,
}

impl Peer {
    async fn follow(self, dialer: Dialer) {
        // Openings that may fail before the gateway counts as down.
        let mut lenient = 0;
        loop {
            match timeout(SILENCE_MAX, self.open(&dialer)).await {
                Ok(Ok(stream)) => match self.listen(stream).await {
                    // It cuts connections whose certificate is of a root that was retired, and takes new ones.
                    Ended::Broken { after_word: true, .. } => {
                        lenient = REOPENINGS;
                        continue;
                    }
                    Ended::Broken { why, .. } | Ended::Over(why) => self.mark_down(&why),
                },
                Ok(Err(_)) if lenient > 0 => {
                    lenient -= 1;
                    tokio::time::sleep(REOPENING_PAUSE).await;
                    continue;
                }
                Ok(Err(status)) => self.mark_down(status.message()),
                Err(_) => self.mark_down("it does not answer"),
            }
            lenient = 0;
            tokio::time::sleep(PROBE_INTERVAL).await;
        }
    }

    async fn open(&self, dialer: &Dialer) -> Result<Streaming<HealthUpdate>, Status> {
        let client = HealthClient::new(dialer.channel(&self.address));
        let mut client = client.max_decoding_message_size(HEALTH_UPDATE_BYTES_MAX);
        Ok(client.watch(HealthRequest {}).await?.into_inner())
    }

    /// Takes in a stream to its end, and says how it ended.
    async fn listen(&self, mut stream: Streaming<HealthUpdate>) -> Ended {
        let mut first = true;
        loop {
            match timeout(SILENCE_MAX, stream.message()).await {
                Ok(Ok(Some(update))) => {
                    if let Err(error) = self.take(update, first) {
                        return Ended::Over(format!("it tells nonsense: {error}"));
                    }
                    first = false;
                }
                Ok(Ok(None)) => return Ended::Over("it ended its health stream".to_owned()),
                Ok(Err(status)) => {
                    return Ended::Broken { why: status.message().to_owned(), after_word: !first };
                }
                Err(_) => return Ended::Over("it fell silent".to_owned()),
            }
        }
    }

    fn take(&self, update: HealthUpdate, first: bool) -> Result<(), isthmus_wire::WireError> {
        let known = self.table.borrow().get(&self.id).cloned().unwrap_or_default();
        let mut services = if first { Capacities::new() } else { known.services.clone() };
        health::apply(&mut services, &update)?;
        let health =
            PeerHealth { reach: Reach::Up, heard_at: Some(SystemTime::now().into()), stale: update.stale, services };
        if known.reach != Reach::Up {
            tracing::info!(cluster = %self.address.cluster, gateway = %self.address.gateway, "a gateway is up");
        }
        let news = PeerHealth { heard_at: health.heard_at, ..known } != health;
        self.store(health, news);
        Ok(())
    }

    fn mark_down(&self, why: &str) {
        let known = self.table.borrow().get(&self.id).cloned().unwrap_or_default();
        if known.reach != Reach::Down {
            tracing::warn!(cluster = %self.address.cluster, gateway = %self.address.gateway, why, "a gateway is down");
            self.store(PeerHealth { reach: Reach::Down, ..known }, true);
        }
    }

    fn store(&self, health: PeerHealth, news: bool) {
        self.table.send_if_modified(|table| {
            Arc::make_mut(table).insert(self.id, health);
            news
        });
    }
}
