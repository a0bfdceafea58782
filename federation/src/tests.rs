//! What goes over the wire and lies on disk, held against bytes that were kept.

mod every;
mod formats;
