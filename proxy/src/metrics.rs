//! What the data plane counts.
//!
//! Labels are bounded: services and clusters are names that the registry admitted, codes are five classes,
//! reasons are enums. Nothing that a peer chooses freely becomes a label.

use std::fmt;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Upper bounds of the latency histogram, seconds: loopback to a slow WAN and a slow application.
const LATENCY_BOUNDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0];

/// Which side of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the application.
    Outbound,
    /// To the application.
    Inbound,
    /// Between clusters, at a gateway.
    EastWest,
    /// From sidecars, at a gateway's control port.
    Control,
    /// From outside, at a gateway.
    Ingress,
}

impl EncodeLabelValue for Direction {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        let text = match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
            Self::EastWest => "east_west",
            Self::Control => "control",
            Self::Ingress => "ingress",
        };
        text.encode(encoder)
    }
}

/// Labels of a finished request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// Which side.
    pub direction: Direction,
    /// `namespace/name`; empty when the request named none that exists.
    pub service: String,
    /// The cluster that answered (outbound) or asked (inbound); empty when none did.
    pub cluster: String,
    /// `1xx` to `5xx`.
    pub code: &'static str,
}

/// Labels of what happens to a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ServiceLabels {
    /// `namespace/name`; empty for what happened to none: always 0, so that the metric exists before anything
    /// happened.
    pub service: String,
}

/// Labels of a latency.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DirectionLabels {
    /// Which side.
    pub direction: Direction,
}

/// Labels of something that was turned away.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabels {
    /// Why.
    pub reason: Reason,
}

/// Why a connection or handshake came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It took longer than its bound.
    Timeout,
    /// The TLS handshake failed: wrong protocol or certificate.
    Tls,
    /// The server name is nobody's here.
    Name,
    /// A load balancer did not say whose connection it passes on, or not properly.
    ProxyHeader,
    /// TLS succeeded, but the peer has no identity of this federation, or the wrong one.
    Identity,
    /// Newer connections needed the room.
    Displaced,
    /// The listener's limit of connections.
    Total,
    /// The limit of connections of one source address.
    Source,
    /// The peer could not be connected to.
    Connect,
    /// It is in the clear, not of requests, and a policy lets no bytes pass.
    Policy,
}

impl Reason {
    /// Why a handshake fails.
    const OF_HANDSHAKES: [Self; 8] = [
        Self::Timeout,
        Self::Tls,
        Self::Name,
        Self::ProxyHeader,
        Self::Identity,
        Self::Displaced,
        Self::Total,
        Self::Connect,
    ];
    /// Why a connection is refused.
    const OF_REFUSALS: [Self; 4] = [Self::Displaced, Self::Total, Self::Source, Self::Policy];
}

impl EncodeLabelValue for Reason {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        let text = match self {
            Self::Timeout => "timeout",
            Self::Tls => "tls",
            Self::Name => "name",
            Self::ProxyHeader => "proxy_header",
            Self::Identity => "identity",
            Self::Displaced => "displaced",
            Self::Policy => "policy",
            Self::Total => "total",
            Self::Source => "source",
            Self::Connect => "connect",
        };
        text.encode(encoder)
    }
}

/// The metrics. One per process; shared by all listeners.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Finished requests.
    pub requests: Family<RequestLabels, Counter>,
    /// Time from request to response headers.
    pub latency: Family<DirectionLabels, Histogram>,
    /// Requests that were sent a second time or more.
    pub retries: Family<ServiceLabels, Counter>,
    /// Destinations that were taken out for a while.
    pub ejections: Family<ServiceLabels, Counter>,
    /// Tunnel sessions that are open towards others.
    pub tunnels: Gauge,
    /// Handshakes that failed, in either direction.
    pub handshakes_failed: Family<ReasonLabels, Counter>,
    /// Connections refused by a limit.
    pub refused: Family<ReasonLabels, Counter>,
    /// Connections that are open on the listeners.
    pub connections: Family<DirectionLabels, Gauge>,
    /// Bytes passed through unopened.
    pub passthrough: Counter,
}

impl Metrics {
    /// Registers the metrics.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let constructor: fn() -> Histogram = || Histogram::new(LATENCY_BOUNDS);
        let latency = Family::new_with_constructor(constructor);
        let metrics = Self {
            requests: Family::default(),
            latency,
            retries: Family::default(),
            ejections: Family::default(),
            tunnels: Gauge::default(),
            handshakes_failed: Family::default(),
            refused: Family::default(),
            connections: Family::default(),
            passthrough: Counter::default(),
        };
        let registry = registry.sub_registry_with_prefix("isthmus");
        registry.register("requests", "Finished requests", metrics.requests.clone());
        let help = "Time from a request to its response headers";
        registry.register_with_unit("request_latency", help, Unit::Seconds, metrics.latency.clone());
        registry.register(
            "retries",
            "Requests sent again, elsewhere or where they were refused",
            metrics.retries.clone(),
        );
        registry.register("ejections", "Destinations taken out after failures", metrics.ejections.clone());
        registry.register("tunnel_sessions", "Open tunnel sessions", metrics.tunnels.clone());
        let help = "TLS handshakes that failed";
        registry.register("handshakes_failed", help, metrics.handshakes_failed.clone());
        registry.register("connections_refused", "Connections refused by a limit", metrics.refused.clone());
        registry.register("connections", "Open connections", metrics.connections.clone());
        let help = "Bytes passed through unopened";
        registry.register_with_unit("passthrough", help, Unit::Bytes, metrics.passthrough.clone());
        metrics.begin();
        metrics
    }

    /// A counter that appears with its first event has no rise that an alarm could see: these begin at 0.
    fn begin(&self) {
        for reason in Reason::OF_HANDSHAKES {
            drop(self.handshakes_failed.get_or_create(&ReasonLabels { reason }));
        }
        for reason in Reason::OF_REFUSALS {
            drop(self.refused.get_or_create(&ReasonLabels { reason }));
        }
        self.begin_service(String::new());
    }

    /// The same for a service that comes into use.
    pub fn begin_service(&self, service: String) {
        let labels = ServiceLabels { service };
        drop(self.retries.get_or_create(&labels));
        drop(self.ejections.get_or_create(&labels));
    }

    /// Counts a finished request.
    pub fn request(
        &self,
        direction: Direction,
        service: String,
        cluster: String,
        code: http::StatusCode,
        took: Duration,
    ) {
        let labels = RequestLabels { direction, service, cluster, code: class(code) };
        self.requests.get_or_create(&labels).inc();
        self.latency.get_or_create(&DirectionLabels { direction }).observe(took.as_secs_f64());
    }

    /// Counts a failed handshake.
    pub fn handshake_failed(&self, reason: Reason) {
        self.handshakes_failed.get_or_create(&ReasonLabels { reason }).inc();
    }
}

fn class(code: http::StatusCode) -> &'static str {
    match code.as_u16() / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_watch_is_there_from_the_start_in_lower_snake_case() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        metrics.begin_service("shop/reviews".to_owned());
        drop(metrics.connections.get_or_create(&DirectionLabels { direction: Direction::EastWest }));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
        for line in [
            "isthmus_ejections_total{service=\"\"} 0",
            "isthmus_retries_total{service=\"\"} 0",
            "isthmus_ejections_total{service=\"shop/reviews\"} 0",
            "isthmus_handshakes_failed_total{reason=\"tls\"} 0",
            "isthmus_handshakes_failed_total{reason=\"identity\"} 0",
            "isthmus_connections_refused_total{reason=\"source\"} 0",
            "isthmus_connections{direction=\"east_west\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
