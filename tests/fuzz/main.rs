//! Fuzz targets: what peers, clients and operators send, bent in every way, against what must hold of the reading.
//!
//! Each target says more than that nothing panics: another reading of the same bytes agrees, what was read can be written
//! and read again, a beginning never says something else than the whole, a decision has the properties that it is for.
//! They are tests as well: `cargo test` replays the corpora in `__fuzz__` and tries some thousand inputs of each, and
//! `just fuzz` goes on for as long as one likes (docs/fuzzing.md).
//!
//! `manifests.rs` is a target too. It is compiled with the reader of manifests, which is private to its crate.

mod authority;
mod bends;
mod client_hello;
mod opening;
mod path;
mod policy;
mod prefixes;
mod proxy_header;
mod route;
mod view;
