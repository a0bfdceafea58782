//! What trust costs: certificates issued, peers verified and handshakes made per second of one processor, beside the
//! TLS library's own verifiers over the same chains.
//!
//! Processor time is measured, not the clock on the wall, so that other work on the machine matters little. What is
//! compared takes turns, and the median of the rounds counts.

use std::hint::black_box;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use isthmus_identity::{
    ClientAuth, ClusterAuthority, INTERMEDIATE_LIFETIME, LiveIdentity, PeerUsage, PrivateKey, RootAuthority,
    TrustBundle,
};
use isthmus_model::name::FederationDomain;
use isthmus_model::spiffe::SpiffeId;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rcgen::{KeyUsagePurpose, SanType};
use rustix::time::{ClockId, clock_gettime};
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection, version};

/// Rounds of each of the things that are compared; odd, so that there is a median.
const ROUNDS: usize = 15;
/// Handshakes in a round.
const HANDSHAKES: u32 = 300;
/// Verifications in a round.
const VERIFICATIONS: u32 = 2_000;
/// Certificates that each thread issues.
const ISSUED: u32 = 4_000;
/// What is aimed at: certificates per second of two processors.
const ISSUED_MIN: f64 = 2_000.0;
/// What is aimed at: how much more than the library's own verifier ours may take.
const COST_MAX: f64 = 0.15;

const WORKLOAD: &str = "spiffe://us-east.acme.mesh/ns/shop/sa/reviews";
const HOST: &str = "reviews.shop.svc.us-east.acme.mesh";
const LIFETIME: Duration = Duration::from_secs(3600);

fn main() {
    issuance();
    let chains = Chains::new();
    verification(&chains);
    handshakes(&chains);
}

/// Processor time of this process, or of this thread.
fn processor_time(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).expect("it counts up");
    Duration::new(seconds, u32::try_from(time.tv_nsec).expect("below a second"))
}

/// What `times` runs take in all, on this thread.
fn cost(times: u32, mut run: impl FnMut()) -> Duration {
    let before = processor_time(ClockId::ThreadCPUTime);
    (0..times).for_each(|_| run());
    processor_time(ClockId::ThreadCPUTime) - before
}

fn median(mut rounds: Vec<Duration>) -> Duration {
    rounds.sort();
    rounds[rounds.len() / 2]
}

/// The median costs of two things that take turns.
fn compare(times: u32, mut ours: impl FnMut(), mut theirs: impl FnMut()) -> (Duration, Duration) {
    ours();
    theirs();
    let rounds = (0..ROUNDS).map(|_| (cost(times, &mut ours), cost(times, &mut theirs)));
    let (ours, theirs) = rounds.unzip();
    (median(ours) / times, median(theirs) / times)
}

fn per_second(one: Duration) -> f64 {
    1.0 / one.as_secs_f64()
}

fn tell(what: &str, figure: f64, unit: &str, met: Option<bool>) {
    let verdict = match met {
        Some(true) => "  met",
        Some(false) => "  MISSED",
        None => "",
    };
    println!("  {what:<64} {figure:>10.1} {unit}{verdict}");
}

fn tell_both(what: &str, (ours, theirs): (Duration, Duration)) {
    tell(&format!("{what}, ours"), per_second(ours), "/s", None);
    tell(&format!("{what}, the library's own"), per_second(theirs), "/s", None);
    let more = ours.as_secs_f64() / theirs.as_secs_f64() - 1.0;
    tell(&format!("{what}, ours takes more (< 15)"), more * 100.0, "%", Some(more < COST_MAX));
}

// ---- Issuance ----

fn authority() -> ClusterAuthority {
    let domain: FederationDomain = "acme.mesh".parse().expect("valid");
    let trust_domain = domain.trust_domain(&"us-east".parse().expect("valid"));
    let (now, key) = (SystemTime::now(), PrivateKey::generate().expect("a key"));
    let root = RootAuthority::create(&domain, now).expect("a root");
    let csr = key.csr().expect("a request");
    let certificate = root.sign_cluster(&csr, &trust_domain, INTERMEDIATE_LIFETIME, now).expect("signed");
    ClusterAuthority::new(key, certificate).expect("matches")
}

