//! From a manifest to DNS in every cluster, and back; and what DNS says about everything else.

use std::net::{IpAddr, SocketAddr};

use isthmus_tests::harness::dns::{Data, RecordType, query_tcp};
use isthmus_tests::harness::{Loopback, wait_for, wait_until};
use serde_json::Value;
use tokio::net::UdpSocket;

use crate::federation::{Cluster, SOON, host, metric, port, start, start_with, text};
use crate::workload::{HTTP, Mesh, Offer, TCP, manifests, service_export};

const NOERROR: u8 = 0;
const NXDOMAIN: u8 = 3;
const REFUSED: u8 = 5;

async fn resolves(cluster: &Cluster, service: &str, wanted: bool) {
    let what = format!("{service} to {} in {}", if wanted { "resolve" } else { "be gone" }, cluster.name);
    wait_until(SOON, &what, async || {
        let answer = cluster.dig(&host(service), RecordType::A).await;
        if wanted { answer.addresses().len() == 1 } else { answer.code == NXDOMAIN }
    })
    .await;
}

/// The problems of a gateway's manifests, once there is one about `file`.
pub(crate) async fn problem(cluster: &Cluster, file: &str) -> Value {
    wait_for(SOON, &format!("a problem with {file}"), async || {
        let problems = cluster.ask(["problems"]).await;
        problems["problems"].as_array()?.iter().find(|problem| problem["file"] == file).cloned()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_reaches_every_cluster_and_goes_when_its_file_does() {
    let [east, west, eu] = start(["us-east", "us-west", "eu-central"]).await;
    let everywhere = [&east, &west, &eu];

    // A service that is not exported is nobody's name; its export alone makes it everybody's.
    west.write("reviews.yaml", &manifests("reviews", &[west.host(20)], Mesh::None, Offer::Private));
    let services =
        async || west.admin("/v1/services").await.is_some_and(|all| all.to_string().contains("shop/reviews"));
    wait_until(SOON, "the cluster to know its service", services).await;
    for cluster in everywhere {
        assert_eq!(cluster.dig(&host("reviews"), RecordType::A).await.code, NXDOMAIN, "{}", cluster.name);
    }
    west.write("export.yaml", &service_export("reviews"));
    for cluster in everywhere {
        resolves(cluster, "reviews", true).await;
    }
    names_and_records(&east, &west).await;

    // Two clusters offer it, one withdraws: the name and its address stay until the last has gone.
    let address = east.vip("reviews").await;
    eu.write("reviews.yaml", &manifests("reviews", &[eu.host(20)], Mesh::None, Offer::Exported));
    east.sees("reviews", "eu-central", 0).await;
    west.remove("export.yaml");
    let withdrawn = async || {
        let backends = east.ask(["services"]).await["services"][0]["backends"].clone();
        backends.as_array().is_some_and(|list| list.iter().all(|backend| backend["cluster"] != "us-west"))
    };
    wait_until(SOON, "us-west to have withdrawn", withdrawn).await;
    assert_eq!(east.vip("reviews").await, address);
    eu.remove("reviews.yaml");
    for cluster in everywhere {
        resolves(cluster, "reviews", false).await;
    }

    // Offered again, it gets its old address: clients that remember it reach nothing else.
    eu.write("reviews.yaml", &manifests("reviews", &[eu.host(20)], Mesh::None, Offer::Exported));
    resolves(&east, "reviews", true).await;
    assert_eq!(east.vip("reviews").await, address);
}

/// The forms of question about one exported service, over UDP and TCP.
async fn names_and_records(east: &Cluster, west: &Cluster) {
    let name = host("reviews");
    let address = east.vip("reviews").await;
    let a = east.dig(&name, RecordType::A).await;
    assert!(a.authoritative && a.code == NOERROR && a.addresses() == [address], "{a:?}");
    assert_eq!(east.dig(&name.to_uppercase(), RecordType::A).await.addresses(), [address], "names have no case");
    assert_ne!(west.vip("reviews").await, address, "each cluster has a range of its own");
    let aaaa = east.dig(&name, RecordType::Aaaa).await;
    assert!(aaaa.code == NOERROR && aaaa.records.is_empty(), "exists, without such records: {aaaa:?}");
    for (port_name, number) in [("http", HTTP), ("tcp", TCP)] {
        let srv = east.dig(&format!("_{port_name}._tcp.{name}"), RecordType::Srv).await;
        let told = srv.records.iter().any(
            |record| matches!(&record.data, Data::Service { port, target, .. } if *port == number && *target == name),
        );
        assert!(told, "{srv:?}");
    }
    let over_tcp = query_tcp(east.at(port::DNS), &name, RecordType::A).await.expect("an answer");
    assert_eq!(over_tcp.addresses(), [address]);
    for nothing in [
        host("ghost"),
        format!("us-west.{name}"),
        format!("us-east.{name}"),
        format!("_ftp._tcp.{name}"),
        "reviews.other.svc.clusterset.local".to_owned(),
    ] {
        for kind in [RecordType::A, RecordType::Srv] {
            let answer = east.dig(&nothing, kind).await;
            assert!(answer.code == NXDOMAIN && answer.authoritative, "{nothing} {kind:?}: {answer:?}");
        }
    }
    let refused = east.dig("www.example.com", RecordType::A).await;
    assert_eq!(refused.code, REFUSED, "no upstream is configured: {refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_manifest_is_told_with_its_line_and_the_last_good_state_stays() {
    let [east] = start(["us-east"]).await;
    let good = manifests("reviews", &[east.host(20)], Mesh::None, Offer::Exported);
    east.write("reviews.yaml", &good);
    resolves(&east, "reviews", true).await;
    let port_before = east.dig(&format!("_http._tcp.{}", host("reviews")), RecordType::Srv).await;

    // Not even YAML; then YAML that is no valid object.
    let line_of = |text: &str, what: &str| 1 + text.lines().position(|line| line.contains(what)).expect("there");
    let unbalanced = good.replace("{name: http, port: 9080}", "{name: http, port: 9080");
    let invalid = good.replace("port: 9080", "port: 99080");
    for (broken, around, reason) in [(&unbalanced, "name: tcp", ""), (&invalid, "port: 99080", "99080")] {
        east.write("reviews.yaml", broken);
        let problem = wait_for(SOON, "the new problem", async || {
            let found = problem(&east, "reviews.yaml").await;
            text(&found["reason"]).contains(reason).then_some(found)
        })
        .await;
        let line = problem["line"].as_u64().expect("a line");
        assert!(line.abs_diff(line_of(broken, around) as u64) <= 1, "{problem}");
        assert_eq!(problem["severity"], "error");
        assert!(text(&problem["reason"]).len() > 10, "{problem}");

        // Told in three places; and nothing that was good is lost.
        let gauge = metric(east.at(port::METRICS), "isthmus_manifest_problems", "").await;
        assert!(gauge.is_some_and(|problems| problems >= 1.0), "{gauge:?}");
        assert!(east.status().await["problems"].as_u64() >= Some(1));
        resolves(&east, "reviews", true).await;
        let port_now = east.dig(&format!("_http._tcp.{}", host("reviews")), RecordType::Srv).await;
        assert_eq!(port_now, port_before);
    }
    let log = east.gateway.as_ref().expect("it runs").stderr();
    assert!(log.contains("reviews.yaml:"), "the log names file and line: {log}");

    // Mended, it is forgotten.
    east.write("reviews.yaml", &good);
    wait_until(SOON, "the problem to be gone", async || east.status().await["problems"] == 0).await;
    resolves(&east, "reviews", true).await;
}

/// Answers every question with one address, and with the name that was asked for.
async fn upstream(socket: UdpSocket) {
    let mut buffer = [0; 512];
    while let Ok((len, peer)) = socket.recv_from(&mut buffer).await {
        let question_end = 12 + buffer[12..len].iter().position(|byte| *byte == 0).expect("a name") + 5;
        let mut answer = buffer[..question_end].to_vec();
        // A response, recursion available; one question, one answer, nothing else.
        answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
        socket.send_to(&answer, peer).await.expect("sent");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_others_are_forwarded_and_ours_never_are() {
    let block = Loopback::block();
    let address: SocketAddr = block.address(53, 5353);
    let socket = UdpSocket::bind(address).await.expect("a free port");
    tokio::spawn(upstream(socket));
    let [east] = start_with(["us-east"], &format!("dns: {{upstreams: [\"{address}\"]}}")).await;
    let theirs = east.dig("www.example.com", RecordType::A).await;
    assert_eq!(theirs.addresses(), [IpAddr::from([192, 0, 2, 7])]);
    assert!(!theirs.authoritative);
    let over_tcp = query_tcp(east.at(port::DNS), "www.example.org", RecordType::A).await.expect("an answer");
    assert_eq!(over_tcp.addresses(), [IpAddr::from([192, 0, 2, 7])]);
    let ours = east.dig(&host("ghost"), RecordType::A).await;
    assert!(ours.code == NXDOMAIN && ours.authoritative, "{ours:?}");
}
