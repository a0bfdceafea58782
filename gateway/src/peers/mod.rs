//! What gateways tell each other directly: that they are alive, and how much their clusters can take.
//!
//! None of this waits for the registry's quorum. Each gateway watches every other one over a stream; a stream
//! that breaks or falls silent marks its gateway down at once, and the reconnection attempts are the probe
//! that finds it again. What was known of its services is kept meanwhile.

mod serve;
mod watch;

use std::time::Duration;

pub use serve::HealthService;
pub use watch::PeerWatcher;

/// How often a stream says something, if only that it lives.
const HEARTBEAT: Duration = Duration::from_millis(400);
/// Silence that means the gateway is gone or frozen: three heartbeats and some.
const SILENCE_MAX: Duration = Duration::from_millis(1_400);
