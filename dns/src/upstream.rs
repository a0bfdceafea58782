//! One question to one upstream server: over UDP, and over TCP when the answer does not fit.
//!
//! Whoever is not on the path must guess the message id and the source port; both are random and each is used
//! once. What does not match is ignored, and the wait for the true answer goes on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hickory_proto::op::{Edns, Message, MessageType, Query};
use hickory_proto::rr::DNSClass;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::responder::UDP_PAYLOAD_MAX;

/// The longest datagram that is read whole. Servers that ignore the size in the question send up to this.
const DATAGRAM_LEN_MAX: usize = 4_096;

/// What is asked of an upstream server.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    /// Name, type and class.
    pub(crate) query: Query,
    /// The client wants DNSSEC records (DO, RFC 3225).
    pub(crate) dnssec_ok: bool,
    /// The client validates itself (CD, RFC 4035 §3.2.2).
    pub(crate) checking_disabled: bool,
}

/// Why an upstream server gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("the question cannot be encoded: {0}")]
    Encode(#[from] hickory_proto::ProtoError),
    #[error("the answer is truncated over TCP too")]
    Truncated,
}

/// Asks `upstream`. Whoever calls bounds the time.
pub(crate) async fn ask(upstream: SocketAddr, question: &Question) -> Result<Message, UpstreamError> {
    let request = request(question);
    let bytes = request.to_vec()?;
    let response = over_udp(upstream, &request, &bytes).await?;
    if !response.metadata.truncation {
        return Ok(response);
    }
    let response = over_tcp(upstream, &request, &bytes).await?;
    if response.metadata.truncation { Err(UpstreamError::Truncated) } else { Ok(response) }
}

/// A new message with a random id. Nothing of the client's own message goes upstream but the question.
fn request(question: &Question) -> Message {
    let mut request = Message::query();
    request.metadata.recursion_desired = true;
    request.metadata.checking_disabled = question.checking_disabled;
    request.add_query(question.query.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_PAYLOAD_MAX).set_dnssec_ok(question.dnssec_ok);
    request.set_edns(edns);
    request
}

async fn over_udp(upstream: SocketAddr, request: &Message, bytes: &[u8]) -> Result<Message, UpstreamError> {
    let any: IpAddr = if upstream.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(upstream).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; DATAGRAM_LEN_MAX];
    loop {
        let len = socket.recv(&mut buffer).await?;
        if let Some(response) = response_to(request, &buffer[..len]) {
            return Ok(response);
        }
    }
}

async fn over_tcp(upstream: SocketAddr, request: &Message, bytes: &[u8]) -> Result<Message, UpstreamError> {
    let mut stream = TcpStream::connect(upstream).await?;
    stream.write_all(&crate::tcp::framed(bytes)).await?;
    loop {
        let len = stream.read_u16().await?;
        let mut buffer = vec![0; usize::from(len)];
        stream.read_exact(&mut buffer).await?;
        if let Some(response) = response_to(request, &buffer) {
            return Ok(response);
        }
    }
}

/// The message in `bytes`, if it is the response to `request`: same id, and the question echoed (RFC 5452 §9.1).
fn response_to(request: &Message, bytes: &[u8]) -> Option<Message> {
    let response = Message::from_vec(bytes).ok()?;
    let ([asked], [echoed]) = (&request.queries[..], &response.queries[..]) else { return None };
    let same = response.metadata.id == request.metadata.id
        && response.metadata.message_type == MessageType::Response
        && response.metadata.op_code == request.metadata.op_code
        && echoed.query_class() == DNSClass::IN
        && echoed.query_type() == asked.query_type()
        && echoed.name() == asked.name();
    same.then_some(response)
}
