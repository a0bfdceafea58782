//! The telling side of the health stream.

use std::sync::Arc;
use std::time::SystemTime;

use isthmus_federation::caller;
use isthmus_model::drain;
use isthmus_model::health::Capacity;
use isthmus_model::snapshot::Snapshot;
use isthmus_model::time::UnixMillis;
use isthmus_wire::health::{self, Capacities};
use isthmus_wire::peer::{HealthRequest, HealthUpdate, health_server};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::HEARTBEAT;

/// Updates that may wait for a slow peer. It gets fewer, newer ones instead of more.
const WAITING_MAX: usize = 4;

/// Tells other gateways of the own cluster's capacity.
pub struct HealthService {
    view: watch::Receiver<Arc<Snapshot>>,
    shutdown: CancellationToken,
}

impl HealthService {
    /// Tells what `view` says, until told to stop.
    #[must_use]
    pub fn new(view: watch::Receiver<Arc<Snapshot>>, shutdown: CancellationToken) -> Self {
        Self { view, shutdown }
    }
}

/// What the own cluster can take, of what it exports; less and less while it is draining.
fn capacities(view: &Snapshot, now: UnixMillis) -> Capacities {
    let Some(since) = view.draining else { return view.offered.clone() };
    let remaining = |capacity: &Capacity| Capacity { ready: drain::remaining(capacity.ready, since, now), ..*capacity };
    view.offered.iter().map(|(name, capacity)| (name.clone(), remaining(capacity))).collect()
}

async fn tell(
    mut view: watch::Receiver<Arc<Snapshot>>,
    updates: mpsc::Sender<Result<HealthUpdate, Status>>,
    shutdown: CancellationToken,
) {
    let now = || SystemTime::now().into();
    let mut told = capacities(&view.borrow_and_update(), now());
    let mut update = HealthUpdate { stale: is_stale(&view.borrow()), ..health::whole(&told) };
    loop {
        if updates.send(Ok(update)).await.is_err() {
            return;
        }
        update = tokio::select! {
            () = shutdown.cancelled() => return,
            () = updates.closed() => return,
            () = tokio::time::sleep(HEARTBEAT) => news(&view, &mut told, now()),
            changed = view.changed() => {
                if changed.is_err() {
                    return;
                }
                news(&view, &mut told, now())
            }
        };
    }
}

fn is_stale(view: &Snapshot) -> bool {
    view.agreement.stale_since.is_some()
}

/// What has changed since `told`, or that nothing has.
fn news(view: &watch::Receiver<Arc<Snapshot>>, told: &mut Capacities, now: UnixMillis) -> HealthUpdate {
    let view = view.borrow();
    let current = capacities(&view, now);
    let change = health::changes(told, &current);
    *told = current;
    HealthUpdate { stale: is_stale(&view), ..change.unwrap_or_else(health::heartbeat) }
}

#[tonic::async_trait]
impl health_server::Health for HealthService {
    type WatchStream = ReceiverStream<Result<HealthUpdate, Status>>;

    async fn watch(&self, request: Request<HealthRequest>) -> Result<Response<Self::WatchStream>, Status> {
        caller::gateway(&request)?;
        let (updates, stream) = mpsc::channel(WAITING_MAX);
        tokio::spawn(tell(self.view.clone(), updates, self.shutdown.clone()));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

#[cfg(test)]
mod tests {
    use isthmus_model::health::Agreement;
    use isthmus_model::snapshot::{Coverage, Site};

    use super::*;

    fn site() -> Site {
        let locality = "eu-west/z1".parse().expect("valid");
        Site { federation: "acme.mesh".parse().expect("valid"), cluster: "eu-west".parse().expect("valid"), locality }
    }

    #[tokio::test(start_paused = true)]
    async fn a_gateway_says_for_as_long_as_it_lasts_that_it_is_without_a_quorum() {
        let agreed = |stale_since| {
            let agreement = Agreement { leader: None, stale_since };
            Arc::new(Snapshot { agreement, ..Snapshot::empty(site(), Coverage::Complete) })
        };
        let (view, watched) = watch::channel(agreed(None));
        let (updates, mut told) = mpsc::channel(WAITING_MAX);
        tokio::spawn(tell(watched, updates, CancellationToken::new()));
        let mut next = async || told.recv().await.expect("an update").expect("no error").stale;
        assert!(!next().await, "the first word");
        view.send_replace(agreed(Some(UnixMillis(1))));
        assert!(next().await, "the change");
        assert!(next().await, "the heartbeat");
        view.send_replace(agreed(None));
        assert!(!next().await, "it is back");
    }
}
