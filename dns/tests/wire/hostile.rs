//! What hostile clients send. Each packet meets silence or an error no larger than itself, and the next good query
//! is answered.

use std::time::Duration;

use hickory_proto::op::{Edns, Message, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};
use isthmus_dns::{DnsConfig, Limits};
use tokio::io::AsyncWriteExt;

use crate::harness::{REVIEWS, Server, query, read_framed, write_framed};

/// A good query's bytes, to be spoilt.
fn good() -> Vec<u8> {
    query(REVIEWS, RecordType::A).to_vec().expect("encodes")
}

fn spoilt(spoil: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = good();
    spoil(&mut bytes);
    bytes
}

/// A header with one question, then `body`.
fn with_body(body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    bytes.extend_from_slice(body);
    bytes
}

fn of_kind(kind: RecordType) -> Vec<u8> {
    query(REVIEWS, kind).to_vec().expect("encodes")
}

/// Each packet with the response code that it gets; `None` for silence.
fn packets() -> Vec<(&'static str, Vec<u8>, Option<ResponseCode>)> {
    let class = |class| {
        let mut message = query(REVIEWS, RecordType::TXT);
        message.queries[0].set_query_class(class);
        message.to_vec().expect("encodes")
    };
    let mut future = query(REVIEWS, RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    future.set_edns(edns);
    let mut two_opts = query(REVIEWS, RecordType::A);
    two_opts.set_edns(Edns::new());
    let mut two_opts = two_opts.to_vec().expect("encodes");
    let opt = two_opts[two_opts.len() - 11..].to_vec();
    two_opts.extend_from_slice(&opt);
    two_opts[11] = 2;
    let labels = |count: usize| {
        let mut body = [1, b'a'].repeat(count);
        body.extend_from_slice(&[0, 0, 1, 0, 1]);
        with_body(&body)
    };
    let bad = Some(ResponseCode::FormErr);
    let no = Some(ResponseCode::Refused);
    vec![
        ("nothing", vec![], None),
        ("half a header", good()[..11].to_vec(), None),
        ("a response", spoilt(|b| b[2] |= 0x80), None),
        ("a malformed response", vec![0xff; 40], None),
        ("counts of 65535 in 12 bytes", [&[0, 1, 1, 0][..], &[0xff; 8]].concat(), bad),
        ("65535 additional records", spoilt(|b| b[10..12].fill(0xff)), bad),
        ("a missing additional record", spoilt(|b| b[11] = 1), bad),
        ("no question", spoilt(|b| b[5] = 0), bad),
        ("a question cut short", with_body(&[7, b'r', b'e']), bad),
        ("a pointer to itself", with_body(&[0xc0, 12, 0, 1, 0, 1]), bad),
        ("a pointer forwards", with_body(&[0xc0, 14, 0xc0, 12, 0, 1, 0, 1]), bad),
        ("a pointer past the end", with_body(&[0xff, 0xff, 0, 1, 0, 1]), bad),
        ("a reserved label type", with_body(&[0x80, 12, 0, 0, 1, 0, 1]), bad),
        ("255 labels", labels(255), bad),
        ("two OPT records", two_opts, bad),
        ("a zone transfer", of_kind(RecordType::AXFR), no),
        ("an incremental zone transfer", of_kind(RecordType::IXFR), no),
        ("ANY", of_kind(RecordType::ANY), no),
        ("ANY of a name that is not ours", query("example.com.", RecordType::ANY).to_vec().expect("encodes"), no),
        ("class CH", class(DNSClass::CH), no),
        ("class ANY", class(DNSClass::ANY), no),
        ("opcode 15", spoilt(|b| b[2] |= 15 << 3), Some(ResponseCode::NotImp)),
        ("an update", spoilt(|b| b[2] |= 5 << 3), Some(ResponseCode::NotImp)),
        // BADVERS has the number of BADSIG, 16, and hickory reads it as that.
        ("EDNS version 1", future.to_vec().expect("encodes"), Some(ResponseCode::BADSIG)),
        (
            "a label that is not UTF-8",
            with_body(b"\x02\xff\xfe\x03svc\x0aclusterset\x05local\0\0\x01\0\x01"),
            Some(ResponseCode::NXDomain),
        ),
    ]
}

#[tokio::test]
async fn every_packet_has_its_answer_and_the_server_stays_well() {
    let server = Server::start(DnsConfig::default()).await;
    let udp = server.udp().await;
    for (what, packet, code) in packets() {
        udp.send(&packet).await;
        if let Some(code) = code {
            let bytes = udp.receive().await;
            let response = Message::from_vec(&bytes).expect("a message");
            assert_eq!(response.metadata.response_code, code, "{what}");
            assert_eq!(bytes[..2], packet[..2], "{what}: the id");
            assert!(response.answers.is_empty(), "{what}");
            let negative = code == ResponseCode::NXDomain;
            assert!(negative || bytes.len() <= packet.len(), "{what}: {} bytes for {}", bytes.len(), packet.len());
        }
        // Datagrams are answered in order: had the packet been answered, that would arrive first.
        let response = udp.ask(&query(REVIEWS, RecordType::A)).await;
        assert_eq!(response.answers.len(), 1, "after {what}");
    }
}

#[tokio::test]
async fn the_same_packets_over_tcp_end_at_worst_their_own_connection() {
    let server = Server::start(DnsConfig::default()).await;
    for (what, packet, code) in packets() {
        let mut stream = server.tcp().await;
        write_framed(&mut stream, &packet).await;
        let response = read_framed(&mut stream).await;
        let received = response.map(|bytes| Message::from_vec(&bytes).expect("a message").metadata.response_code);
        assert_eq!(received, code, "{what}");
        assert_eq!(server.ask(REVIEWS, RecordType::A).await.answers.len(), 1, "after {what}");
    }
}

#[tokio::test]
async fn noise_of_every_length_is_survived() {
    let server = Server::start(DnsConfig::default()).await;
    let udp = server.udp().await;
    // Every prefix of a good query, and every single byte of one turned over.
    let whole = good();
    let prefixes = (0..whole.len()).map(|len| whole[..len].to_vec());
    let turned = (0..whole.len()).map(|at| spoilt(|bytes| bytes[at] ^= 0xff));
    for packet in prefixes.chain(turned) {
        udp.send(&packet).await;
    }
    let alive = server.udp().await.ask(&query(REVIEWS, RecordType::A)).await;
    assert_eq!(alive.answers.len(), 1);
}

fn limited(limits: Limits) -> DnsConfig {
    DnsConfig { limits, ..DnsConfig::default() }
}

#[tokio::test]
async fn connections_are_limited_and_make_room_when_they_end() {
    let limits = [
        Limits { tcp_connections: 2, ..Limits::default() },
        Limits { tcp_connections_per_source: 2, ..Limits::default() },
    ];
    for limits in limits {
        let server = Server::start(limited(limits)).await;
        let mut held = Vec::new();
        for _ in 0..2 {
            let mut stream = server.tcp().await;
            write_framed(&mut stream, &good()).await;
            assert!(read_framed(&mut stream).await.is_some());
            held.push(stream);
        }
        let mut third = server.tcp().await;
        assert_eq!(read_framed(&mut third).await, None, "one too many");
        assert_eq!(server.ask(REVIEWS, RecordType::A).await.answers.len(), 1, "UDP is not concerned");

        drop(held);
        loop {
            // The server learns of the end of the others in its own time.
            let mut stream = server.tcp().await;
            let framed = [&u16::try_from(good().len()).expect("fits").to_be_bytes()[..], &good()].concat();
            if stream.write_all(&framed).await.is_ok() && read_framed(&mut stream).await.is_some() {
                break;
            }
        }
    }
}

#[tokio::test]
async fn silent_slow_and_oversized_connections_are_closed() {
    let server =
        Server::start(limited(Limits { tcp_idle_timeout: Duration::from_millis(50), ..Limits::default() })).await;
    for sent in [&[][..], &[0], &[0, 51, 1, 2, 3], &[0xff, 0xff, 1, 2, 3], &[0, 0]] {
        let mut stream = server.tcp().await;
        stream.write_all(sent).await.expect("written");
        assert_eq!(read_framed(&mut stream).await, None, "{sent:?}");
    }
}
