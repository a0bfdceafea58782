//! What hostile and broken peers send, on every listener of the data plane that it can reach (`surfaces`). Each time it is refused
//! or comes to nothing that can be read in two ways, the application behind hears nothing that it must not, and who was there
//! before is served on.

#![allow(missing_docs)]

mod federation;
mod surfaces;

use std::sync::Arc;
use std::time::Duration;

use federation::{Federation, HOST, HTTP, TCP, service, status};
use isthmus_identity::LiveIdentity;
use isthmus_model::path::canonical;
use isthmus_model::snapshot::{Service, Snapshot};
use isthmus_tests::hostile::frames::{
    COMPRESSION_ERROR, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, HEADERS, Outcome, PROTOCOL_ERROR, Stream, field,
    frame, request, split_last,
};
use isthmus_tests::hostile::{FORGED, HIDDEN, Request, SMUGGLED, Safe, http1, http2};
use surfaces::{BALANCERS_HEADER, BYSTANDER, CLIENTS, SESSIONS, SNI, Surfaces, Way, authority};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A connection that is refused is closed by then.
const CLOSED_WITHIN: Duration = Duration::from_secs(10);
/// More than a server takes for a head: what it does not read, it closes upon, and its answer may be lost.
const TOO_LARGE: usize = 64 * 1024;

/// Writes everything and reads to the end of the connection.
async fn exchange(surfaces: &Surfaces, way: Way, bytes: &[u8], what: &str) -> String {
    say_all(surfaces.open(way).await, bytes, &format!("{what} at {way:?}")).await
}

/// The same on a connection that was opened.
async fn say_all(stream: impl Stream, bytes: &[u8], what: &str) -> String {
    let (mut read, mut write) = tokio::io::split(stream);
    let mut answer = Vec::new();
    let writing = async {
        let _ = write.write_all(bytes).await;
        let _ = write.flush().await;
    };
    let reading = timeout(CLOSED_WITHIN, read.read_to_end(&mut answer));
    let (closed, ()) = tokio::join!(reading, writing);
    assert!(closed.is_ok(), "{what}: still open after {}", String::from_utf8_lossy(&answer));
    String::from_utf8_lossy(&answer).into_owned()
}

/// Whether the application got the target that was sent: to the byte, or, from outside, in its canonical form.
fn is_target(way: Way, got: &[u8], sent: &[u8]) -> bool {
    let sent = String::from_utf8_lossy(sent);
    let (path, query) = sent.split_once('?').map_or((&*sent, None), |(path, query)| (path, Some(query)));
    let canonical = canonical(path).map(|path| query.map_or(path.to_string(), |query| format!("{path}?{query}")));
    got == sent.as_bytes() || (way.is_edge() && canonical.is_ok_and(|canonical| canonical.as_bytes() == got))
}

/// What came to the application, without the bystanders'.
fn heard(surfaces: &Surfaces) -> Vec<Request> {
    let mut heard = surfaces.recorder.take();
    // One that knows HTTP/2 would have taken its preface for a beginning only.
    let is_preface = |request: &Request| request.head.starts_with(b"PRI ") || request.head == b"SM\r\n\r\n";
    heard.retain(|request| request.target() != BYSTANDER.as_bytes() && !is_preface(request));
    heard
}

/// Whether that is safe, of a request that was answered with `status`.
fn is_safe(safe: Safe, way: Way, status: u16, heard: &[Request]) -> bool {
    let refused = matches!(status, 400 | 405 | 414 | 431 | 501);
    let own_host = |request: &Request| request.says(&format!("\r\nhost: {HOST}:{HTTP}\r\n"));
    // What is passed on is written anew: nobody behind has two lengths to choose from.
    let is_framed = |request: &Request| request.count("content-length:") + request.count("transfer-encoding:") <= 1;
    if !heard.iter().all(is_framed) {
        return false;
    }
    match safe {
        Safe::Refused | Safe::Broken => refused && heard.is_empty(),
        Safe::Elsewhere if way.is_session() => status == 421 && heard.is_empty(),
        Safe::Elsewhere => match heard {
            // What has been opened for one service already takes no CONNECT at all, and says so.
            [] => matches!(status, 403 | 404 | 421) || (refused && way.takes_no_connect()),
            // The address says what it is for, and the application is told so.
            [request] => way.is_scoped() && status == 200 && (way.is_clear() || own_host(request)),
            _ => false,
        },
        Safe::Once => heard.len() <= 1 && heard.iter().all(own_host),
        Safe::As(target) => match heard {
            [] => refused,
            [request] => status == 200 && is_target(way, request.target(), target) && own_host(request),
            _ => false,
        },
        Safe::Cleaned => match heard {
            [] => refused,
            [request] => status == 200 && !request.says(FORGED),
            _ => false,
        },
        Safe::Entered => match heard {
            [request] => status == 200 && request.says(FORGED) != way.is_strangers(),
            _ => false,
        },
    }
}

