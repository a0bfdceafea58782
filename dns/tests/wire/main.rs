//! The server as its clients and upstream servers meet it: over real sockets.

mod harness;
mod hostile;
mod upstream;
mod zone;
