//! One sidecar's stream, from hello to the end.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use isthmus_federation::caller::{self, Proof};
use isthmus_identity::LiveAuthority;
use isthmus_model::authorization::FORM;
use isthmus_model::registry::token::Digest;
use isthmus_model::registry::{Epoch, Registry};
use isthmus_model::snapshot::{Coverage, Site, Snapshot};
use isthmus_model::spiffe::SpiffeId;
use isthmus_model::time::UnixMillis;
use isthmus_proxy::unix_socket;
use isthmus_wire::control::from_gateway::Message as ToSidecar;
use isthmus_wire::control::from_sidecar::Message as FromSidecarMessage;
use isthmus_wire::control::{Certificate, FromGateway, FromSidecar, Hello, Renew, Welcome, control_server};
use isthmus_wire::view::{Asked, difference, is_overtaxed};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::attached::{Attached, Seat};
use super::warrant::{Shown, Users, Warrant, authenticate};

/// How long a new stream may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Messages that may wait for a slow sidecar; updates are merged while it does not read.
const WAITING_MAX: usize = 4;
/// Certificates that one stream may ask for in [`CERTIFICATE_WINDOW`]: renewal needs one in hours.
const CERTIFICATES_PER_WINDOW: u32 = 10;
const CERTIFICATE_WINDOW: Duration = Duration::from_secs(60);

/// What sidecars are served from.
pub struct Inputs {
    /// The own cluster.
    pub site: Site,
    /// Signs their certificates.
    pub authority: LiveAuthority,
    /// How long these are good for.
    pub certificate_ttl: Duration,
    /// Who comes over the control socket.
    pub users: Users,
    /// Where tokens are looked up.
    pub registry: watch::Receiver<Arc<Registry>>,
    /// What they are told, each its part.
    pub view: watch::Receiver<Arc<Snapshot>>,
    /// Who is attached.
    pub attached: Attached,
    /// Ends every stream.
    pub shutdown: CancellationToken,
}

/// Serves sidecars of the own cluster.
pub struct ControlService(Arc<Inputs>);

impl ControlService {
    /// Serves what `inputs` say.
    #[must_use]
    pub fn new(inputs: Inputs) -> Self {
        Self(Arc::new(inputs))
    }
}

/// An attached sidecar.
struct Session {
    inputs: Arc<Inputs>,
    identity: SpiffeId,
    warrant: Warrant,
    asked: Asked,
    /// Whether it was told in the log that the sidecar does not understand what is about its workload.
    overtaxed: bool,
    seat: Seat,
    /// What the sidecar has been sent.
    sent: Snapshot,
    /// How late the state is that it trusts by, if that is later than this gateway's: then it keeps what it knows.
    knows_later: Option<Epoch>,
    /// The generation with which it was told the roots, until it acknowledges that.
    roots_told: Option<u64>,
    certificates: u32,
    window_began: tokio::time::Instant,
}

type Outgoing = mpsc::Sender<Result<FromGateway, Status>>;

