//! Turns: each proxy gets the same load after the other, again and again, and the median of each figure counts. What the
//! machine does beside that comes over all of them.

use std::io;
use std::time::Duration;

use tokio::time::sleep;

use super::peer::Peer;

/// Turns of each.
const ROUNDS: usize = 3;
/// How long a turn is.
pub(crate) const ROUND: Duration = Duration::from_secs(5);
/// Load before the first turn: connections are open, caches and branch predictors are warm.
pub(crate) const WARM_UP: Duration = Duration::from_secs(2);
/// Between two turns, for connections to be closed.
const PAUSE: Duration = Duration::from_millis(300);

/// What a load generator did in a turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    /// Requests, connections or GiB.
    pub(crate) units: f64,
    /// In this time.
    pub(crate) took: Duration,
    /// How long one unit took, where that is known.
    pub(crate) p50: Option<Duration>,
    pub(crate) p99: Option<Duration>,
}

/// What was seen of one proxy.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) name: String,
    /// Processor time of one unit.
    pub(crate) each: Duration,
    /// Units a second.
    pub(crate) rate: f64,
    pub(crate) p50: Option<Duration>,
    pub(crate) p99: Option<Duration>,
}

/// Has `load` sent to each of `peers` in turn. The first of them is ours.
///
/// # Errors
/// When a load generator says that something failed: no figure comes of broken traffic.
pub(crate) async fn take_turns(
    peers: &[Peer],
    load: impl AsyncFn(&Peer, Duration) -> io::Result<Done>,
) -> io::Result<Vec<Seen>> {
    for peer in peers {
        load(peer, WARM_UP).await.map_err(|error| peer.blamed(&error))?;
    }
    let mut turns: Vec<Vec<(Duration, Done)>> = peers.iter().map(|_| Vec::new()).collect();
    for _ in 0..ROUNDS {
        for (peer, turns) in peers.iter().zip(&mut turns) {
            sleep(PAUSE).await;
            let before = peer.used()?;
            let done = load(peer, ROUND).await.map_err(|error| peer.blamed(&error))?;
            let used = peer.used()?.since(&before);
            if done.units <= 0.0 {
                return Err(peer.blamed(&io::Error::other("nothing came through")));
            }
            turns.push((used.div_f64(done.units), done));
        }
    }
    Ok(peers.iter().zip(turns).map(|(peer, turns)| median(peer, &turns)).collect())
}

fn median(peer: &Peer, turns: &[(Duration, Done)]) -> Seen {
    Seen {
        name: peer.name.clone(),
        each: middle(turns.iter().map(|(each, _)| *each)).unwrap_or_default(),
        rate: 1.0
            / middle(turns.iter().map(|(_, done)| done.took.div_f64(done.units))).unwrap_or_default().as_secs_f64(),
        p50: middle(turns.iter().filter_map(|(_, done)| done.p50)),
        p99: middle(turns.iter().filter_map(|(_, done)| done.p99)),
    }
}

fn middle(durations: impl Iterator<Item = Duration>) -> Option<Duration> {
    let mut durations: Vec<Duration> = durations.collect();
    durations.sort_unstable();
    durations.get(durations.len() / 2).copied()
}
