//! The federation's own names.

use hickory_proto::op::{Edns, Message, ResponseCode};
use hickory_proto::rr::{RData, RecordType};
use isthmus_dns::metrics::Outcome;
use isthmus_dns::{DnsConfig, Metrics};
use prometheus_client::registry::Registry;

use crate::harness::{REVIEWS, Server, query, read_framed, service, snapshot, write_framed};

/// The records of a response as a person would read them.
fn texts(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| format!("{} {} {}", record.name, record.ttl, record.data)).collect()
}

#[tokio::test]
async fn a_name_resolves_over_udp_and_tcp_on_one_port() {
    let server = Server::start(DnsConfig::default()).await;
    let asked = query(REVIEWS, RecordType::A);
    let mut stream = server.tcp().await;
    write_framed(&mut stream, &asked.to_vec().expect("encodes")).await;
    let over_tcp = Message::from_vec(&read_framed(&mut stream).await.expect("a response")).expect("a message");
    for response in [server.udp().await.ask(&asked).await, over_tcp] {
        assert_eq!(response.metadata.response_code, ResponseCode::NoError);
        assert!(response.metadata.authoritative && response.metadata.recursion_desired);
        assert!(!response.metadata.recursion_available, "there is no upstream server");
        assert_eq!(texts(&response), ["reviews.shop.svc.clusterset.local. 5 10.96.0.1"]);
    }
    assert_eq!(server.metrics.count(Outcome::Answered), 2);
}

#[tokio::test]
async fn the_question_s_letter_case_comes_back() {
    let server = Server::start(DnsConfig::default()).await;
    let name = "rEvIeWs.ShOp.SvC.cLuStErSeT.lOcAl.";
    let response = server.ask(name, RecordType::A).await;
    assert_eq!(response.queries[0].name().to_ascii(), name);
    assert_eq!(response.answers[0].name.to_ascii(), name);
}

#[tokio::test]
async fn absence_can_be_cached_for_a_short_time() {
    let server = Server::start(DnsConfig::default()).await;
    let absent = [
        (REVIEWS, RecordType::AAAA, ResponseCode::NoError, Outcome::Nodata),
        ("shop.svc.clusterset.local.", RecordType::A, ResponseCode::NoError, Outcome::Nodata),
        ("gone.shop.svc.clusterset.local.", RecordType::A, ResponseCode::NXDomain, Outcome::Nxdomain),
        ("us-east.reviews.shop.svc.clusterset.local.", RecordType::A, ResponseCode::NXDomain, Outcome::Nxdomain),
    ];
    for (name, kind, code, outcome) in absent {
        let before = server.metrics.count(outcome);
        let response = server.ask(name, kind).await;
        assert_eq!((response.metadata.response_code, response.metadata.authoritative), (code, true), "{name}");
        assert!(response.answers.is_empty());
        let [soa] = &response.authorities[..] else { panic!("one SOA record for {name}") };
        let RData::SOA(data) = &soa.data else { panic!("one SOA record for {name}") };
        assert_eq!((soa.ttl, data.minimum, data.serial), (5, 5, 7));
        assert_eq!(server.metrics.count(outcome), before + 1);
    }
}

#[tokio::test]
async fn ports_come_with_the_address_of_their_target() {
    let server = Server::start(DnsConfig::default()).await;
    for name in ["_http._tcp.reviews.shop.svc.clusterset.local.", REVIEWS] {
        let response = server.ask(name, RecordType::SRV).await;
        assert_eq!(texts(&response), [format!("{name} 5 0 0 9080 {REVIEWS}")]);
        assert_eq!(response.additionals[0].name.to_ascii(), REVIEWS);
        assert_eq!(response.additionals[0].data.to_string(), "10.96.0.1");
    }
}

