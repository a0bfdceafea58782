//! How much memory a process has.

use std::fs;
use std::time::Duration;

use tokio::time::interval;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Resident memory of a process, in bytes. Linux only.
///
/// # Panics
/// When it does not run.
#[must_use]
pub fn resident(pid: u32) -> u64 {
    field(pid, "VmRSS:")
}

/// The part of it that no file backs: what it allocated, and stacks. The rest is its binary, as far as that has run.
///
/// # Panics
/// When it does not run.
#[must_use]
pub fn anonymous(pid: u32) -> u64 {
    field(pid, "RssAnon:")
}

/// Of `/proc/PID/status`, in bytes; there it is in units of 1024 (proc(5)).
fn field(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// Does `work`, and looks meanwhile how much memory a process has at most.
///
/// # Panics
/// When it does not run.
pub async fn peak<T>(pid: u32, work: impl Future<Output = T>) -> (T, u64) {
    let mut most = resident(pid);
    let mut work = std::pin::pin!(work);
    let mut turn = interval(LOOK_EVERY);
    loop {
        tokio::select! {
            done = work.as_mut() => return (done, most.max(resident(pid))),
            _ = turn.tick() => most = most.max(resident(pid)),
        }
    }
}
