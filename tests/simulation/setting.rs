//! What all machines of a world share: the network, the time, and the story.

use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use isthmus_tests::wan::VirtualWan;
use tokio::time::Instant;

/// The one clock that all machines' clocks run by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Noon {
    at: Instant,
    is: SystemTime,
}

impl Noon {
    /// It is now. Certificates are judged by the real date, so the simulated one begins there.
    pub(crate) fn now() -> Self {
        Self { at: Instant::now(), is: SystemTime::now() }
    }

    /// What a right clock shows.
    pub(crate) fn time(&self) -> SystemTime {
        self.is + self.at.elapsed()
    }

    /// Milliseconds of virtual time since.
    pub(crate) fn elapsed_ms(&self) -> u128 {
        self.at.elapsed().as_millis()
    }
}

/// What happened, line by line. The same seed gives the same lines. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Story {
    noon: Noon,
    lines: Arc<Mutex<Vec<String>>>,
    aloud: bool,
}

impl Story {
    fn begin(noon: Noon) -> Self {
        Self { noon, lines: Arc::default(), aloud: std::env::var_os("SIM_ALOUD").is_some() }
    }

    /// Adds a line.
    pub(crate) fn tell(&self, what: impl std::fmt::Display) {
        let line = format!("{:>9} ms  {what}", self.noon.elapsed_ms());
        if self.aloud {
            eprintln!("{line}");
        }
        self.lines.lock().expect("no panic").push(line);
    }

    /// All of it.
    pub(crate) fn told(&self) -> String {
        self.lines.lock().expect("no panic").join("\n")
    }
}

/// What all machines share. Clones share it too.
#[derive(Clone)]
pub(crate) struct Setting {
    pub(crate) wan: VirtualWan,
    pub(crate) noon: Noon,
    pub(crate) story: Story,
}

impl Setting {
    /// It begins now.
    pub(crate) fn new(wan: VirtualWan) -> Self {
        let noon = Noon::now();
        Self { wan, noon, story: Story::begin(noon) }
    }
}
