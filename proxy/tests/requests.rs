//! A request's whole way in one process: client → outbound → gateway → inbound → application.

#![allow(missing_docs)]

mod federation;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use federation::{
    Federation, HOST, HTTP, TCP, app, counting_app, dead, echo, endpoint, exchange, frozen, gateway, get,
    mortal_gateway, read_head, remote, request, reviews, splicing_gateway, status,
};
use isthmus_model::locality::Proximity::{OtherRegion, SameRegion};
use isthmus_model::route::Question;
use isthmus_model::snapshot::{Coverage, Service};
use isthmus_proxy::outbound::Mode;
use isthmus_proxy::{metrics, tunnel};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

#[tokio::test(flavor = "multi_thread")]
async fn a_request_reaches_another_cluster_with_both_ends_proven() {
    let federation = Federation::found(&["us-east", "us-west"]);
    let west = federation.workload("us-west", app("west").await, echo().await).await;
    let offer = remote("us-west", OtherRegion, splicing_gateway(west.address).await);
    let east = federation.outbound("us-east", reviews(vec![], vec![offer])).await;

    let forged = "X-Forwarded-Client-Cert: URI=spiffe://forged\r\nX-Isthmus-Outcome: denied\r\n";
    let response = request(east.address, "POST", "/a?b=c", forged, "body").await;
    assert_eq!(status(&response), "200", "{response}");
    let by = "By=spiffe://us-west.acme.mesh/ns/shop/sa/reviews;URI=spiffe://us-east.acme.mesh/ns/shop/sa/productpage";
    let expected = format!("west|POST /a?b=c HTTP/1.1|{HOST}:{HTTP}|{by}|body");
    assert!(response.ends_with(&expected), "{response}");
    assert!(!response.contains("x-isthmus"), "what an application says about outcomes is not passed on: {response}");
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_requests_share_sessions() {
    let federation = Federation::found(&["us-east", "us-west"]);
    let west = federation.workload("us-west", app("west").await, echo().await).await;
    let offer = remote("us-west", OtherRegion, splicing_gateway(west.address).await);
    let east = federation.outbound("us-east", reviews(vec![], vec![offer])).await;
    let requests = (0..200).map(|number| {
        let address = east.address;
        tokio::spawn(async move { get(address, &format!("/{number}")).await })
    });
    for (number, response) in requests.collect::<Vec<_>>().into_iter().enumerate() {
        let response = response.await.expect("joined");
        assert!(response.contains(&format!("west|GET /{number} HTTP/1.1")), "{response}");
    }
    let open = east.plane.metrics().tunnels.get();
    assert!((1..=2).contains(&open), "{open} sessions for one destination");
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_carries_tcp_with_half_close() {
    let federation = Federation::found(&["us-east", "us-west"]);
    let west = federation.workload("us-west", app("west").await, echo().await).await;
    let offer = remote("us-west", OtherRegion, splicing_gateway(west.address).await);
    let east = federation.outbound("us-east", reviews(vec![], vec![offer])).await;

    let mut stream = TcpStream::connect(east.address).await.expect("connected");
    // What comes right behind CONNECT is held until the way is open.
    let opening = format!("CONNECT {HOST}:{TCP} HTTP/1.1\r\nHost: {HOST}:{TCP}\r\n\r\nearly ");
    stream.write_all(opening.as_bytes()).await.expect("written");
    let head = read_head(&mut stream).await;
    assert_eq!(status(&head), "200", "{head}");
    let big = vec![7; 1 << 20];
    let (mut read, mut write) = stream.split();
    let writing = async {
        write.write_all(&big).await.expect("written");
        write.shutdown().await.expect("half closed");
    };
    let mut back = Vec::new();
    let reading = async { read.read_to_end(&mut back).await.expect("read to the end") };
    tokio::join!(writing, reading);
    assert_eq!(&back[..6], b"early ");
    assert!(back[6..] == big, "{} bytes came back", back.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_local_application_is_replaced_for_every_method() {
    let federation = Federation::found(&["us-east", "us-west"]);
    let west = federation.workload("us-west", app("west").await, echo().await).await;
    let local = federation.workload("us-east", dead().await, dead().await).await;
    let offer = remote("us-west", OtherRegion, splicing_gateway(west.address).await);
    let east = federation.outbound("us-east", reviews(vec![local.endpoint.clone()], vec![offer])).await;
    for method in ["POST", "GET", "PATCH"] {
        let response = request(east.address, method, "/", "", "body").await;
        assert!(response.contains("\r\n\r\nwest|"), "{method}: {response}");
    }
    let mut tunnel = TcpStream::connect(east.address).await.expect("connected");
    let opening = format!("CONNECT {HOST}:{TCP} HTTP/1.1\r\n\r\nhello");
    tunnel.write_all(opening.as_bytes()).await.expect("written");
    let head = read_head(&mut tunnel).await;
    assert_eq!(status(&head), "200", "{head}");
    let mut echoed = [0; 5];
    tunnel.read_exact(&mut echoed).await.expect("echoed");
    assert_eq!(&echoed, b"hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_sidecar_and_a_frozen_one_are_replaced() {
    let federation = Federation::found(&["us-east", "us-west"]);
    let west = federation.workload("us-west", app("west").await, echo().await).await;
    let offer = remote("us-west", OtherRegion, splicing_gateway(west.address).await);
    let (stopped, _listener) = frozen().await;
    for sidecar in [dead().await, stopped] {
        let local = endpoint(federation::SERVICE, app("local").await, echo().await, Some(sidecar.port()));
        let east = federation.outbound("us-east", reviews(vec![local], vec![offer.clone()])).await;
        let start = Instant::now();
        let response = request(east.address, "POST", "/", "", "body").await;
        assert!(response.contains("\r\n\r\nwest|"), "{response}");
        assert!(start.elapsed() < tunnel::HANDSHAKE_WITHIN + Duration::from_secs(1), "{:?}", start.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_freezes_under_a_session_is_found_out_by_its_silence() {
    let federation = Federation::found(&["us-east", "us-west", "us-north"]);
    let west = federation.workload("us-west", app("west").await, echo().await).await;
    let north = federation.workload("us-north", app("north").await, echo().await).await;
    let (near, freeze) = gateway(west.address).await;
    let offers = vec![
        remote("us-west", SameRegion, near),
        remote("us-north", OtherRegion, splicing_gateway(north.address).await),
    ];
    let east = federation.outbound("us-east", reviews(vec![], offers)).await;
    let response = get(east.address, "/").await;
    assert!(response.contains("\r\n\r\nwest|"), "{response}");

    freeze.send_replace(true);
    let start = Instant::now();
    let response = get(east.address, "/").await;
    assert!(response.contains("\r\n\r\nnorth|"), "{response}");
    assert!(start.elapsed() < Duration::from_millis(1_500), "{:?}", start.elapsed());
    let response = get(east.address, "/").await;
    assert!(response.contains("\r\n\r\nnorth|"), "{response}");
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_one_gateway_another_instance_is_reached() {
    let federation = Federation::found(&["us-east", "us-west"]);
    let west = federation.workload("us-west", app("west").await, echo().await).await;
    let (gone, behind) = (dead().await, west.address);
    let listener = TcpListener::bind(federation::ANY_PORT).await.expect("bound");
    let gateway = listener.local_addr().expect("bound");
    // As a gateway that does not know yet that one of its instances died.
    tokio::spawn(async move {
        for instance in [gone, gone, behind] {
            let (mut client, _) = listener.accept().await.expect("accepted");
            if let Ok(mut upstream) = TcpStream::connect(instance).await {
                let _ = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
            }
        }
    });
    let offer = remote("us-west", OtherRegion, gateway);
    let east = federation.outbound("us-east", reviews(vec![], vec![offer])).await;
    let response = request(east.address, "POST", "/", "", "body").await;
    assert!(response.contains("\r\n\r\nwest|"), "{response}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_session_is_not_taken_for_a_silent_one() {
    let federation = Federation::found(&["us-east", "us-west"]);
    let west = federation.workload("us-west", app("west").await, echo().await).await;
    let offer = remote("us-west", OtherRegion, splicing_gateway(west.address).await);
    let east = federation.outbound("us-east", reviews(vec![], vec![offer])).await;
    assert_eq!(status(&get(east.address, "/").await), "200");
    // Nothing to wait for but time: this is about what happens when nothing does.
    tokio::time::sleep(tunnel::SILENCE_TICK * tunnel::SILENCE_TICKS * 2).await;
    assert_eq!(east.plane.metrics().tunnels.get(), 1);
    assert_eq!(status(&get(east.address, "/").await), "200");
    let inbound = metrics::DirectionLabels { direction: metrics::Direction::Inbound };
    assert_eq!(west.plane.metrics().connections.get_or_create(&inbound).get(), 1, "the same session");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_exported_is_denied_and_a_withdrawal_reaches_open_sessions() {
    let federation = Federation::found(&["us-east", "us-west"]);
    let west = federation.workload("us-west", app("west").await, echo().await).await;
    let offer = remote("us-west", OtherRegion, splicing_gateway(west.address).await);
    let east = federation.outbound("us-east", reviews(vec![], vec![offer])).await;
    assert_eq!(status(&get(east.address, "/").await), "200");

    west.view.send_modify(|view| {
        let mut changed = isthmus_model::snapshot::Snapshot::clone(view);
        let service = Service { exported_here: false, ..reviews(vec![west.endpoint.clone()], vec![]) };
        changed.services.insert(service.name.clone(), Arc::new(service));
        *view = Arc::new(changed);
    });
    let response = get(east.address, "/").await;
    assert_eq!(status(&response), "403", "{response}");
    assert!(response.contains("shop/reviews is not exported by this cluster"), "{response}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_not_answer_for_the_service_gets_no_request() {
    let federation = Federation::found(&["us-east", "us-west"]);
    let impostor = federation.workload_as("us-west", "shop/impostor", app("west").await, echo().await, true).await;
    let offer = remote("us-west", OtherRegion, splicing_gateway(impostor.address).await);
    let east = federation.outbound("us-east", reviews(vec![], vec![offer])).await;
    let response = get(east.address, "/").await;
    assert_eq!(status(&response), "503", "{response}");
    assert_eq!(east.plane.metrics().tunnels.get(), 0);
}

/// An application that reads the first `broken` requests and closes without a word. It tells how many it got.
async fn stumbling_app(broken: usize) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(federation::ANY_PORT).await.expect("bound");
    let (address, seen) = (listener.local_addr().expect("bound"), Arc::new(AtomicUsize::new(0)));
    let counted = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            read_head(&mut stream).await;
            if counted.fetch_add(1, Ordering::SeqCst) >= broken {
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                stream.write_all(answer).await.expect("written");
            }
        }
    });
    (address, seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_only_instance_that_stumbles_is_asked_again_what_may_be_asked_twice() {
    let labels = metrics::ServiceLabels { service: "shop/reviews".to_owned() };
    let federation = Federation::found(&["us-east"]);
    for (method, broken, expected, asked) in [("GET", 2, "200", 3), ("GET", 3, "502", 3), ("POST", 1, "502", 1)] {
        let (app, seen) = stumbling_app(broken).await;
        let only = reviews(vec![endpoint("shop/legacy", app, app, None)], vec![]);
        let east = federation.outbound("us-east", only).await;
        let response = request(east.address, method, "/", "", "").await;
        assert_eq!(status(&response), expected, "{method} {broken}: {response}");
        assert_eq!(seen.load(Ordering::SeqCst), asked, "{method} {broken}");
    }
    // Two such failures eject; but one request is held against each of them once.
    let (apps, seen): (Vec<_>, Vec<_>) = [stumbling_app(2).await, stumbling_app(2).await].into_iter().unzip();
    let both = apps.into_iter().map(|app| endpoint("shop/legacy", app, app, None)).collect();
    let east = federation.outbound("us-east", reviews(both, vec![])).await;
    assert_eq!(status(&get(east.address, "/").await), "502");
    assert_eq!(seen.iter().map(|seen| seen.load(Ordering::SeqCst)).sum::<usize>(), 4);
    assert_eq!(east.plane.metrics().ejections.get_or_create(&labels).get(), 0);
    // It saw the request, and then was gone: what is told is the former.
    let listener = TcpListener::bind(federation::ANY_PORT).await.expect("bound");
    let app = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accepted");
        drop(listener);
        read_head(&mut stream).await;
    });
    let east = federation.outbound("us-east", reviews(vec![endpoint("shop/legacy", app, app, None)], vec![])).await;
    let response = get(east.address, "/").await;
    assert_eq!(status(&response), "502", "{response}");
    // Nobody saw it: that is so for every method.
    let dead = dead().await;
    let east = federation.outbound("us-east", reviews(vec![endpoint("shop/legacy", dead, dead, None)], vec![])).await;
    let response = request(east.address, "POST", "/", "", "").await;
    assert_eq!(status(&response), "503", "{response}");
    assert_eq!(east.plane.metrics().retries.get_or_create(&labels).get(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_answers_for_instances_without_a_sidecar() {
    let federation = Federation::found(&["us-east", "us-west"]);
    let (dead, alive) = (dead().await, app("bare").await);
    let bare = |app| endpoint("shop/legacy", app, app, None);
    let legacy = reviews(vec![bare(dead), bare(alive)], vec![]);
    let gateway = federation.terminating_gateway("us-west", legacy).await;
    let east = federation.outbound("us-east", reviews(vec![], vec![remote("us-west", OtherRegion, gateway)])).await;
    for _ in 0..4 {
        let response = request(east.address, "POST", "/", "", "body").await;
        assert!(response.contains("\r\n\r\nbare|"), "{response}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partial_view_is_completed_before_the_request_is_answered() {
    let federation = Federation::found(&["us-east"]);
    let local = endpoint("shop/reviews", app("local").await, echo().await, None);
    let complete = federation.view("us-east", reviews(vec![local], vec![]));
    let mut partial = complete.clone();
    partial.services.clear();
    partial.coverage = Coverage::Partial { absent: Default::default(), absent_addresses: Default::default() };
    let (demand, mut questions) = mpsc::channel(8);
    let east = federation.outbound_asking(partial, demand);
    let asked = tokio::spawn(async move { get(east.address, "/").await });
    assert_eq!(questions.recv().await, Some(Question::Service(federation::service())));
    east.view.send_replace(Arc::new(complete));
    let response = asked.await.expect("joined");
    assert!(response.contains("\r\n\r\nlocal|"), "{response}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_region_fails_no_idempotent_request_that_is_under_way() {
    let federation = Federation::found(&["us-east", "us-west", "us-north"]);
    let (slow, mut begun) = counting_app("west").await;
    let west = federation.workload("us-west", slow, echo().await).await;
    let north = federation.workload("us-north", app("north").await, echo().await).await;
    let (near, killed) = mortal_gateway(west.address).await;
    let offers = vec![
        remote("us-west", SameRegion, near),
        remote("us-north", OtherRegion, splicing_gateway(north.address).await),
    ];
    let east = federation.outbound("us-east", reviews(vec![], offers)).await;
    assert!(get(east.address, "/").await.contains("\r\n\r\nwest|"));
    let under_way: Vec<_> = (0..100).map(|_| tokio::spawn(get(east.address, "/slow"))).collect();
    begun.wait_for(|begun| *begun == 101).await.expect("all are under way");
    killed.cancel();
    for response in under_way {
        let response = response.await.expect("joined");
        assert_eq!(status(&response), "200", "{response}");
    }
    let start = Instant::now();
    assert!(get(east.address, "/").await.contains("north|"));
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orderly_end_fails_no_request_of_any_method() {
    let federation = Federation::found(&["us-east", "us-west", "us-north"]);
    let west = federation.workload("us-west", app("west").await, echo().await).await;
    let north = federation.workload("us-north", app("north").await, echo().await).await;
    let offers = vec![
        remote("us-west", SameRegion, splicing_gateway(west.address).await),
        remote("us-north", OtherRegion, splicing_gateway(north.address).await),
    ];
    let east = federation.outbound("us-east", reviews(vec![], offers)).await;
    let address = east.address;
    let slow = tokio::spawn(async move { request(address, "POST", "/slow", "", "body").await });
    let workers: Vec<_> = (0..8)
        .map(|worker| {
            let shutdown = west.shutdown.clone();
            tokio::spawn(async move {
                for number in 0..60 {
                    let response = request(address, "POST", &format!("/{worker}/{number}"), "", "body").await;
                    assert_eq!(status(&response), "200", "{worker}/{number}: {response}");
                    if worker == 0 && number == 20 {
                        shutdown.cancel();
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.expect("no request failed");
    }
    assert_eq!(status(&slow.await.expect("joined")), "200");
    west.ended.await.expect("drained");
    assert!(get(address, "/").await.contains("north|"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_does_not_outlive_the_certificate_or_the_trust_that_opened_it() {
    let federation = Federation::found(&["us-east", "us-west"]);
    let west = federation.workload("us-west", app("west").await, echo().await).await;
    let offer = remote("us-west", OtherRegion, splicing_gateway(west.address).await);
    let east = federation.outbound("us-east", reviews(vec![], vec![offer])).await;
    assert_eq!(status(&get(east.address, "/").await), "200");
    // The root is replaced: open sessions were proven against the old one.
    let others = Federation::found(&["us-east", "us-west"]);
    let roots = vec![others.root.certificate().to_vec()];
    let bundle = isthmus_identity::TrustBundle::new(others.domain.clone(), roots).expect("a bundle");
    west.plane.identity().set_trust(bundle);
    let response = get(east.address, "/").await;
    assert_eq!(status(&response), "503", "{response}");
}

/// The far side looks at the certificate that opened a session before every request. When that one no longer
/// counts and a newer one does, the request goes on a new session; nothing is held against the destination.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_over_costs_no_request_when_there_is_a_newer_certificate() {
    let federation = Federation::found(&["us-east"]);
    let only = federation.workload("us-east", app("only").await, echo().await).await;
    let east = federation.outbound("us-east", reviews(vec![only.endpoint.clone()], vec![])).await;
    assert_eq!(status(&get(east.address, "/").await), "200");
    // The same names under another root: what opened the session no longer counts, the new certificate does.
    let next = Federation::found(&["us-east"]);
    next.certify(east.plane.identity(), "us-east", "shop/productpage");
    only.plane.identity().set_trust(next.bundle());
    let response = get(east.address, "/").await;
    assert_eq!(status(&response), "200", "{response}");
    // Back again for TCP, which takes a way of its own.
    federation.certify(east.plane.identity(), "us-east", "shop/productpage");
    only.plane.identity().set_trust(federation.bundle());
    let connect = format!("CONNECT {HOST}:{TCP} HTTP/1.1\r\nHost: {HOST}:{TCP}\r\n\r\n");
    let mut stream = TcpStream::connect(east.address).await.expect("connected");
    stream.write_all(connect.as_bytes()).await.expect("written");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 200");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_virtual_address_is_one_service_whatever_the_client_calls_it() {
    let federation = Federation::found(&["us-east", "us-west"]);
    let west = federation.workload("us-west", app("west").await, echo().await).await;
    let offer = remote("us-west", OtherRegion, splicing_gateway(west.address).await);
    let east = federation.outbound("us-east", reviews(vec![], vec![offer])).await;
    let vip = |port| federation.listen_as(&east, Mode::Service { name: federation::service(), port });
    let (http, tcp) = (vip(HTTP), vip(TCP));
    for (host, expected) in [("10.0.0.1:9080", "200"), (HOST, "200"), ("other.shop.svc.clusterset.local", "421")] {
        let text = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let response = exchange(http, &text).await;
        assert_eq!(status(&response), expected, "{host}: {response}");
    }
    let mut stream = TcpStream::connect(tcp).await.expect("connected");
    stream.write_all(b"hello").await.expect("written");
    stream.shutdown().await.expect("half closed");
    let mut echoed = String::new();
    stream.read_to_string(&mut echoed).await.expect("read to the end");
    assert_eq!(echoed, "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_in_the_clear_is_taken_and_given() {
    let federation = Federation::found(&["us-east", "us-west"]);
    let h2c = http2_app().await;
    let west = federation.workload("us-west", h2c, echo().await).await;
    let http2 = |mut service: Service| {
        service.ports[1].protocol = isthmus_model::catalog::AppProtocol::Http2;
        service
    };
    west.view.send_modify(|view| {
        let mut changed = isthmus_model::snapshot::Snapshot::clone(view);
        let service = http2(reviews(vec![west.endpoint.clone()], vec![]));
        changed.services.insert(service.name.clone(), Arc::new(service));
        *view = Arc::new(changed);
    });
    let offer = remote("us-west", OtherRegion, splicing_gateway(west.address).await);
    let east = federation.outbound("us-east", http2(reviews(vec![], vec![offer]))).await;

    let stream = TcpStream::connect(east.address).await.expect("connected");
    let executor = hyper_util::rt::TokioExecutor::new();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut send, connection) = hyper::client::conn::http2::handshake(executor, io).await.expect("a session");
    tokio::spawn(connection);
    let body = http_body_util::Full::new(bytes::Bytes::from_static(b"body"));
    let request = http::Request::post(format!("http://{HOST}:{HTTP}/x")).header("te", "trailers").body(body);
    let response = send.send_request(request.expect("a request")).await.expect("a response");
    assert_eq!(response.status(), 200);
    let body = http_body_util::BodyExt::collect(response.into_body()).await.expect("a body").to_bytes();
    assert_eq!(body, format!("POST http://{HOST}:{HTTP}/x te=trailers 4"));
}

async fn http2_app() -> std::net::SocketAddr {
    let listener = TcpListener::bind(federation::ANY_PORT).await.expect("bound");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| async move {
                let te = request.headers().get("te").and_then(|te| te.to_str().ok()).unwrap_or("").to_owned();
                let head = format!("{} {} te={te}", request.method(), request.uri());
                let body = http_body_util::BodyExt::collect(request.into_body()).await?.to_bytes();
                let text = format!("{head} {}", body.len());
                Ok::<_, hyper::Error>(http::Response::new(http_body_util::Full::new(bytes::Bytes::from(text))))
            });
            let executor = hyper_util::rt::TokioExecutor::new();
            let io = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(hyper::server::conn::http2::Builder::new(executor).serve_connection(io, answer));
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_was_begun_with_an_earlier_certificate_gets_no_new_requests() {
    let federation = Federation::found(&["us-east", "us-west"]);
    let (app, mut begun) = counting_app("west").await;
    let west = federation.workload("us-west", app, echo().await).await;
    let offer = remote("us-west", OtherRegion, splicing_gateway(west.address).await);
    let east = federation.outbound("us-east", reviews(vec![], vec![offer])).await;
    let sessions = || east.plane.metrics().tunnels.get();
    assert_eq!(status(&get(east.address, "/first").await), "200");
    let under_way = tokio::spawn(get(east.address, "/slow"));
    begun.wait_for(|begun| *begun == 2).await.expect("it arrives");

    federation.certify(east.plane.identity(), "us-east", "shop/productpage");
    assert_eq!(status(&get(east.address, "/second").await), "200");
    assert_eq!(sessions(), 2, "the new request has a session of its own");
    assert_eq!(status(&under_way.await.expect("joined")), "200", "what was under way is finished on the old one");
    assert_eq!(status(&get(east.address, "/third").await), "200");
    assert!(sessions() <= 2, "the new session is kept");
}
