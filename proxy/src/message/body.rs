//! The one body type: empty, whole, streamed, or lent to an attempt that may have to give it back. Its trailers are
//! cleaned as headers are.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::Received;
use super::fields::{strip_claims, strip_hop_by_hop};
use super::quiet::{Activity, Side};

/// Request bodies up to this size are read before the request is sent, so that it can be sent again.
pub const REPLAYED_MAX: u64 = 64 * 1024;
/// How long that may take: as long as nginx waits for a client's body (`client_body_timeout`).
pub const REPLAYED_WITHIN: Duration = Duration::from_secs(60);

/// Why a body does not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection that it comes on says so.
    #[error(transparent)]
    Broken(#[from] hyper::Error),
    /// It was waited for as long as it is.
    #[error("nothing more came of it in time")]
    Quiet,
}

/// A message body. What it holds is dropped when the body is, that is when it was sent or given up.
pub struct Body {
    content: Content,
    side: Option<Box<Side>>,
    held: Option<Box<dyn Send>>,
}

enum Content {
    Empty,
    Whole(Bytes, Option<Box<HeaderMap>>),
    Streamed(Incoming),
    Lent { source: Arc<Source>, taken: Option<Received> },
}

/// A body that only one attempt can have.
pub struct Source {
    received: Mutex<Option<Received>>,
    /// The client broke off, or what it sent is no body: that is nobody else's fault.
    broke: AtomicBool,
}

impl Source {
    fn lock(&self) -> MutexGuard<'_, Option<Received>> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Body {
    /// No bytes.
    #[must_use]
    pub fn empty() -> Self {
        Content::Empty.into()
    }

    /// These bytes.
    #[must_use]
    pub fn whole(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::empty() } else { Content::Whole(bytes, None).into() }
    }

    /// Bytes as they arrive.
    #[must_use]
    pub fn streamed(incoming: Incoming) -> Self {
        if incoming.is_end_stream() { Self::empty() } else { Content::Streamed(incoming).into() }
    }

    /// Notes what moves, and breaks off when the stream is given up.
    #[must_use]
    pub fn watched(self, activity: &Activity) -> Self {
        Self { side: Some(Side::of(activity)), ..self }
    }

    /// Keeps `held` until the body is done with, beside what it keeps already.
    #[must_use]
    pub fn holding(mut self, held: impl Send + 'static) -> Self {
        self.held = match self.held {
            Some(other) => Some(Box::new((other, held))),
            None => Some(Box::new(held)),
        };
        self
    }
}

impl Content {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match self {
            Self::Empty => None,
            Self::Whole(bytes, trailers) if bytes.is_empty() => {
                let trailers = trailers.take();
                *self = Self::Empty;
                trailers.map(|trailers| Ok(Frame::trailers(*trailers)))
            }
            Self::Whole(bytes, trailers) => {
                let frame = Frame::data(std::mem::take(bytes));
                if trailers.is_none() {
                    *self = Self::Empty;
                }
                Some(Ok(frame))
            }
            Self::Streamed(incoming) => {
                ready!(Pin::new(incoming).poll_frame(cx)).map(|frame| frame.map_err(BodyError::Broken))
            }
            Self::Lent { source, taken } => {
                if taken.is_none() {
                    *taken = source.lock().take();
                }
                match taken {
                    Some(received) => {
                        let frame = ready!(Pin::new(received).poll_frame(cx));
                        if matches!(frame, Some(Err(_))) {
                            source.broke.store(true, Ordering::Relaxed);
                        }
                        frame
                    }
                    None => None,
                }
            }
        };
        Poll::Ready(frame.map(|frame| frame.map(cleaned)))
    }
}

impl From<Content> for Body {
    fn from(content: Content) -> Self {
        Self { content, side: None, held: None }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self { content, side, .. } = self.get_mut();
        let frame = content.poll_frame(cx);
        match side {
            Some(side) => side.looked(cx, frame),
            None => frame,
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Empty => true,
            Content::Whole(..) => false,
            Content::Streamed(incoming) => incoming.is_end_stream(),
            Content::Lent { taken: Some(received), .. } => received.is_end_stream(),
            Content::Lent { source, taken: None } => source.lock().as_ref().is_none_or(HttpBody::is_end_stream),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Empty => SizeHint::with_exact(0),
            Content::Whole(bytes, _) => SizeHint::with_exact(bytes.len() as u64),
            Content::Streamed(incoming) => incoming.size_hint(),
            Content::Lent { taken: Some(received), .. } => received.size_hint(),
            Content::Lent { source, taken: None } => {
                source.lock().as_ref().map_or_else(SizeHint::default, HttpBody::size_hint)
            }
        }
    }
}

/// What must not be said in a header must not be said in a trailer either.
fn cleaned(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        strip_hop_by_hop(trailers);
        strip_claims(trailers);
    }
    frame
}

/// A request's body across attempts.
pub enum Replay {
    /// Can be sent any number of times.
    Whole(Bytes, Option<Box<HeaderMap>>),
    /// Can be sent again as long as nobody has begun to read it.
    Once(Arc<Source>),
}

impl Replay {
    /// Prepares a body: a small one of known length is read whole.
    ///
    /// # Errors
    /// When the client breaks off while its body is read, or takes longer than [`REPLAYED_WITHIN`].
    pub async fn prepare(received: Received) -> Result<Self, BodyError> {
        if received.is_end_stream() {
            return Ok(Self::Whole(Bytes::new(), None));
        }
        match received.size_hint().exact() {
            Some(length) if length <= REPLAYED_MAX => {
                // No more comes than was announced: hyper sees to that.
                let collected = tokio::time::timeout(REPLAYED_WITHIN, received.collect()).await;
                let collected = collected.unwrap_or(Err(BodyError::Quiet))?;
                let trailers = collected.trailers().cloned().map(Box::new);
                Ok(Self::Whole(collected.to_bytes(), trailers))
            }
            _ => Ok(Self::once(received)),
        }
    }

    /// A body that is not read ahead.
    #[must_use]
    pub fn once(received: Received) -> Self {
        if received.is_end_stream() {
            Self::Whole(Bytes::new(), None)
        } else {
            Self::Once(Arc::new(Source { received: Mutex::new(Some(received)), broke: AtomicBool::new(false) }))
        }
    }

    /// Whether an attempt would find the body untouched.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        match self {
            Self::Whole(..) => true,
            Self::Once(source) => source.lock().is_some(),
        }
    }

    /// Whether an attempt failed because the client broke off, or sent what is no body.
    #[must_use]
    pub fn broke(&self) -> bool {
        matches!(self, Self::Once(source) if source.broke.load(Ordering::Relaxed))
    }

    /// The body for one attempt.
    #[must_use]
    pub fn lend(&self) -> Body {
        match self {
            Self::Whole(bytes, None) => Body::whole(bytes.clone()),
            Self::Whole(bytes, trailers) => Content::Whole(bytes.clone(), trailers.clone()).into(),
            Self::Once(source) => Content::Lent { source: source.clone(), taken: None }.into(),
        }
    }
}
