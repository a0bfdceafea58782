//! The header of the PROXY protocol, versions 1 and 2, by which a load balancer says whose connection it
//! passes on (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>): a pure parser.
//!
//! What is read is the client's address, and where the header ends. Additional fields (TLVs) are skipped, all
//! but the checksum. Nothing is guessed: without a valid header there is no address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// The longest line of version 1, with its end (§2.1).
const LINE_LEN_MAX: usize = 107;
/// The shortest: `PROXY UNKNOWN`.
const LINE_LEN_MIN: usize = 15;
/// How a line begins.
const LINE_BEGIN: &[u8] = b"PROXY ";
/// How a line ends.
const LINE_END: &[u8] = b"\r\n";
/// How a header of version 2 begins (§2.2).
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, version and command, family, and the length of the rest.
const FIXED_LEN: usize = 16;
/// What version 2 may have behind its fixed part. Addresses take 216 bytes at most and the fields of known load balancers
/// some hundred, a client's certificate not much over a thousand; the protocol would allow 64 KiB.
const BLOCK_LEN_MAX: usize = 4 * 1024;
/// The type of the field that has the checksum (§2.2.4).
const FIELD_CRC32C: u8 = 0x03;

/// What the bytes so far tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Not complete; cannot be before there are this many bytes.
    NeedMore(usize),
    /// A complete header.
    Header(Header),
}

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whose connection it is. `None` when the load balancer opened it for itself, to see whether it is answered, or
    /// does not know: the connection's own address stands then.
    pub source: Option<SocketAddr>,
    /// Bytes of the header. What follows is the connection's.
    pub len: usize,
}

/// Why the bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Neither version's beginning.
    #[error("the connection does not start with a PROXY header")]
    NotProxy,
    /// Version 1: words that are none of its own, or too many.
    #[error("the PROXY line is not `PROXY TCP4|TCP6 source destination port port`")]
    Line,
    /// A line that does not end in time, or more than 4 KiB behind the fixed part of version 2.
    #[error("the PROXY header is longer than it may be")]
    TooLong,
    /// Version 2: another version, command, family or transport.
    #[error("the PROXY header is not of version 2, for a TCP connection")]
    Kind,
    /// Version 2: a length points outside of what holds it.
    #[error("the PROXY header's lengths do not add up")]
    Length,
    /// Version 2: the checksum is not the header's.
    #[error("the PROXY header's checksum is wrong")]
    Checksum,
}

/// Reads the header that a connection starts with.
///
/// # Errors
/// As soon as the bytes cannot become a header.
pub fn header(bytes: &[u8]) -> Result<Progress, Malformed> {
    if bytes.is_empty() {
        Ok(Progress::NeedMore(LINE_LEN_MIN))
    } else if starts_as(bytes, SIGNATURE) {
        binary(bytes)
    } else if starts_as(bytes, LINE_BEGIN) {
        line(bytes)
    } else {
        Err(Malformed::NotProxy)
    }
}

/// Whether the bytes have that beginning, as far as they go.
fn starts_as(bytes: &[u8], begin: &[u8]) -> bool {
    let compared = bytes.len().min(begin.len());
    bytes[..compared] == begin[..compared]
}

/// Version 1.
fn line(bytes: &[u8]) -> Result<Progress, Malformed> {
    let within = &bytes[..bytes.len().min(LINE_LEN_MAX)];
    let Some(end) = within.windows(LINE_END.len()).position(|window| window == LINE_END) else {
        let missing = if within.ends_with(b"\r") { 1 } else { LINE_END.len() };
        let least = within.len() + missing;
        return if least > LINE_LEN_MAX {
            Err(Malformed::TooLong)
        } else {
            Ok(Progress::NeedMore(least.max(LINE_LEN_MIN)))
        };
    };
    let len = end + LINE_END.len();
    let words = std::str::from_utf8(&within[LINE_BEGIN.len()..end]).map_err(|_| Malformed::Line)?;
    Ok(Progress::Header(Header { source: source_of_words(words)?, len }))
}

