//! Runs one seed after the other on all processors, and keeps the story of one that fails.

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::ordeal::{Judgement, Trial, ordeal};
use crate::world::simulate;

/// Seeds that every change has to pass.
const SEEDS: u64 = 20;

/// Which seeds are asked for: `SIM_SEED` is one, `SIM_SEEDS` so many from 0 on.
pub(crate) fn asked_for() -> Range<u64> {
    let number = |name| std::env::var(name).ok().map(|value| value.parse().expect("a seed is a number"));
    match (number("SIM_SEED"), number("SIM_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, count) => 0..count.unwrap_or(SEEDS),
    }
}

/// What one seed came to, and the story of it.
pub(crate) fn run(seed: u64, trial: Trial) -> (Result<Judgement, String>, String) {
    simulate(seed, async |world| {
        let story = world.setting.story.clone();
        let judged = catch(ordeal(world, trial)).await;
        (judged, story.told())
    })
}

/// A panic of a replica, or of the run, is a finding like any other.
async fn catch(ordeal: impl Future<Output = Judgement>) -> Result<Judgement, String> {
    let mut ordeal = Box::pin(ordeal);
    std::future::poll_fn(move |context| match catch_unwind(AssertUnwindSafe(|| ordeal.as_mut().poll(context))) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => std::task::Poll::Ready(Err(message(panic.as_ref()))),
    })
    .await
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}

/// What is wrong with a judgement.
pub(crate) fn complaint(judgement: &Judgement, recovery_max: Duration) -> Option<String> {
    if !judgement.verdict.is_linearizable() {
        return Some(judgement.verdict.to_string());
    }
    if let Some(back) = &judgement.went_back {
        return Some(format!("a reader's registry went back: {back}"));
    }
    let late = judgement.recoveries.iter().find(|(_, recovery)| *recovery > recovery_max);
    late.map(|(fault, recovery)| format!("after {fault} it took {} ms until all could write", recovery.as_millis()))
}

/// Runs `seeds`, and returns what is wrong with those that failed.
pub(crate) fn run_all(seeds: Range<u64>, recovery_max: Duration) -> Vec<String> {
    let (next, failures) = (AtomicU64::new(seeds.start), Mutex::new(Vec::new()));
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let seed = next.fetch_add(1, Ordering::Relaxed)
                    && seed < seeds.end
                {
                    let (judged, story) = run(seed, Trial::Right);
                    let complaint = match &judged {
                        Ok(judgement) => {
                            tell(seed, judgement);
                            complaint(judgement, recovery_max)
                        }
                        Err(panic) => Some(panic.clone()),
                    };
                    if let Some(complaint) = complaint {
                        let told = keep(seed, &story, &complaint);
                        failures.lock().expect("no panic").push(told);
                    }
                }
            });
        }
    });
    failures.into_inner().expect("no panic")
}

fn tell(seed: u64, judgement: &Judgement) {
    let faults = judgement.recoveries.iter().map(|(fault, recovery)| format!("{fault} ({} ms)", recovery.as_millis()));
    let faults: Vec<String> = faults.collect();
    println!("seed {seed}: {} operations; {}", judgement.operations, faults.join(", "));
}

/// Writes down what happened in a run that failed.
fn keep(seed: u64, story: &str, complaint: &str) -> String {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("simulation-{seed}.txt"));
    let kept = std::fs::write(&path, format!("{story}\n{complaint}\n"));
    let place = kept.map_or_else(|error| error.to_string(), |()| path.display().to_string());
    format!("seed {seed}: {complaint}\nwhat happened: {place}; again: just sim {seed}")
}
