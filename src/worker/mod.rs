//! One rsync per batch: its command line, its run, what its end means.

pub mod cause;
pub mod command;
pub mod complaint;
pub mod outcome;
pub mod run;
pub mod ship;
