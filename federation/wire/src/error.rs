//! What can be wrong with a message that was well-formed protobuf.

use isthmus_model::authorization::PatternError;
use isthmus_model::http_route::{TooLarge, valid::Invalid};
use isthmus_model::name::{ClusterName, NameError, ServiceName};
use isthmus_model::traffic::OutOfBounds;

/// Why a message was refused. A refused message changes nothing.
///
/// Peers of one federation send each other only what they themselves read from the model, so any of these
/// means a peer of another version, or one that is broken: `field` names what to look for in its log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A text is longer than any valid one.
    #[error("{field} has {length} characters, {limit} at most are allowed: check the peer's version")]
    TooLong {
        /// Path of the field within the message.
        field: &'static str,
        /// How long it is, in bytes.
        length: usize,
        /// How long it may be.
        limit: usize,
    },
    /// A list is longer than its bound.
    #[error("{field} has {count} entries, {limit} at most are allowed: check the peer's version and configuration")]
    TooMany {
        /// Path of the field within the message.
        field: &'static str,
        /// How many there are, or would be with this message.
        count: usize,
        /// How many may be.
        limit: usize,
    },
    /// A key's digest that is none.
    #[error("{field} has an entry that is not 32 bytes long: check the peer's version")]
    Key {
        /// Path of the field within the message.
        field: &'static str,
    },
    /// A name that is not one.
    #[error("{field}: {source}")]
    Name {
        /// Path of the field within the message.
        field: &'static str,
        /// What is wrong with it.
        source: NameError,
    },
    /// Not an IP address, or not one with a port.
    #[error("{field} is {text:?}, expected {expected}: check the peer's version")]
    Address {
        /// Path of the field within the message.
        field: &'static str,
        /// What it is.
        text: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A number outside of its range, or an enum value that this version does not know.
    #[error("{field} is {value}, {limit} is the largest known value: check the peer's version")]
    OutOfRange {
        /// Path of the field within the message.
        field: &'static str,
        /// What it is.
        value: i64,
        /// What it may be at most.
        limit: i64,
    },
    /// A text of an authorization policy that is no pattern.
    #[error("{field}: {source}")]
    Pattern {
        /// Path of the field within the message.
        field: &'static str,
        /// What is wrong with it.
        source: PatternError,
    },
    /// A value of a traffic policy that makes no sense.
    #[error("services.traffic.{0}: check the peer's version")]
    Traffic(#[from] OutOfBounds),
    /// A value that cannot be in a route.
    #[error("{field}: {source}: check the peer's version")]
    Route {
        /// Path of the field within the message.
        field: &'static str,
        /// What is wrong with it.
        source: Invalid,
    },
    /// More routes than a service can have.
    #[error("services.routes: {0}: check the peer's version")]
    Routes(#[from] TooLarge),
    /// Something that a message has to have is missing.
    #[error("{field} is missing: check the peer's version")]
    Missing {
        /// Path of the field within the message.
        field: &'static str,
    },
    /// Something that has to be unique comes twice.
    #[error("{field} has {value} twice: check the peer's version")]
    Duplicate {
        /// Path of the field within the message.
        field: &'static str,
        /// What comes twice.
        value: String,
    },
    /// A service has a backend in a cluster that the view does not have.
    #[error("service {service} has a backend in cluster {cluster}, which is no member: check the peer's version")]
    UnknownCluster {
        /// The service.
        service: ServiceName,
        /// The cluster.
        cluster: ClusterName,
    },
}
