//! Log lines to standard error, clear of the progress line.

use std::io::{self, IsTerminal as _, Write};
use std::sync::OnceLock;

use indicatif::ProgressBar;
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// The progress line, once there is one: log lines are written above it.
static PROGRESS: OnceLock<ProgressBar> = OnceLock::new();

struct AboveProgress;

impl Write for AboveProgress {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match PROGRESS.get() {
            Some(progress) => progress.suspend(|| io::stderr().write(buffer)),
            None => io::stderr().write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Starts logging; the level comes from `FANSYNC_LOG`.
pub fn start(format: Format) {
    let filter = EnvFilter::try_from_env("FANSYNC_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_writer(|| AboveProgress)
        .with_ansi(io::stderr().is_terminal());
    // A second start (in a test) keeps the first.
    let _started_before = match format {
        Format::Text => builder.try_init(),
        Format::Json => builder.json().try_init(),
    };
}

/// The progress line of a terminal; `None` where standard error is none.
pub fn progress() -> Option<&'static ProgressBar> {
    io::stderr().is_terminal().then(|| {
        PROGRESS.get_or_init(|| {
            let style = indicatif::ProgressStyle::with_template(
                "{spinner} comparing {pos}/{len} directories {bar:30} {eta} left {msg}",
            );
            let bar = ProgressBar::new(0);
            if let Ok(style) = style { bar.with_style(style) } else { bar }
        })
    })
}
