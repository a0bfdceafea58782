//! Waiting for a condition: the one place in all tests where time is allowed to tick.
//!
//! A process can be watched only from outside, by asking again. Inside one process, wait on the watched
//! state itself instead.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

/// Between two looks. Short against any deadline, long against the cost of a look.
const INTERVAL: Duration = Duration::from_millis(10);

/// Waits until `condition` holds.
///
/// # Panics
/// When it does not within `deadline`, naming `what` was waited for.
pub async fn wait_until(deadline: Duration, what: &str, mut condition: impl AsyncFnMut() -> bool) {
    wait_for(deadline, what, async || condition().await.then_some(())).await;
}

/// Waits until `look` finds something, and returns it. A look that hangs counts as nothing found.
///
/// # Panics
/// When it does not within `deadline`, naming `what` was waited for.
#[expect(clippy::panic, reason = "a test that waits in vain has failed")]
pub async fn wait_for<T>(deadline: Duration, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        match timeout_at(end, look()).await {
            Ok(Some(found)) => return found,
            Ok(None) if Instant::now() < end => sleep(INTERVAL).await,
            Ok(None) | Err(_) => panic!("waited {deadline:?} in vain for {what}"),
        }
    }
}
