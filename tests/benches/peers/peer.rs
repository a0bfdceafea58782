//! A proxy under load: ours or another's.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use isthmus_tests::harness::Process;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::processor::{Used, resident};

/// How long a program may take until it listens.
const LISTENS_WITHIN: Duration = Duration::from_secs(20);
/// Between two looks whether it does.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// As much of what a process wrote as an error shows.
const LAST_WORDS: usize = 1_500;

/// The processes that carry what clients send to one address.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) name: String,
    /// Where clients go.
    pub(crate) at: SocketAddr,
    /// Those whose processor time counts.
    pub(crate) processes: Vec<Process>,
}

impl Peer {
    pub(crate) fn new(name: impl Into<String>, at: SocketAddr, processes: Vec<Process>) -> Self {
        Self { name: name.into(), at, processes }
    }

    /// The processor time that its processes have used.
    pub(crate) fn used(&self) -> io::Result<Used> {
        Used::by(self.pids())
    }

    /// The memory that they have, bytes.
    pub(crate) fn resident(&self) -> io::Result<u64> {
        resident(self.pids())
    }

    fn pids(&self) -> impl Iterator<Item = u32> {
        self.processes.iter().filter_map(Process::pid)
    }

    /// The same error, with whose it is and what the processes wrote last.
    pub(crate) fn blamed(&self, error: &io::Error) -> io::Error {
        let words: Vec<String> = self.processes.iter().map(last_words).filter(|words| !words.is_empty()).collect();
        io::Error::other(format!("{}: {error}\n{}", self.name, words.join("\n")))
    }
}

/// Waits until something listens at `address`, which `process` should.
///
/// # Errors
/// When nothing does in time; with what the process wrote.
pub(crate) async fn listening(process: &Process, address: SocketAddr) -> io::Result<()> {
    let end = Instant::now() + LISTENS_WITHIN;
    while TcpStream::connect(address).await.is_err() {
        if Instant::now() > end {
            return Err(io::Error::other(format!("nothing listens at {address}:\n{}", last_words(process))));
        }
        sleep(LOOK_EVERY).await;
    }
    Ok(())
}

fn last_words(process: &Process) -> String {
    let words = process.stderr();
    let from = words.char_indices().rev().nth(LAST_WORDS).map_or(0, |(at, _)| at);
    words[from..].to_owned()
}
