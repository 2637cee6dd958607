//! Watching: kernel events to marks. One [`Shard`] owns the watches of some subtrees of a root.
//!
//! The shard does the syscalls that watching needs; its loop and its threads are in `daemon`.

mod backend;
mod count;
mod dealing;
mod errand;
mod lack;
mod nameless;
mod shard;
mod standing;
mod stranger;
mod touches;
mod trunk;
mod walk;

pub use backend::{Asked, Choice, choose};
pub use count::{Count, count};
pub use errand::{Errand, Errands, Occasion, Task};
pub use lack::Lack;
pub use nameless::NamelessChange;
pub use shard::{Loss, LossReason, LostScope, Reading, Shard, ShardId, ShardOptions, Source, StartError};
pub use standing::RootFault;
pub use trunk::Trunk;
