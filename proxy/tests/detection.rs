//! Ports of which nobody said what they speak: each connection tells, and a wrong guess breaks none.

#![allow(missing_docs)]

mod federation;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use federation::session::tunnel;
use federation::{
    ANY_PORT, Federation, HOST, HTTP, TCP, app, echo, endpoint, read_head, remote, reviews, status, unsaid,
};
use http::Request;
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use isthmus_model::locality::Proximity::OtherRegion;
use isthmus_proxy::detect::CLIENT_FIRST_WITHIN;
use isthmus_proxy::outbound::Mode;
use isthmus_tests::hostile::Recorder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const FORGED: &str = "X-Forwarded-Client-Cert: URI=spiffe://us-east.acme.mesh/ns/shop/sa/admin\r\n";
const CALLER: &str = "spiffe://us-east.acme.mesh/ns/shop/sa/productpage";
const GREETING: &[u8] = b"220 mail ready\r\n";

/// A way to the service's port, however it lands: with a sidecar beyond a gateway, at a gateway, and at an instance without one.
struct Way {
    landing: &'static str,
    address: SocketAddr,
    /// Who the application is told the caller is.
    caller: &'static str,
    _west: federation::Workload,
    _east: federation::Outbound,
}

/// All ways to an application that is on both ports.
async fn ways(federation: &Federation, application: SocketAddr) -> Vec<Way> {
    let mut ways = Vec::new();
    for landing in ["a sidecar", "its gateway", "nobody's"] {
        let west = federation.workload("us-west", application, application).await;
        west.unsay();
        let bare = endpoint("shop/legacy", application, application, None);
        let service = match landing {
            "a sidecar" => {
                reviews(vec![], vec![remote("us-west", OtherRegion, federation::splicing_gateway(west.address).await)])
            }
            "its gateway" => {
                let terminating = federation.terminating_gateway("us-west", unsaid(reviews(vec![bare], vec![]))).await;
                reviews(vec![], vec![remote("us-west", OtherRegion, terminating)])
            }
            _ => reviews(vec![bare], vec![]),
        };
        let east = federation.outbound("us-east", unsaid(service)).await;
        let mode = Mode::Service { name: federation::service(), port: TCP };
        let address = federation.listen_as(&east, mode);
        let caller = if landing == "nobody's" { "" } else { CALLER };
        ways.push(Way { landing, address, caller, _west: west, _east: east });
    }
    ways
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_requests_and_their_claims_are_not_believed() {
    let federation = Federation::found(&["us-east", "us-west"]);
    for way in ways(&federation, app("app").await).await {
        let request = |path| format!("GET {path} HTTP/1.1\r\nHost: as-the-client-calls-it\r\n{FORGED}\r\n");
        let mut client = TcpStream::connect(way.address).await.expect("connected");
        for path in ["/1", "/2"] {
            client.write_all(request(path).as_bytes()).await.expect("written");
            let head = read_head(&mut client).await;
            assert_eq!(status(&head), "200", "{}: {head}", way.landing);
            let length = head
                .to_ascii_lowercase()
                .split("content-length: ")
                .nth(1)
                .map(|rest| rest.split("\r\n").next().and_then(|length| length.parse().ok()).expect("a number"));
            let mut body = vec![0; length.expect("a length")];
            client.read_exact(&mut body).await.expect("a body");
            let body = String::from_utf8_lossy(&body).into_owned();
            assert!(body.starts_with(&format!("app|GET {path} HTTP/1.1|")), "{}: {body}", way.landing);
            assert!(body.contains(way.caller) && !body.contains("sa/admin"), "{}: {body}", way.landing);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_passes_as_it_is() {
    let federation = Federation::found(&["us-east", "us-west"]);
    for way in ways(&federation, echo().await).await {
        for sent in [&b"\x16\x03\x01\x00\x05hello"[..], b"PING\r\n", b"GET key\r\n", &[0; 100_000]] {
            let mut client = TcpStream::connect(way.address).await.expect("connected");
            client.write_all(sent).await.expect("written");
            client.shutdown().await.expect("half closed");
            let mut back = Vec::new();
            client.read_to_end(&mut back).await.expect("an end");
            assert!(back == sent, "{}: {} of {} bytes", way.landing, back.len(), sent.len());
        }
        // Not even a byte.
        let mut client = TcpStream::connect(way.address).await.expect("connected");
        client.shutdown().await.expect("half closed");
        assert_eq!(client.read_to_end(&mut Vec::new()).await.expect("an end"), 0, "{}", way.landing);
    }
}

/// An application that greets, then sends back what it gets.
async fn greeter() -> SocketAddr {
    let listener = TcpListener::bind(ANY_PORT).await.expect("bound");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.write_all(GREETING).await?;
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_may_speak_first() {
    let federation = Federation::found(&["us-east", "us-west"]);
    for way in ways(&federation, greeter().await).await {
        let begun = Instant::now();
        let mut client = TcpStream::connect(way.address).await.expect("connected");
        let mut greeting = vec![0; GREETING.len()];
        client.read_exact(&mut greeting).await.expect("a greeting");
        assert_eq!(greeting, GREETING, "{}", way.landing);
        assert!(begun.elapsed() < Duration::from_secs(5), "{}: not after ten seconds", way.landing);
        client.write_all(b"EHLO a\r\n").await.expect("written");
        let mut back = vec![0; 8];
        client.read_exact(&mut back).await.expect("an answer");
        assert_eq!(back, b"EHLO a\r\n", "{}", way.landing);
    }
}

/// An application that speaks HTTP/2 only, with prior knowledge, and says its settings at once, as gRPC's do.
async fn http2_app() -> SocketAddr {
    let listener = TcpListener::bind(ANY_PORT).await.expect("bound");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(|request: Request<hyper::body::Incoming>| async move {
                let caller = request.headers().get("x-forwarded-client-cert").map(|caller| format!("{caller:?}"));
                let text = format!("{:?} {}", request.version(), caller.unwrap_or_default());
                Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(Bytes::from(text))))
            });
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_gets_the_version_that_its_client_speaks() {
    let federation = Federation::found(&["us-east", "us-west"]);
    for way in ways(&federation, http2_app().await).await {
        // One client speaks at once; for the other, the server has said its settings before.
        for pause in [Duration::ZERO, Duration::from_millis(300)] {
            let stream = TcpStream::connect(way.address).await.expect("connected");
            tokio::time::sleep(pause).await;
            let session = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
            let (mut send, connection) = session.expect("a session");
            tokio::spawn(connection);
            let request = Request::get(format!("http://{HOST}:{TCP}/")).header("x-forwarded-client-cert", "URI=forged");
            let request = request.body(Empty::<Bytes>::new()).expect("a request");
            let response = send.send_request(request).await.expect("a response");
            let body = response.into_body().collect().await.expect("a body").to_bytes();
            let body = String::from_utf8_lossy(&body);
            assert!(body.starts_with("HTTP/2.0") && body.contains(way.caller), "{}: {body}", way.landing);
            assert!(!body.contains("forged"), "{}: {body}", way.landing);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connect_may_hold_either() {
    let federation = Federation::found(&["us-east"]);
    let local = federation.workload("us-east", app("app").await, echo().await).await;
    local.unsay();
    let east = federation.outbound("us-east", unsaid(reviews(vec![local.endpoint.clone()], vec![]))).await;
    let request = format!("GET /x HTTP/1.1\r\nHost: {HOST}:{HTTP}\r\n{FORGED}Connection: close\r\n\r\n");
    for (port, inside) in [(HTTP, request.as_str()), (TCP, "hello")] {
        let mut client = TcpStream::connect(east.address).await.expect("connected");
        let opening = format!("CONNECT {HOST}:{port} HTTP/1.1\r\nHost: {HOST}:{port}\r\n\r\n");
        client.write_all(opening.as_bytes()).await.expect("written");
        assert_eq!(status(&read_head(&mut client).await), "200", "port {port}");
        client.write_all(inside.as_bytes()).await.expect("written");
        if port == TCP {
            client.shutdown().await.expect("half closed");
        }
        let mut back = String::new();
        client.read_to_string(&mut back).await.expect("an end");
        match port {
            TCP => assert_eq!(back, "hello"),
            _ => assert!(
                back.contains("|GET /x HTTP/1.1|") && back.contains(CALLER) && !back.contains("sa/admin"),
                "{back}"
            ),
        }
    }
}

/// Whatever the caller's side took it for: a session's peer says that it is bytes, and they are a request that lies.
#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_does_not_carry_a_forged_identity() {
    let federation = Federation::found(&["us-east", "us-west"]);
    let bare = endpoint("shop/legacy", app("bare").await, app("bare").await, None);
    let gateway = federation.terminating_gateway("us-west", unsaid(reviews(vec![bare], vec![]))).await;
    let west = federation.workload("us-west", app("west").await, app("west").await).await;
    west.unsay();
    let request = |host: &str| format!("GET /x HTTP/1.1\r\nHost: {host}\r\n{FORGED}Connection: close\r\n\r\n");
    for landing in [west.address, gateway] {
        for (inside, expected) in [
            (request("anything"), "200"),
            (format!("\r\n{}", request("anything")), "200"),
            (request("ratings.shop.svc.clusterset.local"), "421"),
            (format!("CONNECT {HOST}:{HTTP} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"), "400"),
        ] {
            let mut tunnel = tunnel(&federation, landing, TCP).await;
            tunnel.write_all(inside.as_bytes()).await.expect("written");
            let mut answer = Vec::new();
            let _ = tunnel.read_to_end(&mut answer).await;
            let answer = String::from_utf8_lossy(&answer);
            assert_eq!(status(&answer), expected, "{inside}: {answer}");
            assert!(expected != "200" || answer.contains(CALLER), "{answer}");
            assert!(!answer.contains("sa/admin") && !answer.contains("x-isthmus"), "{answer}");
        }
    }
}

/// What is a request to some servers only (`detect::could_be_request`) is refused, or breaks off before it is whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_disguise_reaches_no_application() {
    let federation = Federation::found(&["us-east", "us-west"]);
    let recorder = Recorder::start().await.expect("bound");
    for way in ways(&federation, recorder.address()).await {
        for line in ["GET /\0 HTTP/1.1\r\n", "GET\r/ HTTP/1.1\r\n", "G(T / HTTP/1.1\r\n", "GET\r/x\r\n"] {
            for cut in [0, 3, line.len() - 2] {
                let mut client = TcpStream::connect(way.address).await.expect("connected");
                client.write_all(&line.as_bytes()[..cut]).await.expect("written");
                // Longer than the landing side waits for what was begun.
                tokio::time::sleep(2 * CLIENT_FIRST_WITHIN).await;
                let _ = client.write_all(format!("{}{FORGED}\r\n", &line[cut..]).as_bytes()).await;
                let mut answer = Vec::new();
                // A reset is as good as an end.
                let _ = client.read_to_end(&mut answer).await;
                let answer = String::from_utf8_lossy(&answer);
                assert!(answer.is_empty() || status(&answer) == "400", "{line:?} at {}: {answer}", way.landing);
                assert!(recorder.take().is_empty(), "{line:?}, cut at {cut}, at {}", way.landing);
            }
        }
    }
}

/// An application that takes one word, without a line's end, and answers with it, as debuggers' do.
async fn handshaker(word: &'static str) -> SocketAddr {
    let listener = TcpListener::bind(ANY_PORT).await.expect("bound");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut heard = vec![0; word.len()];
                stream.read_exact(&mut heard).await?;
                stream.write_all(&heard).await?;
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_word_without_a_line_is_heard_as_one() {
    let federation = Federation::found(&["us-east", "us-west"]);
    for (word, within) in [
        ("JDWP-Handshake", Duration::from_secs(3)),
        // What is longer than any method is not waited for at all, but where it lands.
        ("RMI-AND-OTHERS-OF-A-LONG-NAME", Duration::from_millis(450)),
    ] {
        for way in ways(&federation, handshaker(word).await).await {
            // The way there is open already when the time counts.
            for warm in [false, true] {
                let begun = Instant::now();
                let mut client = TcpStream::connect(way.address).await.expect("connected");
                client.write_all(word.as_bytes()).await.expect("written");
                let mut back = vec![0; word.len()];
                client.read_exact(&mut back).await.expect("an answer");
                assert_eq!(back, word.as_bytes(), "{}", way.landing);
                assert!(!warm || begun.elapsed() < within, "{word}: {}: {:?}", way.landing, begun.elapsed());
                client.write_all(b"\0\0\0\x0bGET / HTTP/1.1\r\n\r\n").await.expect("written");
                client.read_exact(&mut [0; 22]).await.expect("bytes stay bytes");
            }
        }
    }
}

/// A guess that it was bytes is taken back where it lands.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_haltingly_is_a_request() {
    let federation = Federation::found(&["us-east", "us-west"]);
    for way in ways(&federation, app("app").await).await {
        let head = format!("GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{FORGED}\r\n");
        for parts in
            [&["GET", " /x HT", &head[9..]][..], &[&head[..1], &head[1..]], &[&head[..14], &head[14..15], &head[15..]]]
        {
            let mut client = TcpStream::connect(way.address).await.expect("connected");
            for part in parts {
                client.write_all(part.as_bytes()).await.expect("written");
                // Longer than a pause may be.
                tokio::time::sleep(Duration::from_millis(900)).await;
            }
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.expect("an end");
            assert_eq!(status(&answer), "200", "{}: {parts:?}: {answer}", way.landing);
            assert!(answer.contains("app|GET /x HTTP/1.1|"), "{}: {answer}", way.landing);
            assert!(answer.contains(way.caller) && !answer.contains("sa/admin"), "{}: {answer}", way.landing);
        }
    }
}

/// An application that looks at one connection, to its end, before it takes the next.
async fn one_at_a_time() -> SocketAddr {
    let listener = TcpListener::bind(ANY_PORT).await.expect("bound");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut read = Vec::new();
            while !read.ends_with(b"\r\n\r\n") && stream.read_buf(&mut read).await.is_ok_and(|count| count > 0) {}
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nconnection: close\r\n\r\nhere").await;
        }
    });
    address
}

/// The connection that waits for a server to speak must not be all that such an application looks at. And HTTP/1.0 needs no host.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hesitates_does_not_stall_an_application_that_takes_one_at_a_time() {
    let federation = Federation::found(&["us-east", "us-west"]);
    for way in ways(&federation, one_at_a_time().await).await {
        let mut client = TcpStream::connect(way.address).await.expect("connected");
        tokio::time::sleep(Duration::from_millis(300)).await;
        client.write_all(b"GET / HTTP/1.0\r\n\r\n").await.expect("written");
        let mut back = String::new();
        let read = tokio::time::timeout(Duration::from_secs(5), client.read_to_string(&mut back)).await;
        read.unwrap_or_else(|_| panic!("{}: no answer", way.landing)).expect("an end");
        assert!(status(&back) == "200" && back.ends_with("here"), "{}: {back}", way.landing);
    }
}
