//! Network namespaces: a network of the test's own. Needs root and iproute2's `ip`.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where `ip netns` keeps the namespaces that have a name (ip-netns(8)).
const NAMED: &str = "/run/netns";

/// A network namespace with its loopback up, gone with this value.
#[derive(Debug)]
pub struct Netns(String);

impl Netns {
    /// Makes one. `name` tells it from the others of this process.
    ///
    /// # Errors
    /// Why that is not possible here.
    pub fn new(name: &str) -> Result<Self, String> {
        let netns = Self(format!("isthmus-{}-{name}", std::process::id()));
        run("ip", &["netns", "add", &netns.0])?;
        run("ip", &["-n", &netns.0, "link", "set", "lo", "up"])?;
        Ok(netns)
    }

    /// Its name, as `ip netns exec` wants it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Runs a command inside. Returns what it wrote to its standard output.
    ///
    /// # Errors
    /// How it failed, with what it wrote to its standard error.
    pub fn run(&self, command: &str, args: &[&str]) -> Result<String, String> {
        run("ip", &[&["netns", "exec", &self.0, command], args].concat())
    }

    /// Moves the calling thread inside, for good. What the thread opens and starts from now on is there too, so that a
    /// test that needs this has a runtime of one thread.
    ///
    /// # Errors
    /// When the process may not.
    pub fn enter(&self) -> io::Result<()> {
        let namespace = File::open(Path::new(NAMED).join(&self.0))?;
        Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // Only a left-over name if it fails; the next run has another.
        let _ = run("ip", &["netns", "del", &self.0]);
    }
}

fn run(command: &str, args: &[&str]) -> Result<String, String> {
    let output = Command::new(command).args(args).output().map_err(|error| format!("{command}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{command} {args:?}: {}{}", output.status, String::from_utf8_lossy(&output.stderr)))
}
