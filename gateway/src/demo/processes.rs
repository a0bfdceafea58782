//! The demo's processes: started, signalled, restarted, and none left behind.
//!
//! Each gets a process group of its own, so that Ctrl-C in a terminal reaches the demo alone, which then stops
//! them in order. Whoever waits for one of them to end waits on SIGCHLD, not on time.
//!
//! Deliberately absent: restarting what died. People kill these processes by hand to see what happens.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};

/// How long processes may take to end after SIGTERM. They drain for two seconds.
const TERMINATE_WITHIN: Duration = Duration::from_secs(5);
/// How much of a log is shown of a process that failed.
const LOG_TAIL_LINES: usize = 8;

/// What a process is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// A cluster's gateway.
    Gateway,
    /// A workload's application.
    App(&'static str),
    /// A workload's sidecar.
    Sidecar(&'static str),
}

/// Which process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    /// The cluster that it belongs to.
    pub(super) cluster: &'static str,
    /// What it is for.
    pub(super) role: Role,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, role } = self;
        match role {
            Role::Gateway => write!(f, "the gateway of {cluster}"),
            Role::App(service) => write!(f, "the application {service} of {cluster}"),
            Role::Sidecar(service) => write!(f, "the sidecar of {service} in {cluster}"),
        }
    }
}

/// How a process is started.
#[derive(Clone, Debug)]
pub(super) struct Program {
    /// The executable.
    pub(super) binary: PathBuf,
    /// Its arguments.
    pub(super) args: Vec<OsString>,
    /// Where its output goes, after what is there already.
    pub(super) log: PathBuf,
}

/// The command line, as a shell takes it.
impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&quote(&self.binary.to_string_lossy()))?;
        self.args.iter().try_for_each(|arg| write!(f, " {}", quote(&arg.to_string_lossy())))
    }
}

/// A word as a shell takes it.
pub(super) fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:=,@+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// A process that ended by itself, or by a hand that was not the demo's.
#[derive(Debug)]
pub(super) struct Death {
    /// Which one.
    pub(super) name: Name,
    status: ExitStatus,
    log: PathBuf,
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ended: {}; its log is {}", self.name, self.status, self.log.display())
    }
}

impl Death {
    /// The last lines of its log, which should say why.
    pub(super) fn last_words(&self) -> String {
        let log = std::fs::read(&self.log).map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
        tail.iter().map(|line| format!("  | {line}\n")).collect()
    }
}

/// All processes.
#[derive(Debug, Default)]
pub(super) struct Fleet {
    running: Mutex<BTreeMap<Name, Running>>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// `None` once it ended and was waited for, when the number may soon be somebody else's.
    fn pid(&self) -> Option<Pid> {
        self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            // Fails only for a process that is gone, which is noticed by its own signal.
            let _ = kill_process(pid, signal);
        }
    }
}

impl Fleet {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Name, Running>> {
        self.running.lock().expect("nobody panics while holding the table of processes")
    }

    /// Starts a process.
    ///
    /// # Errors
    /// When its log cannot be written or its executable cannot be run.
    pub(super) fn start(&self, name: Name, program: &Program) -> anyhow::Result<()> {
        let Program { binary, args, log } = program;
        let output = File::options().create(true).append(true).open(log);
        let output = output.with_context(|| format!("cannot write {}", log.display()))?;
        let child = Command::new(binary)
            .args(args)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot run {}", binary.display()))?;
        self.lock().insert(name, Running { child, log: log.clone() });
        Ok(())
    }

    /// The id of a running process.
    pub(super) fn pid(&self, name: Name) -> Option<u32> {
        self.lock().get(&name).and_then(|running| running.child.id())
    }

    /// Sends a signal to a process, if it runs.
    pub(super) fn signal(&self, name: Name, signal: Signal) {
        if let Some(running) = self.lock().get(&name) {
            running.signal(signal);
        }
    }

    /// Kills a process with SIGKILL, as a crash would, and waits for its end.
    ///
    /// # Errors
    /// When it does not run.
    pub(super) async fn kill(&self, name: Name) -> anyhow::Result<()> {
        // Taken out first: this end is no unexpected one.
        let mut running = self.lock().remove(&name).with_context(|| format!("{name} does not run"))?;
        running.child.kill().await.with_context(|| format!("cannot kill {name}"))
    }

