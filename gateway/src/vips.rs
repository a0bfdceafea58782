//! Listeners on the virtual addresses: for clients without a sidecar, who connect to what DNS gave them.
//!
//! Each service of the federation has one address in the cluster's range and a listener for each of its ports
//! there. Listeners follow the snapshot; a port that stays keeps its listener and its connections. DNS answers with
//! an address whether or not it can be listened on, so what cannot is told: logged when it changes, in
//! `isthmus status`, and as the metric `isthmus_vips_unbound`.
//!
//! All of them together take as many connections as any other listener: a federation of thousands of services must not
//! mean thousands of times as many.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use isthmus_model::name::ServiceName;
use isthmus_model::shared::{DiffItem, OrdMap};
use isthmus_model::snapshot::{Service, Snapshot};
use isthmus_proxy::DataPlane;
use isthmus_proxy::accept::DRAIN_WITHIN;
use isthmus_proxy::limits::{Gate, Limits};
use isthmus_proxy::metrics::Direction;
use isthmus_proxy::outbound::{Mode, OutboundListener};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Listeners at most. Each is one file descriptor; beyond, clients use the forward proxy.
const LISTENERS_MAX: usize = 8_192;
/// Pause before addresses that could not be bound are tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(5);
/// Lines of the log for one change: a range that is not routed fails at every address alike.
const LOGGED_MAX: usize = 3;

/// Which virtual addresses are served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// How many have a listener.
    pub bound: usize,
    /// Those that have none, and why.
    pub unbound: BTreeMap<SocketAddr, String>,
}

/// The listeners, and where they tell how they are.
pub struct Vips {
    plane: DataPlane,
    /// Where the connections to every address count.
    gate: Gate,
    served: watch::Sender<Arc<Served>>,
    open: BTreeMap<SocketAddr, (ServiceName, CancellationToken)>,
    tasks: TaskTracker,
}

/// What should be listened on, as the views say one after the other.
#[derive(Default)]
struct Wanted {
    services: OrdMap<ServiceName, Arc<Service>>,
    addresses: BTreeMap<SocketAddr, ServiceName>,
}

impl Wanted {
    /// Follows to a view. Whether it wants other addresses. What it shares with the last one is not looked at.
    fn follow(&mut self, view: &Snapshot) -> bool {
        let before = std::mem::replace(&mut self.services, view.services.clone());
        let (mut old, mut new) = (BTreeMap::new(), BTreeMap::new());
        for item in before.diff(&view.services) {
            let (was, is) = match item {
                DiffItem::Add(_, is) => (None, Some(is)),
                DiffItem::Remove(_, was) => (Some(was), None),
                DiffItem::Update { old: (_, was), new: (_, is) } => (Some(was), Some(is)),
            };
            old.extend(was.into_iter().flat_map(|service| addresses(service)));
            new.extend(is.into_iter().flat_map(|service| addresses(service)));
        }
        for address in old.keys() {
            self.addresses.remove(address);
        }
        let news = old != new;
        self.addresses.extend(new);
        news
    }
}

/// Where a service has to be listened for.
fn addresses(service: &Service) -> impl Iterator<Item = (SocketAddr, ServiceName)> {
    let vip = service.vip.filter(|_| service.federated);
    let at = move |vip| service.ports.iter().map(move |port| (SocketAddr::new(vip, port.port), service.name.clone()));
    vip.into_iter().flat_map(at)
}

/// Returns when the connections to an address have had their time after it was withdrawn. When the gateway itself stops, how
/// long that is is for whoever waits for it.
async fn overdue(withdrawn: CancellationToken, shutdown: CancellationToken) {
    withdrawn.cancelled().await;
    tokio::time::sleep(DRAIN_WITHIN).await;
    if shutdown.is_cancelled() {
        std::future::pending::<()>().await;
    }
}

/// Takes out what is more than can be listened on.
fn beyond_limit(wanted: &mut BTreeMap<SocketAddr, ServiceName>) -> BTreeMap<SocketAddr, String> {
    let first = wanted.keys().nth(LISTENERS_MAX).copied();
    let beyond = first.map(|first| wanted.split_off(&first)).unwrap_or_default();
    let reason = format!("a gateway listens on {LISTENERS_MAX} virtual addresses and ports at most");
    beyond.into_keys().map(|address| (address, reason.clone())).collect()
}

impl Vips {
    /// Listeners of `plane`, none open yet.
    #[must_use]
    pub fn new(plane: DataPlane) -> Self {
        Self::limited(plane, Limits::REACHED_BY_STRANGERS)
    }

    fn limited(plane: DataPlane, limits: Limits) -> Self {
        let gate = Gate::shown(limits, Direction::Outbound, plane.metrics());
        Self { plane, gate, served: watch::Sender::default(), open: BTreeMap::new(), tasks: TaskTracker::new() }
    }

    /// What is served, now and as it changes.
    #[must_use]
    pub fn served(&self) -> watch::Receiver<Arc<Served>> {
        self.served.subscribe()
    }

