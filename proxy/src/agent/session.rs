//! One stream to one gateway: greeting, certificate, questions, updates.
//!
//! Everything that outlives the stream is in [`Agent`]; what is here ends with it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::{Duration, SystemTime};

use isthmus_identity::PrivateKey;
use isthmus_model::authorization::FORM;
use isthmus_model::name::{ClusterName, FederationDomain};
use isthmus_model::registry::Epoch;
use isthmus_model::route::Question;
use isthmus_model::snapshot::Site;
use isthmus_model::spiffe::SpiffeId;
use isthmus_wire::control::{self, Ask, FromGateway, FromSidecar, from_gateway, from_sidecar};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::attempts::{ControlAddr, Proof};
use super::connect::connect;
use super::error::SessionError;
use super::questions::{QUESTIONS_PER_ASK, ask};
use super::{Agent, Introduction};

/// How long a gateway may take to greet. It may have to ask the registry's state about the token, not a peer.
const GREETING_WITHIN: Duration = Duration::from_secs(5);
/// How long a gateway may take to sign. It has the key itself.
const CERTIFICATE_WITHIN: Duration = Duration::from_secs(10);
/// How long the first view of a stream is held back for answers to what was known before. A gateway that
/// takes longer answers what it can; requests for the rest ask again.
const HOLD_BACK_MAX: Duration = Duration::from_secs(5);
/// Messages handed to HTTP/2 ahead of its flow control.
const OUTBOX_LEN: usize = 4;
/// Messages that wait for the outbox before new questions are left in their queue: all that is asked at
/// the start of a stream, and some.
const WAITING_LEN_MAX: usize = 64;

/// A stream in progress.
struct Session<'a> {
    agent: &'a mut Agent,
    outbox: mpsc::Sender<FromSidecar>,
    /// What the outbox had no room for. Bounded by [`WAITING_LEN_MAX`] and one message of each other kind.
    waiting: VecDeque<from_sidecar::Message>,
    /// The key that a certificate was requested for, and until when it has to come.
    requested: Option<(PrivateKey, Instant)>,
    /// When the current certificate has to be renewed.
    renewal: Instant,
    /// When a view that is held back is published anyway.
    hold_back: Instant,
}

/// What woke the session up.
enum Event {
    Gateway(Box<FromGateway>),
    Room(mpsc::OwnedPermit<FromSidecar>),
    Questions(Vec<Question>),
    RenewalDue,
    CertificateOverdue,
    HoldBackOver,
}

/// Attaches to `gateway` and serves the stream until it ends, for which there is always a reason.
pub(super) async fn run(agent: &mut Agent, gateway: &ControlAddr, proof: Proof) -> Result<Infallible, SessionError> {
    let mut client = connect(&agent.config, &agent.identity, gateway, proof).await?;
    let (outbox, messages) = mpsc::channel(OUTBOX_LEN);
    let hello = from_sidecar::Message::Hello(hello(agent, proof));
    outbox.send(FromSidecar { message: Some(hello) }).await.map_err(|_| SessionError::Closed)?;
    let greeting = async {
        let mut incoming = client.attach(ReceiverStream::new(messages)).await?.into_inner();
        match receive(&mut incoming).await?.message {
            Some(from_gateway::Message::Welcome(welcome)) => Ok((incoming, welcome)),
            _ => Err(SessionError::Unexpected("something before its greeting")),
        }
    };
    let timeout = SessionError::Timeout { what: "greeting", after: GREETING_WITHIN };
    let (mut incoming, welcome) = tokio::time::timeout(GREETING_WITHIN, greeting).await.map_err(|_| timeout)??;
    let site = greeted(agent, &welcome)?;
    agent.attached(gateway);
    agent.views.begin(site);
    let waiting = agent.questions.asks().into_iter().map(from_sidecar::Message::Ask).collect();
    let renewal = agent.renewal_due();
    let hold_back = Instant::now() + HOLD_BACK_MAX;
    let mut session = Session { agent, outbox, waiting, requested: None, renewal, hold_back };
    loop {
        let event = session.next(&mut incoming).await?;
        session.handle(event)?;
    }
}

fn hello(agent: &Agent, proof: Proof) -> control::Hello {
    let (token_id, token_secret) = match (proof, &agent.config.introduction) {
        (Proof::Token, Introduction::Token { token, .. }) => (token.id.to_string(), token.secret.as_bytes().to_vec()),
        _ => (String::new(), Vec::new()),
    };
    let Epoch { restored_at, revision } = agent.views.known();
    control::Hello {
        token_id,
        token_secret,
        workload_address: agent.config.workload_address.to_string(),
        known_restored_at: restored_at.0,
        known_revision: revision,
        rules_form: FORM,
    }
}