    /// Waits until a process ends that was not meant to.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub(super) async fn death(&self) -> anyhow::Result<Death> {
        // Listens before it looks, so that no end falls between.
        let mut ends = signal(SignalKind::child()).context("cannot listen for the end of processes")?;
        loop {
            if let Some(death) = self.reap() {
                return Ok(death);
            }
            ends.recv().await;
        }
    }

    fn reap(&self) -> Option<Death> {
        let mut running = self.lock();
        let (name, status) = running.iter_mut().find_map(|(name, process)| {
            let status = process.child.try_wait().ok().flatten()?;
            Some((*name, status))
        })?;
        let log = running.remove(&name)?.log;
        Some(Death { name, status, log })
    }

    /// Stops every process: first the workloads, then the gateways that they still ask while they drain.
    pub(super) async fn stop(&self) {
        self.stop_those(|role| role != Role::Gateway).await;
        self.stop_those(|_| true).await;
    }

    async fn stop_those(&self, chosen: impl Fn(Role) -> bool) {
        let deadline = Instant::now() + TERMINATE_WITHIN;
        let mut stopping: Vec<Running> = {
            let mut running = self.lock();
            let names: Vec<Name> = running.keys().copied().filter(|name| chosen(name.role)).collect();
            names.iter().filter_map(|name| running.remove(name)).collect()
        };
        for process in &stopping {
            process.signal(Signal::TERM);
            // One that somebody froze has to wake up to end.
            process.signal(Signal::CONT);
        }
        for process in &mut stopping {
            tokio::select! {
                biased;
                ended = process.child.wait() => drop(ended),
                () = sleep_until(deadline) => process.signal(Signal::KILL),
            }
        }
        for process in &mut stopping {
            // A killed process ends, and then there is nothing to be said about it.
            let _ = process.child.wait().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLEEPER: Name = Name { cluster: "us-east", role: Role::Gateway };
    const STUBBORN: Name = Name { cluster: "us-east", role: Role::App("reviews") };

    fn shell(log: PathBuf, script: &str) -> Program {
        Program { binary: "/bin/sh".into(), args: vec!["-c".into(), script.into()], log }
    }

    #[tokio::test]
    async fn a_stop_ends_frozen_processes_too() {
        let dir = tempfile::tempdir().expect("a directory");
        let fleet = Fleet::default();
        fleet.start(SLEEPER, &shell(dir.path().join("a"), "exec sleep 600")).expect("starts");
        fleet.start(STUBBORN, &shell(dir.path().join("b"), "exec sleep 600")).expect("starts");
        fleet.signal(STUBBORN, Signal::STOP);
        let pids = [SLEEPER, STUBBORN].map(|name| fleet.pid(name).expect("runs"));
        fleet.stop().await;
        for pid in pids {
            let pid = Pid::from_raw(i32::try_from(pid).expect("small")).expect("not zero");
            assert!(rustix::process::test_kill_process(pid).is_err(), "it is gone");
        }
    }

    #[tokio::test]
    async fn an_unexpected_end_is_told_with_its_last_words_and_an_expected_one_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let fleet = Fleet::default();
        fleet.start(SLEEPER, &shell(dir.path().join("a"), "exec sleep 600")).expect("starts");
        fleet.kill(SLEEPER).await.expect("runs");
        assert!(fleet.kill(SLEEPER).await.is_err(), "it ran once");
        fleet.start(STUBBORN, &shell(dir.path().join("b"), "echo no disk; exit 7")).expect("starts");
        let death = fleet.death().await.expect("told");
        assert_eq!(death.name, STUBBORN);
        assert!(death.to_string().contains("exit status: 7"), "{death}");
        assert_eq!(death.last_words(), "  | no disk\n");
        assert_eq!(fleet.pid(STUBBORN), None);
    }

    #[test]
    fn command_lines_are_quoted_for_a_shell() {
        let mut program = shell("/log".into(), "it's");
        program.args.push(String::new().into());
        assert_eq!(program.to_string(), r"/bin/sh -c 'it'\''s' ''");
    }
}
