//! A wide area network on one machine: a TCP relay per directed pair of clusters, with distance and faults.
//!
//! A [`Link`] works on byte streams, not on packets, which needs no privileges and makes runs repeatable.
//! So what it cannot show is stated: a TCP handshake is over at once for who dials, and its round trip is waited for
//! by the first bytes instead; and nothing is lost or reordered *within* a connection. Jitter comes from a seed.
//!
//! | fault | bytes in flight | established connections | new connections | after `heal` |
//! | --- | --- | --- | --- | --- |
//! | `cut` | lost | reset | refused | new ones pass |
//! | `stall` | held | open, silent, pushing back | accepted, silent | go on, nothing lost |
//! | `blackhole` | swallowed | open, silent, taking everything | accepted, silent | reset: they lost bytes |

mod lane;
mod link;
mod mesh;
mod pipe;
mod routed;
mod timer;
mod r#virtual;

pub use lane::{Direction, Fault, Shape};
pub use link::Link;
pub use mesh::{Site, Wan};
pub use routed::RoutedWan;
pub use r#virtual::{Accepted, MachineId, VirtualWan};

#[cfg(test)]
mod tests;
