//! What the bench programs share: a running demo, steady traffic, and a report that compares figures with targets.
//!
//! A bench is a program that measures the real processes from outside and prints what it saw. It is no test:
//! times on a shared machine are noisy, so a missed target is told and fails nothing, unless `--strict` is given.
//! Deliberately absent: a statistics framework. Its subject is the cost of functions, ours are events.

mod demo;
mod load;
mod report;
mod samples;

pub use demo::{ClusterPart, Demo, Document, WorkloadPart, signal};
pub use load::{Load, Request};
pub use report::{Quantity, Report, run};
pub use rustix::process::Signal;
pub use samples::Samples;
