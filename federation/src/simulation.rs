//! What a deterministic simulation needs of a replica: its chance from a seed, and a disk that can crash.
//!
//! All else is as in a gateway: the same tasks, messages, TLS and files. Time is tokio's paused clock; the network is
//! what [`Connect`](crate::dial::Connect) makes of it. A simulation runs on one thread, whose chance is seeded before
//! its first replica starts.

mod disk;
mod runtime;

pub use disk::SimulatedDisk;
pub use runtime::{Chance, SeedableRuntime, seed_this_thread};
