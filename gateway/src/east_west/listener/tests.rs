//! The port behind a load balancer: whose a connection is, and at whose cost.

use std::io;
use std::net::IpAddr;

use isthmus_federation::caller;
use isthmus_proxy::accept::raise_file_limit;
use isthmus_proxy::metrics::{DirectionLabels, ReasonLabels};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::transport::server::Connected;

use super::*;
use crate::fixture::gateway_and_client;

/// Listed as a load balancer.
const BALANCER: [u8; 4] = [127, 0, 0, 2];
/// Not listed.
const SOMEBODY: [u8; 4] = [127, 0, 0, 3];
/// How long anything may take that is expected to happen.
const SOON: Duration = Duration::from_secs(20);
/// How many connections of one source may be pending, and one more.
const TOO_MANY: usize = 513;
/// How many of all sources may be.
const PENDING_MAX: usize = 1_024;

/// A running port.
struct Port {
    address: SocketAddr,
    metrics: Arc<Metrics>,
    newcomers: mpsc::Receiver<Opened>,
    client: TlsConnector,
    shutdown: CancellationToken,
}

impl Port {
    fn serve() -> Self {
        let (plane, client) = gateway_and_client();
        let (newcomer_server, newcomers) = mpsc::channel(1);
        let (gateway_server, _) = mpsc::channel(1);
        let load_balancers = LoadBalancers::new(&[IpAddr::from(BALANCER).into()], "here");
        let listener = EastWestListener::bind(([0, 0, 0, 0], 0).into(), load_balancers).expect("a port");
        let address = ([127, 0, 0, 1], listener.local_addr().port()).into();
        let (metrics, shutdown) = (plane.metrics().clone(), CancellationToken::new());
        tokio::spawn(listener.serve(plane, gateway_server, newcomer_server, shutdown.clone()));
        Self { address, metrics, newcomers, client, shutdown }
    }

    /// A connection from `source` that begins with `words`.
    async fn connect(&self, source: [u8; 4], words: &[u8]) -> TcpStream {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((source, 0).into()).expect("an address of the loopback");
        let mut stream = socket.connect(self.address).await.expect("connected");
        stream.write_all(words).await.expect("written");
        stream
    }

    async fn handshake(&self, source: [u8; 4], words: &[u8]) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from("join.acme.mesh").expect("a name");
        let stream = self.connect(source, words).await;
        timeout(SOON, self.client.connect(name, stream)).await.expect("it is taken or closed")
    }

    /// Whose the next session is, as the server for newcomers is told.
    async fn newcomer(&mut self) -> IpAddr {
        let stream = timeout(SOON, self.newcomers.recv()).await.expect("in time").expect("handed over");
        let mut request = tonic::Request::new(());
        request.extensions_mut().insert(stream.connect_info());
        caller::source(&request).expect("known")
    }

    fn failed(&self, reason: Reason) -> u64 {
        self.metrics.handshakes_failed.get_or_create(&ReasonLabels { reason }).get()
    }

    fn open(&self) -> i64 {
        self.metrics.connections.get_or_create(&DirectionLabels { direction: Direction::EastWest }).get()
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(timeout(SOON, waiting).await.is_ok(), "{what}");
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

async fn is_closed(mut stream: TcpStream) {
    let read = timeout(SOON, stream.read(&mut [0; 64])).await.expect("it is closed at once");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
}

fn version_1(client: [u8; 4]) -> Vec<u8> {
    format!("PROXY TCP4 {} 127.0.0.1 40000 15443\r\n", IpAddr::from(client)).into_bytes()
}

fn version_2(command: u8, client: [u8; 4]) -> Vec<u8> {
    let addresses = [&client[..], &[127, 0, 0, 1, 0x9C, 0x40, 0x3C, 0x53]].concat();
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[0x20 | command, 0x11, 0, 12], &addresses].concat()
}

