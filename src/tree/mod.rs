//! Where it happened: the watched directories of one shard. Pure.

mod directories;
mod names;

pub use directories::{Directories, DirectoryId};
