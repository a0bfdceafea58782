//! Loopback addresses that no other test uses.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// The first second octet in use: clear of 127.0.0.0/16, where machines keep their own resolvers and the
/// demo runs, and of the ranges that demos take for virtual addresses.
const FIRST: u32 = 128;
/// Blocks there are: 127.128.0.0/24 to 127.254.255.0/24.
const BLOCKS: u32 = (255 - FIRST) * 256;
/// Apart from each other, so that processes with neighbouring ids seldom try the same block.
const STRIDE: u32 = 37;
/// The host and port that is held to mark a block as taken.
const MARK: (u8, u16) = (255, 65_535);
/// The last host that [`Loopback::fresh`] gives out.
const HOST_MAX: u8 = 254;

/// A /24 of loopback addresses, this value's own as long as it lives. Linux only: elsewhere most of
/// 127.0.0.0/8 is not local.
#[derive(Debug)]
pub struct Loopback {
    second: u8,
    third: u8,
    next: AtomicU8,
    /// A bound socket is a lock that the kernel releases whatever becomes of the process.
    _mark: UdpSocket,
}

impl Loopback {
    /// A block that no other living value of this type has, in this or any other process.
    ///
    /// # Panics
    /// When every block is taken.
    #[must_use]
    pub fn block() -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let start = std::process::id().wrapping_mul(STRIDE);
        let free = |_| {
            let number = start.wrapping_add(COUNTER.fetch_add(1, Ordering::Relaxed)) % BLOCKS;
            let [.., second, third] = (FIRST * 256 + number).to_be_bytes();
            let mark = UdpSocket::bind((Ipv4Addr::new(127, second, third, MARK.0), MARK.1)).ok()?;
            Some(Self { second, third, next: AtomicU8::new(HOST_MAX), _mark: mark })
        };
        (0..BLOCKS).find_map(free).expect("not all blocks of loopback addresses are in use at once")
    }

    /// The address of one host of the block.
    #[must_use]
    pub fn ip(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.second, self.third, host)
    }

    /// A socket address in the block.
    #[must_use]
    pub fn address(&self, host: u8, port: u16) -> SocketAddr {
        (self.ip(host), port).into()
    }

    /// An address that was not given out yet, from the block's upper end: the lower is left to choice.
    ///
    /// # Panics
    /// When the block is used up.
    #[must_use]
    pub fn fresh(&self) -> Ipv4Addr {
        let taken = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |host| host.checked_sub(1));
        self.ip(taken.expect("a test takes at most 254 addresses"))
    }

    /// The block in CIDR notation.
    #[must_use]
    pub fn cidr(&self) -> String {
        format!("{}/24", self.ip(0))
    }
}
