//! When what failed is tried once more, and where.
//!
//! | how it failed | the next attempt |
//! | --- | --- |
//! | nobody was reached | elsewhere, at once; where there is nobody else, those that were tried, after a pause and within the budget |
//! | it was sent | if its caller takes a retry: elsewhere, or else those that were tried, after a pause |
//! | there was no room | elsewhere, at once |

use std::sync::Arc;
use std::time::Duration;

use isthmus_model::snapshot::Service;
use isthmus_model::traffic::Retries;
use tokio::time::Instant;

use crate::balance::permits::{Kind, Permit};
use crate::balance::{Balancer, Pick, Traffic, Tried};

/// Destinations that one request or connection tries. Two of the own cluster, then two of each level further away: with the own cluster and
/// two others dead at once, the next is reached.
const ATTEMPTS_MAX: usize = 6;
/// How often those that were all tried in vain are tried over: as often as Istio does. A restart that takes no longer than a few tens
/// of milliseconds is bridged; what is gone for longer is told soon.
const ROUNDS_MAX: usize = 2;
/// Who took longer to fail is not tried over: whoever waits for it would wait as long again. Two round trips of the slowest WAN.
const PROMPT: Duration = Duration::from_millis(500);

/// How an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missed {
    /// It may have been seen. There is a next attempt only if [`take_retry`](Attempts::take_retry) gave one.
    Sent,
    /// Nobody saw it.
    Unreached,
    /// Nobody saw it, and nobody is to blame.
    Busy,
}

/// The attempts of one request or connection.
pub(super) struct Attempts<'a> {
    balancer: &'a Balancer,
    traffic: &'a Arc<Traffic>,
    service: &'a Arc<Service>,
    port: u16,
    tried: Tried,
    /// Attempts that were begun.
    begun: usize,
    /// When the last was.
    at: Instant,
    /// How often those that were tried were tried over.
    rounds: usize,
    /// One of the service's places for retries.
    place: Option<Permit>,
}

impl<'a> Attempts<'a> {
    /// None yet, which earns a part of a retry.
    pub(super) fn new(balancer: &'a Balancer, traffic: &'a Arc<Traffic>, service: &'a Arc<Service>, port: u16) -> Self {
        let now = Instant::now();
        traffic.budget().earn(&service.traffic.retries, now.into_std());
        Self { balancer, traffic, service, port, tried: Tried::default(), begun: 0, at: now, rounds: 0, place: None }
    }

    /// Where the first attempt goes, or the next, by how the last one failed. `None` when there is nobody, or were enough.
    pub(super) async fn next(&mut self, missed: Option<Missed>) -> Option<Pick> {
        if self.begun == ATTEMPTS_MAX {
            return None;
        }
        let prompt = self.at.elapsed() <= PROMPT;
        if missed == Some(Missed::Sent) {
            self.pause().await;
        }
        let mut pick = self.pick();
        if pick.is_none() && prompt && self.rounds < ROUNDS_MAX {
            self.rounds += 1;
            pick = self.over(missed).await;
        }
        (self.begun, self.at) = (self.begun + 1, Instant::now());
        pick
    }

    /// One of those that were tried.
    async fn over(&mut self, missed: Option<Missed>) -> Option<Pick> {
        match missed {
            Some(Missed::Sent) => {}
            Some(Missed::Unreached) if self.take_retry() => self.pause().await,
            Some(Missed::Unreached | Missed::Busy) | None => return None,
        }
        self.tried = Tried::default();
        self.pick()
    }

    /// Remembers who was tried.
    pub(super) fn note(&mut self, pick: &Pick) {
        self.tried.note(pick);
    }

    /// Takes one of the retries that the service may have, and has earned.
    pub(super) fn take_retry(&mut self) -> bool {
        let policy = &self.service.traffic;
        if self.place.is_none() {
            self.place = self.traffic.permits().take(Kind::Retries, &policy.limits).ok();
        }
        self.place.is_some() && self.traffic.budget().spend(&policy.retries, Instant::now().into_std())
    }

    fn pick(&self) -> Option<Pick> {
        let random = self.balancer.random();
        self.traffic.pick(self.service, self.port, &self.tried, random, Instant::now().into_std())
    }

    async fn pause(&self) {
        let random = self.balancer.random();
        tokio::time::sleep(pause(&self.service.traffic.retries, self.begun, random)).await;
    }
}

