//! Names that are not ours, and upstream servers that misbehave.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use isthmus_dns::metrics::Outcome;
use isthmus_dns::{DnsConfig, Limits};
use tokio::net::UdpSocket;

use crate::harness::{REVIEWS, Server, Upstream, Via, query};

/// Long enough for a loaded machine, short enough to wait for on purpose.
const TRY: Duration = Duration::from_millis(300);

fn forwarding(upstreams: impl IntoIterator<Item = SocketAddr>) -> DnsConfig {
    let limits = Limits { try_timeout: TRY, ..Limits::default() };
    DnsConfig { upstreams: upstreams.into_iter().collect(), limits, ..DnsConfig::default() }
}

/// The true answer to any question for an address.
fn truth(question: &Message) -> Message {
    let mut response = question.clone().into_response();
    let owner = question.queries[0].name().clone();
    response.add_answer(Record::from_rdata(owner, 60, RData::A(A([192, 0, 2, 1].into()))));
    response
}

fn failure(question: &Message, code: ResponseCode) -> Message {
    let mut response = question.clone().into_response();
    response.metadata.response_code = code;
    response
}

fn truncated(question: &Message) -> Message {
    let mut response = question.clone().into_response();
    response.metadata.truncation = true;
    response
}

fn bytes(message: &Message) -> Vec<u8> {
    message.to_vec().expect("encodes")
}

fn assert_true(response: &Message) {
    assert_eq!(response.metadata.response_code, ResponseCode::NoError);
    let data: Vec<&RData> = response.answers.iter().map(|answer| &answer.data).collect();
    assert_eq!(data, [&RData::A(A([192, 0, 2, 1].into()))]);
}

#[tokio::test]
async fn other_names_are_forwarded_and_ours_never_leave() {
    let upstream = Upstream::start(|_, _, question| vec![bytes(&truth(&question))]).await;
    let server = Server::start(forwarding([upstream.address])).await;
    let response = server.ask("WWW.example.com.", RecordType::A).await;
    assert_true(&response);
    assert!(response.metadata.recursion_available && !response.metadata.authoritative);
    assert_eq!(response.queries[0].name().to_ascii(), "WWW.example.com.");
    assert_eq!((upstream.asked(), server.metrics.count(Outcome::Forwarded)), (1, 1));

    for name in [REVIEWS, "gone.shop.svc.clusterset.local.", "clusterset.local.", "x.CLUSTERSET.local."] {
        server.ask(name, RecordType::A).await;
    }
    assert_eq!(upstream.asked(), 1);
}

#[tokio::test]
async fn nothing_is_forwarded_that_should_not_be() {
    let upstream = Upstream::start(|_, _, question| vec![bytes(&truth(&question))]).await;
    let server = Server::start(forwarding([upstream.address])).await;
    let mut iterative = query("example.com.", RecordType::A);
    iterative.metadata.recursion_desired = false;
    let response = server.udp().await.ask(&iterative).await;
    assert_eq!(response.metadata.response_code, ResponseCode::Refused);
    assert_eq!(upstream.asked(), 0);

    let alone = Server::start(DnsConfig::default()).await;
    let response = alone.ask("example.com.", RecordType::A).await;
    assert_eq!(response.metadata.response_code, ResponseCode::Refused);
}

#[tokio::test]
async fn response_codes_are_kept() {
    for code in [ResponseCode::NXDomain, ResponseCode::ServFail, ResponseCode::Refused, ResponseCode::NotImp] {
        let upstream = Upstream::start(move |_, _, question| vec![bytes(&failure(&question, code))]).await;
        let server = Server::start(forwarding([upstream.address])).await;
        assert_eq!(server.ask("example.com.", RecordType::A).await.metadata.response_code, code);
        assert_eq!(upstream.asked(), 1);
    }
}

#[tokio::test]
async fn false_answers_are_ignored_and_the_true_one_is_taken() {
    let upstream = Upstream::start(|_, _, question| {
        let mut lie = truth(&question);
        lie.answers[0].data = RData::A(A([203, 0, 113, 66].into()));
        let spoilt = |spoil: fn(&mut Message)| {
            let mut lie = lie.clone();
            spoil(&mut lie);
            bytes(&lie)
        };
        vec![
            vec![],
            vec![0xff; 100],
            bytes(&lie)[..20].to_vec(),
            spoilt(|lie| lie.metadata.id ^= 1),
            spoilt(|lie| lie.metadata.message_type = MessageType::Query),
            spoilt(|lie| lie.queries.clear()),
            spoilt(|lie| {
                lie.queries[0].set_query_type(RecordType::AAAA);
            }),
            spoilt(|lie| {
                lie.queries[0].set_name(Name::from_ascii("example.net.").expect("a domain name"));
            }),
            spoilt(|lie| lie.queries.push(Query::new())),
            bytes(&truth(&question)),
        ]
    })
    .await;
    let server = Server::start(forwarding([upstream.address])).await;
    assert_true(&server.ask("example.com.", RecordType::A).await);
    assert_eq!(upstream.asked(), 1);
}

