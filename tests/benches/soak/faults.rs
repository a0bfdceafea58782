//! What comes and goes while the load runs, and which failures that excuses.

use std::fmt;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::stage::{RESTARTED, Stage, exported};

/// Between two events.
const PAUSE: Duration = Duration::from_secs(1);
/// How long something is gone: longer than it takes all to notice, and sometimes at work on noticing when it returns.
const GONE_FOR: Duration = Duration::from_millis(1_500);
/// A failure so soon after is still the fault's: health travels, and an ejection lasts.
const AFTERMATH: Duration = Duration::from_secs(2);
/// Names that services which come and go take in turns.
const SEASONS: usize = 20;

/// Which faults were injected when. Withdrawing an instance or a service is none: nothing may fail by it.
#[derive(Default)]
pub(crate) struct Ledger(Mutex<Vec<Span>>);

struct Span {
    what: String,
    began: Instant,
    ended: Option<Instant>,
}

impl Ledger {
    fn spans(&self) -> MutexGuard<'_, Vec<Span>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, what: String) {
        self.spans().push(Span { what, began: Instant::now(), ended: None });
    }

    fn end(&self) {
        if let Some(span) = self.spans().last_mut() {
            span.ended = Some(Instant::now());
        }
    }

    /// The fault that something from `began` until `ended` may have met.
    pub(crate) fn excuse(&self, began: Instant, ended: Instant) -> Option<String> {
        let spans = self.spans();
        let met = |span: &&Span| span.began <= ended && span.ended.is_none_or(|over| began <= over + AFTERMATH);
        spans.iter().find(met).map(|span| span.what.clone())
    }
}

/// How often each thing happened.
#[derive(Default)]
pub(crate) struct Injected {
    applications_killed: usize,
    sidecars_killed: usize,
    instances_withdrawn: usize,
    services_come_and_gone: usize,
}

impl fmt::Display for Injected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { applications_killed, sidecars_killed, instances_withdrawn, services_come_and_gone } = self;
        write!(
            f,
            "{applications_killed} applications killed, {sidecars_killed} sidecars killed, \
             {instances_withdrawn} instances withdrawn and back, {services_come_and_gone} services come and gone"
        )
    }
}

/// One thing after the other until `until`. Of one service at most one instance is away at a time, so that there is
/// always somebody to answer.
pub(crate) async fn inject(stage: &mut Stage, ledger: &Ledger, until: Instant) -> io::Result<Injected> {
    let mut injected = Injected::default();
    let instances = stage.instances.len();
    for round in 0.. {
        for event in 0..4 {
            sleep(PAUSE).await;
            if Instant::now() >= until {
                return Ok(injected);
            }
            match event {
                0 => {
                    kill_app(stage, ledger, round % instances).await?;
                    injected.applications_killed += 1;
                }
                1 => {
                    withdraw(stage, (round + 2) % instances).await;
                    injected.instances_withdrawn += 1;
                }
                2 => {
                    season(stage, round % SEASONS).await;
                    injected.services_come_and_gone += 1;
                }
                _ => {
                    kill_sidecar(stage, ledger).await?;
                    injected.sidecars_killed += 1;
                }
            }
        }
    }
    Ok(injected)
}

async fn kill_app(stage: &mut Stage, ledger: &Ledger, number: usize) -> io::Result<()> {
    ledger.begin(format!("the application of {} was killed", stage.instances[number].name()));
    stage.instances[number].app.kill9().await?;
    sleep(GONE_FOR).await;
    stage.revive_app(number)?;
    stage.is_complete(number).await;
    ledger.end();
    Ok(())
}

async fn kill_sidecar(stage: &mut Stage, ledger: &Ledger) -> io::Result<()> {
    ledger.begin(format!("the sidecar of {} was killed", stage.instances[RESTARTED].name()));
    stage.instances[RESTARTED].sidecar.kill9().await?;
    sleep(GONE_FOR).await;
    stage.revive_sidecar(RESTARTED).await;
    stage.is_complete(RESTARTED).await;
    ledger.end();
    Ok(())
}

async fn withdraw(stage: &Stage, number: usize) {
    stage.withdraw(number);
    sleep(GONE_FOR).await;
    stage.offer(number);
    stage.is_complete(number).await;
}

/// A service comes, gets an address, and goes.
async fn season(stage: &Stage, number: usize) {
    let name = format!("season-{number}");
    let file = format!("{name}.yaml");
    stage.clusters[1].write(&file, &exported(&name));
    let _came = stage.clusters[0].vip(&name).await;
    stage.clusters[1].remove(&file);
}
