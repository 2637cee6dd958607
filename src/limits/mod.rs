//! What the kernel's limits should be, by the arithmetic of sysctl/README.md: `needs` (pure); and what watches an agent
//! may still take, raised while it runs: `allowance`.

mod allowance;
mod needs;

pub use allowance::{Allowance, budget_of_machine};
pub use needs::{
    Budget, DIRECTORIES_AT_START, Needs, RATE, STALL, Step, Steps, WATCH_BYTES, bytes, grouped, groups_for,
    instances_for, queue_for, steps, watches_for,
};
