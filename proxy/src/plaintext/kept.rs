//! Connections between requests.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use crate::message::{Body, replay, streams};

/// An idle connection is closed after this: before common servers do it themselves (5 s), so that a request
/// does not meet a connection that is just being closed.
pub const IDLE_MAX: Duration = Duration::from_secs(4);
/// Idle connections to one address.
pub const IDLE_PER_ADDRESS: usize = 64;
/// Connections to one address in all.
pub const CONNECTIONS_PER_ADDRESS: usize = 1_024;
/// Streams that an HTTP/2 application is assumed to take until it says how many: no fewer are recommended (RFC 9113 §6.5.2), and
/// hyper assumes the same.
const STREAMS_ASSUMED: usize = 100;
/// How long a connection may take to become ready again after a response was read.
const READY_WITHIN: Duration = Duration::from_secs(1);

/// Open and idle connections by address. Addresses without any are taken out, so the table is as bounded
/// as what points to them.
#[derive(Default)]
pub(super) struct Kept(Mutex<HashMap<SocketAddr, Host>>);

#[derive(Default)]
struct Host {
    open: usize,
    /// Most recently used last.
    idle: Vec<(Instant, Http1)>,
    /// What closes them in time, as long as there are any: one for all of them, however often they come and go.
    sweeper: Option<AbortOnDropHandle<()>>,
    /// The first that has room is used, so that the others come to be idle.
    http2: Vec<Shared>,
    limit: Limit,
}

/// An HTTP/1 connection.
pub(super) struct Http1 {
    pub(super) sender: http1::SendRequest<Body>,
    /// Told to end it, whatever is on it.
    pub(super) cut: Arc<Notify>,
}

/// Streams that an application takes on one HTTP/2 connection, as far as it has said so.
#[derive(Clone)]
struct Limit(Arc<AtomicUsize>);

impl Default for Limit {
    fn default() -> Self {
        Self(Arc::new(AtomicUsize::new(STREAMS_ASSUMED)))
    }
}

/// An HTTP/2 connection.
#[derive(Clone)]
pub(super) struct Shared {
    sender: http2::SendRequest<Body>,
    streams: Arc<Streams>,
}

/// The streams of an HTTP/2 connection.
pub(super) struct Streams {
    under_way: Arc<streams::Streams>,
    limit: Limit,
    answered: AtomicBool,
    first_answer: Notify,
}

impl Streams {
    /// How many the application takes, as far as it has said so.
    pub(super) fn limit(&self) -> usize {
        self.limit.0.load(Ordering::Relaxed)
    }

    /// The application said how many it takes.
    pub(super) fn set_limit(&self, limit: usize) {
        self.limit.0.store(limit, Ordering::Relaxed);
    }

    /// Those that are under way.
    pub(super) fn under_way(&self) -> Arc<streams::Streams> {
        self.under_way.clone()
    }

    /// Waits for the first answer: before it, the application has said how many it takes.
    pub(super) async fn first_answer(&self) {
        self.first_answer.notified().await;
    }
}

/// The place of one stream, as long as it is held.
pub(super) struct Place(Arc<Streams>, streams::Stream);

impl Place {
    /// The stream was answered.
    pub(super) fn answered(&self) {
        if !self.0.answered.swap(true, Ordering::Relaxed) {
            self.0.first_answer.notify_one();
        }
    }
}

impl replay::Place for Place {
    fn stick(&self) {
        self.1.stick();
    }
}

impl Shared {
    pub(super) fn new(sender: http2::SendRequest<Body>, streams: Arc<Streams>) -> Self {
        Self { sender, streams }
    }

    /// Takes a place for one more stream, whether there is room or not.
    pub(super) fn enter(self) -> (http2::SendRequest<Body>, Place) {
        let stream = self.streams.under_way.enter();
        (self.sender, Place(self.streams, stream))
    }

    fn has_room(&self) -> bool {
        !self.streams.under_way.are_stuck() && self.streams.under_way.count() < self.streams.limit()
    }