async fn replay_http1(surfaces: &Surfaces, way: Way, cases: &[http1::Case]) {
    let mut bystander = surfaces.bystander(way).await;
    // What does not begin as text does passes as bytes, where that may be what the port is for.
    let passes = |case: &&http1::Case| way.detects() && case.bytes.first().is_some_and(u8::is_ascii_control);
    for http1::Case { row, what, bytes, safe } in cases.iter().filter(|case| !passes(case)) {
        let answer = exchange(surfaces, way, bytes, what).await;
        let heard = heard(surfaces);
        let told = format!(
            "row {row}, {what} at {way:?}: {answer}\n{heard:?}\n{:?}",
            bytes.get(..200.min(bytes.len())).map(|start| start.escape_ascii().to_string())
        );
        assert!(heard.iter().all(|request| !request.says(HIDDEN)), "what was hidden came out: {told}");
        assert!(answer.matches("HTTP/1.").count() <= 1, "more than one answer: {told}");
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        match status {
            Some(status) => assert!(is_safe(*safe, way, status, &heard), "{told}"),
            // What passed as bytes until it was seen to be a request has nobody to answer it.
            None => {
                assert!(heard.is_empty() && (bytes.len() > TOO_LARGE || way.detects()), "closed without a word: {told}")
            }
        }
        assert!(bystander.is_served().await, "the bystander: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_http1_that_are_none() {
    let surfaces = Surfaces::start().await;
    let cases = http1::messages(&authority(), "/");
    for way in CLIENTS {
        replay_http1(&surfaces, way, &cases).await;
    }
    // Sessions between data planes speak HTTP/2 and nothing else.
    for way in SESSIONS {
        let mut bystander = surfaces.bystander(way).await;
        for http1::Case { what, bytes, .. } in &cases {
            let answer = exchange(&surfaces, way, bytes, what).await;
            assert!(!answer.contains("HTTP/1.1 ") && heard(&surfaces).is_empty(), "{what} at {way:?}: {answer}");
        }
        assert!(bystander.is_served().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_http1_for_somebody_else() {
    let surfaces = Surfaces::start().await;
    for way in CLIENTS {
        replay_http1(&surfaces, way, &http1::targets(&authority())).await;
    }
}

/// What a load balancer says comes first, whole and once; and who may not say it is not believed.
#[tokio::test(flavor = "multi_thread")]
async fn whose_a_connection_is_a_load_balancer_has_to_say_and_nobody_else_may() {
    let surfaces = Surfaces::start().await;
    let mut bystanders = [surfaces.bystander(Way::Balanced).await, surfaces.bystander(Way::Ingress).await];
    let get =
        format!("GET / HTTP/1.1\r\nHost: {}\r\nX-Forwarded-For: {FORGED}\r\nConnection: close\r\n\r\n", authority());
    let version_2 = |command: u8| {
        let addresses = [192, 0, 2, 7, 198, 51, 100, 1, 0x9C, 0x40, 0, 80];
        [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[0x20 | command, 0x11, 0, 12], &addresses].concat()
    };
    let say = async |way: Way, header: &[u8]| {
        let stream = TcpStream::connect(surfaces.address(way)).await.expect("connected");
        let what = format!("{} at {way:?}", header.escape_ascii());
        let answer = say_all(stream, &[header, get.as_bytes()].concat(), &what).await;
        (answer, heard(&surfaces), what)
    };
    for (header, client) in [
        (BALANCERS_HEADER.to_vec(), "192.0.2.7"),
        (version_2(1), "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 40000 80\r\n".to_vec(), "2001:db8::7"),
        // What it opens for itself, to see whether it is answered.
        (version_2(0), "127.0.0.1"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
    ] {
        let (answer, heard, what) = say(Way::Balanced, &header).await;
        let [request] = &heard[..] else { panic!("{what}: {answer} {heard:?}") };
        assert!(
            request.says(&format!("\r\nx-forwarded-for: {client}\r\n")) && !request.says(FORGED),
            "{what}: {heard:?}"
        );
        assert_eq!(status(&answer), "200", "{what}");
    }
    let twice = [BALANCERS_HEADER, BALANCERS_HEADER].concat();
    for (way, header) in [
        (Way::Balanced, &b""[..]),
        (Way::Balanced, b"PROXY TCP4 192.0.2.7\r\n"),
        (Way::Balanced, b"PROXY TCP4 192.0.2.7 198.51.100.1 +40000 80\r\n"),
        (Way::Balanced, &twice),
        (Way::Ingress, BALANCERS_HEADER),
        (Way::Ingress, &version_2(1)),
    ] {
        let (answer, heard, what) = say(way, header).await;
        assert!(heard.is_empty() && (answer.is_empty() || status(&answer) == "400"), "{what}: {answer} {heard:?}");
    }
    for bystander in &mut bystanders {
        assert!(bystander.is_served().await);
    }
}

/// How the frames of a stream come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    AtOnce,
    /// The last of them when the others may have got to the application.
    LastLater,
}

async fn replay_http2(surfaces: &Surfaces, way: Way, cases: &[http2::Case], sent: Sent) {
    let mut bystander = surfaces.bystander(way).await;
    for http2::Case { row, what, frames, safe } in cases {
        let mut peer = surfaces.peer(way).await;
        let (first, last) = split_last(frames);
        // A port of which nobody said what it speaks gets what its client speaks, and the application does not speak HTTP/2.
        let unspoken = way.detects() && (!first.is_empty() || *safe != Safe::Refused);
        match sent {
            Sent::AtOnce => peer.send(frames).await,
            Sent::LastLater => peer.send(first).await && bystander.is_served().await && peer.send(last).await,
        };
        let outcome = peer.outcome(1).await;
        let served = bystander.is_served().await;
        // What is heard late is heard by now: the bystander was answered by the same application.
        let heard = heard(surfaces);
        let told = format!("row {row}, {what} at {way:?}, {sent:?}: {outcome:?}\n{heard:?}\n{}", frames.escape_ascii());
        let hears_of_it = |request: &Request| request.says(HIDDEN) || request.says(SMUGGLED);
        assert!(!heard.iter().any(hears_of_it), "what was hidden came out: {told}");
        assert_ne!(outcome, Outcome::Silence, "{told}");
        match outcome {
            Outcome::Answered(502) if unspoken => assert!(heard.is_empty(), "{told}"),
            Outcome::Answered(status) => assert!(is_safe(*safe, way, status, &heard), "{told}"),
            Outcome::GoAway(reason) | Outcome::Reset(reason) => {
                let because = [PROTOCOL_ERROR, COMPRESSION_ERROR, ENHANCE_YOUR_CALM].contains(&reason);
                assert!(because && (heard.is_empty() || *safe == Safe::Once), "{told}");
            }
            Outcome::Closed | Outcome::Silence => assert!(heard.is_empty(), "{told}"),
        }
        assert!(served, "the bystander: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_http2_that_are_none_or_for_somebody_else() {
    let surfaces = Surfaces::start().await;
    let cases = [http2::messages("GET", "/", &authority()), http2::targets(&authority())].concat();
    for way in Way::all() {
        replay_http2(&surfaces, way, &cases, Sent::AtOnce).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_http2_that_are_not_what_was_announced() {
    let surfaces = Surfaces::start().await;
    for way in Way::all() {
        for sent in [Sent::AtOnce, Sent::LastLater] {
            replay_http2(&surfaces, way, &http2::bodies(&authority()), sent).await;
        }
    }
    // Those that are in order arrive: what is missed above was looked for where it would be.
    for way in Way::all().filter(|way| !way.detects()) {
        let mut peer = surfaces.peer(way).await;
        peer.send(&http2::with_trailers(&authority(), "x-late", &field("x-late", b"1"))).await;
        assert_eq!(peer.outcome(1).await, Outcome::Answered(200), "{way:?}");
        let heard = heard(&surfaces);
        let whole = |request: &Request| request.body == b"hello" && request.trailers == b"x-late: 1\r\n";
        assert!(heard.len() == 1 && heard.iter().all(whole), "{way:?}: {heard:?}");
    }
}

/// Row 2: what is sent before a tunnel is open is held, and passed on when it is; when it is not opened, it comes to nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_before_a_tunnel_is_open_is_held() {
    let surfaces = Surfaces::start().await;
    let get = format!("GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", authority());
    for way in [Way::Outbound, Way::Egress] {
        for (port, requests) in [(HTTP, 1), (TCP, 0), (TCP + 1, 0)] {
            let early = format!("CONNECT {HOST}:{port} HTTP/1.1\r\nHost: {HOST}:{port}\r\n\r\n{get}");
            let mut stream = surfaces.open(way).await;
            stream.write_all(early.as_bytes()).await.expect("written");
            if port == TCP {
                stream.shutdown().await.expect("half closed");
            }
            let mut answer = Vec::new();
            timeout(CLOSED_WITHIN, stream.read_to_end(&mut answer)).await.expect("in time").expect("an end");
            let answer = String::from_utf8_lossy(&answer);
            let (head, rest) = answer.split_once("\r\n\r\n").expect("an answer");
            let told = format!("port {port} at {way:?}: {answer}");
            match port {
                HTTP => assert!(status(head) == "200" && rest.starts_with("HTTP/1.1 200 "), "{told}"),
                // Echoed, as bytes.
                TCP => assert!(status(head) == "200" && rest == get, "{told}"),
                _ => assert!(status(head) == "404" && !rest.contains("HTTP/1."), "{told}"),
            }
            assert_eq!(heard(&surfaces).len(), requests, "{told}");
        }
    }
}

/// Row 12: a session is for the service that its name says, and for who has a certificate of the federation.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_the_misdirected_get_no_session() {
    let surfaces = Surfaces::start().await;
    let stranger = Federation::found(&["us-east"]).identity("us-east", "shop/productpage");
    let nobody = LiveIdentity::new();
    for identity in [&stranger, &nobody] {
        identity.set_trust(surfaces.federation.bundle());
    }
    let good = surfaces.federation.identity("us-east", "shop/productpage");
    for way in SESSIONS {
        let mut bystander = surfaces.bystander(way).await;
        assert!(!surfaces.takes(way, &stranger, SNI).await, "a certificate from another root, at {way:?}");
        assert!(!surfaces.takes(way, &nobody, SNI).await, "no certificate, at {way:?}");
        // rustls sends no name for an address.
        for sni in
            ["reviews.shop.svc.us-east.acme.mesh", "gateway.us-west.acme.mesh", "127.0.0.1", "x.us-west.acme.mesh", "x"]
        {
            assert!(!surfaces.takes(way, &good, sni).await, "{sni} at {way:?}");
        }
        assert!(surfaces.takes(way, &good, SNI).await, "{way:?}");
        assert!(surfaces.takes(way, &good, &SNI.to_uppercase()).await, "names are case-insensitive, at {way:?}");
        assert!(bystander.is_served().await, "{way:?}");
    }
}

/// Row 14: what a session was opened with does not count for longer than it holds.
#[tokio::test(flavor = "multi_thread")]
async fn every_request_of_a_session_is_authorized_again() {
    let surfaces = Surfaces::start().await;
    let strangers = Federation::found(&["us-east"]);
    for way in SESSIONS {
        let (view, identity) = surfaces.landing(way);
        let mut peer = surfaces.peer(way).await;
        let mut next = 1;
        let mut ask = async || {
            let block = request("GET", "/", &authority());
            peer.send(&frame(HEADERS, END_HEADERS | END_STREAM, next, &block)).await;
            next += 2;
            peer.outcome(next - 2).await
        };
        assert_eq!(ask().await, Outcome::Answered(200), "{way:?}");
        assert_eq!(heard(&surfaces).len(), 1);
        // Its export is withdrawn.
        let before = view.borrow().clone();
        let withdrawn = Service { exported_here: false, ..Service::clone(&before.services[&service()]) };
        view.send_replace(Arc::new(Snapshot::clone(&before).with([withdrawn])));
        assert_eq!(ask().await, Outcome::Answered(403), "{way:?}");
        view.send_replace(before);
        assert_eq!(ask().await, Outcome::Answered(200), "{way:?}");
        assert_eq!(heard(&surfaces).len(), 1);
        // The root that its certificate comes from is retired.
        identity.set_trust(strangers.bundle());
        let outcome = ask().await;
        let over = matches!(outcome, Outcome::Answered(421) | Outcome::GoAway(_) | Outcome::Closed);
        assert!(over && heard(&surfaces).is_empty(), "{way:?}: {outcome:?}");
    }
}
