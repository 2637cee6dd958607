//! Two batches in flight to one target never overlap (ARCHITECTURE.md, invariant 2).

use fansync::change::{DraftMark, MarkKind};

/// Whether `new` may go beside `flying`.
pub fn check<'a>(new: &[DraftMark], flying: impl Iterator<Item = &'a DraftMark>) {
    let acts_on = |upper: &DraftMark, lower: &DraftMark| {
        lower.path.is_within(&upper.path) && (lower.path == upper.path || upper.kind != MarkKind::Attributes)
    };
    for other in flying {
        for mark in new {
            assert!(!acts_on(mark, other) && !acts_on(other, mark), "overlap: {mark:?} beside {other:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use fansync::change::{Content, Deletes};
    use fansync::path::RelPath;

    use super::*;

    fn mark(path: &str, kind: MarkKind) -> DraftMark {
        let path = RelPath::parse(path.as_bytes()).unwrap();
        DraftMark {
            path,
            kind,
            content: Content::Compare,
            derived: false,
            deletes: Deletes::Single,
            attempts: 0,
            origin: None,
        }
    }

    #[test]
    fn points_share_a_directory_that_is_not_in_flight_itself() {
        let points = [mark("d/a", MarkKind::Point), mark("d", MarkKind::Attributes)];
        check(&[mark("d/b", MarkKind::Point)], points.iter());
    }

    #[test]
    #[should_panic(expected = "overlap")]
    fn a_delete_beside_what_lies_beneath_is_noticed() {
        check(&[mark("d", MarkKind::Point)], [mark("d/a", MarkKind::Point)].iter());
    }
}
