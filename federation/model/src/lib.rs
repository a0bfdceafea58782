//! The pure core of Isthmus: what a federation *is*, without any I/O, clock or randomness.
//!
//! Read it in this order: [`name`] and [`spiffe`] (what things are called), [`catalog`] (what a
//! cluster has), [`command`] and [`registry`] (what the federation agrees on), [`health`] (what
//! gateways tell each other outside Raft), [`snapshot`] (the read view of a data plane), and the two
//! decisions taken on it: [`route`] on the way out, [`policy`] and [`authorization`] on the way in.
//!
//! Time and chance come in as arguments: a [`command::Entry`] carries its own time, a route takes its
//! random number. So every decision here can be replayed.

pub mod authorization;
pub mod blob;
pub mod catalog;
pub mod command;
pub mod drain;
#[cfg(any(test, feature = "fixture"))]
pub mod fixture;
pub mod health;
pub mod http_route;
pub mod locality;
pub mod name;
pub mod outside;
pub mod path;
pub mod policy;
pub mod registry;
pub mod route;
pub mod shared;
pub mod snapshot;
pub mod speaker;
pub mod spiffe;
pub mod time;
pub mod traffic;
pub mod vip;
pub mod voters;
