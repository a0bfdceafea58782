//! A DNS question over UDP, as a resolver asks it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, ensure};
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// A resolver gives up after five seconds; a gateway on this machine has no reason to come near that.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// The longest datagram without EDNS (RFC 1035 §4.2.1).
const DATAGRAM_BYTES_MAX: usize = 512;

/// Asks `server` for the records of `host`.
///
/// # Errors
/// When no answer to this question comes in time.
pub(super) async fn query(server: SocketAddr, host: &str, kind: RecordType) -> anyhow::Result<Message> {
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(Name::from_ascii(host)?, kind));
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(server).await?;
    socket.send(&question.to_vec()?).await?;
    let mut buffer = [0; DATAGRAM_BYTES_MAX];
    let received = timeout(ANSWER_WITHIN, socket.recv(&mut buffer)).await;
    let length = received.with_context(|| format!("{server} did not answer"))?.with_context(|| server.to_string())?;
    let answer = Message::from_vec(&buffer[..length]).context("a malformed answer")?;
    ensure!(answer.metadata.id == question.metadata.id, "the answer is to another question");
    Ok(answer)
}

/// The address of `host`.
///
/// # Errors
/// When there is none.
pub(super) async fn address(server: SocketAddr, host: &str) -> anyhow::Result<IpAddr> {
    let answer = query(server, host, RecordType::A).await?;
    let found = answer.answers.iter().find_map(|record| match &record.data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        _ => None,
    });
    found.with_context(|| format!("{server} has no address for {host}: {}", answer.metadata.response_code))
}

/// The port and target of `name`, an SRV name.
///
/// # Errors
/// When there is none.
pub(super) async fn service(server: SocketAddr, name: &str) -> anyhow::Result<(u16, String)> {
    let answer = query(server, name, RecordType::SRV).await?;
    let found = answer.answers.iter().find_map(|record| match &record.data {
        RData::SRV(srv) => Some((srv.port, srv.target.to_ascii().trim_end_matches('.').to_owned())),
        _ => None,
    });
    found.with_context(|| format!("{server} has no SRV record for {name}: {}", answer.metadata.response_code))
}

/// That the zone has no such name.
///
/// # Errors
/// When the answer is anything but NXDOMAIN.
pub(super) async fn absent(server: SocketAddr, host: &str) -> anyhow::Result<()> {
    let code = query(server, host, RecordType::A).await?.metadata.response_code;
    ensure!(code == ResponseCode::NXDomain, "{server} answers {code} for {host}, not NXDOMAIN");
    Ok(())
}