/// Checks that the gateway serves the own cluster, and does not leave out what protects the workload.
fn greeted(agent: &Agent, welcome: &control::Welcome) -> Result<Site, SessionError> {
    let identity: SpiffeId = welcome.identity.parse()?;
    let own = agent.config.trust_domain.clone();
    let federation: FederationDomain = welcome.federation.parse()?;
    let cluster: ClusterName = welcome.cluster.parse()?;
    if identity.trust_domain != own || federation.trust_domain(&cluster) != own || identity.is_gateway() {
        return Err(SessionError::OtherIdentity { told: identity, expected: own.to_string() });
    }
    if welcome.rules_form < FORM && agent.is_guarded() {
        return Err(SessionError::EarlierGateway);
    }
    Ok(Site { federation, cluster, locality: welcome.locality.parse()? })
}

async fn receive(incoming: &mut Streaming<FromGateway>) -> Result<FromGateway, SessionError> {
    incoming.message().await?.ok_or(SessionError::Closed)
}

impl Session<'_> {
    async fn next(&mut self, incoming: &mut Streaming<FromGateway>) -> Result<Event, SessionError> {
        let renewable = self.requested.is_none();
        let certificate_due = self.requested.as_ref().map_or(self.renewal, |(_, until)| *until);
        let mut questions = Vec::new();
        Ok(tokio::select! {
            message = receive(incoming) => Event::Gateway(Box::new(message?)),
            room = self.outbox.clone().reserve_owned(), if !self.waiting.is_empty() => {
                Event::Room(room.map_err(|_| SessionError::Closed)?)
            }
            count = self.agent.demand.recv_many(&mut questions, QUESTIONS_PER_ASK),
                if self.waiting.len() < WAITING_LEN_MAX && !self.agent.demand.is_closed() => {
                questions.truncate(count);
                Event::Questions(questions)
            }
            () = sleep_until(self.renewal), if renewable => Event::RenewalDue,
            () = sleep_until(certificate_due), if !renewable => Event::CertificateOverdue,
            () = sleep_until(self.hold_back), if self.agent.views.holding() => Event::HoldBackOver,
        })
    }

    fn handle(&mut self, event: Event) -> Result<(), SessionError> {
        match event {
            Event::Gateway(message) => self.heard(*message)?,
            Event::Room(room) => {
                let message = self.waiting.pop_front();
                drop(room.send(FromSidecar { message }));
            }
            Event::Questions(questions) => self.ask(questions),
            Event::RenewalDue => self.request_certificate()?,
            Event::CertificateOverdue => {
                return Err(SessionError::Timeout { what: "certificate", after: CERTIFICATE_WITHIN });
            }
            Event::HoldBackOver => {
                self.agent.publish(true);
                self.hold_back = Instant::now() + HOLD_BACK_MAX;
            }
        }
        Ok(())
    }

    fn heard(&mut self, message: FromGateway) -> Result<(), SessionError> {
        match message.message {
            Some(from_gateway::Message::Update(update)) => self.update(update)?,
            Some(from_gateway::Message::Certificate(certificate)) => self.certified(certificate)?,
            // A request that is on its way will be signed by whoever signs now.
            Some(from_gateway::Message::Renew(_)) if self.requested.is_none() => self.request_certificate()?,
            Some(from_gateway::Message::Renew(_)) => {}
            Some(from_gateway::Message::Welcome(_)) => return Err(SessionError::Unexpected("a second greeting")),
            None => return Err(SessionError::Unexpected("a message of an unknown kind")),
        }
        self.agent.heard();
        Ok(())
    }

    fn update(&mut self, update: control::Update) -> Result<(), SessionError> {
        let told = update.generation;
        if let Some(trust) = self.agent.views.take(update)? {
            self.agent.identity.set_trust(trust);
        }
        self.agent.attempts.succeeded();
        self.agent.attempts.learn(&self.agent.views.control_ports());
        self.agent.publish(false);
        // The latest acknowledgement says all that earlier ones did.
        if matches!(self.waiting.back(), Some(from_sidecar::Message::Acknowledged(_))) {
            self.waiting.pop_back();
        }
        self.waiting.push_back(from_sidecar::Message::Acknowledged(told));
        Ok(())
    }

    fn ask(&mut self, questions: Vec<Question>) {
        let new: Vec<Question> =
            questions.into_iter().filter(|question| self.agent.questions.add(question.clone())).collect();
        let message: Ask = ask(new.iter());
        if message != Ask::default() {
            self.waiting.push_back(from_sidecar::Message::Ask(message));
        }
    }

    /// Requests a certificate for a new key: a key that leaked is worth no more than a certificate's lifetime.
    fn request_certificate(&mut self) -> Result<(), SessionError> {
        let key = PrivateKey::generate()?;
        self.waiting.push_back(from_sidecar::Message::CertificateRequest(key.csr()?));
        self.requested = Some((key, Instant::now() + CERTIFICATE_WITHIN));
        Ok(())
    }

    fn certified(&mut self, certificate: control::Certificate) -> Result<(), SessionError> {
        let (key, _) = self.requested.take().ok_or(SessionError::Unexpected("a certificate without a request"))?;
        self.agent.identity.set_credentials(certificate.chain, key)?;
        self.agent.certified(SystemTime::now());
        self.renewal = self.agent.renewal_due();
        Ok(())
    }
}