#[tokio::test]
async fn the_zone_describes_itself() {
    let server = Server::start(DnsConfig::default()).await;
    let cases = [
        ("dns-version.clusterset.local.", RecordType::TXT, "1.0.0"),
        ("clusterset.local.", RecordType::NS, "clusterset.local."),
        ("clusterset.local.", RecordType::SOA, "clusterset.local. nobody.invalid. 7 3600 1200 604800 5"),
        ("1.0.96.10.in-addr.arpa.", RecordType::PTR, REVIEWS),
    ];
    for (name, kind, data) in cases {
        assert_eq!(texts(&server.ask(name, kind).await), [format!("{name} 5 {data}")]);
    }
}

#[tokio::test]
async fn a_new_snapshot_decides_the_next_answer() {
    let server = Server::start(DnsConfig::default()).await;
    let namespace = "later.svc.clusterset.local.";
    let code = async |name| server.ask(name, RecordType::A).await.metadata.response_code;
    assert_eq!(code("new.later.svc.clusterset.local.").await, ResponseCode::NXDomain);
    assert_eq!(code(namespace).await, ResponseCode::NXDomain);

    server.view.send_replace(snapshot(8, vec![service("later/new", "10.96.0.3", [])]));
    assert_eq!(code("new.later.svc.clusterset.local.").await, ResponseCode::NoError);
    assert_eq!(code(namespace).await, ResponseCode::NoError);
    assert_eq!(code(REVIEWS).await, ResponseCode::NXDomain);
}

#[tokio::test]
async fn a_long_answer_is_cut_to_what_the_client_takes_and_whole_over_tcp() {
    let server = Server::start(DnsConfig::default()).await;
    let udp = server.udp().await;
    let mut asked = query("many.shop.svc.clusterset.local.", RecordType::SRV);
    for (offered, len_max) in [(None, 512), (Some(100), 512), (Some(1_000), 1_000), (Some(65_535), 1_232)] {
        if let Some(offered) = offered {
            let mut edns = Edns::new();
            edns.set_max_payload(offered);
            asked.set_edns(edns);
        }
        udp.send(&asked.to_vec().expect("encodes")).await;
        let bytes = udp.receive().await;
        assert!(bytes.len() <= len_max, "{} bytes for {offered:?}", bytes.len());
        let response = Message::from_vec(&bytes).expect("a message, whole as far as it goes");
        assert!(response.metadata.truncation);
    }
    let mut stream = server.tcp().await;
    write_framed(&mut stream, &asked.to_vec().expect("encodes")).await;
    let response = Message::from_vec(&read_framed(&mut stream).await.expect("a response")).expect("a message");
    assert_eq!((response.answers.len(), response.additionals.len()), (64, 1));
    assert!(!response.metadata.truncation);
    assert!(response.edns.is_some());
}

#[tokio::test]
async fn queries_on_one_connection_are_answered_in_order() {
    let server = Server::start(DnsConfig::default()).await;
    let mut stream = server.tcp().await;
    let asked = ["a", "b", "c"].map(|name| query(&format!("{name}.shop.svc.clusterset.local."), RecordType::A));
    for query in &asked {
        write_framed(&mut stream, &query.to_vec().expect("encodes")).await;
    }
    for query in &asked {
        let response = read_framed(&mut stream).await.expect("a response");
        assert_eq!(Message::from_vec(&response).expect("a message").metadata.id, query.metadata.id);
    }
}

#[tokio::test]
async fn outcomes_are_exposed() {
    let server = Server::start(DnsConfig::default()).await;
    server.ask(REVIEWS, RecordType::A).await;
    server.ask("example.com.", RecordType::A).await;
    let mut registry = Registry::default();
    Metrics::register(&server.metrics, &mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
    assert!(text.contains("dns_queries_total{outcome=\"answered\"} 1"), "{text}");
    assert!(text.contains("dns_queries_total{outcome=\"refused\"} 1"), "{text}");
    assert!(text.contains("dns_forward_duration_seconds_count 0"), "{text}");
}