    /// Keeps the listeners until told to stop, then lets their connections finish.
    pub async fn keep(mut self, shutdown: CancellationToken) {
        let mut view = self.plane.view();
        let mut wanted = Wanted::default();
        // When to try again what could not be opened.
        let mut retry: Option<Instant> = None;
        loop {
            let current = view.borrow_and_update().clone();
            if wanted.follow(&current) || retry.is_some_and(|due| due <= Instant::now()) {
                let mut addresses = wanted.addresses.clone();
                let beyond = beyond_limit(&mut addresses);
                self.close_others(&addresses);
                let mut unbound = self.open(addresses, &shutdown);
                unbound.extend(beyond);
                retry = (!unbound.is_empty()).then(|| Instant::now() + RETRY_PAUSE);
                self.tell(unbound);
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => {}
                changed = view.changed() => if changed.is_err() { break },
            }
        }
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn close_others(&mut self, wanted: &BTreeMap<SocketAddr, ServiceName>) {
        self.open.retain(|address, (service, stop)| {
            let keep = wanted.get(address) == Some(service);
            if !keep {
                stop.cancel();
            }
            keep
        });
    }

    /// Opens what is not open. Returns what cannot be.
    fn open(
        &mut self,
        wanted: BTreeMap<SocketAddr, ServiceName>,
        shutdown: &CancellationToken,
    ) -> BTreeMap<SocketAddr, String> {
        let mut unbound = BTreeMap::new();
        for (address, name) in wanted {
            if self.open.contains_key(&address) {
                continue;
            }
            let mode = Mode::Service { name: name.clone(), port: address.port() };
            match OutboundListener::bind(address, self.plane.clone(), mode) {
                Ok(listener) => {
                    let stop = shutdown.child_token();
                    let listener = listener.sharing(self.gate.clone());
                    let (serving, withdrawn) = (listener.serve(stop.clone()), overdue(stop.clone(), shutdown.clone()));
                    self.tasks.spawn(async move {
                        tokio::select! {
                            () = serving => {}
                            () = withdrawn => {}
                        }
                    });
                    self.open.insert(address, (name, stop));
                }
                Err(error) => {
                    unbound.insert(address, error.source.to_string());
                }
            }
        }
        unbound
    }

    /// Publishes what is served, and logs what is news about it.
    fn tell(&self, unbound: BTreeMap<SocketAddr, String>) {
        let next = Served { bound: self.open.len(), unbound };
        self.served.send_if_modified(|known| {
            if **known == next {
                return false;
            }
            log_news(known, &next);
            *known = Arc::new(next);
            true
        });
    }
}

fn log_news(before: &Served, now: &Served) {
    let mut news = now.unbound.iter().filter(|(address, reason)| before.unbound.get(*address) != Some(*reason));
    for (address, reason) in news.by_ref().take(LOGGED_MAX) {
        tracing::warn!(%address, reason, "a virtual address is not served: is `vip_range` routed to this machine?");
    }
    let rest = news.count();
    if rest > 0 {
        tracing::warn!(addresses = rest, "more virtual addresses are not served");
    }
    if now.unbound.is_empty() && !before.unbound.is_empty() {
        tracing::info!("every virtual address is served");
    }
}

#[cfg(test)]
mod tests {
    use isthmus_identity::LiveIdentity;
    use isthmus_proxy::Metrics;
    use isthmus_tests::harness::Loopback;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::admin::fixture::World;

    #[tokio::test]
    async fn an_address_that_cannot_be_listened_on_is_told_once() {
        let view = World::new().state.snapshots;
        let metrics = Arc::new(Metrics::register(&mut prometheus_client::registry::Registry::default()));
        let mut vips = Vips::new(DataPlane::new(view.clone(), None, LiveIdentity::new(), metrics));
        let mut served = vips.served();
        // The range of the fixture is routed nowhere.
        let mut wanted = Wanted::default();
        assert!(wanted.follow(&view.borrow()) && !wanted.follow(&view.borrow()));
        let unbound = vips.open(wanted.addresses, &CancellationToken::new());
        vips.tell(unbound.clone());
        let told = served.borrow_and_update().clone();
        let addresses: Vec<String> = told.unbound.keys().map(SocketAddr::to_string).collect();
        assert_eq!((told.bound, addresses), (0, vec!["10.11.0.1:80".to_owned()]));
        vips.tell(unbound);
        assert!(!served.has_changed().expect("the sender lives"), "a further try changes nothing");
        vips.tell(BTreeMap::new());
        assert!(served.borrow_and_update().unbound.is_empty());
    }

    /// Whether a new connection is still open when one that was let in has been answered.
    async fn lets_in(address: SocketAddr) -> Option<TcpStream> {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("written");
        let answered = stream.read(&mut [0]).await.is_ok_and(|read| read > 0);
        answered.then_some(stream)
    }

    #[tokio::test]
    async fn the_addresses_do_not_have_each_as_many_connections_as_a_listener_may() {
        let view = World::new().state.snapshots;
        let metrics = Arc::new(Metrics::register(&mut prometheus_client::registry::Registry::default()));
        let plane = DataPlane::new(view, None, LiveIdentity::new(), metrics);
        let mut vips = Vips::limited(plane, Limits { total: 2, per_source: 2, pending: 2, pending_per_source: 2 });
        let block = Loopback::block();
        let addresses = [1, 2, 3].map(|host| block.address(host, 80));
        let wanted = addresses.map(|address| (address, "shop/reviews".parse().expect("valid")));
        let unbound = vips.open(BTreeMap::from(wanted), &CancellationToken::new());
        assert!(unbound.is_empty(), "{unbound:?}");
        let [first, second, third] = addresses;
        let _kept = [lets_in(first).await.expect("room"), lets_in(second).await.expect("room")];
        assert!(lets_in(third).await.is_none(), "two are all that there may be");
    }
}