/// Requests are checked, signature and all, and answered.
fn issuance() {
    let authority = authority();
    let id: SpiffeId = WORKLOAD.parse().expect("valid");
    let csr = PrivateKey::generate().and_then(|key| key.csr()).expect("a request");
    let issue = || drop(black_box(authority.sign(&csr, &id, None, LIFETIME, SystemTime::now()).expect("signed")));
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let alone = per_second(cost(ISSUED, issue) / ISSUED);
    let together: f64 = thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(|| cost(ISSUED, issue))).collect();
        running.into_iter().map(|thread| per_second(thread.join().expect("it issues") / ISSUED)).sum()
    });
    println!("workload certificates issued, requests checked");
    tell("per second of one processor", alone, "/s", None);
    let met = (threads >= 2).then_some(together >= ISSUED_MIN);
    tell(&format!("per second of {threads} processors, one authority (>= 2000)"), together, "/s", met);
}

// ---- Chains that both kinds of verifier take: with the SPIFFE ID, and the host name that the library asks for ----

struct Chains {
    root: CertificateDer<'static>,
    /// Leaf and intermediate.
    chain: Vec<CertificateDer<'static>>,
    own: PrivateKey,
    /// The same key, as the library takes it.
    key: PrivateKeyDer<'static>,
}

fn params(ca: Option<BasicConstraints>, names: Vec<SanType>) -> CertificateParams {
    let mut params = CertificateParams::default();
    let now = SystemTime::now();
    params.not_before = (now - LIFETIME).into();
    params.not_after = (now + LIFETIME).into();
    params.subject_alt_names = names;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    if let Some(constraints) = ca {
        params.is_ca = IsCa::Ca(constraints);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    } else {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    }
    params
}

impl Chains {
    fn new() -> Self {
        let uri = |text: &str| SanType::URI(text.try_into().expect("ASCII"));
        let key = || KeyPair::generate().expect("a key");
        let mut root = params(Some(BasicConstraints::Unconstrained), Vec::new());
        root.distinguished_name.push(rcgen::DnType::CommonName, "root");
        let root = CertifiedIssuer::self_signed(root, key()).expect("signed");
        let domain = vec![uri("spiffe://us-east.acme.mesh")];
        let mut east = params(Some(BasicConstraints::Constrained(0)), domain);
        east.distinguished_name.push(rcgen::DnType::CommonName, "east");
        let east = CertifiedIssuer::signed_by(east, key(), &root).expect("signed");
        let names = vec![uri(WORKLOAD), SanType::DnsName(HOST.try_into().expect("ASCII"))];
        // The way out of a private key of ours is a file.
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("leaf.key");
        let own = PrivateKey::generate().expect("a key");
        own.save(&file).expect("written");
        let key = PrivateKeyDer::from_pem_file(&file).expect("a key");
        let pair = KeyPair::try_from(&key).expect("a key");
        let leaf = params(None, names).signed_by(&pair, &east).expect("signed").der().clone();
        Self { root: root.der().clone(), chain: vec![leaf, east.der().clone()], own, key }
    }

    fn bundle(&self) -> TrustBundle {
        TrustBundle::new("acme.mesh".parse().expect("valid"), vec![self.root.to_vec()]).expect("a bundle")
    }

    fn live(&self) -> LiveIdentity {
        let live = LiveIdentity::new();
        live.set_credentials(self.chain.iter().map(|one| one.to_vec()).collect(), self.own.clone()).expect("matches");
        live.set_trust(self.bundle());
        live
    }

    fn own_verifiers(&self, like: &ServerConfig) -> (Arc<WebPkiServerVerifier>, Arc<dyn ClientCertVerifier>) {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).expect("a root");
        let (roots, provider) = (Arc::new(roots), like.crypto_provider().clone());
        let server = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone()).build();
        let client = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
        (server.expect("built"), client.expect("built"))
    }
}

