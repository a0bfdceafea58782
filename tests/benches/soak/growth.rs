//! Memory and file descriptors of processes over time.

use std::fs;
use std::time::{Duration, Instant};

use crate::federation::resident;
use isthmus_tests::harness::anonymous;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What was seen of all processes.
pub(crate) struct Growth {
    began: Instant,
    pub(crate) processes: Vec<Watched>,
}

/// What was seen of one.
pub(crate) struct Watched {
    pub(crate) name: String,
    pid: u32,
    /// Before there was load.
    pub(crate) descriptors_before: usize,
    pub(crate) samples: Vec<Sample>,
}

#[derive(Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) at: Duration,
    pub(crate) resident: u64,
    /// Of it, what no file backs.
    pub(crate) anonymous: u64,
    pub(crate) descriptors: usize,
}

impl Growth {
    pub(crate) fn begin(processes: Vec<(String, u32)>) -> Self {
        let watched = |(name, pid)| Watched { name, pid, descriptors_before: descriptors(pid), samples: Vec::new() };
        Self { began: Instant::now(), processes: processes.into_iter().map(watched).collect() }
    }

    /// Looks until told to stop.
    pub(crate) async fn watch(&mut self, stop: &CancellationToken) {
        let mut turn = interval(LOOK_EVERY);
        while stop.run_until_cancelled(turn.tick()).await.is_some() {
            let at = self.began.elapsed();
            for process in &mut self.processes {
                let (resident, anonymous) = (resident(process.pid), anonymous(process.pid));
                process.samples.push(Sample { at, resident, anonymous, descriptors: process.descriptors() });
            }
        }
    }
}

impl Watched {
    /// The sample at a third, at two thirds, and the last.
    pub(crate) fn thirds(&self) -> [Sample; 3] {
        let last = self.samples.len().saturating_sub(1);
        [last / 3, last * 2 / 3, last].map(|index| self.samples[index])
    }

    /// Bytes per minute by least squares, from the first third on, of what `size` takes of a sample.
    pub(crate) fn slope(&self, size: fn(&Sample) -> u64) -> f64 {
        let settled = &self.samples[self.samples.len() / 3..];
        let points = settled.iter().map(|sample| (sample.at.as_secs_f64() / 60.0, size(sample) as f64));
        slope(&points.collect::<Vec<_>>())
    }

    /// How many descriptors it has now.
    pub(crate) fn descriptors(&self) -> usize {
        descriptors(self.pid)
    }
}

/// Of the line with the least squared distance from the points.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let (mean_x, mean_y) =
        (points.iter().map(|p| p.0).sum::<f64>() / count, points.iter().map(|p| p.1).sum::<f64>() / count);
    let covariance: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let variance: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    covariance / variance
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}
