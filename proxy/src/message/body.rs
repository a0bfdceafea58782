//! The one body type: empty, whole, streamed, or lent to an attempt that may have to give it back ([`Replay`](super::replay::Replay)).
//! Its trailers are cleaned as headers are.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use super::fields::{strip_claims, strip_hop_by_hop};
use super::quiet::{Activity, Side};
use super::replay::Lent;

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
    Lent(Lent),
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

    /// The same, with trailers behind them.
    #[must_use]
    pub(super) fn with_trailers(bytes: Bytes, trailers: Box<HeaderMap>) -> Self {
        Content::Whole(bytes, Some(trailers)).into()
    }

    /// What is on its way from a client.
    #[must_use]
    pub(super) fn lent(lent: Lent) -> Self {
        Content::Lent(lent).into()
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
            Self::Lent(lent) => ready!(lent.poll_frame(cx)),
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
            Content::Lent(lent) => lent.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Empty => SizeHint::with_exact(0),
            Content::Whole(bytes, _) => SizeHint::with_exact(bytes.len() as u64),
            Content::Streamed(incoming) => incoming.size_hint(),
            Content::Lent(lent) => lent.size_hint(),
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
