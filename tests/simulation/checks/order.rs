//! Per path, what rests on an older look at the source never comes after what rests on a newer one: so a delete never
//! overtakes a later create, nor an old content a new one.

use super::super::target::Target;

/// Whether a target was told things out of order.
pub fn check(target: &Target) {
    assert!(target.overtaken.is_empty(), "order: older work came after newer work: {:?}", target.overtaken);
}
