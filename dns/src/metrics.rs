//! Counters and latencies of the DNS server.

use std::fmt;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// What became of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Answered with records from the snapshot.
    Answered,
    /// The name exists without such records.
    Nodata,
    /// The name does not exist.
    Nxdomain,
    /// Answered by an upstream server.
    Forwarded,
    /// Of a kind that is not answered, or not ours while there is no upstream server to ask.
    Refused,
    /// Not a query, or not a valid one.
    Malformed,
    /// SERVFAIL: no upstream server answered, too many queries were waiting for one, or an exported service has no
    /// virtual address.
    Failed,
}

impl Outcome {
    /// The value of the metric's `outcome` label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Nodata => "nodata",
            Self::Nxdomain => "nxdomain",
            Self::Forwarded => "forwarded",
            Self::Refused => "refused",
            Self::Malformed => "malformed",
            Self::Failed => "failed",
        }
    }
}

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        self.as_str().encode(encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: Outcome,
}

/// The server's metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    queries: Family<OutcomeLabels, Counter>,
    forward_seconds: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        // 0.5 ms (an upstream on the node) to 4 s (the end of all tries).
        Self { queries: Family::default(), forward_seconds: Histogram::new(exponential_buckets(0.0005, 2.0, 14)) }
    }
}

impl Metrics {
    /// Adds the metrics to `registry`, whose prefix they take: `dns_queries_total{outcome}` and
    /// `dns_forward_duration_seconds`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("dns_queries", "DNS queries by outcome", self.queries.clone());
        registry.register(
            "dns_forward_duration_seconds",
            "Time to an upstream DNS server's answer, all tries included",
            self.forward_seconds.clone(),
        );
    }

    /// How many queries had this outcome.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.queries.get(&OutcomeLabels { outcome }).map_or(0, |counter| counter.get())
    }

    pub(crate) fn record(&self, outcome: Outcome) {
        self.queries.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    pub(crate) fn record_forward(&self, seconds: f64) {
        self.forward_seconds.observe(seconds);
    }
}
