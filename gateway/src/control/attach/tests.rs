//! The control service over its socket, with a sidecar that is only a stream.

use std::os::unix::fs::MetadataExt as _;

use hyper_util::rt::TokioIo;
use isthmus_identity::{ClusterAuthority, INTERMEDIATE_LIFETIME, PrivateKey, RootAuthority};
use isthmus_wire::control::control_client::ControlClient;
use isthmus_wire::control::control_server::ControlServer;
use isthmus_wire::control::{Roots, Update};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tonic::transport::Endpoint;

use isthmus_model::authorization::{self, Ruleset};
use isthmus_model::catalog;
use isthmus_model::name::NamespacedName;

use super::*;
use crate::control::{ControlSocketConfig, bind};

/// More than any step takes; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where sidecars say that their workload is.
const OWN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 9));

/// A gateway's control service, and what it knows.
struct Served {
    view: watch::Sender<Arc<Snapshot>>,
    attached: Attached,
    socket: std::path::PathBuf,
    shutdown: CancellationToken,
    _registry: watch::Sender<Arc<Registry>>,
    _dir: TempDir,
}

fn site() -> Site {
    Site {
        federation: "acme.mesh".parse().expect("valid"),
        cluster: "us-east".parse().expect("valid"),
        locality: "us-east-1/a".parse().expect("valid"),
    }
}

fn authority() -> ClusterAuthority {
    let (site, now) = (site(), SystemTime::now());
    let root = RootAuthority::create(&site.federation, now).expect("made");
    let key = PrivateKey::generate().expect("made");
    let csr = key.csr().expect("made");
    let signed = root.sign_cluster(&csr, &site.trust_domain(), INTERMEDIATE_LIFETIME, now).expect("signed");
    ClusterAuthority::new(key, signed).expect("matches")
}

/// What a gateway knows at that revision of the registry.
fn knowing(roots: &[u8], revision: u64) -> Arc<Snapshot> {
    let epoch = Epoch { revision, ..Epoch::default() };
    let roots = roots.iter().map(|root| vec![*root]).collect();
    let blank = Snapshot::empty(site(), Coverage::Complete);
    Arc::new(Snapshot { generation: revision, roots, epoch, ..blank })
}

