//! Hostile first contact with every TLS port: each is refused or timed out within its bound, memory stays
//! bounded, and good traffic goes on.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use isthmus_federation::data_dir::DataDir;
use isthmus_identity::{LiveIdentity, PrivateKey, RootAuthority, TrustBundle};
use isthmus_model::spiffe::SpiffeId;
use isthmus_tests::harness::Loopback;
use isthmus_tests::hostile::client_hello::{self, Reading};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{interval, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::federation::{Cluster, DOMAIN, SOON, metric, port, resident, start};
use crate::load::Load;
use crate::workload::{Client, INBOUND, Workload, answers_from, call};

/// A handshake's bound, everywhere: five seconds. With what a slow machine adds.
const REFUSED_WITHIN: Duration = Duration::from_secs(8);
/// What a port may answer that is no handshake: a TLS alert or two.
const ALERT_LEN_MAX: usize = 64;
/// How a record begins that is a ServerHello (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;
/// Connections that say nothing.
const IDLE: usize = 10_000;
/// Addresses that they come from.
const SOURCES: usize = 8;
/// How much a process may grow by all of it. It holds 1,024 unproven connections and their buffers.
const GROWTH_MAX: u64 = 64 << 20;

/// One TLS port of the process with that id.
struct Surface {
    what: &'static str,
    address: SocketAddr,
    /// A server name that is right there.
    sni: &'static str,
    /// Whether other names lead nowhere.
    routes_by_name: bool,
    /// Whether the name is looked at before TLS is ended. At the others the library may begin a handshake with what it takes for no
    /// name, or for another. That is safe: `inbound` has a session only for its own services' names, without a dot behind, and `control`
    /// is for whoever has a certificate or a token, whatever they call it.
    looks_first: bool,
    pid: u32,
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_first_contact_is_refused_in_time_and_good_traffic_goes_on() {
    let [mut east, mut west] = start(["us-east", "us-west"]).await;
    let details = Workload::exported(&west, "details", 20).await;
    let client = Client::run(&east, "productpage", 30).await;
    let neighbour = Client::run(&west, "ratings", 31).await;
    answers_from(client.outbound(), "details", "us-west").await;
    let gateway = west.process().pid().expect("it runs");
    let surfaces = [
        Surface {
            what: "east-west",
            address: west.at(port::EAST_WEST),
            sni: "gateway.us-west.acme.mesh",
            routes_by_name: true,
            looks_first: true,
            pid: gateway,
        },
        Surface {
            what: "inbound",
            address: details.at(INBOUND),
            sni: "details.shop.svc.us-west.acme.mesh",
            routes_by_name: true,
            looks_first: false,
            pid: details.sidecar.as_ref().and_then(|sidecar| sidecar.pid()).expect("it runs"),
        },
        Surface {
            what: "control",
            address: west.at(port::CONTROL),
            sni: "gateway.us-west.acme.mesh",
            routes_by_name: false,
            looks_first: false,
            pid: gateway,
        },
    ];
    let load = Load::start(client.outbound(), "details", 40);
    load.reaches("us-west").await;
    let strangers = Strangers::new(&east);
    for surface in &surfaces {
        let before = resident(surface.pid);
        let Surface { what, address, sni, looks_first, .. } = *surface;
        let odd = odd_names(what, address, sni, looks_first);
        tokio::join!(broken_hellos(surface), odd, slow_hellos(surface), strangers.try_all(surface));
        grown_little(surface, before);
    }

    // Ten thousand silent connections to each; while they are there, somebody new gets through.
    raise_file_limit();
    let sources = Loopback::block();
    let crowd = Crowd::gather(&surfaces[0], &sources).await;
    let story = call(east.at(port::EGRESS), "details").await.expect("a first session through the crowd");
    assert_eq!(story["cluster"], "us-west");
    crowd.disperse(&surfaces[0]).await;
    let crowd = Crowd::gather(&surfaces[1], &sources).await;
    call(neighbour.outbound(), "details").await.expect("a first session through the crowd");
    crowd.disperse(&surfaces[1]).await;
    let crowd = Crowd::gather(&surfaces[2], &sources).await;
    let late = Client::run(&west, "late", 32).await;
    call(late.outbound(), "details").await.expect("a sidecar that attached through the crowd");
    crowd.disperse(&surfaces[2]).await;

    // Nothing that was good suffered, nobody ran out of descriptors, and everything turned away was counted.
    for process in [west.process(), details.sidecar.as_ref().expect("it runs")] {
        assert!(!process.stderr().contains("cannot accept"), "{}", process.stderr());
    }
    let report = load.stop().await;
    assert!(report.failed.is_empty(), "{:#?}", report.failed);
    for reason in ["timeout", "tls", "name", "displaced"] {
        let counted = metric(west.at(port::METRICS), "isthmus_handshakes_failed_total", reason).await;
        assert!(counted > Some(0.0), "{reason}: {counted:?}");
    }
    assert!(east.process().pid().is_some() && west.status().await["clusters"]["up"] == 2);
}

/// Waits for the other side to close, and returns what it said until then.
async fn hears_until_closed(stream: &mut TcpStream, what: &str) -> Vec<u8> {
    let mut heard = Vec::new();
    let read = timeout(REFUSED_WITHIN, stream.take(1 << 20).read_to_end(&mut heard)).await;
    assert!(read.is_ok(), "{what}: still open after {REFUSED_WITHIN:?}");
    heard
}

/// A ClientHello with 64 KiB of extensions, in as many records as that takes (RFC 8446 §5.1).
fn swollen_hello() -> Vec<u8> {
    const RECORD: usize = 1 << 14;
    let head = [&[3, 3][..], &[0x5a; 32], &[0, 0, 2, 0x13, 0x01, 1, 0, 0xff, 0xff]].concat();
    // One unknown extension that takes all.
    let hello = [&head[..], &[0xfa, 0xfa, 0xff, 0xfb], &[0; 0xfffb]].concat();
    let length = u32::try_from(hello.len()).expect("it fits").to_be_bytes();
    let message = [&[1][..], &length[1..], &hello].concat();
    let record = |piece: &[u8]| {
        let length = u16::try_from(piece.len()).expect("it fits").to_be_bytes();
        [&[22, 3, 1][..], &length, piece].concat()
    };
    message.chunks(RECORD).flat_map(record).collect()
}

/// What is no ClientHello at all, or too much of one.
async fn broken_hellos(surface: &Surface) {
    let swollen = swollen_hello();
    for (what, bytes) in [
        ("64 KiB of extensions", &swollen[..]),
        ("plaintext HTTP/1", &b"GET / HTTP/1.1\r\nHost: details.shop.svc.clusterset.local\r\n\r\n"[..]),
        ("plaintext HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"),
        ("16 KiB of zeros", &[0; 16 * 1024]),
        ("a record that is too long", &[22, 3, 1, 0xff, 0xff, 1, 0, 0xff, 0xff]),
    ] {
        let began = Instant::now();
        let mut stream = TcpStream::connect(surface.address).await.expect("it listens");
        // The other side may close before it has read everything.
        let _ = stream.write_all(bytes).await;
        let heard = hears_until_closed(&mut stream, what).await;
        let alert_only = heard.len() <= ALERT_LEN_MAX && !heard.starts_with(b"HTTP");
        assert!(alert_only, "{} {what}: {:?}", surface.what, String::from_utf8_lossy(&heard));
        println!("{}: {what}: closed after {:?}", surface.what, began.elapsed());
    }
}

/// Row 12: ClientHellos that are in order but for the names that they ask for. `looks_first` as in [`Surface`].
pub(crate) async fn odd_names(at: &str, address: SocketAddr, sni: &str, looks_first: bool) {
    let hello = client_hello(sni).await;
    for client_hello::Case { what, names, reading } in client_hello::cases(sni) {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        // The other side may close before it has read everything.
        let _ = stream.write_all(&client_hello::with_names(&hello, &names)).await;
        let mut kind = [0];
        let first = timeout(REFUSED_WITHIN, stream.read(&mut kind)).await;
        assert!(first.is_ok(), "{at}: {what}: nothing after {REFUSED_WITHIN:?}");
        let begins = matches!(first, Ok(Ok(1))) && kind == [HANDSHAKE];
        println!("{at}: {what}: {}", if begins { "a handshake" } else { "refused" });
        match reading {
            Reading::Right => assert!(begins, "{at}: {what}: {first:?} {kind:?}"),
            Reading::Lenient if !looks_first => {}
            Reading::Lenient | Reading::NoName => {
                assert!(!begins, "{at}: {what}: a handshake began");
                let heard = hears_until_closed(&mut stream, what).await;
                assert!(heard.len() < ALERT_LEN_MAX, "{at}: {what}: {heard:?}");
            }
        }
    }
}

/// What could become a ClientHello, but never does: half of one and then silence, and one byte at a time.
async fn slow_hellos(surface: &Surface) {
    let hello = client_hello(surface.sni).await;
    let half = async {
        let mut stream = TcpStream::connect(surface.address).await.expect("it listens");
        stream.write_all(&hello[..hello.len() / 2]).await.expect("written");
        hears_until_closed(&mut stream, "half a ClientHello").await;
    };
    let silence = async {
        let mut stream = TcpStream::connect(surface.address).await.expect("it listens");
        hears_until_closed(&mut stream, "silence").await;
    };
    let dribble = async {
        let stream = TcpStream::connect(surface.address).await.expect("it listens");
        let (mut reader, mut writer) = stream.into_split();
        let mut heard = Vec::new();
        let bytes = async {
            let mut turn = interval(Duration::from_millis(20));
            for byte in &hello {
                turn.tick().await;
                if writer.write_all(&[*byte]).await.is_err() {
                    break;
                }
            }
        };
        let closed = timeout(REFUSED_WITHIN, reader.read_to_end(&mut heard));
        let (closed, ()) = tokio::join!(closed, bytes);
        assert!(closed.is_ok(), "{}: byte by byte: still open", surface.what);
        assert!(heard.len() <= ALERT_LEN_MAX, "{}: it never became a handshake", surface.what);
    };
    tokio::join!(half, silence, dribble);
}

/// A real ClientHello, as a client of ours sends it.
async fn client_hello(sni: &str) -> Vec<u8> {
    let (mut ours, theirs) = tokio::io::duplex(1 << 16);
    let config = LiveIdentity::new().client_config(Arc::new(|_: &SpiffeId| true), &[b"h2"]);
    let name = ServerName::try_from(sni.to_owned()).expect("a name");
    let connecting = tokio::spawn(async move { TlsConnector::from(config).connect(name, theirs).await.is_ok() });
    let mut hello = vec![0; 5];
    ours.read_exact(&mut hello).await.expect("a record's header");
    let length = usize::from(u16::from_be_bytes([hello[3], hello[4]]));
    hello.resize(5 + length, 0);
    ours.read_exact(&mut hello[5..]).await.expect("the record");
    connecting.abort();
    hello
}

/// Clients that trust this federation and are not trusted by it.
struct Strangers {
    roots: Vec<Vec<u8>>,
}

impl Strangers {
    fn new(founder: &Cluster) -> Self {
        let data = DataDir::open(&founder.path("data")).expect("the founder's");
        let node = data.read_node().expect("readable").expect("a member's");
        Self { roots: node.roots().expect("they decode") }
    }

    /// Without a certificate of its own.
    fn nobody(&self) -> LiveIdentity {
        let identity = LiveIdentity::new();
        let domain = DOMAIN.parse().expect("valid");
        identity.set_trust(TrustBundle::new(domain, self.roots.clone()).expect("a bundle"));
        identity
    }

    /// With one that says `us-east`, from a federation of the same name and another root.
    fn impostor(&self) -> LiveIdentity {
        let domain = DOMAIN.parse().expect("valid");
        let now = SystemTime::now();
        let root = RootAuthority::create(&domain, now).expect("a root");
        let trust_domain = domain.trust_domain(&"us-east".parse().expect("valid"));
        let id = SpiffeId::gateway(trust_domain, "gw-1".parse().expect("valid"));
        let own = PrivateKey::generate().expect("a key");
        let csr = own.csr().expect("a request");
        let leaf = root.sign_gateway(&csr, &id, Duration::from_secs(3600), now).expect("signed");
        let identity = self.nobody();
        identity.set_credentials(vec![leaf], own).expect("credentials");
        identity
    }

    async fn try_all(&self, surface: &Surface) {
        let Surface { sni, routes_by_name, .. } = *surface;
        assert!(!session(surface, &self.impostor(), sni).await, "a certificate from another root");
        if !routes_by_name {
            return;
        }
        assert!(!session(surface, &self.nobody(), sni).await, "no certificate");
        // rustls sends no name for an address.
        for name in
            ["127.0.0.1", "ghost.shop.svc.us-west.acme.mesh", "details.shop.svc.us-east.acme.mesh", "www.example.com"]
        {
            assert!(!session(surface, &self.nobody(), name).await, "{}: {name}", surface.what);
        }
    }
}

/// Whether the port takes an HTTP/2 session from that identity: it then answers with its SETTINGS frame.
async fn session(surface: &Surface, identity: &LiveIdentity, name: &str) -> bool {
    takes_session(surface.address, identity.client_config(Arc::new(|_: &SpiffeId| true), &[b"h2"]), name).await
}

/// The same for any TLS client.
pub(crate) async fn takes_session(address: SocketAddr, config: Arc<ClientConfig>, name: &str) -> bool {
    let attempt = async {
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let mut tls = TlsConnector::from(config).connect(name, stream).await?;
        tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
        tls.read_u8().await
    };
    timeout(REFUSED_WITHIN, attempt).await.expect("a session is taken or refused, it does not hang").is_ok()
}

/// Connections that were made and say nothing.
struct Crowd {
    silent: Vec<TcpStream>,
    before: u64,
}

impl Crowd {
    async fn gather(surface: &Surface, sources: &Loopback) -> Self {
        let (before, began) = (resident(surface.pid), Instant::now());
        let mut silent = Vec::with_capacity(IDLE);
        for number in 0..IDLE {
            let source: IpAddr = sources.ip(1 + u8::try_from(number % SOURCES).expect("few")).into();
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.bind((source, 0).into()).expect("a free port");
            let connected = timeout(SOON, socket.connect(surface.address)).await.expect("the port accepts");
            silent.push(connected.expect("the port accepts"));
        }
        println!("{}: {IDLE} silent connections in {:?}", surface.what, began.elapsed());
        Self { silent, before }
    }

    /// Every one of them is closed by the other side within the bound, whatever room there was.
    async fn disperse(self, surface: &Surface) {
        grown_little(surface, self.before);
        let until = Instant::now() + REFUSED_WITHIN;
        for mut stream in self.silent {
            let mut byte = [0];
            let left = until.saturating_duration_since(Instant::now());
            let read = timeout(left, stream.read(&mut byte)).await;
            assert!(matches!(read, Ok(Ok(0) | Err(_))), "{}: a silent connection is still open", surface.what);
        }
        grown_little(surface, self.before);
    }
}

fn raise_file_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    assert!(maximum.is_none_or(|most| most > 12_000), "the hard limit of open files is too low for this test");
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("up to the hard limit");
}

fn grown_little(surface: &Surface, before: u64) {
    let now = resident(surface.pid);
    println!("{}: {} MiB, before {} MiB", surface.what, now >> 20, before >> 20);
    assert!(now < before + GROWTH_MAX, "{}: grew from {before} to {now}", surface.what);
}
