//! No queue, no change set and no held store passes its limit.

use super::super::machine::State;

/// The marks that wait for one target.
pub fn pending(pending: usize, marks_max: usize) {
    assert!(pending <= marks_max, "bounded: {pending} marks wait, {marks_max} may");
}

/// The kernel's queues: this is what the model promises, and what the agent has to live with.
pub fn queues(state: &State) {
    for instance in &state.instances {
        assert!(instance.queued() <= instance.bound(), "bounded: {} events are queued", instance.queued());
    }
    for group in &state.groups {
        assert!(group.queued() <= group.bound(), "bounded: {} events are queued", group.queued());
    }
}