fn source_of_words(words: &str) -> Result<Option<SocketAddr>, Malformed> {
    let mut words = words.split(' ');
    let family = words.next();
    // Whatever follows is not looked at.
    if family == Some("UNKNOWN") {
        return Ok(None);
    }
    let [Some(source), Some(destination), Some(source_port), Some(destination_port), None] =
        std::array::from_fn(|_| words.next())
    else {
        return Err(Malformed::Line);
    };
    let source = match family {
        Some("TCP4") => both::<Ipv4Addr>(source, destination)?,
        Some("TCP6") => both::<Ipv6Addr>(source, destination)?,
        _ => return Err(Malformed::Line),
    };
    port(destination_port)?;
    Ok(Some(SocketAddr::new(source, port(source_port)?)))
}

/// The first of two addresses of one family.
fn both<A: FromStr + Into<IpAddr>>(source: &str, destination: &str) -> Result<IpAddr, Malformed> {
    match (source.parse::<A>(), destination.parse::<A>()) {
        (Ok(source), Ok(_)) => Ok(source.into()),
        _ => Err(Malformed::Line),
    }
}

/// A port as §2.1 writes it: digits, without a zero before others.
fn port(text: &str) -> Result<u16, Malformed> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_plain).ok_or(Malformed::Line)
}

/// Version 2.
fn binary(bytes: &[u8]) -> Result<Progress, Malformed> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED_LEN>() else {
        return Ok(Progress::NeedMore(FIXED_LEN));
    };
    let [.., version_and_command, kind, high, low] = *fixed;
    let block_len = usize::from(u16::from_be_bytes([high, low]));
    let is_local = match version_and_command {
        0x20 => true,
        0x21 => false,
        _ => return Err(Malformed::Kind),
    };
    if block_len > BLOCK_LEN_MAX {
        return Err(Malformed::TooLong);
    }
    let len = FIXED_LEN + block_len;
    let Some(block) = rest.get(..block_len) else { return Ok(Progress::NeedMore(len)) };
    // §2.2: of what a load balancer opens for itself, nothing else is looked at.
    if is_local {
        return Ok(Progress::Header(Header { source: None, len }));
    }
    let (source, fields) = match kind {
        // Unknown, or a client on a Unix socket of the load balancer's machine.
        0x00 | 0x31 => return Ok(Progress::Header(Header { source: None, len })),
        0x11 => addresses::<4>(block)?,
        0x21 => addresses::<16>(block)?,
        _ => return Err(Malformed::Kind),
    };
    check(&bytes[..len], fields)?;
    Ok(Progress::Header(Header { source: Some(source), len }))
}

/// The source that a block begins with, and what follows the addresses: two of `N` bytes and two ports.
fn addresses<const N: usize>(block: &[u8]) -> Result<(SocketAddr, &[u8]), Malformed>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = block.split_first_chunk::<N>().ok_or(Malformed::Length)?;
    let (_destination, rest) = rest.split_first_chunk::<N>().ok_or(Malformed::Length)?;
    let (&[high, low, _, _], fields) = rest.split_first_chunk::<4>().ok_or(Malformed::Length)?;
    Ok((SocketAddr::new(IpAddr::from(*source), u16::from_be_bytes([high, low])), fields))
}

/// Walks the fields at the end of `header`, and compares its checksum if there is one.
fn check(header: &[u8], mut fields: &[u8]) -> Result<(), Malformed> {
    while !fields.is_empty() {
        let (&[kind, high, low], rest) = fields.split_first_chunk::<3>().ok_or(Malformed::Length)?;
        let (value, rest) = rest.split_at_checked(u16::from_be_bytes([high, low]).into()).ok_or(Malformed::Length)?;
        if kind == FIELD_CRC32C {
            let value: [u8; 4] = value.try_into().map_err(|_| Malformed::Length)?;
            // The checksum is that of the header with zeros in the checksum's place.
            let (before, after) = (&header[..header.len() - rest.len() - value.len()], rest);
            let sum = [before, &[0; 4], after].into_iter().flatten().fold(u32::MAX, crc32c);
            if !sum != u32::from_be_bytes(value) {
                return Err(Malformed::Checksum);
            }
        }
        fields = rest;
    }
    Ok(())
}

/// One byte more of a CRC-32C (RFC 3309), bit by bit: a table would be larger than what it is for.
fn crc32c(sum: u32, byte: &u8) -> u32 {
    /// Castagnoli's polynomial, its bits reversed.
    const POLYNOMIAL: u32 = 0x82F6_3B78;
    (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (POLYNOMIAL & (sum & 1).wrapping_neg()))
}

#[cfg(test)]
mod tests;