#[tokio::test]
async fn a_load_balancers_connection_is_its_clients() {
    let mut port = Port::serve();
    let client = [192, 0, 2, 7];
    for (source, words, expected) in [
        (BALANCER, version_1(client), client),
        (BALANCER, version_2(1, client), client),
        // Its own, to see whether it is answered.
        (BALANCER, version_2(0, client), BALANCER),
        (BALANCER, b"PROXY UNKNOWN\r\n".to_vec(), BALANCER),
        (SOMEBODY, Vec::new(), SOMEBODY),
    ] {
        let session = port.handshake(source, &words).await.expect("a handshake");
        assert_eq!(port.newcomer().await, IpAddr::from(expected), "{}", words.escape_ascii());
        drop(session);
    }
    port.until("every connection to be over", |port| port.open() == 0).await;
}

#[tokio::test]
async fn a_load_balancer_has_to_say_whose_a_connection_is_and_nobody_else_may() {
    let port = Port::serve();
    port.handshake(BALANCER, b"").await.expect_err("a ClientHello is no header");
    port.until("the missing header to be counted", |port| port.failed(Reason::ProxyHeader) == 1).await;
    is_closed(port.connect(BALANCER, b"PROXY TCP4 192.0.2.7\r\n").await).await;
    port.until("the wrong header to be counted", |port| port.failed(Reason::ProxyHeader) == 2).await;
    // A header within a header, as two load balancers in a row would send, is no ClientHello.
    is_closed(port.connect(BALANCER, &[version_1(SOMEBODY), version_1(SOMEBODY)].concat()).await).await;
    for words in [version_1(BALANCER), version_2(1, BALANCER)] {
        is_closed(port.connect(SOMEBODY, &words).await).await;
    }
    port.until("each to be counted as no TLS", |port| port.failed(Reason::Tls) == 3).await;
    // Who only looks whether anything listens is not counted, before and behind a header.
    drop((port.connect(BALANCER, b"").await, port.connect(BALANCER, &version_1(SOMEBODY)).await));
    port.until("every connection to be over", |port| port.open() == 0).await;
    assert_eq!((port.failed(Reason::ProxyHeader), port.failed(Reason::Tls)), (2, 3));
}

#[tokio::test]
async fn who_is_silent_behind_a_load_balancer_displaces_nobody_but_itself() {
    raise_file_limit();
    let mut port = Port::serve();
    let (hostile, good) = ([192, 0, 2, 66], [192, 0, 2, 7]);
    let early = port.connect(BALANCER, &version_1(good)).await;
    let mut crowd = Vec::new();
    for _ in 0..TOO_MANY {
        crowd.push(port.connect(BALANCER, &version_1(hostile)).await);
    }
    port.until("its oldest to make room", |port| port.failed(Reason::Displaced) == 1).await;
    // A good client that was there before the crowd, and one that comes now.
    port.handshake(BALANCER, &version_1(good)).await.expect("a handshake");
    assert_eq!(port.newcomer().await, IpAddr::from(good));
    let name = ServerName::try_from("join.acme.mesh").expect("a name");
    port.client.connect(name, early).await.expect("a handshake");
    assert_eq!(port.newcomer().await, IpAddr::from(good));
    assert_eq!(port.failed(Reason::Displaced), 1);
}

#[tokio::test]
async fn a_load_balancer_that_is_silent_itself_makes_room_first() {
    raise_file_limit();
    let mut port = Port::serve();
    let mut crowd = Vec::new();
    for _ in 0..=PENDING_MAX {
        crowd.push(port.connect(BALANCER, b"").await);
    }
    port.until("its oldest to make room", |port| port.failed(Reason::Displaced) == 1).await;
    port.handshake(SOMEBODY, b"").await.expect("a handshake");
    assert_eq!(port.newcomer().await, IpAddr::from(SOMEBODY));
    port.until("the next to make room", |port| port.failed(Reason::Displaced) == 2).await;
}
