//! When what failed is tried once more, and where.
//!
//! | how it failed | the next attempt |
//! | --- | --- |
//! | nobody was reached | elsewhere, at once; where there is nobody else, one of those that failed promptly, after a pause and within the budget |
//! | it was sent | the same, always after a pause, if its caller takes a retry |
//! | there was no room | elsewhere, at once; where there is nobody else, as above |

use std::sync::Arc;
use std::time::Duration;

use isthmus_model::snapshot::Service;
use isthmus_model::traffic::Retries;
use tokio::time::{Instant, sleep_until};

use crate::balance::ejection::Failure;
use crate::balance::permits::{Kind, Permit};
use crate::balance::{Balancer, Pick, Traffic, Tried};

/// Destinations that one request or connection tries. Two of the own cluster, then two of each level further away: with the own cluster and
/// two others dead at once, the next is reached.
const ATTEMPTS_MAX: usize = 6;
/// How many of these may go to who failed before: as many as Istio's retries. A restart that takes no longer than a few tens of
/// milliseconds is bridged; what is gone for longer is told soon.
const OVER_MAX: usize = 2;
/// Who took longer to fail is not tried over: whoever waits for it would wait as long again. Two round trips of the slowest WAN.
const PROMPT: Duration = Duration::from_millis(500);

/// How an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missed {
    /// It may have been seen. There is another attempt only where [`take_retry`](Attempts::take_retry) gave one.
    Sent,
    /// Nobody saw it.
    Unreached,
    /// Nobody saw it, and to come back soon is of no use.
    Busy,
}

/// The attempts of one request or connection.
pub(super) struct Attempts<'a> {
    balancer: &'a Balancer,
    traffic: &'a Arc<Traffic>,
    service: &'a Arc<Service>,
    port: u16,
    /// No pause ends later.
    deadline: Option<Instant>,
    tried: Tried,
    /// How the last one failed.
    missed: Option<Missed>,
    /// When it was begun.
    at: Instant,
    begun: usize,
    /// Those of them that went to who failed before.
    over: usize,
    /// Destinations that failed promptly, and may be tried over.
    forgotten: usize,
    /// One of the service's places for retries.
    place: Option<Permit>,
}

