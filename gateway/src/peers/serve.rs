//! The telling side of the health stream.

use std::collections::BTreeMap;
use std::sync::Arc;

use isthmus_federation::caller;
use isthmus_model::health::Capacity;
use isthmus_model::name::ServiceName;
use isthmus_model::snapshot::Snapshot;
use isthmus_wire::health;
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

/// What the own cluster can take, of what it exports.
fn capacities(view: &Snapshot) -> BTreeMap<ServiceName, Capacity> {
    let exported = view.services.values().filter(|service| service.exported_here);
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let capacity = exported.map(|service| {
        let ready = service.endpoints.iter().filter(|endpoint| endpoint.ready).count();
        (service.name.clone(), Capacity { ready: count(ready), total: count(service.endpoints.len()) })
    });
    capacity.collect()
}

async fn tell(
    mut view: watch::Receiver<Arc<Snapshot>>,
    updates: mpsc::Sender<Result<HealthUpdate, Status>>,
    shutdown: CancellationToken,
) {
    let mut told = capacities(&view.borrow_and_update());
    let mut update = health::whole(&told);
    loop {
        if updates.send(Ok(update)).await.is_err() {
            return;
        }
        update = tokio::select! {
            () = shutdown.cancelled() => return,
            () = updates.closed() => return,
            () = tokio::time::sleep(HEARTBEAT) => health::heartbeat(),
            changed = view.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = capacities(&view.borrow_and_update());
                let change = health::changes(&told, &now);
                told = now;
                change.unwrap_or_else(health::heartbeat)
            }
        };
    }
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
