//! The PROXY header: what a load balancer would write is read as it was meant, with any connection behind it; and of all
//! other bytes, only those that it could have written.

use std::net::{IpAddr, SocketAddr};

use bolero::check;
use bolero::generator::*;
use isthmus_proxy::opening::proxy_protocol::{Header, Malformed, Progress, header};

use crate::bends::{Bends, corpus};
use crate::prefixes::{Answer, agree};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn read(bytes: &[u8]) -> Answer<Header, Malformed> {
    match header(bytes) {
        Ok(Progress::NeedMore(total)) => Answer::NeedMore(total),
        Ok(Progress::Header(header)) => Answer::Final(Ok(header)),
        Err(error) => Answer::Final(Err(error)),
    }
}

/// A header that was accepted, read once more by writing it anew.
fn is_as_written(bytes: &[u8], source: Option<SocketAddr>) {
    if bytes.starts_with(SIGNATURE) {
        let said = match (bytes[12], bytes[13]) {
            (0x21, 0x11) => Some((&bytes[16..20], &bytes[24..26])),
            (0x21, 0x21) => Some((&bytes[16..32], &bytes[48..50])),
            _ => None,
        };
        let written = source.map(|source| {
            let ip = match source.ip() {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            (ip, source.port().to_be_bytes().to_vec())
        });
        assert_eq!(written, said.map(|(ip, port)| (ip.to_vec(), port.to_vec())));
        return;
    }
    let line = std::str::from_utf8(bytes).expect("a line is text").strip_suffix("\r\n").expect("a line ends");
    let words: Vec<&str> = line.split(' ').collect();
    let Some(source) = source else {
        return assert_eq!(words[..2], ["PROXY", "UNKNOWN"]);
    };
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (ip, port) = (words[2].parse(), source.port().to_string());
    assert_eq!((words[0], words[1], words[4], words.len()), ("PROXY", family, &*port, 6));
    assert_eq!(ip, Ok(source.ip()));
}

fn holds(bytes: &[u8]) {
    agree(bytes, read);
    if let Ok(Progress::Header(Header { source, len })) = header(bytes) {
        is_as_written(&bytes[..len], source);
        assert_eq!(header(&bytes[..len]), header(bytes), "what follows is not looked at");
    }
}

/// A header to be written.
#[derive(Clone, Debug, TypeGenerator)]
struct Written {
    binary: bool,
    source: Ip,
    destination: Ip,
    ports: (u16, u16),
    #[generator(produce::<Vec<(u8, Vec<u8>)>>().with().len(0..4_usize))]
    fields: Vec<(u8, Vec<u8>)>,
    /// Whether the second field is the checksum.
    is_checked: bool,
    connection: Vec<u8>,
}

#[derive(Clone, Copy, Debug, TypeGenerator)]
enum Ip {
    Four([u8; 4]),
    Six([u8; 16]),
}

impl Ip {
    fn address(self) -> IpAddr {
        match self {
            Self::Four(octets) => octets.into(),
            Self::Six(octets) => octets.into(),
        }
    }

    /// The address of the same family as `other`: a header has one.
    fn like(self, other: Self) -> Self {
        match (self, other) {
            (Self::Six(octets), Self::Four(_)) => Self::Four([octets[0], octets[1], octets[2], octets[3]]),
            (Self::Four(octets), Self::Six(_)) => Self::Six([octets; 4].concat().try_into().expect("16 bytes")),
            _ => self,
        }
    }

    fn octets(&self) -> &[u8] {
        match self {
            Self::Four(octets) => octets,
            Self::Six(octets) => octets,
        }
    }
}

/// CRC-32C by division: the remainder of the message, as a polynomial, after Castagnoli's.
fn remainder(message: &[u8]) -> u32 {
    let bit = |index: usize| message.get(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1);
    let mut remainder = 0_u32;
    for index in 0..8 * message.len() + 32 {
        // The first 32 bits are inverted, and so is the result.
        let next = u32::from(bit(index) ^ (index < 32));
        let carry = remainder >> 31 == 1;
        remainder = remainder << 1 | next;
        if carry {
            remainder ^= 0x1EDC_6F41;
        }
    }
    !remainder.reverse_bits()
}

impl Written {
    fn source(&self) -> SocketAddr {
        SocketAddr::new(self.source.address(), self.ports.0)
    }

    fn bytes(&self) -> Vec<u8> {
        let destination = self.destination.like(self.source);
        if !self.binary {
            let family = if matches!(self.source, Ip::Four(_)) { "TCP4" } else { "TCP6" };
            let (from, to) = (self.source.address(), destination.address());
            return format!("PROXY {family} {from} {to} {} {}\r\n", self.ports.0, self.ports.1).into_bytes();
        }
        let kind = if matches!(self.source, Ip::Four(_)) { 0x11 } else { 0x21 };
        let ports = [self.ports.0.to_be_bytes(), self.ports.1.to_be_bytes()].concat();
        let mut block = [self.source.octets(), destination.octets(), &ports].concat();
        let mut checksum_at = None;
        for (index, (kind, value)) in self.fields.iter().enumerate() {
            let is_checksum = index == 1 && self.is_checked;
            // No other field is taken for one.
            let kind = if is_checksum { 3 } else { kind | 0x80 };
            let value = if is_checksum { &[0; 4] } else { &value[..] };
            block.push(kind);
            block.extend(u16::try_from(value.len()).expect("short").to_be_bytes());
            checksum_at = checksum_at.or(is_checksum.then_some(16 + block.len()));
            block.extend(value);
        }
        let len = u16::try_from(block.len()).expect("short").to_be_bytes();
        let mut bytes = [SIGNATURE, &[0x21, kind], &len, &block].concat();
        if let Some(at) = checksum_at {
            let sum = remainder(&bytes);
            bytes[at..at + 4].copy_from_slice(&sum.to_be_bytes());
        }
        bytes
    }
}

#[test]
fn bytes() {
    check!(name = "proxy_header").with_iterations(4_000).for_each(holds);
}

#[test]
fn bent() {
    let seeds = corpus("proxy_header");
    check!().with_iterations(15_000).with_type::<Bends>().for_each(|bends| holds(&bends.of(&seeds)));
}

#[test]
fn written() {
    check!().with_iterations(4_000).with_type::<Written>().for_each(|written| {
        let bytes = written.bytes();
        let expected = Header { source: Some(written.source()), len: bytes.len() };
        let followed = [&bytes[..], &written.connection].concat();
        assert_eq!(header(&followed), Ok(Progress::Header(expected)), "{}", bytes.escape_ascii());
        holds(&followed);
    });
}
