//! The one body type: empty, whole, streamed, or lent to an attempt that may have to give it back.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;

use super::Received;

/// Request bodies up to this size are read before the request is sent, so that it can be sent again.
pub const REPLAYED_MAX: u64 = 64 * 1024;

/// A message body. What it holds is dropped when the body is, that is when it was sent or given up.
pub struct Body {
    content: Content,
    held: Option<Box<dyn Send>>,
}

enum Content {
    Empty,
    Whole(Bytes),
    Streamed(Incoming),
    Lent { source: Arc<Mutex<Option<Received>>>, taken: Option<Received> },
}

impl Body {
    /// No bytes.
    #[must_use]
    pub fn empty() -> Self {
        Self { content: Content::Empty, held: None }
    }

    /// These bytes.
    #[must_use]
    pub fn whole(bytes: Bytes) -> Self {
        let content = if bytes.is_empty() { Content::Empty } else { Content::Whole(bytes) };
        Self { content, held: None }
    }

    /// Bytes as they arrive.
    #[must_use]
    pub fn streamed(incoming: Incoming) -> Self {
        let content = if incoming.is_end_stream() { Content::Empty } else { Content::Streamed(incoming) };
        Self { content, held: None }
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

impl HttpBody for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        match &mut this.content {
            Content::Empty => Poll::Ready(None),
            Content::Whole(bytes) => {
                let frame = Frame::data(std::mem::take(bytes));
                this.content = Content::Empty;
                Poll::Ready(Some(Ok(frame)))
            }
            Content::Streamed(incoming) => Pin::new(incoming).poll_frame(cx),
            Content::Lent { source, taken } => {
                if taken.is_none() {
                    *taken = lock(source).take();
                }
                match taken {
                    Some(received) => Pin::new(received).poll_frame(cx),
                    None => Poll::Ready(None),
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Empty => true,
            Content::Whole(_) => false,
            Content::Streamed(incoming) => incoming.is_end_stream(),
            Content::Lent { taken: Some(received), .. } => received.is_end_stream(),
            Content::Lent { source, taken: None } => lock(source).as_ref().is_none_or(HttpBody::is_end_stream),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Empty => SizeHint::with_exact(0),
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Streamed(incoming) => incoming.size_hint(),
            Content::Lent { taken: Some(received), .. } => received.size_hint(),
            Content::Lent { source, taken: None } => {
                lock(source).as_ref().map_or_else(SizeHint::default, HttpBody::size_hint)
            }
        }
    }
}

fn lock(source: &Mutex<Option<Received>>) -> MutexGuard<'_, Option<Received>> {
    source.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request's body across attempts.
pub enum Replay {
    /// Can be sent any number of times.
    Whole(Bytes),
    /// Can be sent again as long as nobody has begun to read it.
    Once(Arc<Mutex<Option<Received>>>),
}

impl Replay {
    /// Prepares a body: a small one of known length is read whole.
    ///
    /// # Errors
    /// When the client breaks off while its body is read.
    pub async fn prepare(received: Received) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        if received.is_end_stream() {
            return Ok(Self::Whole(Bytes::new()));
        }
        match received.size_hint().exact() {
            Some(length) if length <= REPLAYED_MAX => {
                let limit = usize::try_from(REPLAYED_MAX).unwrap_or(usize::MAX);
                Ok(Self::Whole(Limited::new(received, limit).collect().await?.to_bytes()))
            }
            _ => Ok(Self::once(received)),
        }
    }

    /// A body that is not read ahead.
    #[must_use]
    pub fn once(received: Received) -> Self {
        if received.is_end_stream() {
            Self::Whole(Bytes::new())
        } else {
            Self::Once(Arc::new(Mutex::new(Some(received))))
        }
    }

    /// Whether an attempt would find the body untouched.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        match self {
            Self::Whole(_) => true,
            Self::Once(source) => lock(source).is_some(),
        }
    }

    /// The body for one attempt.
    #[must_use]
    pub fn lend(&self) -> Body {
        match self {
            Self::Whole(bytes) => Body::whole(bytes.clone()),
            Self::Once(source) => Body { content: Content::Lent { source: source.clone(), taken: None }, held: None },
        }
    }
}
