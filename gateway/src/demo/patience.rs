//! Waiting for a condition of other processes, which can only be watched by asking again.

use std::pin::pin;
use std::time::Duration;

use anyhow::bail;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::notice::notice;

/// Between two looks. Short against anything that a person notices, long against the cost of a look.
const INTERVAL: Duration = Duration::from_millis(20);
/// After this long, and then again and again, a person wants to know what is being waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Looks until `look` succeeds, and returns what it found.
///
/// # Errors
/// When it did not within `deadline`: what was waited for, and why the last look failed.
pub(super) async fn until<T>(
    deadline: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let end = Instant::now() + deadline;
    let mut tell_at = Instant::now() + PATIENCE;
    let mut reason = "no answer yet".to_owned();
    loop {
        let mut looking = pin!(timeout_at(end, look()));
        let looked = loop {
            tokio::select! {
                looked = looking.as_mut() => break looked,
                () = sleep_until(tell_at) => {
                    notice(format_args!("waiting for {what} ({reason}) ..."));
                    tell_at += PATIENCE;
                }
            }
        };
        match looked {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) => reason = format!("{error:#}"),
            Err(_) => {}
        }
        if Instant::now() >= end {
            bail!("waited {} s in vain for {what}: {reason}", deadline.as_secs());
        }
        sleep(INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_ends_with_success_or_with_the_last_reason() {
        let mut looks = 0;
        let found = until(Duration::from_secs(1), "the third look", async || {
            looks += 1;
            if looks < 3 { bail!("look {looks}") } else { Ok(looks) }
        });
        assert_eq!(found.await.expect("the third succeeds"), 3);
        let error = until(Duration::from_secs(5), "rain", async || -> anyhow::Result<()> { bail!("sun") }).await;
        assert_eq!(error.expect_err("in vain").to_string(), "waited 5 s in vain for rain: sun");
        let silent =
            until(Duration::from_secs(1), "a word", async || std::future::pending::<anyhow::Result<()>>().await);
        assert!(silent.await.expect_err("in vain").to_string().ends_with("no answer yet"));
    }
}
