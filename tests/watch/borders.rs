//! What is not entered: symlinks, excluded names, other file systems.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use fansync::change::{Content, MarkKind, Stage};
use fansync::filter::Filter;

use crate::script::{Script, write};

#[test]
fn a_symlink_to_a_directory_is_a_name_and_is_not_entered() {
    let mut script = Script::start(|root| fs::create_dir_all(root.join("top")).unwrap());
    fs::create_dir_all(script.outside("elsewhere/deep")).unwrap();
    let watched = script.watched();
    symlink(script.outside("elsewhere"), script.at("top/link")).unwrap();
    symlink(script.outside("elsewhere"), script.at("link")).unwrap();
    script.expect_point("top/link", Content::Resend, Stage::Complete);
    script.expect_point("link", Content::Resend, Stage::Complete);
    script.settle();
    assert_eq!(script.watched(), watched);
    script.forget();
    write(&script.outside("elsewhere/deep/f"), "");
    write(&script.outside("elsewhere/f"), "");
    script.expect_nothing("");
}

#[test]
fn a_symlink_that_was_there_at_the_start_is_not_entered() {
    let mut script = Script::start(|root| {
        fs::create_dir_all(root.join("../elsewhere/deep")).unwrap();
        symlink("../elsewhere", root.join("link")).unwrap();
    });
    assert_eq!(script.watched(), 1);
    write(&script.outside("elsewhere/f"), "");
    script.expect_nothing("");
}

#[test]
fn excluded_directories_are_not_watched_and_excluded_files_not_marked() {
    let filter = Filter::new(&["- /top/cache/", "- *.tmp"], true).unwrap();
    let mut script = Script::start_with(1, filter, |root| fs::create_dir_all(root.join("top/cache/deep")).unwrap());
    assert_eq!(script.watched(), 2);
    write(&script.at("top/cache/deep/f"), "");
    write(&script.at("top/f.tmp"), "");
    script.settle();
    // The names in a directory are its mtime; nothing else of an excluded one is ours.
    assert!(script.marks.iter().all(|(_, mark)| mark.kind == MarkKind::Attributes), "{}", script.shown());
    fs::rename(script.at("top/f.tmp"), script.at("top/f")).unwrap();
    script.expect_point("top/f", Content::Resend, Stage::Complete);
    fs::create_dir_all(script.at("top/seen/deep")).unwrap();
    script.expect_covered("top/seen/deep");
    script.settle();
    assert_eq!(script.watched(), 4);
    // Into an excluded name is out, and back again is in.
    fs::remove_dir_all(script.at("top/cache")).unwrap();
    fs::rename(script.at("top/seen"), script.at("top/cache")).unwrap();
    script.settle();
    script.give_up_departed();
    assert_eq!(script.watched(), 2, "{}", script.shown());
    script.forget();
    fs::rename(script.at("top/cache"), script.at("top/seen")).unwrap();
    write(&script.at("top/seen/deep/f"), "");
    script.expect_covered("top/seen/deep/f");
    script.settle();
    assert_eq!(script.watched(), 4);
}

/// Rules that name a place: what is excluded there is not when it moves elsewhere, however deep it lies.
#[test]
fn a_move_out_of_an_excluded_place_is_a_move_in_however_deep() {
    let filter = Filter::new(&["- /top/a/*/*/cache/"], true).unwrap();
    let mut script =
        Script::start_with(1, filter, |root| fs::create_dir_all(root.join("top/a/b/c/cache/deep")).unwrap());
    assert_eq!(script.watched(), 5);
    fs::rename(script.at("top/a"), script.at("top/z")).unwrap();
    script.expect_covered("top/z/b/c/cache/deep");
    script.settle();
    script.give_up_departed();
    assert_eq!(script.watched(), 7, "{}", script.shown());
    fs::rename(script.at("top/z"), script.at("top/a")).unwrap();
    script.settle();
    script.give_up_departed();
    assert_eq!(script.watched(), 5, "{}", script.shown());
}

/// Unmounts, whatever happens in the test.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _gone_already = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_mount_inside_the_root_is_not_entered() {
    let mut mounted = None;
    let mut script = Script::start(|root| {
        let at = root.join("top/mounted");
        fs::create_dir_all(&at).unwrap();
        let output = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&at).output().unwrap();
        if output.status.success() {
            fs::create_dir_all(at.join("inside/deep")).unwrap();
            mounted = Some(Mounted(at));
        } else {
            eprintln!("skipped: cannot mount a tmpfs: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
    });
    let Some(mounted) = mounted else { return };
    assert_eq!(script.watched(), 2);
    write(&script.at("top/mounted/f"), "");
    write(&script.at("top/mounted/inside/f"), "");
    script.expect_nothing("top/mounted");
    // One that comes later: its directory is watched, what is mounted over it is not seen.
    drop(mounted);
    script.settle();
    write(&script.at("top/f"), "");
    script.expect_point("top/f", Content::Resend, Stage::Complete);
}
