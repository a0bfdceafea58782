//! The binary `isthmus` as a library: the east-west gateway, its admin API and the command line.

pub mod admin;
pub mod app;
pub mod ca_files;
pub mod cli;
pub mod config;
pub mod control;
pub mod demo;
pub mod east_west;
#[cfg(test)]
mod fixture;
pub mod ingress;
pub mod own_identity;
pub mod peers;
pub mod probe;
pub mod process;
pub mod rotation;
pub mod sample;
pub mod telemetry;
pub mod vips;