impl Session {
    async fn run(mut self, mut incoming: Streaming<FromSidecar>, outgoing: &Outgoing) -> Result<(), Status> {
        let (mut view, mut registry) = (self.inputs.view.clone(), self.inputs.registry.clone());
        let shutdown = self.inputs.shutdown.clone();
        let first = view.borrow_and_update().clone();
        self.update(&first, outgoing).await?;
        self.renew(outgoing).await?;
        loop {
            tokio::select! {
                () = self.seat.asked() => self.renew(outgoing).await?,
                () = shutdown.cancelled() => return Err(Status::unavailable("the gateway is stopping")),
                () = outgoing.closed() => return Ok(()),
                message = incoming.message() => match message? {
                    None => return Ok(()),
                    Some(message) => {
                        if self.take(message, outgoing).await? {
                            let current = view.borrow().clone();
                            self.update(&current, outgoing).await?;
                        }
                    }
                },
                changed = registry.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let current = registry.borrow_and_update().clone();
                    self.warrant.still_holds(&self.inputs.site.cluster, &current, SystemTime::now())?;
                }
                changed = view.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let current = view.borrow_and_update().clone();
                    self.update(&current, outgoing).await?;
                }
            }
        }
    }

    /// Whether the sidecar wants to know more since then.
    async fn take(&mut self, message: FromSidecar, outgoing: &Outgoing) -> Result<bool, Status> {
        match message.message {
            Some(FromSidecarMessage::CertificateRequest(csr)) => {
                let (chain, issuer) = self.sign(&csr)?;
                send(outgoing, ToSidecar::Certificate(Certificate { chain })).await?;
                self.seat.certified(issuer);
                Ok(false)
            }
            Some(FromSidecarMessage::Ask(ask)) => {
                self.asked.add(&ask).map_err(|error| Status::resource_exhausted(error.to_string()))?;
                Ok(true)
            }
            Some(FromSidecarMessage::Acknowledged(generation)) => {
                tracing::trace!(identity = %self.identity, generation, "a sidecar is up to date");
                if self.knows_later.is_none() && self.roots_told.take_if(|told| *told <= generation).is_some() {
                    self.seat.trusts(self.sent.roots.clone());
                }
                Ok(false)
            }
            Some(FromSidecarMessage::Hello(_)) => Err(Status::invalid_argument("a second hello")),
            None => Err(Status::invalid_argument("an empty message")),
        }
    }

    /// A certificate for the sidecar, and the key of the authority that signed it.
    fn sign(&mut self, csr: &[u8]) -> Result<(Vec<Vec<u8>>, Digest), Status> {
        if self.window_began.elapsed() > CERTIFICATE_WINDOW {
            (self.certificates, self.window_began) = (0, tokio::time::Instant::now());
        }
        self.certificates += 1;
        if self.certificates > CERTIFICATES_PER_WINDOW {
            return Err(Status::resource_exhausted("too many certificate requests"));
        }
        let (lifetime, now) = (self.inputs.certificate_ttl, SystemTime::now());
        self.warrant.still_holds(&self.inputs.site.cluster, &self.inputs.registry.borrow().clone(), now)?;
        let authority = self.inputs.authority.current();
        let signed = authority.sign(csr, &self.identity, self.warrant.voucher(), lifetime, now);
        let chain = signed.map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok((chain, authority.key_digest()))
    }

    /// Tells the sidecar to renew its certificate, if another authority signs by now.
    async fn renew(&mut self, outgoing: &Outgoing) -> Result<(), Status> {
        if self.seat.has_to_renew() { send(outgoing, ToSidecar::Renew(Renew {})).await } else { Ok(()) }
    }

    async fn update(&mut self, current: &Snapshot, outgoing: &Outgoing) -> Result<(), Status> {
        if self.knows_later.take_if(|known| *known <= current.epoch).is_some() {
            // What it did not take over from this gateway is the latest now, even if it is the same still.
            self.sent.roots = Arc::from([]);
        }
        if is_overtaxed(current, &self.asked) && !std::mem::replace(&mut self.overtaxed, true) {
            let identity = &self.identity;
            tracing::warn!(
                %identity,
                "authorization policies are about this workload, whose sidecar is of an earlier version and would let in \
                 whom they do not: it is left without requests of peers; upgrade isthmus-proxy there. If it is permissive, \
                 clients in the clear come in as before, and nothing is judged: make it strict until then"
            );
        }
        let (next, update) = difference(&self.sent, current, &self.asked);
        if next.roots != self.sent.roots {
            self.roots_told = Some(next.generation);
        }
        self.sent = next;
        match update {
            Some(update) => send(outgoing, ToSidecar::Update(update)).await,
            None => Ok(()),
        }
    }
}

async fn send(outgoing: &Outgoing, message: ToSidecar) -> Result<(), Status> {
    let sent = outgoing.send(Ok(FromGateway { message: Some(message) })).await;
    sent.map_err(|_| Status::cancelled("the sidecar is gone"))
}

