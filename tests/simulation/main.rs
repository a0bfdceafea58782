//! Gateways in one process, in virtual time, under faults that follow from a seed.
//!
//! Everything is as in a gateway, from the Raft library to TLS; only the network, the disks, the clock and chance are the
//! simulation's. What a seed shows it shows again: `just sim SEED`.

#![allow(clippy::panic)]

mod clients;
mod faults;
mod host;
mod hour;
mod models;
mod ordeal;
mod runs;
mod seeds;
mod setting;
mod world;
