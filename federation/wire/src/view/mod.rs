//! The part of a snapshot that a sidecar is told, and the messages that keep it current.
//!
//! The gateway holds, per sidecar, the view that the sidecar has and what it [`Asked`]. [`difference`]
//! makes the next view and the one message that leads there; [`apply`], on the other side, makes the same
//! view out of the message. Both are pure, so the whole protocol is one property:
//! `apply(from, difference(from, full)) == to`.
//!
//! A view always has the site, the roots, all clusters, and the services that have an instance on the
//! sidecar's own address, because requests for those come in unasked. A service that came into a view stays
//! in it as long as it exists, and as absent afterwards: there is no message to forget one. A view
//! therefore only grows within a stream; it starts empty with each stream, and the bounds here end a
//! stream that outgrew them.
//!
//! Authorization policies come with the services at that address in one message, so that no workload is ever open for want of them. A
//! sidecar that would not understand them is told of no instance there instead.
//!
//! Remotes name their cluster; the receiver links them to the clusters that it has. So a gateway that
//! goes down costs one list of clusters on the wire, and no service.

mod apply;
mod authorization;
mod decode;
mod difference;
mod encode;
mod routes;
mod traffic;

use std::collections::HashSet;
use std::net::IpAddr;

use isthmus_model::name::ServiceName;
use isthmus_model::spiffe::WorkloadName;

use crate::control;
use crate::error::WireError;
use crate::field;

pub use apply::apply;
pub use authorization::is_overtaxed;
pub use difference::difference;

/// Questions that a sidecar keeps, the newest; also the most that it asks in one stream's beginning. A
/// workload that talks to more services than this is a proxy itself.
pub const QUESTIONS_PER_SIDECAR_MAX: usize = 10_000;
/// Questions that a gateway answers in one stream. Twice of what a sidecar keeps: a sidecar that forgets
/// old questions cannot say so, so its stream ends here and the next one begins with what it still wants,
/// once per ten thousand new questions at most.
pub const QUESTIONS_PER_STREAM_MAX: usize = 2 * QUESTIONS_PER_SIDECAR_MAX;
/// Services in a view, and likewise absent names and absent addresses: all questions of a stream answered,
/// and as much again for what lives at the sidecar's own address.
pub const SERVICES_PER_VIEW_MAX: usize = 2 * QUESTIONS_PER_STREAM_MAX;
/// Federated roots: one, two while they rotate, and as many as a trust bundle takes at most.
pub const ROOTS_MAX: usize = 8;
/// The largest root certificate, DER; ours are below 1 KiB, an RSA-4096 one of an operator below 3.
pub const ROOT_BYTES_MAX: usize = 8 * 1024;
/// The largest encoded [`control::Update`], for gRPC's decoding limit, whose default of 4 MiB is too small
/// for the first update after a reconnect: ten thousand services of a few KiB.
pub const UPDATE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Authorization policies about one workload. Each request that it gets may be compared with all of them.
pub const AUTHORIZATIONS_MAX: usize = 1_024;

/// What a sidecar wants to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Services by name.
    pub services: HashSet<ServiceName>,
    /// Services by virtual address.
    pub addresses: HashSet<IpAddr>,
    /// The address that the workload is known by: services with an instance there need no question.
    pub own_address: Option<IpAddr>,
    /// Who the workload is: policies may be about it by name.
    pub workload: Option<WorkloadName>,
    /// The latest form of authorization policies that the sidecar understands.
    pub rules_form: u32,
}

impl Asked {
    /// Adds a sidecar's further questions. Says whether any was new.
    ///
    /// # Errors
    /// What is wrong with the message, or [`WireError::TooMany`] past [`QUESTIONS_PER_STREAM_MAX`]; the
    /// stream should end then. Nothing was added.
    pub fn add(&mut self, ask: &control::Ask) -> Result<bool, WireError> {
        let limit = QUESTIONS_PER_STREAM_MAX;
        field::count("ask", ask.services.len() + ask.addresses.len(), limit)?;
        let services = ask.services.iter().map(|name| field::name("ask.services", name));
        let services: HashSet<ServiceName> = services.collect::<Result<_, _>>()?;
        let addresses = ask.addresses.iter().map(|address| field::address("ask.addresses", address));
        let addresses: HashSet<IpAddr> = addresses.collect::<Result<_, _>>()?;
        let new = services.difference(&self.services).count() + addresses.difference(&self.addresses).count();
        field::count("ask", self.services.len() + self.addresses.len() + new, limit)?;
        self.services.extend(services);
        self.addresses.extend(addresses);
        Ok(new > 0)
    }
}

#[cfg(test)]
mod tests;
