//! Errors to words, a hint and an exit code: the only place that prints them.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

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
            let _nobody_reads = writeln!(stderr, "fansync: {}", chain(error));
            ExitCode::from(1)
        }
        Failure::Told(code) => ExitCode::from(*code),
    }
}
