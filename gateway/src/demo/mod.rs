//! `isthmus demo`: three clusters on this machine, each with its own processes, files and addresses.
//!
//! [`layout`] says what is where, [`files`] writes it down, [`programs`] has the command lines, [`start`] brings
//! everything up in order, and [`processes`] takes it down again. [`check`] is the scripted tour. The demo is
//! made of what an operator has too: the same commands, configuration files, tokens and admin socket.

mod admin;
mod check;
mod claim;
mod document;
mod files;
mod guide;
mod http;
mod layout;
mod notice;
mod patience;
mod processes;
mod programs;
mod start;
mod state_dir;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};

use claim::Claim;
use layout::{CLUSTERS, Layout};
use notice::{notice, print};
use processes::Fleet;
use programs::Programs;
use state_dir::StateDir;

/// For the command's help.
pub const EXAMPLES: &str = "\
Examples:
  # Three clusters until Ctrl-C, and what to try with them
  isthmus demo
  # The same with a state that is kept, and found again by the next start
  isthmus demo --state-dir ./demo
  # The scripted tour: join, resolve, call, kill, recover; fails if anything does
  isthmus demo --check";

/// The first third octet: below are addresses that machines use themselves.
const ADDRESS_BLOCK_MIN: i64 = 11;
/// The last: three clusters have to fit below 255.
const ADDRESS_BLOCK_MAX: i64 = 250;

/// Where the demo is, and what it does.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Where its state goes and stays; default: a new directory that is removed at the end
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Run the scripted tour, then stop
    #[arg(long)]
    check: bool,
    /// Use 127.0.N.0/24 and 127.N.0.0/16, and the two blocks that follow, so that demos can run side by side
    #[arg(
        long,
        value_name = "N",
        default_value_t = 11,
        value_parser = clap::value_parser!(u8).range(ADDRESS_BLOCK_MIN..=ADDRESS_BLOCK_MAX)
    )]
    address_block: u8,
}

/// Runs the demo until it is told to stop, or until the tour is over.
///
/// # Errors
/// What kept it from starting, or what failed on the tour. No process is left behind either way.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let mut stop = StopSignals::listen()?;
    let programs = Programs::find()?;
    let directory = StateDir::open(args.state_dir)?;
    let layout = Layout::new(directory.path(), args.address_block);
    let claim = Claim::take(&layout).inspect_err(|_| directory.discard())?;
    let fleet = Fleet::default();
    notice(format_args!("{CLUSTERS} clusters, state in {}", layout.dir.display()));
    let ended = tokio::select! {
        ended = Box::pin(play(&layout, &fleet, &programs, args.check)) => ended,
        name = stop.recv() => stopped(name, args.check),
    };
    fleet.stop().await;
    drop(claim);
    directory.close(ended.is_err());
    ended
}

/// A tour that is cut short did not succeed.
fn stopped(name: &str, check: bool) -> anyhow::Result<()> {
    notice(format_args!("{name}, stopping"));
    if check { bail!("the tour was interrupted by {name}") } else { Ok(()) }
}

async fn play(layout: &Layout, fleet: &Fleet, programs: &Programs, check: bool) -> anyhow::Result<()> {
    let ready = bring_up(layout, fleet, programs).await?;
    if check {
        return Box::pin(check::run(layout, fleet, programs, ready)).await;
    }
    print(guide::render(layout, fleet, programs, ready))?;
    loop {
        let death = fleet.death().await?;
        notice(death);
    }
}

/// Starts everything, and tells how long that took.
async fn bring_up(layout: &Layout, fleet: &Fleet, programs: &Programs) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    document::remove(layout)?;
    files::write(layout)?;
    tokio::select! {
        started = start::start(layout, fleet, programs) => started?,
        death = fleet.death() => {
            let death = death?;
            bail!("{death}\n{}", death.last_words());
        }
    }
    let ready = begun.elapsed();
    document::write(layout, fleet, ready)?;
    Ok(ready)
}

/// The signals that end the demo.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl StopSignals {
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn recv(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hangup.recv() => "SIGHUP",
        }
    }
}
