//! Runs the real binaries: on loopback addresses of their own, with their output kept, and gone afterwards.
//!
//! ```no_run
//! # use std::time::Duration; use std::path::Path; use isthmus_tests::harness::*;
//! # async fn example() -> std::io::Result<()> {
//! let block = Loopback::block();
//! let directory = tempfile::tempdir()?;
//! let admin = block.address(1, 15000);
//! let mut gateway = Spawn::new("us-east", Path::new("target/debug/isthmus"))
//!     .args(["gateway", "--config", "gateway.yaml"])
//!     .start(directory.path())?;
//! wait_until(Duration::from_secs(5), "the gateway to answer", async || http::get(admin, "/status").await.is_ok()).await;
//! gateway.kill9().await?;
//! # Ok(()) }
//! ```

pub mod dns;
pub mod http;
mod loopback;
mod memory;
mod netns;
mod process;
mod wait;

pub use loopback::Loopback;
pub use memory::{anonymous, peak, resident};
pub use netns::Netns;
pub use process::{Process, Spawn};
pub use wait::{wait_for, wait_until};

#[cfg(test)]
mod tests;
