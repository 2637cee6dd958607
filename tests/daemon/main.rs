//! The real binary against a real `rsync --daemon`, or `sshd`, on loopback: churn, wait until the trees are equal, compare byte for byte.
//!
//! `churn` changes a tree, `compare` says where two trees differ, `agent` runs the binary, `chaos` joins the three;
//! `ground` is what the tests of one behaviour each stand on.
//! Nothing waits for a fixed time: every wait ends by a condition, and fails with what was still wrong.

#![expect(
    clippy::disallowed_methods,
    reason = "a test driver starts processes, reaps them and reads the clock; the bans are for the agent"
)]
#![expect(clippy::print_stdout, reason = "seed and convergence time belong in the test's output")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

mod agent;
mod bandwidth;
mod chaos;
mod churn;
mod cold_start;
mod compare;
mod control;
mod degraded;
mod deletes;
mod direct;
mod failures;
mod faults;
mod fifo;
mod ground;
mod local;
mod many;
mod marks;
mod names;
mod plan_rules;
mod renames;
mod restart;
mod scale;
mod shutdown;
#[path = "../shared/queue_lock.rs"]
mod queue_lock;
#[path = "../shared/small_queue.rs"]
mod small_queue;
mod source;
mod ssh;
mod sshd;
mod targets;
mod warm;
