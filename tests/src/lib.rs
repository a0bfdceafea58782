//! The test kit: what tests of running processes need and no crate under test should contain.
//!
//! [`wan`] puts distance and faults between clusters, [`harness`] runs the real binaries on addresses of
//! their own, [`bench`] measures them, [`hostile`] is what they must withstand. All are in userspace and need no privileges, so that the whole suite
//! runs wherever the code builds (on Linux: the harness relies on the whole of 127.0.0.0/8 being local).
//! Deliberately absent: any dependency on the crates under test, so that a client here cannot share a bug
//! with the server there.

pub mod bench;
pub mod harness;
pub mod history;
pub mod hostile;
pub mod wan;
