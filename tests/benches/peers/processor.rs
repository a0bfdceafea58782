//! Processor time and memory of processes, as the kernel counts them (proc(5)).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::time::Duration;

/// Processor time of every thread of some processes at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Used(BTreeMap<u32, u64>);

impl Used {
    /// What the processes and their children have used so far. Nanoseconds, which `stat` has not.
    ///
    /// # Errors
    /// When one does not run, or the kernel does not count.
    pub(crate) fn by(pids: impl IntoIterator<Item = u32>) -> io::Result<Self> {
        let mut threads = BTreeMap::new();
        for pid in pids {
            for member in family(pid)? {
                for thread in tasks(member)? {
                    // A thread may end while it is looked at.
                    let Ok(text) = fs::read_to_string(format!("/proc/{member}/task/{thread}/schedstat")) else {
                        continue;
                    };
                    let used = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
                    threads.insert(thread, used.ok_or_else(|| io::Error::other("the kernel tells no schedstat"))?);
                }
            }
        }
        Ok(Self(threads))
    }

    /// What was used since `before`. Of threads that ended in between, nothing is known.
    pub(crate) fn since(&self, before: &Self) -> Duration {
        let of = |(thread, used): (&u32, &u64)| used.saturating_sub(before.0.get(thread).copied().unwrap_or_default());
        Duration::from_nanos(self.0.iter().map(of).sum())
    }
}

/// Resident memory of the processes and their children, bytes.
///
/// # Errors
/// When one does not run.
pub(crate) fn resident(pids: impl IntoIterator<Item = u32>) -> io::Result<u64> {
    let mut sum = 0;
    for pid in pids {
        for member in family(pid)? {
            let status = fs::read_to_string(format!("/proc/{member}/status"))?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
            sum += kibibytes.ok_or_else(|| io::Error::other(format!("process {member} tells no memory")))? * 1024;
        }
    }
    Ok(sum)
}

fn tasks(pid: u32) -> io::Result<Vec<u32>> {
    let entries = fs::read_dir(format!("/proc/{pid}/task"))
        .map_err(|error| io::Error::new(error.kind(), format!("process {pid} does not run: {error}")))?;
    entries.map(|entry| entry?.file_name().to_string_lossy().parse().map_err(io::Error::other)).collect()
}

/// A process and all that it started: nginx and HAProxy may work in children.
fn family(pid: u32) -> io::Result<Vec<u32>> {
    let mut members = vec![pid];
    for thread in tasks(pid)? {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{thread}/children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
            members.extend(family(child)?);
        }
    }
    Ok(members)
}
