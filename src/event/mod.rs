//! What the kernel said: bytes decoded to events. Pure.

mod decode;
mod fanotify;

pub use decode::{Event, EventKind, Nameless, Place, Record, decode, decode_as};
pub use fanotify::decode_fanotify;