/// The verifiers alone.
fn verification(chains: &Chains) {
    println!("peers verified");
    let live = chains.live();
    let bundle = chains.bundle();
    let (servers, clients) = chains.own_verifiers(&live.server_config(ClientAuth::Required, &[]));
    let (leaf, issuers) = chains.chain.split_first().expect("two certificates");
    let now = UnixTime::since_unix_epoch(SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970"));
    let name = ServerName::try_from(HOST).expect("a name");
    let ours = |usage| {
        let verified = bundle.verify(&chains.chain, usage, UNIX_EPOCH + Duration::from_secs(now.as_secs()));
        drop(black_box(verified.expect("genuine")));
    };
    let server = || {
        black_box(servers.verify_server_cert(leaf, issuers, &name, &[], now).expect("genuine"));
    };
    tell_both("servers", compare(VERIFICATIONS, || ours(PeerUsage::Server), server));
    let client = || {
        black_box(clients.verify_client_cert(leaf, issuers, now).expect("genuine"));
    };
    tell_both("clients", compare(VERIFICATIONS, || ours(PeerUsage::Client), client));
}

// ---- Handshakes ----

type Configs = (Arc<ClientConfig>, Arc<ServerConfig>);

/// The library's verifiers with everything else as we have it.
fn own_configs(chains: &Chains, like: &ServerConfig, resumed: bool) -> Configs {
    let (servers, clients) = chains.own_verifiers(like);
    let provider = like.crypto_provider().clone();
    let key = || chains.key.clone_key();
    let client = ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[&version::TLS13]);
    let client = client.expect("TLS 1.3").with_webpki_verifier(servers);
    let mut client = client.with_client_auth_cert(chains.chain.clone(), key()).expect("matches");
    let server = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&version::TLS13]);
    let server = server.expect("TLS 1.3").with_client_cert_verifier(clients);
    // Servers of ours show the root too.
    let shown = chains.chain.iter().chain([&chains.root]).cloned().collect();
    let mut server = server.with_single_cert(shown, key()).expect("matches");
    if resumed {
        server.session_storage = ServerSessionMemoryCache::new(1024);
        server.send_tls13_tickets = 1;
    } else {
        client.resumption = Resumption::disabled();
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
    }
    (Arc::new(client), Arc::new(server))
}

/// A whole handshake in memory, both ends, with the ticket that follows it if there is one.
fn shake((client, server): &Configs) -> HandshakeKind {
    let name = ServerName::try_from(HOST).expect("a name");
    let mut client = ClientConnection::new(client.clone(), name).expect("a connection");
    let mut server = ServerConnection::new(server.clone()).expect("a connection");
    let mut wire = Vec::with_capacity(8 << 10);
    while client.wants_write() || server.wants_write() {
        wire.clear();
        client.write_tls(&mut wire).expect("memory");
        server.read_tls(&mut wire.as_slice()).expect("memory");
        server.process_new_packets().expect("genuine");
        wire.clear();
        while server.wants_write() {
            server.write_tls(&mut wire).expect("memory");
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).expect("memory");
            client.process_new_packets().expect("genuine");
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    client.handshake_kind().expect("it is over")
}

/// Client and server together, on one processor.
fn handshakes(chains: &Chains) {
    println!("mutual TLS 1.3 handshakes, X25519MLKEM768, both ends");
    let live = chains.live();
    let server = live.server_config(ClientAuth::Required, &[]);
    let full = own_configs(chains, &server, false);
    let ours = (live.client_config(Arc::new(|_: &SpiffeId| true), &[]), server.clone());
    let shake_full = |configs| assert_eq!(shake(configs), HandshakeKind::Full);
    tell_both("full", compare(HANDSHAKES, || shake_full(&ours), || shake_full(&full)));
    let resumed = own_configs(chains, &server, true);
    shake(&resumed);
    let shake_resumed = || assert_eq!(shake(&resumed), HandshakeKind::Resumed);
    let rounds = (0..ROUNDS).map(|_| cost(HANDSHAKES, shake_resumed)).collect();
    let one = median(rounds) / HANDSHAKES;
    tell("resumed, the library's own; ours are never resumed", per_second(one), "/s", None);
}