    fn is_idle(&self) -> bool {
        self.streams.under_way.count() == 0
    }
}

impl Kept {
    fn hosts(&self) -> MutexGuard<'_, HashMap<SocketAddr, Host>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An idle HTTP/1 connection.
    pub(super) fn take(&self, address: SocketAddr) -> Option<Http1> {
        let mut hosts = self.hosts();
        let idle = &mut hosts.get_mut(&address)?.idle;
        while let Some((since, last)) = idle.pop() {
            if !last.sender.is_closed() {
                // Those before it have been idle for longer still.
                return (since.elapsed() < IDLE_MAX).then_some(last);
            }
        }
        None
    }

    /// A place on an HTTP/2 connection that has room.
    pub(super) fn shared(&self, address: SocketAddr) -> Option<(http2::SendRequest<Body>, Place)> {
        let mut hosts = self.hosts();
        let host = hosts.get_mut(&address)?;
        // One that is idle is kept for the next burst.
        let mut spare = false;
        host.http2.retain(|one| !one.sender.is_closed() && (!one.is_idle() || !std::mem::replace(&mut spare, true)));
        Some(host.http2.iter().find(|one| one.has_room())?.clone().enter())
    }

    /// What counts the streams of a connection that is about to be opened. What the application said on another one holds there too.
    pub(super) fn streams(&self, address: SocketAddr) -> Arc<Streams> {
        let limit = self.hosts().entry(address).or_default().limit.clone();
        let (under_way, answered, first_answer) = Default::default();
        Arc::new(Streams { under_way, limit, answered, first_answer })
    }

    /// Lets others use a connection, and takes the first place on it.
    pub(super) fn share(&self, address: SocketAddr, shared: Shared) -> (http2::SendRequest<Body>, Place) {
        let mut hosts = self.hosts();
        hosts.entry(address).or_default().http2.push(shared.clone());
        shared.enter()
    }

    /// Counts a connection to be opened; `None` when there are too many.
    pub(super) fn open(self: &Arc<Self>, address: SocketAddr) -> Option<Slot> {
        let mut hosts = self.hosts();
        let host = hosts.entry(address).or_default();
        if host.open >= CONNECTIONS_PER_ADDRESS {
            return None;
        }
        host.open += 1;
        Some(Slot { kept: self.clone(), address })
    }

    /// What brings a connection back once its exchange is over.
    pub(super) fn returning(self: &Arc<Self>, address: SocketAddr, used: Http1) -> Returning {
        Returning { kept: self.clone(), address, used: Some(used) }
    }

    fn put(self: &Arc<Self>, address: SocketAddr, used: Http1) {
        let mut hosts = self.hosts();
        let Some(host) = hosts.get_mut(&address) else { return };
        if used.sender.is_closed() || host.idle.len() >= IDLE_PER_ADDRESS {
            return;
        }
        host.idle.push((Instant::now(), used));
        if host.sweeper.is_none() {
            let kept = Arc::downgrade(self);
            host.sweeper = Some(AbortOnDropHandle::new(tokio::spawn(sweep(kept, address))));
        }
    }

    /// Closes what has been idle for long, and says when the next will have been; `None` when none is left, and with that the sweeper
    /// is done.
    fn expire(&self, address: SocketAddr) -> Option<Instant> {
        let mut hosts = self.hosts();
        let host = hosts.get_mut(&address)?;
        let now = Instant::now();
        host.idle.retain(|(since, idle)| now.duration_since(*since) < IDLE_MAX && !idle.sender.is_closed());
        let next = host.idle.first().map(|(since, _)| *since + IDLE_MAX);
        if next.is_none() {
            host.sweeper = None;
        }
        next
    }
}

/// Closes idle connections to `address` in time; ends when there are none.
async fn sweep(kept: Weak<Kept>, address: SocketAddr) {
    let mut next = Some(Instant::now() + IDLE_MAX);
    while let Some(at) = next {
        sleep_until(at).await;
        next = kept.upgrade().and_then(|kept| kept.expire(address));
    }
}

