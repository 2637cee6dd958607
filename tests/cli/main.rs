//! The real binary against bad input: the exit code, the words that say what, where and what to do, and a target on
//! which nothing was changed.

#![expect(clippy::disallowed_methods, reason = "a test driver starts processes, reaps them and reads the clock")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

mod bench;
mod benchmark;
mod configuration;
mod control;
mod doctor;
mod help;
mod mirror;
#[path = "../shared/queue_lock.rs"]
mod queue_lock;
#[path = "../shared/small_queue.rs"]
mod small_queue;
