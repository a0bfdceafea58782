//! The works: what is put side by side, and the targets.

mod catalog;
mod grpc;
mod hop;
mod memory;
mod pair;
mod sni;
mod tcp;

use std::io;

use isthmus_tests::bench::Report;

use super::installed::{Program, Programs};
use super::table::Tables;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Requests through two sidecars.
    Pair,
    /// Requests through one.
    Hop,
    /// Calls of gRPC through two.
    Grpc,
    /// TCP through two.
    Tcp,
    /// TLS through a gateway.
    Sni,
    /// What a sidecar weighs.
    Memory,
    /// Requests by the size of the catalog.
    Catalog,
}

impl Work {
    pub(crate) const ALL: [Self; 7] =
        [Self::Pair, Self::Hop, Self::Grpc, Self::Tcp, Self::Sni, Self::Memory, Self::Catalog];

    fn name(self) -> &'static str {
        match self {
            Self::Pair => "pair",
            Self::Hop => "hop",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
            Self::Sni => "sni",
            Self::Memory => "memory",
            Self::Catalog => "catalog",
        }
    }

    /// The work of that name.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn named(name: &str) -> io::Result<Self> {
        let found = Self::ALL.into_iter().find(|work| work.name() == name);
        let all = Self::ALL.map(Self::name).join(", ");
        found.ok_or_else(|| io::Error::other(format!("there is no work {name:?}: {all}")))
    }

    /// What it cannot do without: the backend and the load generator. Whom it compares with is looked at one by one.
    fn needs(self, programs: &Programs) -> Vec<&Program> {
        match self {
            Self::Pair | Self::Hop | Self::Catalog => vec![&programs.nginx, &programs.wrk],
            Self::Grpc => vec![&programs.nghttpd, &programs.h2load],
            Self::Sni | Self::Memory => vec![&programs.nginx],
            Self::Tcp => Vec::new(),
        }
    }

    /// Why it cannot be done here, if it cannot.
    pub(crate) fn left_out(self, programs: &Programs) -> Option<String> {
        let missing = self.needs(programs).into_iter().filter(|program| program.found().is_none());
        let missing: Vec<&str> = missing.map(|program| program.name).collect();
        (!missing.is_empty()).then(|| format!("{} is left out without {}", self.name(), missing.join(" and ")))
    }

    /// Starts what it needs, measures it, and ends it.
    ///
    /// # Errors
    /// When something does not start, or the load has errors.
    pub(crate) async fn measure(self, programs: &Programs, tables: &mut Tables, report: &mut Report) -> io::Result<()> {
        match self {
            Self::Pair => pair::measure(programs, tables, report).await,
            Self::Hop => hop::measure(programs, tables, report).await,
            Self::Grpc => grpc::measure(programs, tables, report).await,
            Self::Tcp => tcp::measure(programs, tables, report).await,
            Self::Sni => sni::measure(programs, tables, report).await,
            Self::Memory => memory::measure(programs, report).await,
            Self::Catalog => catalog::measure(programs, tables, report).await,
        }
    }
}
