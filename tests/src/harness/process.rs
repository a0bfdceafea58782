//! A process under test.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{Child, Command};

use super::wait::wait_until;

/// How to start a process.
#[derive(Debug)]
pub struct Spawn {
    name: String,
    binary: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
}

impl Spawn {
    /// `name` names the files of its output.
    #[must_use]
    pub fn new(name: &str, binary: &Path) -> Self {
        Self { name: name.to_owned(), binary: binary.to_owned(), args: Vec::new(), env: Vec::new() }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<T: Into<OsString>>(mut self, args: impl IntoIterator<Item = T>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds to its environment.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Starts it in `directory`, as the leader of a process group. Its output goes to `NAME.stdout` and
    /// `NAME.stderr` there, after what an earlier process of that name wrote.
    ///
    /// # Errors
    /// When the files cannot be written or the binary cannot be run.
    pub fn start(self, directory: &Path) -> io::Result<Process> {
        let path = |kind| directory.join(format!("{}.{kind}", self.name));
        let append = |path: &Path| File::options().create(true).append(true).open(path);
        let (stdout, stderr) = (path("stdout"), path("stderr"));
        let child = Command::new(&self.binary)
            .args(&self.args)
            .envs(self.env)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(append(&stdout)?)
            .stderr(append(&stderr)?)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", self.binary.display())))?;
        Ok(Process { name: self.name, child, stdout, stderr })
    }
}

/// A running process. Dropping it kills its whole process group.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Its id, unless it ended and was waited for.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// What it wrote to standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// What it wrote to standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// Kills it with SIGKILL, as a crash would, and waits for its end. Its children are left alone.
    ///
    /// # Errors
    /// When it has ended already.
    pub async fn kill9(&mut self) -> io::Result<ExitStatus> {
        self.signal(Signal::KILL)?;
        self.child.wait().await
    }

    /// Asks it to end with SIGTERM. [`wait`](Self::wait) tells how it did.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn terminate(&self) -> io::Result<()> {
        self.signal(Signal::TERM)
    }

    /// Interrupts it with SIGINT, as Ctrl-C does.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn interrupt(&self) -> io::Result<()> {
        self.signal(Signal::INT)
    }

    /// Freezes it with SIGSTOP: its sockets stay open and nobody answers.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn pause(&self) -> io::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Goes on after [`pause`](Self::pause).
    ///
    /// # Errors
    /// When it has ended already.
    pub fn resume(&self) -> io::Result<()> {
        self.signal(Signal::CONT)
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end within `deadline`; with its standard error, which should say why.
    pub async fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let ended = tokio::time::timeout(deadline, self.child.wait()).await;
        match ended {
            Ok(status) => status.expect("a child can be waited for"),
            Err(_) => self.fail(&format!("did not end within {deadline:?}")),
        }
    }

    /// Waits until `text` is in its standard output or standard error.
    ///
    /// # Panics
    /// When it is not within `deadline`.
    pub async fn wait_for_output(&self, deadline: Duration, text: &str) {
        let what = format!("{} to write {text:?}", self.name);
        wait_until(deadline, &what, async || self.stdout().contains(text) || self.stderr().contains(text)).await;
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = self.group().ok_or_else(|| io::Error::other(format!("{} has ended", self.name)))?;
        Ok(kill_process(pid, signal)?)
    }

    /// Its process group, which has the id of its leader. `None` once the leader is reaped, when the id
    /// may soon be somebody else's.
    fn group(&self) -> Option<Pid> {
        self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
    }

    #[expect(clippy::panic, reason = "a test that cannot go on has failed")]
    fn fail(&self, why: &str) -> ! {
        panic!("{} {why}; it wrote:\n{}", self.name, self.stderr())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(group) = self.group() {
            // Fails only when all of the group is gone.
            let _ = kill_process_group(group, Signal::KILL);
        }
        if std::thread::panicking() {
            eprintln!("---- stderr of {} ----\n{}", self.name, self.stderr());
        }
    }
}

fn read(path: &Path) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
