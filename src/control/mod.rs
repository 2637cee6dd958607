//! What an agent is asked and what it answers: one JSON object a line, each way, over its control socket. Pure.
//!
//! A path is the string that `status` shows ([`crate::path::escaped`]), which has an exact inverse, so every name can
//! be asked for and what was shown can be given back. The root is `.`.
//!
//! Left out: who may ask. The socket has mode 0600; whoever can open it may do everything here.

mod answer;
mod line;
mod request;

pub use answer::{
    Answer, Checkpoint, DeadLetter, DeadLetters, Degraded, Explained, FailureKind, Filtered, Held, HeldDeletes,
    Latency, LinkStatus, MarkInfo, Missing, PathInfo, Reply, Rescan, RootName, RootStatus, ShardStatus, Status,
    TargetName, TargetStatus, Watch,
};
pub use line::{Line, LineBuffer};
pub use request::{Command, Request, WirePath};

/// Version of the requests and answers. A request of another one is refused.
pub const PROTOCOL: u32 = 1;

/// The socket's name in the state folder.
pub const SOCKET: &str = "control.sock";

/// Bytes of a request, its end included. Why 64 KiB: the longest path, 4096 bytes, escaped, fits four times.
pub const REQUEST_MAX: usize = 64 * 1024;
