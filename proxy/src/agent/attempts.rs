//! Which gateway to try next, with what proof, and how long to wait before: pure.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The longest wait before the first attempt after a loss. Short, for the next gateway is likely up; not
/// zero, for all sidecars of a lost gateway come at once.
pub const DELAY_MIN: Duration = Duration::from_millis(200);
/// The longest wait before any attempt: how late a sidecar may notice that its gateway is back. No longer than a
/// request waits for an answer. The shortest is half of the longest each time.
pub const DELAY_MAX: Duration = crate::plane::ANSWER_WITHIN;

/// Gateways that are tried: more than a cluster has.
pub const GATEWAYS_MAX: usize = 32;

/// Where a gateway serves sidecars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlAddr {
    /// Its control port.
    Port(SocketAddr),
    /// Its control socket, on this machine.
    Socket(PathBuf),
}

impl fmt::Display for ControlAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(address) => address.fmt(f),
            Self::Socket(path) => path.display().fmt(f),
        }
    }
}

/// How a sidecar shows who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// By its workload token; the gateway's root is checked against the token's pin. The way in at first
    /// contact, and back in when the certificate ran out.
    Token,
    /// By the certificate that it has; the gateway is checked against the current roots. The usual way,
    /// because certificates and roots are renewed and tokens and their pins are not.
    Certificate,
    /// Not at all: the kernel tells the gateway whose the connection to its socket is.
    User,
}

/// The order of attempts: gateways in turn, and after each whole round without success the other proof,
/// so that neither a token that ran out nor a certificate that nobody takes any more locks a sidecar out.
#[derive(Debug)]
pub struct Attempts {
    gateways: Vec<ControlAddr>,
    /// How many of them are configured; the rest was learnt.
    configured: usize,
    next: usize,
    /// Attempts since the last success.
    failed: u32,
}

impl Attempts {
    /// Starts with the first of `gateways`, of which there must be one at least.
    pub fn new(gateways: Vec<ControlAddr>) -> Self {
        Self { configured: gateways.len(), gateways, next: 0, failed: 0 }
    }

    /// Learns of further control ports of the own cluster's gateways; those that were learnt before and are not among
    /// them are forgotten. The own machine's socket has no others beside it.
    pub fn learn(&mut self, ports: &[SocketAddr]) {
        if matches!(self.gateways[0], ControlAddr::Socket(_)) {
            return;
        }
        let current = self.gateways[self.next].clone();
        self.gateways.truncate(self.configured);
        for port in ports.iter().copied().map(ControlAddr::Port) {
            if self.gateways.len() < GATEWAYS_MAX && !self.gateways.contains(&port) {
                self.gateways.push(port);
            }
        }
        self.next = self.gateways.iter().position(|gateway| *gateway == current).unwrap_or(0);
    }

    /// The next attempt. It counts as failed until [`succeeded`](Self::succeeded). `certified` says whether
    /// there is a valid certificate; without one only the token is left.
    pub fn next(&mut self, certified: bool) -> (ControlAddr, Proof) {
        let gateway = self.gateways[self.next].clone();
        let round = self.failed as usize / self.gateways.len();
        self.next = (self.next + 1) % self.gateways.len();
        self.failed = self.failed.saturating_add(1);
        let proof = match gateway {
            ControlAddr::Socket(_) => Proof::User,
            ControlAddr::Port(_) if certified && round.is_multiple_of(2) => Proof::Certificate,
            ControlAddr::Port(_) => Proof::Token,
        };
        (gateway, proof)
    }

    /// The attempt came through: the next one will be a first one again.
    pub fn succeeded(&mut self) {
        self.failed = 0;
    }

    /// How long to wait before the next attempt: doubled with each failure, and a random part of the
    /// second half of that.
    pub fn delay(&self, random: u64) -> Duration {
        let doublings = self.failed.saturating_sub(1).min(16);
        let longest = DELAY_MIN.saturating_mul(1 << doublings).min(DELAY_MAX);
        let half = longest / 2;
        let span = u64::try_from(half.as_millis()).unwrap_or(u64::MAX);
        half + Duration::from_millis(random % (span + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway(number: u16) -> ControlAddr {
        ControlAddr::Port(([127, 0, 0, 1], number).into())
    }

    #[test]
    fn gateways_take_turns_and_proofs_change_with_each_round() {
        let mut attempts = Attempts::new(vec![gateway(1), gateway(2)]);
        let tried: Vec<_> = (0..6).map(|_| attempts.next(true)).collect();
        let expected = [Proof::Certificate, Proof::Token, Proof::Certificate]
            .into_iter()
            .flat_map(|proof| [(gateway(1), proof), (gateway(2), proof)]);
        assert_eq!(tried, expected.collect::<Vec<_>>());
        attempts.succeeded();
        assert_eq!(attempts.next(true), (gateway(1), Proof::Certificate));
        assert_eq!(attempts.next(false), (gateway(2), Proof::Token));
    }

    #[test]
    fn what_is_learnt_of_gateways_comes_after_what_is_configured_and_goes_again() {
        let port = |number: u16| SocketAddr::from(([127, 0, 0, 1], number));
        let mut attempts = Attempts::new(vec![gateway(1)]);
        attempts.next(true);
        attempts.learn(&[port(1), port(2), port(3)]);
        let tried: Vec<_> = (0..4).map(|_| attempts.next(true).0).collect();
        assert_eq!(tried, [1, 2, 3, 1].map(gateway));
        attempts.learn(&[port(3)]);
        assert_eq!((attempts.next(true).0, attempts.next(true).0), (gateway(1), gateway(3)));
        attempts.learn(&(10..100).map(port).collect::<Vec<_>>());
        assert_eq!(attempts.gateways.len(), GATEWAYS_MAX);
        attempts.learn(&[]);
        assert_eq!(attempts.next(true).0, gateway(1));
        let socket = ControlAddr::Socket("/run/isthmus/control.sock".into());
        let mut local = Attempts::new(vec![socket.clone()]);
        local.learn(&[port(2)]);
        assert_eq!((local.next(true).0, local.next(true).0), (socket.clone(), socket));
    }

    #[test]
    fn on_the_socket_the_user_is_the_proof_every_time() {
        let socket = ControlAddr::Socket("/run/isthmus/control.sock".into());
        let mut attempts = Attempts::new(vec![socket.clone()]);
        for certified in [false, true, true] {
            assert_eq!(attempts.next(certified), (socket.clone(), Proof::User));
        }
    }

    #[test]
    fn waits_double_from_100_ms_to_2_s_and_differ() {
        let mut attempts = Attempts::new(vec![gateway(1)]);
        let millis = |attempts: &Attempts, random| attempts.delay(random).as_millis();
        attempts.next(true);
        assert_eq!((millis(&attempts, 0), millis(&attempts, 100)), (100, 200));
        attempts.next(true);
        assert_eq!((millis(&attempts, 0), millis(&attempts, 200)), (200, 400));
        for _ in 0..100 {
            attempts.next(true);
        }
        assert_eq!((millis(&attempts, 0), millis(&attempts, 1000)), (1000, 2000));
        attempts.succeeded();
        assert_eq!(millis(&attempts, 0), 100);
    }
}
