//! One gateway's registry and snapshot, by the number of exports.

use std::fs;
use std::io;
use std::process::Command as Process;
use std::sync::Arc;
use std::time::Duration;

use isthmus_model::command::Command;
use isthmus_model::health::{Capacity, Reach};
use isthmus_model::registry::Registry;
use isthmus_model::snapshot::{Builder, Snapshot, Sources};
use isthmus_tests::bench::{Quantity, Report, Samples};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

use super::world::{self, CLUSTERS};

const SIZES: [usize; 3] = [1_000, 10_000, 50_000];
/// Changes of each kind that are timed.
const CHANGES: usize = 1_000;
/// Runs of what is done whole.
const WHOLE: usize = 5;
/// The targets, at [`TARGET_SIZE`] exports.
const TARGET_SIZE: usize = 10_000;
const CHANGE_TARGET: Quantity = Quantity::Time(Duration::from_millis(1));
const MEMORY_TARGET: Quantity = Quantity::Bytes(120_000_000);

/// Runs this program as one that holds a registry and a snapshot, and tells what they weigh.
pub(crate) const HOLD: &str = "--hold";

/// The thread's processor time: other work on the machine is not in it.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

fn timed<T>(what: impl FnOnce() -> T) -> (T, Duration) {
    let begun = processor_time();
    let done = what();
    (done, processor_time() - begun)
}

pub(crate) fn measure(report: &mut Report) -> io::Result<()> {
    for size in SIZES {
        of_size(report, size)?;
    }
    Ok(())
}

fn of_size(report: &mut Report, size: usize) -> io::Result<()> {
    let told = |what: &str| format!("{size} exports: {what}");
    let registry = world::registry(size);
    whole(report, &told, &registry, size)?;
    let mut gateway = Gateway::new(world::sources(registry.clone(), size));
    for (kind, change) in [("change", Change::Port), ("new", Change::New), ("withdrawal", Change::Withdrawal)] {
        let (mut applied, mut built, mut both) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..CHANGES {
            let (apply, build) = gateway.agree(change.command(number, size));
            applied.push(apply);
            built.push(build);
            both.push(apply + build);
        }
        let both: Samples = both.into_iter().collect();
        report.figure(told(&format!("{kind}, applied: p50")), Quantity::Time(median(applied)));
        report.figure(told(&format!("{kind}, snapshot built and swapped: p50")), Quantity::Time(median(built)));
        let seen = Quantity::Time(both.percentile(99));
        if size == TARGET_SIZE {
            report.below(told(&format!("{kind}, both: p99")), seen, CHANGE_TARGET);
        } else {
            report.figure(told(&format!("{kind}, both: p99")), seen);
        }
    }
    let heard: Vec<Duration> = (0..CHANGES).map(|number| gateway.hear(number, size)).collect();
    report.figure(told("a peer's capacity of one service, built and swapped: p50"), Quantity::Time(median(heard)));
    let downs: Vec<Duration> = (1..100).map(|number| gateway.lose(number)).collect();
    report.figure(told("a gateway down, built and swapped: p50"), Quantity::Time(median(downs)));
    let seen = Quantity::Bytes(held(&registry, size)?);
    if size == TARGET_SIZE {
        report.below(told("registry and snapshot in memory"), seen, MEMORY_TARGET);
    } else {
        report.figure(told("registry and snapshot in memory"), seen);
    }
    Ok(())
}

fn median(durations: Vec<Duration>) -> Duration {
    durations.into_iter().collect::<Samples>().percentile(50)
}

/// What costs as much as there is.
fn whole(report: &mut Report, told: &dyn Fn(&str) -> String, registry: &Registry, size: usize) -> io::Result<()> {
    let entry = world::entry(0, Change::Port.command(0, size).1);
    report.figure(told("a change as replicated, bytes"), Quantity::Count(serde_json::to_vec(&entry)?.len()));
    let (written, writing) = timed(|| serde_json::to_vec(registry));
    let written = written?;
    let (read, reading) = timed(|| serde_json::from_slice::<Registry>(&written));
    assert!(read? == *registry, "what is read is what was written");
    report.figure(told("the registry as replicated whole"), Quantity::Bytes(written.len() as u64));
    report.figure(told("the registry, written"), Quantity::Time(writing));
    report.figure(told("the registry, read"), Quantity::Time(reading));
    let sources = world::sources(registry.clone(), size);
    let built = (0..WHOLE).map(|_| timed(|| sources.build(1)).1).collect();
    report.figure(told("snapshot built whole"), Quantity::Time(median(built)));
    Ok(())
}

