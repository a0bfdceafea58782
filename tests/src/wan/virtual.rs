//! A network inside one process, in virtual time: streams in memory over the same lanes as those of a [`Link`](super::Link).
//!
//! Machines have numbers. What goes from one to another takes the lane of that pair, whoever opened the connection, so
//! that a fault can be one-way. A machine that is down resets its connections and refuses new ones.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::lane::{Fault, Lane, Shape};
use super::pipe::carry;
use super::timer::Timer;

/// Bytes that a socket takes before its reader has them: what Linux gives by default, about.
const SOCKET_BUFFER_LEN: usize = 256 << 10;
/// Connections that wait to be accepted.
const BACKLOG: usize = 128;

/// A machine's number.
pub type MachineId = usize;

/// A connection, with who opened it.
#[derive(Debug)]
pub struct Accepted {
    /// The bytes.
    pub stream: DuplexStream,
    /// By whom it was opened.
    pub from: MachineId,
}

/// The network. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct VirtualWan(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    seed: u64,
    listeners: BTreeMap<SocketAddr, (MachineId, mpsc::Sender<Accepted>)>,
    lanes: BTreeMap<(MachineId, MachineId), Arc<Lane>>,
    /// Ends with a machine's present life.
    lives: BTreeMap<MachineId, CancellationToken>,
}

impl State {
    fn lane(&mut self, from: MachineId, to: MachineId) -> Arc<Lane> {
        let seed = self.seed ^ ((from as u64) << 32 | to as u64);
        self.lanes.entry((from, to)).or_insert_with(|| Arc::new(Lane::new(seed))).clone()
    }
}

impl VirtualWan {
    /// A network whose jitter follows from `seed`. All machines are down.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let wan = Self::default();
        wan.state().seed = seed;
        wan
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a machine: it may open connections from now on.
    pub fn up(&self, machine: MachineId) {
        self.state().lives.insert(machine, CancellationToken::new());
    }

    /// Ends a machine: its listeners and connections are gone.
    pub fn down(&self, machine: MachineId) {
        let mut state = self.state();
        state.listeners.retain(|_, (owner, _)| *owner != machine);
        if let Some(life) = state.lives.remove(&machine) {
            life.cancel();
        }
    }

    /// Takes connections to `address` for a machine.
    #[must_use]
    pub fn listen(&self, machine: MachineId, address: SocketAddr) -> mpsc::Receiver<Accepted> {
        let (connections, incoming) = mpsc::channel(BACKLOG);
        self.state().listeners.insert(address, (machine, connections));
        incoming
    }

    /// Sets distance and width of the way from one machine to another, for what enters from now on.
    pub fn shape(&self, from: MachineId, to: MachineId, shape: Shape) {
        self.state().lane(from, to).set_shape(shape);
    }

    /// Distance and width of the way from one machine to another.
    #[must_use]
    pub fn shape_of(&self, from: MachineId, to: MachineId) -> Shape {
        self.state().lane(from, to).shape()
    }

    /// Sets or clears the fault of the way from one machine to another.
    pub fn fault(&self, from: MachineId, to: MachineId, fault: Fault) {
        self.state().lane(from, to).set_fault(fault);
    }

    /// Clears every fault. Machines that are down stay so.
    pub fn heal(&self) {
        for lane in self.state().lanes.values() {
            lane.set_fault(Fault::None);
        }
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// `ConnectionRefused` where nobody listens, `ConnectionReset` from a machine that is down.
    pub async fn connect(&self, from: MachineId, to: SocketAddr) -> io::Result<DuplexStream> {
        let (near, near_far_end) = tokio::io::duplex(SOCKET_BUFFER_LEN);
        let (far_near_end, far) = tokio::io::duplex(SOCKET_BUFFER_LEN);
        let (there, back, listener, lives) = {
            let mut state = self.state();
            let (target, listener) = state.listeners.get(&to).cloned().ok_or(io::ErrorKind::ConnectionRefused)?;
            let life = |machine| state.lives.get(&machine).cloned().ok_or(io::ErrorKind::ConnectionReset);
            let lives = [life(from)?, life(target)?];
            (state.lane(from, target), state.lane(target, from), listener, lives)
        };
        // The handshake: a first packet there, and one back.
        for lane in [&there, &back] {
            tokio::time::sleep_until(lane.arrival(0)).await;
            let mut fault = lane.fault();
            drop(fault.wait_for(|fault| *fault == Fault::None).await.map_err(|_| io::ErrorKind::ConnectionReset)?);
        }
        if lives.iter().any(CancellationToken::is_cancelled) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        listener.try_send(Accepted { stream: far, from }).map_err(|_| io::ErrorKind::ConnectionRefused)?;
        tokio::spawn(async move {
            let (near_reads, near_writes) = tokio::io::split(near_far_end);
            let (far_reads, far_writes) = tokio::io::split(far_near_end);
            let [here, yonder] = lives;
            let relayed = async {
                tokio::try_join!(
                    carry(&there, near_reads, far_writes, Timer::Whole),
                    carry(&back, far_reads, near_writes, Timer::Whole)
                )
            };
            tokio::select! {
                biased;
                () = here.cancelled() => {}
                () = yonder.cancelled() => {}
                // However it ended: both ends are dropped, and see so.
                _ = relayed => {}
            }
        });
        Ok(near)
    }
}
