//! Wiring: threads, queues, wakers, shutdown. The only module that sees every stage.
//!
//! Threads of a root (ARCHITECTURE.md has the table): one per shard, one dispatcher, one per lane of each target, one
//! that searches the names of shared inodes. One per connection of ssh serves all roots. Each has a closed set of inputs and is joined at the end.

mod agent;
mod checkpoint;
mod clients;
mod connection;
mod control;
mod desk;
mod inbox;
mod lane;
mod links;
mod pipeline;
mod ration;
mod rounds;
mod saver;
mod scouts;
mod shard;
mod slots;
mod status;
mod thrift;
mod walkers;

pub use agent::{Agent, AgentError, DeleteSetup, RootSetup, TargetSetup};
pub use control::ControlSocket;
pub use pipeline::{RootStatus, TargetStatus};
pub use walkers::{RescanProgress, ShardStatus};
