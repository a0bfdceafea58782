//! A DNS client of one question over UDP or TCP, written by hand from RFC 1035 §4: it shares no code with the
//! server under test.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// An answer later than this is a failure.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// The longest datagram that is taken.
const DATAGRAM_LEN_MAX: usize = 4_096;
/// Pointers followed within one name (RFC 1035 §4.1.4); a longer chain is a loop.
const POINTERS_MAX: usize = 16;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordType {
    /// IPv4 addresses.
    A = 1,
    /// IPv6 addresses.
    Aaaa = 28,
    /// Ports and hosts (RFC 2782).
    Srv = 33,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// A or AAAA.
    Address(IpAddr),
    /// SRV.
    Service {
        /// Lower is tried first.
        priority: u16,
        /// Share among equals.
        weight: u16,
        /// The port.
        port: u16,
        /// The host.
        target: String,
    },
    /// A type that tests do not look into.
    Other(u16),
}

/// A record of the answer section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its owner.
    pub name: String,
    /// How long it may be kept, in seconds.
    pub ttl: u32,
    /// What it says.
    pub data: Data,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The response code: 0 NOERROR, 3 NXDOMAIN, 5 REFUSED.
    pub code: u8,
    /// Whether the server speaks for the zone.
    pub authoritative: bool,
    /// Whether the answer is cut short.
    pub truncated: bool,
    /// The answer section.
    pub records: Vec<Record>,
}

impl Answer {
    /// Its addresses, in the order they came.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        let address = |record: &Record| match record.data {
            Data::Address(address) => Some(address),
            _ => None,
        };
        self.records.iter().filter_map(address).collect()
    }
}

