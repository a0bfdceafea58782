//! Clients that do harm, and others beside them on the same sessions, who must not notice.

#![allow(missing_docs)]

mod federation;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use federation::{
    ANY_PORT, Federation, HOST, HTTP, TCP, echo, endpoint, exchange, get, read_head, remote, reviews, service, status,
};
use isthmus_model::catalog::AppProtocol;
use isthmus_model::locality::Proximity::OtherRegion;
use isthmus_model::traffic::Limits;
use isthmus_proxy::metrics::{Direction, DirectionLabels};
use isthmus_proxy::outbound::Mode;
use isthmus_tests::harness::wait_until;
use isthmus_tests::hostile::frames::{END_HEADERS, END_STREAM, HEADERS, Outcome, Peer, WINDOW_UPDATE, frame, request};
use rustix::process::{Resource, getrlimit};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

/// More than any buffer on the way.
const LARGE: usize = 16 << 20;
/// Clients that ask for that and do not read it.
const STALLED: usize = 200;
const SOON: Duration = Duration::from_secs(10);

/// An application whose `/large` is large.
async fn app() -> SocketAddr {
    let listener = TcpListener::bind(ANY_PORT).await.expect("bound");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    address
}

async fn answer(stream: TcpStream) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    while let Some(line) = lines.next_line().await? {
        let length = if line.starts_with("GET /large") { LARGE } else { 2 };
        while lines.next_line().await?.is_some_and(|line| !line.is_empty()) {}
        let stream = lines.get_mut();
        stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes()).await?;
        stream.write_all(&vec![b'x'; length]).await?;
    }
    Ok(())
}

/// Row 5 of what peers will throw at it.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_read_stall_nobody_else() {
    let federation = Federation::found(&["us-east", "us-west"]);
    let west = federation.workload("us-west", app().await, echo().await).await;
    let gateway = federation::splicing_gateway(west.address).await;
    let east = federation.outbound("us-east", reviews(vec![], vec![remote("us-west", OtherRegion, gateway)])).await;
    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        let mut stream = TcpStream::connect(east.address).await.expect("connected");
        let request = format!("GET http://{HOST}:{HTTP}/large HTTP/1.1\r\nHost: {HOST}:{HTTP}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("written");
        assert_eq!(status(&read_head(&mut stream).await), "200");
        stalled.push(stream);
    }
    for _ in 0..STALLED {
        let answer = timeout(SOON, get(east.address, "/small")).await.expect("not stalled");
        assert_eq!(status(&answer), "200", "{answer}");
    }
}

/// A client of HTTP/2 reads its connection whatever becomes of its streams: one that does not answers no ping either.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_http2_that_reads_nothing_is_given_up_within_half_a_minute_or_so() {
    let federation = Federation::found(&["us-east"]);
    let local = federation.workload("us-east", app().await, echo().await).await;
    let east = federation.outbound("us-east", reviews(vec![local.endpoint.clone()], vec![])).await;
    is_given_up(&east, east.address).await;
}

/// Nor is it less so where nobody said that it would speak HTTP/2.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_given_up_as_soon_on_a_port_that_was_not_known_to_speak_http() {
    let federation = Federation::found(&["us-east"]);
    let mut unsaid = reviews(vec![endpoint("shop/legacy", app().await, echo().await, None)], vec![]);
    unsaid.ports.iter_mut().for_each(|port| port.protocol = AppProtocol::Detect);
    let east = federation.outbound("us-east", unsaid).await;
    let address = federation.listen_as(&east, Mode::Service { name: service(), port: HTTP });
    is_given_up(&east, address).await;
}

async fn is_given_up(east: &federation::Outbound, address: SocketAddr) {
    let labels = DirectionLabels { direction: Direction::Outbound };
    let open = east.plane.metrics().connections.get_or_create_owned(&labels);
    let stream = TcpStream::connect(address).await.expect("connected");
    // Windows as large as they may be, so that what is answered is written.
    let mut peer = Peer::open_with(stream, &[0, 4, 0x7f, 0xff, 0xff, 0xff]).await;
    peer.send(&frame(WINDOW_UPDATE, 0, 0, &0x7000_0000_u32.to_be_bytes())).await;
    for stream in [1, 3, 5, 7] {
        let block = request("GET", "/large", &format!("{HOST}:{HTTP}"));
        peer.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)).await;
    }
    // Only then are answers on their way, and it is counted. What they say depends on whether the application speaks HTTP/2.
    let outcome = peer.outcome(1).await;
    assert!(matches!(outcome, Outcome::Answered(_)), "{outcome:?}");
    let began = Instant::now();
    wait_until(Duration::from_secs(60), "it to be given up", async || open.get() == 0).await;
    assert!(began.elapsed() > Duration::from_secs(10), "it had time to read");
    drop(peer);
}

/// Has each connection say something and hear it back, so that all have their way.
async fn say(streams: &mut [TcpStream]) {
    for stream in streams {
        stream.write_all(b"x").await.expect("open");
        assert_eq!(timeout(SOON, stream.read_u8()).await.expect("in time").expect("echoed"), b'x');
    }
}

/// A connection of one of several clients.
async fn connect_from(client: usize, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    let host = u8::try_from(client + 1).expect("few");
    socket.bind(SocketAddr::from(([127, 0, 0, host], 0))).expect("an address of the loopback");
    socket.connect(to).await.expect("connected")
}

/// Somebody has to speak first, and it may be the service: so each connection to its address opens one behind at once. There
/// are as many as the service may have, and whoever comes then is closed and not kept.
#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_to_a_virtual_address_are_as_many_as_a_service_may_have() {
    isthmus_proxy::accept::raise_file_limit();
    let most = Limits::default().connections;
    // Each is four files of this process: both ends of two connections. The other tests have some too.
    if getrlimit(Resource::Nofile).current.is_some_and(|files| files < 4 * most as u64 + 3_000) {
        return eprintln!("SKIPPED: the hard limit of open files is too low for {most} connections");
    }
    let federation = Federation::found(&["us-east"]);
    let bare = endpoint("shop/legacy", app().await, echo().await, None);
    let east = federation.outbound("us-east", reviews(vec![bare], vec![])).await;
    let bytes = federation.listen_as(&east, Mode::Service { name: service(), port: TCP });
    let requests = federation.listen_as(&east, Mode::Service { name: service(), port: HTTP });
    // One client has a quarter of them and no more.
    let mut silent = Vec::new();
    for place in 0..most {
        silent.push(connect_from(place / most.div_ceil(4), bytes).await);
        if place + 1 == most.div_ceil(4) {
            say(&mut silent).await;
            let mut greedy = connect_from(0, bytes).await;
            assert!(timeout(SOON, greedy.read_u8()).await.expect("in time").is_err(), "closed");
        }
    }
    say(&mut silent).await;
    let mut surplus = connect_from(4, bytes).await;
    assert!(timeout(SOON, surplus.read_u8()).await.expect("in time").is_err(), "closed");
    // Requests have places of their own.
    let asked = format!("GET /small HTTP/1.1\r\nHost: {HOST}:{HTTP}\r\nConnection: close\r\n\r\n");
    assert_eq!(status(&exchange(requests, &asked).await), "200");
    drop(silent.pop());
    let again = async {
        loop {
            let mut stream = connect_from(4, bytes).await;
            if stream.write_all(b"x").await.is_ok() && stream.read_u8().await.is_ok() {
                return;
            }
        }
    };
    timeout(SOON, again).await.expect("a place that was left is given again");
}