#[derive(Clone, Copy)]
enum Change {
    Port,
    New,
    Withdrawal,
}

impl Change {
    /// The number of the cluster that does it, and what it does. Each withdraws what it made before.
    fn command(self, number: usize, size: usize) -> (usize, Command) {
        let (old, new) = (number * 7 % size, size + number);
        match self {
            Self::Port => (old % CLUSTERS, set(old, 9_000 + (number / size) as u16 * 2)),
            Self::New => (new % CLUSTERS, set(new, 8_080)),
            Self::Withdrawal => (new % CLUSTERS, Command::WithdrawExport { service: world::service(new) }),
        }
    }
}

fn set(number: usize, port: u16) -> Command {
    Command::SetExport { service: world::service(number), export: world::export(port) }
}

/// The two places of a gateway where states are kept and others look at them.
struct Gateway {
    registry: watch::Sender<Arc<Registry>>,
    view: watch::Sender<Arc<Snapshot>>,
    sources: Sources,
    builder: Builder,
}

impl Gateway {
    fn new(sources: Sources) -> Self {
        let builder = Builder::new(sources.clone());
        let (registry, view) = (sources.registry.clone(), builder.view().clone());
        Self { registry: watch::Sender::new(registry), view: watch::Sender::new(view), sources, builder }
    }

    /// Applies a change as the state machine does, then publishes the next view. How long each took.
    fn agree(&mut self, (origin, command): (usize, Command)) -> (Duration, Duration) {
        let entry = world::entry(origin, command);
        let ((), applied) = timed(|| {
            let mut registry = self.registry.borrow().clone();
            Arc::make_mut(&mut registry).apply(&entry).expect("a legal command");
            self.registry.send_replace(registry);
        });
        self.sources.registry = self.registry.borrow().clone();
        (applied, self.publish())
    }

    fn publish(&mut self) -> Duration {
        let next = self.sources.clone();
        let ((), took) = timed(|| {
            let view = self.builder.next(next).expect("it says something new");
            self.view.send_replace(view);
        });
        took
    }

    /// A peer tells of one service.
    fn hear(&mut self, number: usize, size: usize) -> Duration {
        let number = number * 7 % size;
        // The first cluster is the own one.
        let number = if number.is_multiple_of(CLUSTERS) { number + 1 } else { number };
        let node = (number % CLUSTERS) as u64 + 1;
        let known = self.sources.peers.get(&node).and_then(|peer| peer.services.get(&world::service(number)));
        let ready = known.map_or(0, |known| known.ready) + 1;
        let peers = Arc::make_mut(&mut self.sources.peers);
        let peer = peers.get_mut(&node).expect("every peer was heard");
        peer.services.insert(world::service(number), Capacity { ready, total: ready });
        self.publish()
    }

    /// A peer goes down.
    fn lose(&mut self, number: usize) -> Duration {
        let peers = Arc::make_mut(&mut self.sources.peers);
        peers.get_mut(&(number as u64 + 1)).expect("every peer was heard").reach = Reach::Down;
        self.publish()
    }
}

/// What a process weighs more with a registry of that size and its snapshot than without.
fn held(registry: &Registry, size: usize) -> io::Result<u64> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("registry.json");
    fs::write(&file, serde_json::to_vec(registry)?)?;
    let program = Process::new(std::env::current_exe()?).arg(HOLD).arg(&file).arg(size.to_string()).output()?;
    let text = String::from_utf8_lossy(&program.stdout);
    text.trim().parse().map_err(|_| io::Error::other(format!("{HOLD} told {text:?}")))
}

/// The program that holds them: as after a restart, read from the disk, and changed a little since.
pub(crate) fn hold(file: &str, exports: &str) -> io::Result<()> {
    let exports: usize = exports.parse().map_err(io::Error::other)?;
    let before = resident()?;
    let registry: Registry = serde_json::from_slice(&fs::read(file)?)?;
    let mut gateway = Gateway::new(world::sources(registry, exports));
    for number in 0..CHANGES {
        gateway.agree(Change::Port.command(number, exports));
    }
    println!("{}", resident()?.saturating_sub(before));
    Ok(())
}

/// Memory that no file backs, in bytes (proc(5), `/proc/PID/status`).
fn resident() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.map(|size| size * 1024).ok_or_else(|| io::Error::other("the process tells no RssAnon"))
}