impl Served {
    fn start(known: Arc<Snapshot>) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        // The test's own user: that of a file that it made.
        let uid = std::fs::metadata(dir.path()).expect("there").uid();
        let users = Users::from([(uid, "shop/reviews".parse().expect("valid"))]);
        let config = ControlSocketConfig { path: dir.path().join("control.sock"), workloads: users.clone() };
        let (view, watched) = watch::channel(known);
        let (registry, agreed) = watch::channel(Arc::default());
        let (attached, shutdown) = (Attached::default(), CancellationToken::new());
        let service = ControlService::new(Inputs {
            site: site(),
            authority: LiveAuthority::new(authority()),
            certificate_ttl: Duration::from_secs(3600),
            users,
            registry: agreed,
            view: watched,
            attached: attached.clone(),
            shutdown: shutdown.clone(),
        });
        let server = bind(&config).expect("bound");
        tokio::spawn(server.serve(ControlServer::new(service), shutdown.clone()));
        Self { view, attached, socket: config.path, shutdown, _registry: registry, _dir: dir }
    }

    /// Attaches a sidecar that knows the registry up to `revision`.
    async fn attach(&self, revision: u64) -> Sidecar {
        self.greeted(Hello { known_revision: revision, rules_form: FORM, ..Hello::default() }).await
    }

    /// Attaches a sidecar that says `hello`.
    async fn greeted(&self, hello: Hello) -> Sidecar {
        let path = self.socket.clone();
        let connect = tower::service_fn(move |_| {
            let path = path.clone();
            async { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://gateway");
        let channel = endpoint.connect_with_connector(connect).await.expect("connected");
        let (outbox, messages) = mpsc::channel(4);
        let hello = Hello { workload_address: OWN.to_string(), ..hello };
        let first = FromSidecar { message: Some(FromSidecarMessage::Hello(hello)) };
        outbox.send(first).await.expect("room");
        let incoming = ControlClient::new(channel).attach(ReceiverStream::new(messages)).await.expect("attached");
        let mut sidecar = Sidecar { outbox, incoming: incoming.into_inner() };
        let welcome = sidecar.next().await;
        assert!(matches!(welcome, ToSidecar::Welcome(welcome) if welcome.identity.ends_with("/ns/shop/sa/reviews")));
        sidecar
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

struct Sidecar {
    outbox: mpsc::Sender<FromSidecar>,
    incoming: Streaming<FromGateway>,
}

impl Sidecar {
    async fn next(&mut self) -> ToSidecar {
        let message = tokio::time::timeout(PATIENCE, self.incoming.message()).await.expect("in time");
        message.expect("served").expect("open").message.expect("something")
    }

    /// The next update's roots and revision, and acknowledges it.
    async fn roots(&mut self) -> (Vec<Vec<u8>>, u64) {
        let ToSidecar::Update(Update { generation, roots: Some(Roots { der, revision, .. }), .. }) = self.next().await
        else {
            panic!("an update of roots")
        };
        let acknowledged = FromSidecar { message: Some(FromSidecarMessage::Acknowledged(generation)) };
        self.outbox.send(acknowledged).await.expect("attached");
        (der, revision)
    }
}

async fn trusted(attached: &Attached, root: u8) {
    let wanted = crate::control::Wanted::Trust(vec![root]);
    let trusts = async {
        while attached.lacking(&wanted) > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, trusts).await.expect("in time");
}

#[tokio::test]
async fn a_sidecar_that_knows_more_is_told_the_roots_again_once_the_gateway_has_caught_up() {
    // It knows a second root, of revision 9, which was given up since. This gateway lags.
    let served = Served::start(knowing(&[1], 8));
    let mut sidecar = served.attach(9).await;
    assert_eq!(sidecar.roots().await, (vec![vec![1]], 8));
    // It has kept what it knows: its word does not count for what it was told.
    let wanted = crate::control::Wanted::Trust(vec![1]);
    assert_eq!(served.attached.lacking(&wanted), 1);
    // The same roots as before, and news for this sidecar.
    served.view.send_replace(knowing(&[1], 10));
    assert_eq!(sidecar.roots().await, (vec![vec![1]], 10));
    trusted(&served.attached, 1).await;
}

#[tokio::test]
async fn a_sidecar_that_knows_less_is_told_the_roots_once() {
    let served = Served::start(knowing(&[1], 8));
    let mut sidecar = served.attach(3).await;
    assert_eq!(sidecar.roots().await, (vec![vec![1]], 8));
    trusted(&served.attached, 1).await;
    served.view.send_replace(knowing(&[1], 9));
    served.view.send_replace(knowing(&[1, 2], 10));
    assert_eq!(sidecar.roots().await, (vec![vec![1], vec![2]], 10), "nothing for what changed nothing");
    trusted(&served.attached, 2).await;
}

#[tokio::test]
async fn a_sidecar_that_does_not_understand_the_policies_about_its_workload_is_not_told_that_it_is_there() {
    let instance = Arc::new(catalog::Endpoint {
        address: OWN,
        ports: [(80, 8080)].into(),
        sidecar_port: Some(15006),
        workload: "shop/reviews".parse().expect("valid"),
        ready: true,
    });
    let service = isthmus_model::snapshot::Service {
        name: "shop/reviews".parse().expect("valid"),
        vip: None,
        ports: vec![catalog::ServicePort { name: None, port: 80, protocol: catalog::AppProtocol::Http }],
        federated: true,
        exported_here: true,
        endpoints: Arc::from([catalog::Endpoint::clone(&instance)]),
        remotes: Vec::new(),
        traffic: Arc::default(),
        routes: Default::default(),
    };
    let full = Snapshot::clone(&knowing(&[1], 1)).with([service]);
    let nobody = Ruleset { action: authorization::Action::Allow, rules: Vec::new() };
    let policy = authorization::Authorization { selects: vec![authorization::Selector::All], says: Arc::new(nobody) };
    let name = NamespacedName { namespace: "shop".parse().expect("valid"), name: "nobody".to_owned() };
    let guarded = Snapshot { authorizations: [(name, policy)].into_iter().collect(), ..full.clone() };
    let told = async |served: &Served, rules_form: u32| {
        let mut sidecar = served.greeted(Hello { rules_form, ..Hello::default() }).await;
        let ToSidecar::Update(update) = sidecar.next().await else { panic!("an update") };
        let instances = update.services.iter().map(|service| service.endpoints.len()).sum::<usize>();
        (instances, update.authorizations.map_or(0, |told| told.policies.len()))
    };
    let served = Served::start(Arc::new(full));
    assert_eq!(told(&served, 0).await, (1, 0), "nothing that it could leave out");
    served.view.send_replace(Arc::new(guarded));
    assert_eq!(told(&served, FORM).await, (1, 1));
    assert_eq!(told(&served, 0).await, (0, 0), "it would let in whom the policy does not");
}
