//! The real kernel, one script per test: what is done to a tree, then the marks that come of it.
//!
//! No threads and no fixed waits: the test drives its shards itself and polls their descriptors until a predicate over
//! the marks holds.

#![expect(clippy::disallowed_methods, reason = "a test driver reads the clock to bound its waits")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

mod borders;
mod crown;
mod directories;
mod files;
mod overflow;
mod script;
mod shards;
#[path = "../shared/queue_lock.rs"]
mod queue_lock;
#[path = "../shared/small_queue.rs"]
mod small_queue;
