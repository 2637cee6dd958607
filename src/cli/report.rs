//! Errors to words, a hint and an exit code: the only place that prints them.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use crate::sys::inotify::WatchError;

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub enum Failure {
    /// Usage, configuration, or a target that refuses: somebody has to change something. Exit code 2.
    Wrong(Vec<String>),
    /// Everything else. Exit code 1.
    Failed(anyhow::Error),
    /// What is wrong was printed already.
    Told(u8),
}

impl Failure {
    /// One thing that somebody has to change.
    pub fn wrong(text: impl Into<String>) -> Self {
        Self::Wrong(vec![text.into()])
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// An error and its causes on one line.
#[must_use]
pub fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for (index, cause) in error.chain().enumerate() {
        let _infallible = if index == 0 { write!(text, "{cause}") } else { write!(text, ": {cause}") };
    }
    text
}

/// What to do about a failure whose cause is a limit of the kernel.
fn hint(error: &anyhow::Error) -> Option<&'static str> {
    error.chain().find_map(|cause| {
        let no_watch = matches!(cause.downcast_ref(), Some(WatchError::LimitReached));
        let no_descriptor = |error: &std::io::Error| error.raw_os_error() == Some(libc::EMFILE);
        if no_watch {
            Some("'fansync doctor' says what to raise")
        } else if cause.downcast_ref().is_some_and(no_descriptor) {
            Some("fs.inotify.max_user_instances or the number of open files is used up: 'fansync doctor' says which to raise")
        } else {
            None
        }
    })
}

/// Prints the failure; returns the exit code.
pub fn report(failure: &Failure) -> ExitCode {
    let mut stderr = std::io::stderr().lock();
    match failure {
        Failure::Wrong(texts) => {
            for text in texts {
                let _nobody_reads = writeln!(stderr, "fansync: {text}");
            }
            ExitCode::from(2)
        }
        Failure::Failed(error) => {
            let hint = hint(error).map_or_else(String::new, |hint| format!("; {hint}"));
            let _nobody_reads = writeln!(stderr, "fansync: {}{hint}", chain(error));
            ExitCode::from(1)
        }
        Failure::Told(code) => ExitCode::from(*code),
    }
}
