//! One property each.

pub mod bounded;
pub mod converges;
pub mod durable;
pub mod order;
pub mod overlap;
pub mod watched;
