//! The server name in a TLS ClientHello (RFC 8446 §4.1.2, RFC 6066 §3): a pure parser.
//!
//! It reads only what routing needs, and is strict about that: one name, a host name, not an address. The
//! rest of the handshake is between the two ends.

/// Bytes of a ClientHello with its record headers. Post-quantum key shares and long ALPN lists fit several
/// times; RFC 8446 would allow 16 MiB.
pub const CLIENT_HELLO_MAX: usize = 16 * 1024;
/// The longest DNS name.
const NAME_LEN_MAX: usize = 253;
const RECORD_HEADER: usize = 5;
const HANDSHAKE_HEADER: usize = 4;
const RECORD_HANDSHAKE: u8 = 22;
const HANDSHAKE_CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const NAME_TYPE_HOST: u8 = 0;

/// What the bytes so far tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Not complete; cannot be before there are this many bytes.
    NeedMore(usize),
    /// The name, in lower case.
    Sni(String),
    /// A complete ClientHello without a name.
    NoSni,
}

/// Why the bytes are no ClientHello that can be routed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not TLS.
    #[error("the connection does not start with a TLS handshake")]
    NotTls,
    /// Above [`CLIENT_HELLO_MAX`].
    #[error("the ClientHello is longer than {CLIENT_HELLO_MAX} bytes")]
    TooLong,
    /// A length points outside of what holds it.
    #[error("the ClientHello's lengths do not add up")]
    Length,
    /// Two names, or none in the list.
    #[error("the ClientHello does not name exactly one server")]
    NotOneName,
    /// An address, or not a DNS name.
    #[error("the ClientHello's server name is not a host name")]
    NotAHostName,
}

/// Reads the server name from the first bytes of a connection.
///
/// # Errors
/// As soon as the bytes cannot become a ClientHello with at most one proper name.
pub fn sni(bytes: &[u8]) -> Result<Progress, Malformed> {
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        let consumed = bytes.len() - rest.len();
        // The type and version are known before the rest of the record is.
        let starts_well = match *rest {
            [] => true,
            [kind] => kind == RECORD_HANDSHAKE,
            [kind, major, ..] => kind == RECORD_HANDSHAKE && major == 3,
        };
        if !starts_well {
            return Err(Malformed::NotTls);
        }
        let Some((header, after)) = rest.split_at_checked(RECORD_HEADER) else {
            return more(consumed + RECORD_HEADER);
        };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if length == 0 {
            return Err(Malformed::Length);
        }
        let available = &after[..length.min(after.len())];
        message.extend_from_slice(available);
        if let Some(total) = message_length(&message)? {
            if message.len() >= total {
                return server_name(&message[HANDSHAKE_HEADER..total]);
            }
            if available.len() == length {
                rest = &after[length..];
                continue;
            }
            let missing_here = (length - available.len()).min(total - message.len());
            return more(bytes.len() + missing_here);
        }
        if available.len() < length {
            return more(bytes.len() + 1);
        }
        rest = &after[length..];
    }
}

fn more(total: usize) -> Result<Progress, Malformed> {
    if total > CLIENT_HELLO_MAX { Err(Malformed::TooLong) } else { Ok(Progress::NeedMore(total)) }
}

/// The length of the handshake message with its header, once that is there.
fn message_length(message: &[u8]) -> Result<Option<usize>, Malformed> {
    if message.first().is_some_and(|kind| *kind != HANDSHAKE_CLIENT_HELLO) {
        return Err(Malformed::NotTls);
    }
    let Some(header) = message.get(..HANDSHAKE_HEADER) else { return Ok(None) };
    let length = u32::from_be_bytes([0, header[1], header[2], header[3]]);
    let total = usize::try_from(length).map_err(|_| Malformed::TooLong)? + HANDSHAKE_HEADER;
    if total + RECORD_HEADER > CLIENT_HELLO_MAX { Err(Malformed::TooLong) } else { Ok(Some(total)) }
}

/// A cursor over bytes whose lengths are not to be trusted.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed::Length)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn vector8(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u8()?;
        self.take(usize::from(length))
    }

    fn vector16(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn server_name(hello: &[u8]) -> Result<Progress, Malformed> {
    let mut hello = Fields(hello);
    hello.take(2 + 32)?; // legacy_version, random
    hello.vector8()?; // legacy_session_id
    hello.vector16()?; // cipher_suites
    hello.vector8()?; // legacy_compression_methods
    if hello.is_empty() {
        return Ok(Progress::NoSni);
    }
    let mut extensions = Fields(hello.vector16()?);
    if !hello.is_empty() {
        return Err(Malformed::Length);
    }
    let mut name = None;
    while !extensions.is_empty() {
        let kind = extensions.u16()?;
        let data = extensions.vector16()?;
        if kind == EXTENSION_SERVER_NAME && name.replace(one_name(data)?).is_some() {
            return Err(Malformed::NotOneName);
        }
    }
    Ok(name.map_or(Progress::NoSni, Progress::Sni))
}

fn one_name(extension: &[u8]) -> Result<String, Malformed> {
    let mut extension = Fields(extension);
    let mut list = Fields(extension.vector16()?);
    if !extension.is_empty() {
        return Err(Malformed::Length);
    }
    if list.is_empty() {
        return Err(Malformed::NotOneName);
    }
    let (kind, name) = (list.u8()?, list.vector16()?);
    if kind != NAME_TYPE_HOST || !list.is_empty() {
        return Err(Malformed::NotOneName);
    }
    let label = |label: &[u8]| {
        !label.is_empty() && label.len() <= 63 && label.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
    };
    let labels = name.len() <= NAME_LEN_MAX && name.split(|b| *b == b'.').all(label);
    // The last label of a host name is never all digits, that of an IPv4 address always is.
    let address = name.rsplit(|b| *b == b'.').next().is_none_or(|last| last.iter().all(u8::is_ascii_digit));
    match std::str::from_utf8(name) {
        Ok(name) if labels && !address => Ok(name.to_ascii_lowercase()),
        _ => Err(Malformed::NotAHostName),
    }
}

#[cfg(test)]
mod tests;