/// How long to wait after `attempts`: drawn anew each time, so that those whom one failure met do not come back together.
fn pause(retries: &Retries, attempts: usize, random: u64) -> Duration {
    let doubled = retries.pause.saturating_mul(1 << attempts.saturating_sub(1).min(10));
    doubled.min(retries.pause_max).mul_f64((random & 0xFFFF) as f64 / 65_536.0)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use isthmus_model::route::DestinationKey;
    use isthmus_model::traffic::TrafficPolicy;
    use tokio::time::sleep;

    use super::*;
    use crate::balance::tests::{PORT, balancer, service};

    /// Who is tried, by the end of the address, when all attempts fail alike and at once; and how long that takes.
    async fn tried(service: &Arc<Service>, balancer: &Balancer, missed: Missed) -> (Vec<u8>, Duration) {
        tried_for(service, balancer, missed, Duration::ZERO).await
    }

    /// The same where each fails after that time.
    async fn tried_for(
        service: &Arc<Service>,
        balancer: &Balancer,
        missed: Missed,
        fails_after: Duration,
    ) -> (Vec<u8>, Duration) {
        let traffic = balancer.traffic(service);
        let mut attempts = Attempts::new(balancer, &traffic, service, PORT);
        let (began, mut last, mut tried) = (Instant::now(), None, Vec::new());
        while let Some(pick) = attempts.next(last).await {
            let DestinationKey::Local(address) = pick.key() else { panic!("an instance") };
            let IpAddr::V4(ip) = address.ip() else { panic!("an address of IPv4") };
            tried.push(ip.octets()[3]);
            attempts.note(&pick);
            sleep(fails_after).await;
            last = Some(missed);
        }
        (tried, began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn who_refused_is_tried_over_where_there_is_nobody_else() {
        let (only, both, many) = (service(1), service(2), service(9));
        let (who, took) = tried(&only, &balancer(), Missed::Unreached).await;
        assert_eq!(who, [1, 1, 1]);
        assert!(took <= Duration::from_millis(25 + 50 + 2), "{took:?}");
        let (who, _) = tried(&both, &balancer(), Missed::Unreached).await;
        for round in who.chunks(2) {
            assert!(round == [1, 2] || round == [2, 1], "{who:?}");
        }
        assert_eq!(who.len(), ATTEMPTS_MAX);
        let (mut who, took) = tried(&many, &balancer(), Missed::Unreached).await;
        who.sort_unstable();
        who.dedup();
        assert_eq!((who.len(), took), (ATTEMPTS_MAX, Duration::ZERO), "others are tried at once");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_busy_or_took_long_to_fail_is_not_tried_over() {
        assert_eq!(tried(&service(1), &balancer(), Missed::Busy).await.0, [1]);
        for missed in [Missed::Sent, Missed::Unreached] {
            let (who, _) = tried_for(&service(1), &balancer(), missed, PROMPT + Duration::from_millis(1)).await;
            assert_eq!(who, [1], "{missed:?}");
            let (who, _) = tried_for(&service(1), &balancer(), missed, PROMPT).await;
            assert_eq!(who, [1, 1, 1], "{missed:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn trying_over_is_within_the_budget() {
        let mut only = Service::clone(&service(1));
        // Nothing is earned by time.
        let retries = Retries { per_second: 0, ..only.traffic.retries.clone() };
        only.traffic = Arc::new(TrafficPolicy { retries, ..TrafficPolicy::clone(&only.traffic) });
        let (only, balancer) = (Arc::new(only), balancer());
        let saved = only.traffic.retries.saved_max;
        let mut over = 0;
        for _ in 0..saved {
            over += tried(&only, &balancer, Missed::Unreached).await.0.len() as u64 - 1;
        }
        let earned = saved * only.traffic.retries.per_request_permille / 1_000;
        assert!((saved..=saved + earned).contains(&over), "{over} of {saved} saved and {earned} earned");
    }

    #[test]
    fn pauses_double_up_to_their_bound_and_are_drawn() {
        let retries = Retries::default();
        let longest = |attempts| pause(&retries, attempts, 0xFFFF).as_millis();
        assert_eq!([1, 2, 3, 4, 5, 6, 64].map(longest), [24, 49, 99, 199, 249, 249, 249]);
        assert_eq!(pause(&retries, 3, 0), Duration::ZERO);
        assert_eq!(pause(&retries, 1, 0x8000), retries.pause / 2);
    }
}
