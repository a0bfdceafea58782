//! A relay from one listening address to one target.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::lane::{Direction, Fault, Lane, Shape};
use super::pipe::carry;
use super::timer::Timer;

/// Connections through one link at a time. A test that needs more is about the kernel, not about us.
const CONNECTIONS_MAX: usize = 16_384;

/// A directed link. Dropping it cuts it for good.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    wire: Arc<Wire>,
    /// The running relay; `None` while the link is cut.
    relay: Mutex<Option<Relay>>,
}

/// What all connections of a link share.
#[derive(Debug)]
struct Wire {
    target: SocketAddr,
    forward: Lane,
    backward: Lane,
    connections: watch::Sender<usize>,
}

#[derive(Debug)]
struct Relay {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Link {
    /// Listens on `listen` (port 0 picks one) and relays to `target`.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn start(listen: SocketAddr, target: SocketAddr) -> io::Result<Self> {
        Self::seeded(listen, target, 0).await
    }

    /// The same, with a seed for its jitter.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn seeded(listen: SocketAddr, target: SocketAddr, seed: u64) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let (forward, backward) = (Lane::new(seed), Lane::new(!seed));
        let wire = Arc::new(Wire { target, forward, backward, connections: watch::Sender::new(0) });
        let relay = Mutex::new(Some(Relay::run(listener, &wire)));
        Ok(Self { address, wire, relay })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets distance and width of one direction, for what enters from now on.
    pub fn shape(&self, direction: Direction, shape: Shape) {
        self.lane(direction).set_shape(shape);
    }

    /// Sets the same one-way delay for both directions: the round trip takes twice as long.
    pub fn delay(&self, one_way: Duration) {
        let shape = Shape { delay: one_way, ..Shape::default() };
        self.shape(Direction::Forward, shape);
        self.shape(Direction::Backward, shape);
    }

    /// Resets every connection and refuses new ones. Returns when that is so.
    pub async fn cut(&self) {
        let relay = self.relay.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(relay) = relay {
            relay.stop.cancel();
            relay.tasks.wait().await;
        }
    }

    /// Swallows everything, both ways.
    pub fn blackhole(&self) {
        self.fault(Direction::Forward, Fault::Blackhole);
        self.fault(Direction::Backward, Fault::Blackhole);
    }

    /// Holds everything back, both ways.
    pub fn stall(&self) {
        self.fault(Direction::Forward, Fault::Stall);
        self.fault(Direction::Backward, Fault::Stall);
    }

    /// Sets or clears the fault of one direction.
    pub fn fault(&self, direction: Direction, fault: Fault) {
        self.lane(direction).set_fault(fault);
    }

    /// Clears every fault. The shape stays.
    ///
    /// # Errors
    /// When the link was cut and another process took its address meanwhile.
    pub async fn heal(&self) -> io::Result<()> {
        self.fault(Direction::Forward, Fault::None);
        self.fault(Direction::Backward, Fault::None);
        if self.relay.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Ok(());
        }
        let listener = TcpListener::bind(self.address).await?;
        let relay = Relay::run(listener, &self.wire);
        *self.relay.lock().unwrap_or_else(PoisonError::into_inner) = Some(relay);
        Ok(())
    }

    /// Bytes that came out at the far end of a direction so far.
    #[must_use]
    pub fn carried(&self, direction: Direction) -> u64 {
        self.lane(direction).carried()
    }

    /// How many connections there are, to read or to wait on.
    #[must_use]
    pub fn connections(&self) -> watch::Receiver<usize> {
        self.wire.connections.subscribe()
    }

    fn lane(&self, direction: Direction) -> &Lane {
        match direction {
            Direction::Forward => &self.wire.forward,
            Direction::Backward => &self.wire.backward,
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(relay) = self.relay.lock().unwrap_or_else(PoisonError::into_inner).take() {
            relay.stop.cancel();
        }
    }
}

impl Relay {
    fn run(listener: TcpListener, wire: &Arc<Wire>) -> Self {
        let relay = Self { stop: CancellationToken::new(), tasks: TaskTracker::new() };
        relay.tasks.spawn(accept(listener, wire.clone(), relay.stop.clone(), relay.tasks.clone()));
        relay.tasks.close();
        relay
    }
}

async fn accept(listener: TcpListener, wire: Arc<Wire>, stop: CancellationToken, tasks: TaskTracker) {
    while let Some(Ok((near, _))) = stop.run_until_cancelled(listener.accept()).await {
        if tasks.len() <= CONNECTIONS_MAX {
            tasks.spawn(connect(near, wire.clone(), stop.clone()));
        }
    }
}

/// Relays one connection until it ends: with a reset, unless both directions came to their end.
async fn connect(mut near: TcpStream, wire: Arc<Wire>, stop: CancellationToken) {
    wire.connections.send_modify(|count| *count += 1);
    let mut far = None;
    let ended = stop.run_until_cancelled(relay(&mut near, &mut far, &wire)).await;
    if !matches!(ended, Some(Ok(()))) {
        for stream in [Some(&near), far.as_ref()].into_iter().flatten() {
            // Fails only on a socket that is already gone.
            let _ = stream.set_zero_linger();
        }
    }
    drop((near, far));
    wire.connections.send_modify(|count| *count -= 1);
}

async fn relay(near: &mut TcpStream, far: &mut Option<TcpStream>, wire: &Wire) -> io::Result<()> {
    reach(&wire.forward).await?;
    // The TCP handshake: a first packet there, and one back. The kernel has told who dials at once that it is over; what
    // they send waits for it instead.
    for lane in [&wire.forward, &wire.backward] {
        Timer::Exact.until(lane.arrival(0)).await;
    }
    let far = far.insert(TcpStream::connect(wire.target).await?);
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (near_read, near_write) = near.split();
    let (far_read, far_write) = far.split();
    let forward = carry(&wire.forward, near_read, far_write, Timer::Exact);
    tokio::try_join!(forward, carry(&wire.backward, far_read, near_write, Timer::Exact))?;
    Ok(())
}

/// Waits until a first packet would get across.
async fn reach(lane: &Lane) -> io::Result<()> {
    let mut fault = lane.fault();
    let swallowed = *fault.borrow_and_update() == Fault::Blackhole;
    let passable = fault.wait_for(|fault| *fault == Fault::None).await;
    drop(passable.map_err(|_| io::ErrorKind::ConnectionReset)?);
    if swallowed { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
}