/// An open connection; no longer counted when dropped.
pub(super) struct Slot {
    kept: Arc<Kept>,
    address: SocketAddr,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut hosts = self.kept.hosts();
        if let Some(host) = hosts.get_mut(&self.address) {
            host.open = host.open.saturating_sub(1);
            if host.open == 0 {
                hosts.remove(&self.address);
            }
        }
    }
}

/// Gives a connection back when the exchange on it is over.
pub(super) struct Returning {
    kept: Arc<Kept>,
    address: SocketAddr,
    used: Option<Http1>,
}

impl replay::Place for Returning {
    fn stick(&self) {
        if let Some(used) = &self.used {
            used.cut.notify_one();
        }
    }
}

impl Drop for Returning {
    fn drop(&mut self) {
        let Some(mut used) = self.used.take() else { return };
        if used.sender.is_ready() {
            self.kept.put(self.address, used);
        } else if !used.sender.is_closed()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (kept, address) = (self.kept.clone(), self.address);
            runtime.spawn(async move {
                if let Ok(Ok(())) = tokio::time::timeout(READY_WITHIN, used.sender.ready()).await {
                    kept.put(address, used);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, DuplexStream, duplex};
    use tokio::runtime::Handle;
    use tokio::time::sleep;

    use super::*;

    fn address() -> SocketAddr {
        ([127, 0, 0, 1], 9080).into()
    }

    async fn connection() -> (Http1, DuplexStream) {
        let (near, far) = duplex(1 << 10);
        let opened = http1::handshake(TokioIo::new(near)).await;
        let (sender, connection) = opened.expect("nothing is said yet");
        tokio::spawn(connection);
        (Http1 { sender, cut: Arc::default() }, far)
    }

    #[tokio::test(start_paused = true)]
    async fn however_often_connections_are_used_one_task_closes_those_that_are_no_longer() {
        let kept = Arc::new(Kept::default());
        let _slot = kept.open(address()).expect("room");
        let tasks = || Handle::current().metrics().num_alive_tasks();
        let (first, mut far) = connection().await;
        kept.put(address(), first);
        let before = tasks();
        for _ in 0..100 {
            let again = kept.take(address()).expect("idle");
            sleep(IDLE_MAX / 10).await;
            kept.put(address(), again);
        }
        assert_eq!(tasks(), before, "one for the connection and one for all that are idle");

        assert_eq!(far.read(&mut [0]).await.expect("in order"), 0, "closed, since nobody used it");
        assert!(kept.take(address()).is_none());
        sleep(IDLE_MAX).await;
        assert_eq!(tasks(), 0, "nothing is left to close");
        let (second, mut far) = connection().await;
        kept.put(address(), second);
        let since = Instant::now();
        assert_eq!(far.read(&mut [0]).await.expect("in order"), 0, "closed as the first was");
        assert!(since.elapsed() <= IDLE_MAX + Duration::from_millis(1), "in time: {:?}", since.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_left_of_an_address_without_connections() {
        let kept = Arc::new(Kept::default());
        for _ in 0..10 {
            let slot = kept.open(address()).expect("room");
            let (idle, far) = connection().await;
            kept.put(address(), idle);
            drop((slot, far));
            tokio::task::yield_now().await;
        }
        tokio::time::timeout(IDLE_MAX / 2, async {
            while Handle::current().metrics().num_alive_tasks() > 0 {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .expect("tasks end with what they are for");
    }

    #[tokio::test]
    async fn a_connection_that_its_peer_closed_is_not_taken_and_one_beneath_it_is() {
        let kept = Arc::new(Kept::default());
        let _slot = kept.open(address()).expect("room");
        let (open, _far) = connection().await;
        let (closed, far) = connection().await;
        kept.put(address(), open);
        kept.put(address(), closed);
        drop(far);
        tokio::task::yield_now().await;
        assert!(!kept.take(address()).expect("one is open").sender.is_closed());
        assert!(kept.take(address()).is_none(), "and the other is not kept");
    }
}