/// Asks `server` for the records of `name`.
///
/// # Errors
/// When no answer to this question comes in time.
pub async fn query(server: SocketAddr, name: &str, kind: RecordType) -> io::Result<Answer> {
    let own: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(own).await?;
    socket.connect(server).await?;
    // The socket's own port makes the id unpredictable enough for a loopback.
    let id = socket.local_addr()?.port();
    socket.send(&question(id, name, kind)?).await?;
    let mut buffer = vec![0; DATAGRAM_LEN_MAX];
    let len = timeout(ANSWER_WITHIN, socket.recv(&mut buffer)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    parse(&buffer[..len], id).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a malformed DNS answer"))
}

/// Asks `server` over TCP (RFC 1035 §4.2.2).
///
/// # Errors
/// When no answer to this question comes in time.
pub async fn query_tcp(server: SocketAddr, name: &str, kind: RecordType) -> io::Result<Answer> {
    let exchange = async {
        let mut stream = TcpStream::connect(server).await?;
        let id = stream.local_addr()?.port();
        let question = question(id, name, kind)?;
        stream.write_u16(u16::try_from(question.len()).map_err(io::Error::other)?).await?;
        stream.write_all(&question).await?;
        let mut answer = vec![0; stream.read_u16().await?.into()];
        stream.read_exact(&mut answer).await?;
        parse(&answer, id).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a malformed DNS answer"))
    };
    timeout(ANSWER_WITHIN, exchange).await.map_err(|_| io::ErrorKind::TimedOut)?
}

fn question(id: u16, name: &str, kind: RecordType) -> io::Result<Vec<u8>> {
    let mut message = id.to_be_bytes().to_vec();
    // Recursion desired; one question.
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        let len = u8::try_from(label.len()).ok().filter(|len| (1..64).contains(len));
        message.push(len.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a label of 1 to 63 bytes"))?);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, kind as u8, 0, 1]);
    Ok(message)
}

fn parse(message: &[u8], id: u16) -> Option<Answer> {
    let mut reader = Reader { message, at: 0 };
    let is_answer = reader.u16()? == id;
    let flags = reader.u16()?;
    if !is_answer || flags & 0x8000 == 0 {
        return None;
    }
    let (questions, answers) = (reader.u16()?, reader.u16()?);
    reader.take(4)?;
    for _ in 0..questions {
        reader.name()?;
        reader.take(4)?;
    }
    let records = (0..answers).map(|_| reader.record()).collect::<Option<Vec<_>>>()?;
    Some(Answer {
        code: (flags & 0x000f) as u8,
        authoritative: flags & 0x0400 != 0,
        truncated: flags & 0x0200 != 0,
        records,
    })
}

struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let taken = self.message.get(self.at..self.at + len)?;
        self.at += len;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn name(&mut self) -> Option<String> {
        let mut labels = Vec::new();
        // Where the name goes on in the message itself, once a pointer was followed.
        let mut resume = None;
        let mut pointers = 0;
        loop {
            let len = self.take(1)?[0];
            match len {
                0 => break,
                1..=63 => labels.push(String::from_utf8_lossy(self.take(len.into())?).into_owned()),
                192.. if pointers < POINTERS_MAX => {
                    let low = self.take(1)?[0];
                    resume.get_or_insert(self.at);
                    pointers += 1;
                    self.at = usize::from(u16::from_be_bytes([len & 0x3f, low]));
                }
                _ => return None,
            }
        }
        self.at = resume.unwrap_or(self.at);
        Some(labels.join("."))
    }

    fn record(&mut self) -> Option<Record> {
        let name = self.name()?;
        let kind = self.u16()?;
        let _class = self.u16()?;
        let ttl = u32::from_be_bytes(self.take(4)?.try_into().ok()?);
        let len = usize::from(self.u16()?);
        let end = self.at + len;
        let data = match (kind, len) {
            (1, 4) => Data::Address(<[u8; 4]>::try_from(self.take(4)?).ok()?.into()),
            (28, 16) => Data::Address(<[u8; 16]>::try_from(self.take(16)?).ok()?.into()),
            (33, 7..) => {
                Data::Service { priority: self.u16()?, weight: self.u16()?, port: self.u16()?, target: self.name()? }
            }
            _ => Data::Other(kind),
        };
        self.at = end;
        Some(Record { name, ttl, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(flags: u16, answers: u8) -> Vec<u8> {
        let [high, low] = flags.to_be_bytes();
        vec![0, 7, high, low, 0, 1, 0, answers, 0, 0, 0, 0]
    }

    #[test]
    fn answers_are_read_with_their_pointers() {
        let mut message = header(0x8480, 2);
        message.extend(&question(7, "_http._tcp.a.b", RecordType::Srv).expect("a name")[12..]);
        message.extend([0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 5, 0, 10, 0, 1, 0, 2, 0x23, 0x78, 1, b'x', 0xc0, 23]);
        message.extend([0xc0, 23, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 127, 0, 0, 1]);
        let answer = parse(&message, 7).expect("an answer");
        assert!(answer.authoritative && !answer.truncated && answer.code == 0);
        let service = Data::Service { priority: 1, weight: 2, port: 9080, target: "x.a.b".to_owned() };
        let srv = Record { name: "_http._tcp.a.b".to_owned(), ttl: 5, data: service };
        let address = Data::Address([127, 0, 0, 1].into());
        assert_eq!(answer.records, [srv, Record { name: "a.b".to_owned(), ttl: 9, data: address }]);
        assert_eq!(answer.addresses(), [IpAddr::from([127, 0, 0, 1])]);
        assert_eq!(parse(&message, 8), None, "an answer to another question");
    }

    #[test]
    fn loops_and_cut_messages_are_no_answers() {
        let mut message = header(0x8180, 1);
        message.extend(&question(7, "a.b", RecordType::A).expect("a name")[12..]);
        let pointer_to_itself = u8::try_from(message.len()).expect("short");
        message.extend([0xc0, pointer_to_itself]);
        assert_eq!(parse(&message, 7), None);
        assert_eq!(parse(&message[..5], 7), None);
        assert!(question(7, "a..b", RecordType::A).is_err());
    }
}
