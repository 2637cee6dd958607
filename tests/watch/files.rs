//! Names that are not directories.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use fansync::change::{Content, MarkKind, Stage};

use crate::script::{Script, path, write};

#[test]
fn a_written_and_closed_file_is_complete() {
    let mut script = Script::start(|_| {});
    write(&script.at("f"), "content");
    script.expect_point("f", Content::Resend, Stage::Complete);
    script.forget();
    write(&script.at("f"), "CONTENT");
    script.expect_point("f", Content::Resend, Stage::Complete);
}

#[test]
fn an_append_without_a_close_is_still_being_written() {
    let mut script = Script::start(|root| write(&root.join("log"), ""));
    let mut file = OpenOptions::new().append(true).open(script.at("log")).unwrap();
    file.write_all(b"line\n").unwrap();
    script.expect_point("log", Content::Resend, Stage::Writing);
    script.forget();
    drop(file);
    script.expect_point("log", Content::Resend, Stage::Complete);
}

#[test]
fn a_created_file_without_a_close_is_still_being_written() {
    let mut script = Script::start(|_| {});
    let _open = File::create(script.at("f")).unwrap();
    script.expect_point("f", Content::Resend, Stage::Writing);
}

#[test]
fn a_chmod_says_nothing_of_content_or_writing() {
    let mut script = Script::start(|root| write(&root.join("f"), ""));
    fs::set_permissions(script.at("f"), Permissions::from_mode(0o640)).unwrap();
    script.expect_point("f", Content::Compare, Stage::Unchanged);
    assert!(script.marks.iter().all(|(_, mark)| !mark.changes_names), "{}", script.shown());
}

#[test]
fn an_unlink_changes_the_names_of_its_directory() {
    let mut script = Script::start(|root| write(&root.join("f"), ""));
    fs::remove_file(script.at("f")).unwrap();
    script.expect_point("f", Content::Compare, Stage::Complete);
    assert!(script.marks.iter().any(|(_, mark)| mark.path == path("f") && mark.changes_names), "{}", script.shown());
}

#[test]
fn a_rename_marks_both_names() {
    let mut script = Script::start(|root| write(&root.join("old"), ""));
    fs::rename(script.at("old"), script.at("new")).unwrap();
    script.expect_point("new", Content::Resend, Stage::Complete);
    script.expect_point("old", Content::Compare, Stage::Complete);
}

#[test]
fn a_file_that_was_written_and_renamed_within_a_drain_is_marked_under_its_new_name() {
    let mut script = Script::start(|_| {});
    write(&script.at(".tmp"), "content");
    fs::rename(script.at(".tmp"), script.at("final")).unwrap();
    script.expect_point("final", Content::Resend, Stage::Complete);
}

#[test]
fn links_and_nodes_are_complete_at_once() {
    let mut script = Script::start(|root| write(&root.join("f"), ""));
    fs::hard_link(script.at("f"), script.at("hard")).unwrap();
    symlink("f", script.at("soft")).unwrap();
    nix::unistd::mkfifo(&script.at("pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    for name in ["hard", "soft", "pipe"] {
        script.expect_point(name, Content::Resend, Stage::Complete);
    }
}

#[test]
fn a_file_in_a_deep_directory_has_its_whole_path() {
    let mut script = Script::start(|root| fs::create_dir_all(root.join("a/b/c/d")).unwrap());
    write(&script.at("a/b/c/d/f"), "");
    script.expect_point("a/b/c/d/f", Content::Resend, Stage::Complete);
    assert!(!script.marks.iter().any(|(_, mark)| mark.kind == MarkKind::Subtree), "{}", script.shown());
}