/// The first message of a stream, which must come soon and be a hello.
async fn hello(incoming: &mut Streaming<FromSidecar>) -> Result<Hello, Status> {
    let first = tokio::time::timeout(HELLO_TIMEOUT, incoming.message()).await;
    match first.map_err(|_| Status::deadline_exceeded("no hello"))?? {
        Some(FromSidecar { message: Some(FromSidecarMessage::Hello(hello)) }) => Ok(hello),
        _ => Err(Status::invalid_argument("the first message must be a hello")),
    }
}

async fn serve(
    inputs: Arc<Inputs>,
    (shown, proof): (Shown, Proof),
    mut incoming: Streaming<FromSidecar>,
    outgoing: &Outgoing,
) -> Result<(), Status> {
    let hello = hello(&mut incoming).await?;
    let own_address: IpAddr = hello
        .workload_address
        .parse()
        .map_err(|error| Status::invalid_argument(format!("workload_address: {error}")))?;
    let known = Epoch { restored_at: UnixMillis(hello.known_restored_at), revision: hello.known_revision };
    let (site, registry) = (inputs.site.clone(), inputs.registry.borrow().clone());
    // Anyone on this machine can connect to the socket, as often as they like: that shall not fill the log.
    let stranger = matches!(shown, Shown::User(uid) if !inputs.users.contains_key(&uid));
    let authenticated = authenticate(&hello, shown, &site, &inputs.users, &registry, SystemTime::now());
    let (workload, warrant) = authenticated.inspect_err(|status| {
        if stranger {
            tracing::debug!(%own_address, why = status.message(), "refused a sidecar");
        } else {
            tracing::warn!(%own_address, why = status.message(), "refused a sidecar");
        }
    })?;
    proof.give();
    let identity = SpiffeId::workload(site.trust_domain(), workload);
    tracing::info!(%identity, %own_address, "a sidecar attached");
    let welcome = Welcome {
        federation: site.federation.to_string(),
        cluster: site.cluster.to_string(),
        locality: site.locality.to_string(),
        identity: identity.to_string(),
        rules_form: FORM,
    };
    send(outgoing, ToSidecar::Welcome(welcome)).await?;
    let coverage = Coverage::Partial { absent: Default::default(), absent_addresses: Default::default() };
    let asked = Asked {
        own_address: Some(own_address),
        workload: identity.as_workload().cloned(),
        rules_form: hello.rules_form,
        ..Asked::default()
    };
    let session = Session {
        seat: inputs.attached.sit_down(identity.clone()),
        knows_later: Some(known).filter(|known| *known > inputs.view.borrow().epoch),
        roots_told: None,
        sent: Snapshot::empty(site, coverage),
        inputs,
        identity,
        warrant,
        asked,
        overtaxed: false,
        certificates: 0,
        window_began: tokio::time::Instant::now(),
    };
    let detached = session.seat.detached();
    tokio::select! {
        ended = session.run(incoming, outgoing) => ended,
        // Also while it does not read.
        () = detached.cancelled() => Err(Status::aborted("out of step with the gateway: attach again")),
    }
}

#[tonic::async_trait]
impl control_server::Control for ControlService {
    type AttachStream = ReceiverStream<Result<FromGateway, Status>>;

    async fn attach(&self, request: Request<Streaming<FromSidecar>>) -> Result<Response<Self::AttachStream>, Status> {
        let shown = match request.extensions().get::<unix_socket::Caller>() {
            Some(local) => Shown::User(local.uid),
            None => caller::verified(&request).map_or(Shown::Nothing, Shown::Certificate),
        };
        let (outgoing, stream) = mpsc::channel(WAITING_MAX);
        let (inputs, proof) = (self.0.clone(), caller::proof(&request));
        let incoming = request.into_inner();
        tokio::spawn(async move {
            if let Err(status) = serve(inputs, (shown, proof), incoming, &outgoing).await {
                // The sidecar may be gone already; then nobody is left to tell.
                let _ = outgoing.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

#[cfg(test)]
mod tests;
