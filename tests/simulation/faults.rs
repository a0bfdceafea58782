//! What goes wrong, one thing after the other, as the seed has it.

use std::fmt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use isthmus_federation::status::Role;
use isthmus_tests::wan::{Fault as Lane, MachineId, Shape};
use rand::Rng;

use crate::world::World;

/// Something that goes wrong.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fault {
    /// A machine loses its power; some of what was not synced is on its disk.
    Crash { host: MachineId, kept: usize },
    /// A gateway is stopped as an operator does it, and started again.
    Restart { host: MachineId },
    /// All machines lose their power.
    Blackout,
    /// One machine hears and is heard by nobody, which nobody is told.
    Isolated { host: MachineId, lane: Lane },
    /// Two halves that do not hear each other.
    Halves { side: Vec<MachineId>, lane: Lane },
    /// One machine is heard by nobody, and hears all.
    OneWay { from: MachineId, lane: Lane },
    /// One machine hears nobody, and is heard by all.
    Deaf { host: MachineId, lane: Lane },
    /// A machine comes and goes.
    Flapping { host: MachineId },
    /// All that a machine sends takes 300 ms, and gets stuck now and then.
    Slow { host: MachineId },
    /// Nobody hears anybody.
    Dark { lane: Lane },
    /// A clock is wrong by so many seconds.
    Clock { host: MachineId, seconds: i64 },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl World {
    fn leader(&mut self) -> MachineId {
        let leads = |host: &crate::host::Host| {
            host.handle().is_some_and(|handle| handle.status().borrow().role == Role::Leader)
        };
        let leader = self.hosts.iter().find(|host| leads(host)).map(|host| host.machine);
        leader.unwrap_or_else(|| self.chance.gen_range(0..self.hosts.len()))
    }

    /// The leader as often as not: it is where it hurts.
    fn victim(&mut self) -> MachineId {
        if self.chance.r#gen() { self.leader() } else { self.chance.gen_range(0..self.hosts.len()) }
    }

    /// Draws what goes wrong next.
    pub(crate) fn draw_fault(&mut self) -> Fault {
        let lane = if self.chance.r#gen() { Lane::Stall } else { Lane::Blackhole };
        let host = self.victim();
        match self.chance.gen_range(0..14) {
            12 => Fault::Restart { host },
            13 => Fault::Deaf { host, lane },
            0..3 => Fault::Crash { host, kept: self.chance.gen_range(0..8) },
            3 => Fault::Blackout,
            4 => Fault::Isolated { host: self.leader(), lane },
            5 => Fault::Halves { side: self.half(), lane },
            6 => Fault::OneWay { from: host, lane },
            7 => Fault::Flapping { host },
            8 => Fault::Slow { host },
            9 => Fault::Dark { lane },
            _ => Fault::Clock { host, seconds: if self.chance.r#gen() { 3_600 } else { -3_600 } },
        }
    }

    fn half(&mut self) -> Vec<MachineId> {
        let mut machines: Vec<MachineId> = (0..self.hosts.len()).collect();
        for last in (1..machines.len()).rev() {
            machines.swap(last, self.chance.gen_range(0..=last));
        }
        machines.truncate(self.hosts.len() / 2);
        machines.sort_unstable();
        machines
    }

    /// Sets a fault on all ways from one of `from` to one that is not, and back if it is not one-way.
    fn block(&self, from: &[MachineId], lane: Lane, both_ways: bool) {
        let outside = (0..self.hosts.len()).filter(|machine| !from.contains(machine));
        for other in outside {
            for machine in from {
                self.setting.wan.fault(*machine, other, lane);
                if both_ways {
                    self.setting.wan.fault(other, *machine, lane);
                }
            }
        }
    }

    /// Lets a fault happen, last, and end.
    pub(crate) async fn suffer(&mut self, fault: &Fault) {
        let lasts = Duration::from_millis(self.chance.gen_range(500..12_000));
        self.setting.story.tell(format!("for {} ms: {fault}", lasts.as_millis()));
        match fault {
            Fault::Crash { host, kept } => {
                self.hosts[*host].crash(*kept).await;
                tokio::time::sleep(lasts).await;
                self.hosts[*host].start().await;
            }
            Fault::Restart { host } => {
                // Who does not lead has nothing to hand over.
                let handed_over = self.handle(*host).hand_over().await;
                self.setting.story.tell(format!("handed over: {handed_over:?}"));
                self.hosts[*host].crash(usize::MAX).await;
                tokio::time::sleep(lasts).await;
                self.hosts[*host].start().await;
            }
            Fault::Blackout => {
                for host in &mut self.hosts {
                    host.crash(0).await;
                }
                tokio::time::sleep(lasts).await;
                for host in &mut self.hosts {
                    host.start().await;
                }
            }
            Fault::Isolated { host, lane } => self.blocked(&[*host], *lane, true, lasts).await,
            Fault::Halves { side, lane } => self.blocked(side, *lane, true, lasts).await,
            Fault::OneWay { from, lane } => self.blocked(&[*from], *lane, false, lasts).await,
            Fault::Deaf { host, lane } => {
                let others: Vec<MachineId> = (0..self.hosts.len()).filter(|other| other != host).collect();
                self.blocked(&others, *lane, false, lasts).await;
            }
            Fault::Flapping { host } => {
                for _ in 0..5 {
                    self.blocked(&[*host], Lane::Blackhole, true, lasts / 10).await;
                    tokio::time::sleep(lasts / 10).await;
                }
            }
            Fault::Slow { host } => self.slow(*host, lasts).await,
            Fault::Dark { lane } => {
                for machine in 0..self.hosts.len() {
                    self.block(&[machine], *lane, true);
                }
                tokio::time::sleep(lasts).await;
                self.setting.wan.heal();
            }
            Fault::Clock { host, seconds } => {
                self.hosts[*host].skew.store(*seconds, Ordering::Relaxed);
                tokio::time::sleep(lasts).await;
                self.hosts[*host].skew.store(0, Ordering::Relaxed);
            }
        }
        self.setting.story.tell("it is over");
    }

    async fn blocked(&self, from: &[MachineId], lane: Lane, both_ways: bool, lasts: Duration) {
        self.block(from, lane, both_ways);
        tokio::time::sleep(lasts).await;
        self.setting.wan.heal();
    }

    async fn slow(&mut self, host: MachineId, lasts: Duration) {
        let others: Vec<MachineId> = (0..self.hosts.len()).filter(|other| *other != host).collect();
        let far = Shape { delay: Duration::from_millis(150), jitter: Duration::from_millis(30), bandwidth: None };
        let was: Vec<Shape> = others.iter().map(|other| self.setting.wan.shape_of(host, *other)).collect();
        let shape = |to: &MachineId, shape: Shape| {
            self.setting.wan.shape(host, *to, shape);
            self.setting.wan.shape(*to, host, shape);
        };
        others.iter().for_each(|other| shape(other, far));
        for _ in 0..10 {
            // As long as TCP takes to send a lost segment again.
            let stuck = others[self.chance.gen_range(0..others.len())];
            self.setting.wan.fault(host, stuck, Lane::Stall);
            tokio::time::sleep(Duration::from_millis(300)).await;
            self.setting.wan.fault(host, stuck, Lane::None);
            tokio::time::sleep(lasts / 10).await;
        }
        others.iter().zip(was).for_each(|(other, was)| shape(other, was));
    }
}
