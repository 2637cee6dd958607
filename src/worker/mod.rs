//! One rsync per batch: its command line, its run, what its end means.

pub mod command;
pub mod run;
