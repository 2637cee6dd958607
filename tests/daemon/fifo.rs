//! A file that becomes a FIFO between rsync's look and its open: the open waits for a writer for ever.
//!
//! Story: two chaos seeds (2,000 operations, plain names) stood still for minutes. The sender hung in open(2), where
//! `--timeout` does not reach it; its batch stayed in flight, and a background mark above it that waited for the batch
//! kept every live change beneath it waiting too.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use crate::ground::{Ground, PATIENCE, until};

#[test]
fn an_rsync_that_waits_for_a_writer_of_a_fifo_is_stopped_and_its_batch_sent_again() {
    let ground = Ground::new();
    fs::write(ground.at("first"), "1").unwrap();
    let (fifo, once) = (ground.place.join("fifo"), ground.place.join("once"));
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // The program opens the FIFO itself, once, in a run that has a list, and never comes back from that.
    let program = ground.place.join("rsync-with-fifo");
    let text = format!(
        "#!/bin/sh\ncase \"$*\" in *--files-from*) if rm {once} 2>/dev/null; then exec 3< {fifo}; fi;; esac\nexec rsync \"$@\"\n",
        once = once.display(),
        fifo = fifo.display()
    );
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
    let daemon = ground.daemon();
    // One that waits has begun before the FIFO is armed.
    let options = ["--rsync", program.to_str().unwrap(), "--warm", "0"];
    let mut agent = ground.agent(&[daemon.url().into()], &options);
    until("comparison", PATIENCE, &agent, || agent.log().contains("everything is compared"));
    fs::write(&once, "").unwrap();
    fs::write(ground.at("second"), "2").unwrap();
    // The hang is noticed in a second or two; without that the deadline of the run is three minutes away.
    until("file after the hang", Duration::from_secs(20), &agent, || ground.there("second").exists());
    assert!(!once.exists(), "the program hung once");
    ground.wait_equal(&agent);
    assert!(agent.terminate().success());
}
