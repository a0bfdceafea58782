//! Moves one direction of one connection through its lane.
//!
//! A reader stamps what it reads with the time of arrival, a writer lets it out then. Between them is a
//! bounded queue, which is the wire: when it is full, the sender is pushed back as TCP would.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::lane::{Fault, Lane};
use super::timer::Timer;

/// Read at once; about a TLS record.
const CHUNK_LEN: usize = 16 * 1024;
/// Chunks on the wire per connection and direction: 4 MiB, the usual upper bound of a TCP window, enough for
/// 160 Mbit/s at 200 ms.
const CHUNKS_IN_FLIGHT_MAX: usize = 256;

/// Something on the wire.
struct Parcel {
    arrival: Instant,
    /// Empty: the end of the stream.
    bytes: Vec<u8>,
}

/// Carries everything from `source` to `sink`, and the end of the stream too.
///
/// # Errors
/// What either end reports, or `ConnectionReset` when bytes were swallowed by a fault that has healed since.
pub(super) async fn carry(
    lane: &Lane,
    source: impl AsyncRead + Unpin,
    sink: impl AsyncWrite + Unpin,
    timer: Timer,
) -> io::Result<()> {
    let (wire, arrivals) = mpsc::channel(CHUNKS_IN_FLIGHT_MAX);
    tokio::try_join!(take_in(lane, source, wire), let_out(lane, sink, arrivals, timer))?;
    Ok(())
}

async fn take_in(lane: &Lane, mut source: impl AsyncRead + Unpin, wire: mpsc::Sender<Parcel>) -> io::Result<()> {
    let mut fault = lane.fault();
    let mut latest = Instant::now();
    let mut buffer = vec![0; CHUNK_LEN];
    loop {
        let current = *fault.borrow_and_update();
        match current {
            Fault::None => {}
            Fault::Stall => {
                changed(&mut fault).await?;
                continue;
            }
            Fault::Blackhole => return swallow(lane, source, &mut buffer).await,
        }
        let room = wire.reserve().await.map_err(|_| io::ErrorKind::BrokenPipe)?;
        let len = tokio::select! {
            biased;
            faulted = changed(&mut fault) => { faulted?; continue }
            read = source.read(&mut buffer) => read?,
        };
        // Jitter may not overtake within a stream.
        latest = latest.max(lane.arrival(len));
        room.send(Parcel { arrival: latest, bytes: buffer[..len].to_vec() });
        if len == 0 {
            return Ok(());
        }
    }
}

/// Takes whatever comes and forgets it. Ends only by an error: once the lane heals, the stream has a hole.
async fn swallow(lane: &Lane, mut source: impl AsyncRead + Unpin, buffer: &mut [u8]) -> io::Result<()> {
    let mut fault = lane.fault();
    let forget = async {
        while source.read(buffer).await? > 0 {}
        std::future::pending::<io::Result<()>>().await
    };
    tokio::select! {
        healed = fault.wait_for(|fault| *fault != Fault::Blackhole) => {
            let _lane_alive = healed.map_err(|_| io::ErrorKind::ConnectionReset)?;
            Err(io::ErrorKind::ConnectionReset.into())
        }
        failed = forget => failed,
    }
}

async fn let_out(
    lane: &Lane,
    mut sink: impl AsyncWrite + Unpin,
    mut arrivals: mpsc::Receiver<Parcel>,
    timer: Timer,
) -> io::Result<()> {
    let mut fault = lane.fault();
    while let Some(parcel) = arrivals.recv().await {
        timer.until(parcel.arrival).await;
        let passable = fault.wait_for(|fault| *fault == Fault::None).await;
        drop(passable.map_err(|_| io::ErrorKind::ConnectionReset)?);
        if parcel.bytes.is_empty() {
            return sink.shutdown().await;
        }
        sink.write_all(&parcel.bytes).await?;
        lane.count(parcel.bytes.len());
    }
    Ok(())
}

async fn changed(fault: &mut tokio::sync::watch::Receiver<Fault>) -> io::Result<()> {
    fault.changed().await.map_err(|_| io::ErrorKind::ConnectionReset.into())
}
