//! Handing over: what goes to which target, on which lane, when, and what a failure means for the next. Pure: time
//! and chance come in as arguments, actions and notices go out as values.

mod backoff;
mod breaker;
mod dispatcher;
mod guard;
mod held;
mod holding;
mod order;
mod saving;
mod target;
mod view;
mod wait;
mod words;

pub use backoff::{Backoff, Haste};
pub use breaker::{Breaker, Pace};
pub use dispatcher::{Dispatcher, Room};
pub use guard::{DeleteGuard, HoldOver, Reservation};
pub use order::{Action, Conclusion, FailedMark, LaneId, Notice, Order, Outcome, Report, Trouble, TroubleRemedy, Why};
pub use target::TargetOptions;
pub use view::{HeldDeletesView, HeldView, LetterView, PathOnTarget, RootView, TargetView};
pub use wait::{Heard, Missing, Waits};