#[tokio::test]
async fn an_upstream_has_no_say_in_our_zone() {
    let upstream = Upstream::start(|_, _, question| {
        let mut response = truth(&question);
        let ours = Record::from_rdata(
            Name::from_ascii("Reviews.shop.svc.clusterset.local.").expect("a domain name"),
            60,
            RData::A(A([203, 0, 113, 66].into())),
        );
        response.add_answer(ours.clone()).add_authority(ours.clone()).add_additional(ours);
        response.metadata.authoritative = true;
        response.metadata.authentic_data = true;
        vec![bytes(&response)]
    })
    .await;
    let server = Server::start(forwarding([upstream.address])).await;
    let response = server.ask("example.com.", RecordType::A).await;
    assert_true(&response);
    assert!(response.authorities.is_empty() && response.additionals.is_empty());
    assert!(!response.metadata.authoritative && !response.metadata.authentic_data);
}

#[tokio::test]
async fn a_late_answer_costs_one_retry() {
    let upstream = Upstream::start(|number, _, question| match number {
        0 => vec![],
        _ => vec![bytes(&truth(&question))],
    })
    .await;
    let server = Server::start(forwarding([upstream.address])).await;
    assert_true(&server.ask("example.com.", RecordType::A).await);
    assert_eq!(upstream.asked(), 2);
}

#[tokio::test]
async fn silence_ends_in_a_failure_after_a_bounded_number_of_tries() {
    let upstream = Upstream::start(|_, _, _| vec![]).await;
    let server = Server::start(forwarding([upstream.address])).await;
    let response = server.ask("example.com.", RecordType::A).await;
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
    assert_eq!((upstream.asked(), server.metrics.count(Outcome::Failed)), (2, 1));
}

#[tokio::test]
async fn the_next_upstream_is_asked_when_one_fails() {
    let broken = Upstream::start(|_, _, question| vec![bytes(&failure(&question, ResponseCode::ServFail))]).await;
    let silent = Upstream::start(|_, _, _| vec![]).await;
    let sound = Upstream::start(|_, _, question| vec![bytes(&truth(&question))]).await;
    let nobody = UdpSocket::bind("127.0.0.1:0").await.expect("a free port").local_addr().expect("bound");
    let server = Server::start(forwarding([nobody, broken.address, silent.address, sound.address])).await;
    assert_true(&server.ask("example.com.", RecordType::A).await);
    assert_eq!((broken.asked(), silent.asked(), sound.asked()), (1, 1, 1));
}

#[tokio::test]
async fn a_truncated_answer_is_fetched_over_tcp() {
    let upstream = Upstream::start(|_, via, question| match via {
        Via::Udp => vec![bytes(&truncated(&question))],
        Via::Tcp => vec![bytes(&truth(&question))],
    })
    .await;
    let server = Server::start(forwarding([upstream.address])).await;
    assert_true(&server.ask("example.com.", RecordType::A).await);
    assert_eq!(upstream.asked(), 2);
}

#[tokio::test]
async fn truncated_on_every_transport_is_a_failure_in_the_end() {
    let upstream = Upstream::start(|_, _, question| vec![bytes(&truncated(&question))]).await;
    let server = Server::start(forwarding([upstream.address])).await;
    let response = server.ask("example.com.", RecordType::A).await;
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(upstream.asked(), 4, "one retry, each over UDP and TCP");
}

#[tokio::test]
async fn a_crowd_shares_one_exchange() {
    const CROWD: u64 = 20;
    // The first question is left without an answer, so that the crowd gathers before the second.
    let upstream = Upstream::start(|number, _, question| match number {
        0 => vec![],
        _ => vec![bytes(&truth(&question))],
    })
    .await;
    let server = Server::start(forwarding([upstream.address])).await;
    let mut clients = Vec::new();
    for number in 0..CROWD {
        let client = server.udp().await;
        let name = if number % 2 == 0 { "example.com." } else { "EXAMPLE.com." };
        client.send(&bytes(&query(name, RecordType::A))).await;
        clients.push(client);
    }
    for client in &clients {
        assert_true(&Message::from_vec(&client.receive().await).expect("a message"));
    }
    assert_eq!((upstream.asked(), server.metrics.count(Outcome::Forwarded)), (2, CROWD));
}

#[tokio::test]
async fn a_question_that_comes_back_is_not_sent_again() {
    // Two servers that name each other as upstream server. The second is here only the way back.
    let mirror = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    let server = Server::start(forwarding([mirror.local_addr().expect("bound")])).await;
    let client = server.udp().await;
    let asked = query("example.com.", RecordType::A);
    client.send(&bytes(&asked)).await;

    let mut heard = 0;
    let mut buffer = [0; 1_232];
    let code = loop {
        tokio::select! {
            received = mirror.recv_from(&mut buffer) => {
                let (len, from) = received.expect("a datagram");
                if from != server.address {
                    heard += 1;
                    mirror.send_to(&buffer[..len], server.address).await.expect("sent");
                }
            }
            response = client.receive() => {
                break Message::from_vec(&response).expect("a message").metadata.response_code;
            }
        }
    };
    assert_eq!(code, ResponseCode::ServFail);
    assert_eq!(heard, 2, "the question and its one retry, and none of those that came back");
}

#[tokio::test]
async fn too_many_waiting_queries_fail_at_once() {
    let upstream = Upstream::start(|_, _, _| vec![]).await;
    let hour = Duration::from_secs(3_600);
    let limits = Limits { forwards: 1, try_timeout: hour, forward_timeout: hour, ..Limits::default() };
    let server = Server::start(DnsConfig { limits, ..forwarding([upstream.address]) }).await;
    let udp = server.udp().await;
    udp.send(&bytes(&query("one.example.", RecordType::A))).await;
    let response = udp.ask(&query("two.example.", RecordType::A)).await;
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(udp.ask(&query(REVIEWS, RecordType::A)).await.answers.len(), 1, "our own names need no permit");
}
