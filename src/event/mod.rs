//! What the kernel said: bytes decoded to events. Pure.

mod decode;

pub use decode::{Event, EventKind, Record, decode};
