//! Connections between requests.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::client::conn::{http1, http2};

use crate::message::Body;

/// An idle connection is closed after this: before common servers do it themselves (5 s), so that a request
/// does not meet a connection that is just being closed.
pub const IDLE_MAX: Duration = Duration::from_secs(4);
/// Idle connections to one address.
pub const IDLE_PER_ADDRESS: usize = 64;
/// Connections to one address in all.
pub const CONNECTIONS_PER_ADDRESS: usize = 1_024;
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
    idle: Vec<(Instant, http1::SendRequest<Body>)>,
    http2: Option<http2::SendRequest<Body>>,
}

impl Kept {
    fn hosts(&self) -> MutexGuard<'_, HashMap<SocketAddr, Host>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An idle HTTP/1 connection.
    pub(super) fn take(&self, address: SocketAddr) -> Option<http1::SendRequest<Body>> {
        let mut hosts = self.hosts();
        let host = hosts.get_mut(&address)?;
        host.expire();
        host.idle.pop().map(|(_, sender)| sender)
    }

    /// The HTTP/2 connection, if it is open.
    pub(super) fn shared(&self, address: SocketAddr) -> Option<http2::SendRequest<Body>> {
        self.hosts().get(&address)?.http2.clone().filter(|sender| !sender.is_closed())
    }

    pub(super) fn share(&self, address: SocketAddr, sender: http2::SendRequest<Body>) {
        self.hosts().entry(address).or_default().http2 = Some(sender);
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

    /// What brings a connection back once its response was read.
    pub(super) fn returning(self: &Arc<Self>, address: SocketAddr, sender: http1::SendRequest<Body>) -> Returning {
        Returning { kept: self.clone(), address, sender: Some(sender) }
    }

    fn put(self: &Arc<Self>, address: SocketAddr, sender: http1::SendRequest<Body>) {
        let mut hosts = self.hosts();
        let Some(host) = hosts.get_mut(&address) else { return };
        if sender.is_closed() || host.idle.len() >= IDLE_PER_ADDRESS {
            return;
        }
        let first = host.idle.is_empty();
        host.idle.push((Instant::now(), sender));
        drop(hosts);
        if first {
            let kept = self.clone();
            tokio::spawn(async move { kept.sweep(address).await });
        }
    }

    /// Closes idle connections to `address` in time; ends when there are none.
    async fn sweep(&self, address: SocketAddr) {
        loop {
            tokio::time::sleep(IDLE_MAX).await;
            let mut hosts = self.hosts();
            let Some(host) = hosts.get_mut(&address) else { return };
            host.expire();
            if host.idle.is_empty() {
                return;
            }
        }
    }
}

impl Host {
    fn expire(&mut self) {
        self.idle.retain(|(since, sender)| since.elapsed() < IDLE_MAX && !sender.is_closed());
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

/// Gives a connection back when the response that it carries was read.
pub(super) struct Returning {
    kept: Arc<Kept>,
    address: SocketAddr,
    sender: Option<http1::SendRequest<Body>>,
}

impl Drop for Returning {
    fn drop(&mut self) {
        let Some(mut sender) = self.sender.take() else { return };
        if sender.is_ready() {
            self.kept.put(self.address, sender);
        } else if !sender.is_closed()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (kept, address) = (self.kept.clone(), self.address);
            runtime.spawn(async move {
                if let Ok(Ok(())) = tokio::time::timeout(READY_WITHIN, sender.ready()).await {
                    kept.put(address, sender);
                }
            });
        }
    }
}
