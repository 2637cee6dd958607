//! Where it happened: the watched directories of one shard. Pure.

mod directories;

pub use directories::{Directories, DirectoryId};