impl<'a> Attempts<'a> {
    /// None yet, which earns a part of a retry.
    pub(super) fn new(
        balancer: &'a Balancer,
        traffic: &'a Arc<Traffic>,
        (service, port): (&'a Arc<Service>, u16),
        deadline: Option<Instant>,
    ) -> Self {
        let (at, tried) = (Instant::now(), Tried::default());
        traffic.budget().earn(&service.traffic.retries, at.into_std());
        let (missed, begun, over, forgotten, place) = (None, 0, 0, 0, None);
        Self { balancer, traffic, service, port, deadline, tried, missed, at, begun, over, forgotten, place }
    }

    /// Where the first attempt goes, or the next. `None` when there is nobody, were enough, or is no time left.
    pub(super) async fn next(&mut self) -> Option<Pick> {
        if self.is_enough() {
            return None;
        }
        let is_paid = self.missed == Some(Missed::Sent);
        if is_paid {
            sleep_until(self.pause_until()?).await;
        }
        // Once some are tried over, nobody is left who was not tried.
        let elsewhere = if self.over == 0 { self.pick() } else { None };
        let pick = match elsewhere {
            Some(pick) => Some(pick),
            None => self.go_over(is_paid).await,
        };
        (self.begun, self.at) = (self.begun + 1, Instant::now());
        pick
    }

    /// One of those that failed promptly.
    async fn go_over(&mut self, is_paid: bool) -> Option<Pick> {
        if self.forgotten < 2 && !self.tried.has_prompt() {
            return None;
        }
        if !is_paid {
            let until = self.pause_until()?;
            if !self.take_spare_retry() {
                return None;
            }
            sleep_until(until).await;
        }
        self.over += 1;
        if let Some(pick) = self.pick() {
            return Some(pick);
        }
        self.forgotten = self.tried.forget_prompt();
        self.pick()
    }

    /// Remembers who was tried, how the attempt failed, and what is held against the destination for it. Of a request that failed there
    /// before, only what ends a trial is.
    pub(super) fn note(&mut self, pick: &Pick, missed: Missed, failure: Option<Failure>) {
        let now = Instant::now();
        match failure {
            Some(failure) if self.over == 0 => pick.failed(failure, now.into_std()),
            Some(failure) => pick.failed_again(failure, now.into_std()),
            None => {}
        }
        self.missed = Some(missed);
        self.tried.note(pick, missed != Missed::Busy && now - self.at <= PROMPT);
    }

    fn is_enough(&self) -> bool {
        self.begun == ATTEMPTS_MAX || self.over == OVER_MAX
    }

    /// Takes one of the retries that the service may have, and has earned: for what was sent.
    pub(super) fn take_retry(&mut self) -> bool {
        !self.is_enough() && self.take_place() && {
            self.traffic.budget().spend(&self.service.traffic.retries, Instant::now().into_std())
        }
    }

    /// The same for what nobody saw, which leaves enough for what was sent.
    fn take_spare_retry(&mut self) -> bool {
        self.take_place() && {
            self.traffic.budget().spend_spare(&self.service.traffic.retries, Instant::now().into_std())
        }
    }

    fn take_place(&mut self) -> bool {
        if self.place.is_none() {
            self.place = self.traffic.permits().take(Kind::Retries, &self.service.traffic.limits).ok();
        }
        self.place.is_some()
    }

    fn pick(&self) -> Option<Pick> {
        let random = self.balancer.random();
        self.traffic.pick(self.service, self.port, &self.tried, random, Instant::now().into_std())
    }

    /// The end of a pause, if that is before the deadline.
    fn pause_until(&self) -> Option<Instant> {
        let until = Instant::now() + pause(&self.service.traffic.retries, self.begun, self.balancer.random());
        self.deadline.is_none_or(|deadline| until < deadline).then_some(until)
    }
}

/// How long to wait after `attempts`: drawn anew each time, so that those whom one failure met do not come back together.
fn pause(retries: &Retries, attempts: usize, random: u64) -> Duration {
    let doubled = retries.pause.saturating_mul(1 << attempts.saturating_sub(1).min(10));
    doubled.min(retries.pause_max).mul_f64((random & 0xFFFF) as f64 / 65_536.0)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::net::IpAddr;

    use isthmus_model::route::DestinationKey;
    use isthmus_model::traffic::TrafficPolicy;
    use tokio::time::sleep;

    use super::*;
    use crate::balance::tests::{PORT, balancer, service};

    /// Who is tried, by the end of the address, when each fails as is said; and how long that takes.
    async fn tried(
        service: &Arc<Service>,
        balancer: &Balancer,
        deadline: Option<Instant>,
        fails: impl Fn(u8) -> (Missed, Duration),
    ) -> (Vec<u8>, Duration) {
        let traffic = balancer.traffic(service);
        let mut attempts = Attempts::new(balancer, &traffic, (service, PORT), deadline);
        let (began, mut tried) = (Instant::now(), Vec::new());
        while let Some(pick) = attempts.next().await {
            let DestinationKey::Local(address) = pick.key() else { panic!("an instance") };
            let IpAddr::V4(ip) = address.ip() else { panic!("an address of IPv4") };
            let last = ip.octets()[3];
            let (missed, after) = fails(last);
            sleep(after).await;
            tried.push(last);
            attempts.note(&pick, missed, None);
        }
        (tried, began.elapsed())
    }

    const REFUSED: (Missed, Duration) = (Missed::Unreached, Duration::ZERO);

    #[tokio::test(start_paused = true)]
    async fn who_refused_is_tried_over_where_there_is_nobody_else() {
        let (only, both, many) = (service(1), service(2), service(9));
        let mut pauses = Vec::new();
        for _ in 0..50 {
            let (who, took) = tried(&only, &balancer(), None, |_| REFUSED).await;
            assert_eq!(who, [1, 1, 1]);
            pauses.push(took);
        }
        let longest = pauses.iter().max().expect("some");
        assert!((Duration::from_millis(30)..Duration::from_millis(78)).contains(longest), "{pauses:?}");
        let (who, _) = tried(&both, &balancer(), None, |_| REFUSED).await;
        for round in who.chunks(2) {
            assert!(round == [1, 2] || round == [2, 1], "{who:?}");
        }
        assert_eq!(who.len(), 2 + OVER_MAX);
        let (mut who, took) = tried(&many, &balancer(), None, |_| REFUSED).await;
        who.sort_unstable();
        who.dedup();
        assert_eq!((who.len(), took), (ATTEMPTS_MAX, Duration::ZERO), "others are tried at once");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_busy_or_took_long_to_fail_is_not_tried_over() {
        let late = PROMPT + Duration::from_millis(1);
        for fails in [(Missed::Busy, Duration::ZERO), (Missed::Sent, late), (Missed::Unreached, late)] {
            let (who, _) = tried(&service(1), &balancer(), None, |_| fails).await;
            assert_eq!(who, [1], "{fails:?}");
            let mixed = |last| if last == 1 { fails } else { REFUSED };
            for _ in 0..20 {
                let (who, took) = tried(&service(2), &balancer(), None, mixed).await;
                assert_eq!(who.iter().filter(|last| **last == 1).count(), 1, "{fails:?}: {who:?}");
                assert_eq!(who.len(), 2 + OVER_MAX, "the other one is: {fails:?}: {who:?}");
                assert!(took < fails.1 + Duration::from_millis(500), "{took:?}");
            }
        }
        for missed in [Missed::Sent, Missed::Unreached] {
            let (who, _) = tried(&service(1), &balancer(), None, |_| (missed, PROMPT)).await;
            assert_eq!(who, [1, 1, 1]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_failed_promptly_is_tried_over_though_another_is_slow_by_then() {
        let late = (Missed::Unreached, PROMPT + Duration::from_millis(1));
        for again in [late, (Missed::Busy, Duration::ZERO)] {
            let asked = Cell::new(0);
            let fails = |_| {
                asked.set(asked.get() + 1);
                if asked.get() == 3 { again } else { REFUSED }
            };
            let (who, _) = tried(&service(2), &balancer(), None, fails).await;
            let [_, _, first_over, second_over] = who[..] else { panic!("{who:?}") };
            assert_ne!(first_over, second_over, "{again:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_no_time_left_for_a_pause_is_over_at_once() {
        let mut all = 0;
        for _ in 0..50 {
            let deadline = Instant::now() + Duration::from_millis(20);
            let (who, took) = tried(&service(1), &balancer(), Some(deadline), |_| REFUSED).await;
            // Timers wake at whole milliseconds.
            assert!(took <= Duration::from_millis(20), "{took:?}");
            all += who.len();
        }
        assert!((51..150).contains(&all), "{all}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_sent_takes_no_retry_that_does_not_come() {
        let (only, balancer) = (service(1), balancer());
        let traffic = balancer.traffic(&only);
        let mut attempts = Attempts::new(&balancer, &traffic, (&only, PORT), None);
        let mut retries = 0;
        while let Some(pick) = attempts.next().await {
            attempts.note(&pick, Missed::Sent, Some(Failure::Broken));
            if !attempts.take_retry() {
                break;
            }
            retries += 1;
        }
        assert_eq!((attempts.begun, retries), (1 + OVER_MAX, OVER_MAX));
    }

    #[tokio::test(start_paused = true)]
    async fn trying_over_leaves_half_of_the_budget_for_what_was_sent() {
        let mut both = Service::clone(&service(2));
        // Nothing is earned by time.
        let retries = Retries { per_second: 0, ..both.traffic.retries.clone() };
        both.traffic = Arc::new(TrafficPolicy { retries: retries.clone(), ..TrafficPolicy::clone(&both.traffic) });
        let (both, balancer) = (Arc::new(both), balancer());
        let mut over = 0;
        for _ in 0..retries.saved_max {
            over += tried(&both, &balancer, None, |_| REFUSED).await.0.len() as u64 - 2;
        }
        let (spare, earned) = (retries.saved_max / 2, retries.saved_max * retries.per_request_permille / 1_000);
        assert!((spare..=spare + earned).contains(&over), "{over} of {spare} and {earned} earned");
        let traffic = balancer.traffic(&both);
        let mut attempts = Attempts::new(&balancer, &traffic, (&both, PORT), None);
        assert!(attempts.take_retry(), "what was sent");
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
