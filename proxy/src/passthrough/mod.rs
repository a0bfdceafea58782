//! Sessions that a gateway passes on unopened: reads whom a session is for from its ClientHello, and
//! moves the bytes without looking at them.

mod client_hello;
mod read;
mod relay;

pub use client_hello::{CLIENT_HELLO_MAX, Malformed, Progress, sni};
pub use read::{ClientHello, HelloError, read_client_hello};
pub use relay::{Relayed, relay};
