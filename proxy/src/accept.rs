//! Accepting connections: binding, limits, and an orderly end. What every listener of the data plane does
//! before it looks at the first byte.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::limits::{Entry, Gate, Limits};
use crate::metrics::{Direction, Metrics, ReasonLabels};

/// Connections that the kernel holds for us while we are busy.
const BACKLOG: i32 = 1_024;
/// Pause after an accept that failed for want of something (file descriptors, memory), so that the loop
/// does not spin until some are given back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long what is open may take to finish once a process is told to stop, by default: with the time that a gateway takes to
/// let another lead, below the 30 s that Kubernetes grants.
pub const DRAIN_WITHIN: Duration = Duration::from_secs(20);
/// The same at most. A gateway that drains no longer follows the registry: what is revoked meanwhile must not hold for long.
pub const DRAIN_WITHIN_MAX: Duration = Duration::from_secs(600);

/// How long a predecessor that was just killed may hold its addresses: the kernel closes a process's sockets only
/// once it has taken its memory apart.
const PREDECESSOR_PATIENCE: Duration = Duration::from_secs(2);
/// Pause before an address is tried again.
const REBIND_PAUSE: Duration = Duration::from_millis(20);

/// Calls `bind` again as long as the address is in use and a predecessor may still be going away.
///
/// # Errors
/// The last error of `bind`.
pub async fn patiently<T, E>(mut bind: impl AsyncFnMut() -> Result<T, E>) -> Result<T, E>
where
    E: std::error::Error + 'static,
{
    let deadline = Instant::now() + PREDECESSOR_PATIENCE;
    loop {
        match bind().await {
            Err(error) if is_in_use(&error) && Instant::now() < deadline => tokio::time::sleep(REBIND_PAUSE).await,
            result => return result,
        }
    }
}

/// Whether an address that is in use is the cause.
fn is_in_use(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::AddrInUse)
}

/// Lets the process have as many open files as the system allows it: the usual 1,024 are fewer than the connections
/// that a listener keeps while they have not shown who they are. Each connection is one, each that is passed
/// through three.
pub fn raise_file_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, ?current, "the limit of open files could not be raised");
    }
}

/// A listener could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}; check that the address is this machine's and the port is free")]
pub struct BindError {
    /// The configured address.
    pub address: SocketAddr,
    /// What the system said.
    pub source: io::Error,
}

/// Whose an address is that is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The machine's: an interface has it.
    Machine,
    /// A range's that is routed to the machine, without any interface having the address.
    RoutedRange,
}

/// A bound listener with its limits.
#[derive(Debug)]
pub struct Accepting {
    listener: TcpListener,
    local: SocketAddr,
    direction: Direction,
    /// Of several listeners together, if not its own.
    gate: Option<Gate>,
}

/// A connection that was let in.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub stream: TcpStream,
    /// Who connected.
    pub peer: SocketAddr,
    /// When the listener's tasks end.
    pub life: Lifetime,
    /// Held as long as anything of the connection lives, by whoever takes it over: it counts until then.
    pub entry: Entry,
}

/// When the tasks of a listener end: `drain` asks them to finish; the end of their [`Tasks`] drops them.
#[derive(Clone, Debug)]
pub struct Lifetime {
    pub(crate) drain: CancellationToken,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Whoever holds it waits for the tasks of a [`Lifetime`]. They are dropped with it, so that giving up the wait, however
/// that comes about, ends them.
#[derive(Debug)]
pub(crate) struct Tasks {
    life: Lifetime,
    _stop: DropGuard,
}

impl Lifetime {
    /// Runs `task` until it ends or its owner does.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        // Boxed first: what is spawned is moved a few times, and an async block has room for it twice. And one type for all, or what
        // runs tasks would be compiled for each.
        let task: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(task);
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = task => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

impl Tasks {
    /// None yet. `drain` will ask them to finish.
    pub(crate) fn new(drain: CancellationToken) -> Self {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        Self { _stop: stop.clone().drop_guard(), life: Lifetime { drain, stop, tasks } }
    }

    /// What the tasks know of it.
    pub(crate) fn life(&self) -> &Lifetime {
        &self.life
    }

    /// Waits until all have ended, as long as that takes: how long that may be is for whoever drops this.
    pub(crate) async fn finish(self) {
        self.life.tasks.close();
        self.life.tasks.wait().await;
    }
}

impl Accepting {
    /// Binds. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(address: SocketAddr, direction: Direction) -> Result<Self, BindError> {
        Self::bind_owned(address, Owner::Machine, direction)
    }

    /// As [`bind`](Self::bind), for an address that need not be an interface's.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind_owned(address: SocketAddr, owner: Owner, direction: Direction) -> Result<Self, BindError> {
        let bound = listen(address, owner).and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (local, listener) = bound.map_err(|source| BindError { address, source })?;
        Ok(Self { listener, local, direction, gate: None })
    }

    /// Has its connections count at `gate`, together with those of other listeners.
    #[must_use]
    pub fn sharing(self, gate: Gate) -> Self {
        Self { gate: Some(gate), ..self }
    }

    /// The bound address.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Accepts until `shutdown`, handing each connection to its own task, then waits for those. Dropping this drops them.
    pub async fn run<F>(self, metrics: &Metrics, shutdown: CancellationToken, handle: impl Fn(Accepted) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let tasks = Tasks::new(shutdown.clone());
        let gate = self.gate.unwrap_or_else(|| Gate::shown(Limits::of(self.direction), self.direction, metrics));
        let mut short_of = false;
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = shutdown.cancelled() => break,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) if lost_before_accept(&error) => continue,
                Err(error) => {
                    // Told once: the next attempts fail alike.
                    if !std::mem::replace(&mut short_of, true) {
                        tracing::warn!(%error, listener = %self.local, "cannot accept; check the limit of open files");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            short_of = false;
            let entry = match gate.enter(peer.ip()) {
                Ok(entry) => entry,
                Err(reason) => {
                    metrics.refused.get_or_create(&ReasonLabels { reason }).inc();
                    continue;
                }
            };
            let accepted = Accepted { stream, peer, life: tasks.life().clone(), entry };
            tasks.life().spawn(handle(accepted));
        }
        drop(self.listener);
        tasks.finish().await;
    }
}

/// The client gave up while it was queued; nothing of ours is wrong.
fn lost_before_accept(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

fn listen(address: SocketAddr, owner: Owner) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the connections of the last process to time out.
    socket.set_reuse_address(true)?;
    // Linux lets an IPv4 socket have any address of a local route, but an IPv6 socket only one of an interface. IPv4
    // does without, so that a range that is not routed here is an error and not silence.
    if owner == Owner::RoutedRange && address.is_ipv6() {
        socket.set_freebind_v6(true)?;
    }
    // Requests and responses are written whole: waiting for more only adds delay. Connections have it from their listener.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests;
