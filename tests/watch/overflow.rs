//! The kernel's queue overflows: what the shard watches may have changed, and nothing else.

use std::fs;
use std::path::Path;

use fansync::change::{Content, MarkKind, Priority};
use fansync::filter::Filter;
use fansync::sys::lock::{Lock, try_lock};

use crate::script::{Script, covers, path, write};

const SYSCTL: &str = "/proc/sys/fs/inotify/max_queued_events";
const QUEUE: usize = 64;

/// A small queue for the instances that are made meanwhile. The lock keeps other overflow tests of this machine away.
struct SmallQueue {
    before: String,
    _lock: Lock,
}

impl SmallQueue {
    /// `None` when not allowed.
    fn set() -> Option<Self> {
        let lock = loop {
            match try_lock(Path::new("/tmp/fansync-test-max_queued_events.lock")) {
                Ok(Some(lock)) => break lock,
                Ok(None) => std::thread::park_timeout(std::time::Duration::from_millis(20)),
                Err(error) => {
                    eprintln!("skipped: cannot take the lock: {error}");
                    return None;
                }
            }
        };
        let before = fs::read_to_string(SYSCTL).unwrap();
        match fs::write(SYSCTL, QUEUE.to_string()) {
            Ok(()) => Some(Self { before, _lock: lock }),
            Err(error) => {
                eprintln!("skipped: cannot write {SYSCTL}: {error}");
                None
            }
        }
    }
}

impl Drop for SmallQueue {
    fn drop(&mut self) {
        fs::write(SYSCTL, self.before.trim()).expect("it could be written before");
    }
}

/// Two shards with small queues; `flooded` and `calm` are top-level directories of different shards.
fn start() -> Option<Script> {
    let _small = SmallQueue::set()?;
    Some(Script::start_with(2, Filter::none(), |root| {
        for name in ["a/deep", "b/deep"] {
            fs::create_dir_all(root.join(name)).unwrap();
            write(&root.join(name).join("f"), "old");
        }
    }))
}

/// Floods a directory of the trunk, or of the other shard, and checks the marks that come of it.
fn flood(trunk: bool) {
    let Some(mut script) = start() else { return };
    write(&script.at("a/probe"), "");
    script.expect_covered("a/probe");
    let (flooded, calm) = if (script.marks[0].0 == 0) == trunk { ("a", "b") } else { ("b", "a") };
    script.settle();
    script.forget();
    for number in 0..QUEUE * 2 {
        write(&script.at(&format!("{flooded}/deep/{number}")), "");
    }
    // This one has no event.
    let lost = format!("{flooded}/deep/f");
    write(&script.at(&lost), "new");
    script.until("subtree of the flooded shard", |marks| {
        marks.iter().any(|(_, mark)| mark.kind == MarkKind::Subtree && covers(mark, &path(&lost)))
    });
    script.settle();
    assert_eq!(script.source.reading().overflows, 1, "one marker of one shard");
    for (_, mark) in &script.marks {
        assert!(!mark.path.is_within(&path(calm)), "{mark:?} is of the other shard; {}", script.shown());
        match mark.kind {
            MarkKind::Subtree | MarkKind::Listing => {
                assert!(matches!(mark.content, Content::Since(_)), "{mark:?}");
                assert_eq!(mark.priority, Priority::Background, "{mark:?}");
            }
            MarkKind::Point | MarkKind::Attributes => {}
        }
    }
    // Only the trunk knows the names in the root.
    assert_eq!(script.has("", MarkKind::Listing), trunk, "{}", script.shown());
}

#[test]
fn an_overflow_marks_what_its_own_shard_watches_and_nothing_else() {
    flood(false);
}

/// The trunk asked the owners to look at every name in the root again, and each look at a name that had not changed
/// ended in "moved here: send all of it", live: one overflow of the trunk sent the whole root.
#[test]
fn an_overflow_of_the_trunk_does_not_send_everything_again() {
    flood(true);
}

#[test]
fn directories_whose_creation_was_lost_are_watched_after_the_recovery() {
    let Some(mut script) = start() else { return };
    for flooded in ["a", "b"] {
        for number in 0..QUEUE * 2 {
            write(&script.at(&format!("{flooded}/deep/{number}")), "");
        }
        fs::create_dir_all(script.at(&format!("{flooded}/deep/lost/deeper"))).unwrap();
        fs::create_dir_all(script.at(&format!("top of {flooded}/lost"))).unwrap();
        let name = format!("{flooded}/deep/lost/deeper/f");
        script.expect_covered(&name);
        script.settle();
        script.forget();
        write(&script.at(&name), "");
        script.expect_point(&name, Content::Resend, fansync::change::Stage::Complete);
        let name = format!("top of {flooded}/lost/f");
        write(&script.at(&name), "");
        script.expect_point(&name, Content::Resend, fansync::change::Stage::Complete);
    }
    assert_eq!(script.watched(), 5 + 2 * 2 + 2 * 2);
}

#[test]
fn a_directory_that_was_removed_unseen_has_no_watch_after_the_recovery() {
    let Some(mut script) = start() else { return };
    fs::create_dir_all(script.at("a/gone/deep")).unwrap();
    script.settle();
    let watched = script.watched();
    for number in 0..QUEUE * 2 {
        write(&script.at(&format!("a/deep/{number}")), "");
    }
    fs::rename(script.at("a/gone"), script.outside("gone")).unwrap();
    script.until("subtree", |marks| marks.iter().any(|(_, mark)| mark.kind == MarkKind::Subtree));
    script.settle();
    script.give_up_departed();
    assert_eq!(script.watched(), watched - 2, "{}", script.shown());
    script.forget();
    write(&script.outside("gone/deep/f"), "");
    script.expect_nothing("");
}

/// Every overflow began walks of its own, which the next one's kept waiting: under steady load they became ever more.
#[test]
fn overflow_after_overflow_adds_no_walks() {
    let Some(mut script) = start() else { return };
    for _overflow in 0..50 {
        for number in 0..QUEUE * 2 {
            write(&script.at(&format!("a/deep/{number}")), "");
        }
        script.drain();
    }
    assert_eq!(script.source.reading().overflows, 50);
    script.forget();
    script.settle();
    let subtrees = script.marks.iter().filter(|(_, mark)| mark.kind == MarkKind::Subtree).count();
    assert!(subtrees <= 2, "{}", script.shown());
}
