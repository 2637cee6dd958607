//! `--dry-run`: what would be sent and deleted, once, and nothing else.

use std::io::{self, Write as _};
use std::sync::Arc;

use super::report::Failure;
use crate::daemon::RootSetup;
use crate::path::escaped;
use crate::sys::child::Inherited;
use crate::sys::clock;
use crate::watch::Source;
use crate::worker::preview::{Deed, preview};

/// Compares every root with every target and says what differs. No lock is taken: nothing is changed anywhere.
pub fn dry_run(roots: &[RootSetup]) -> Result<(), Failure> {
    let mut failures = Vec::new();
    for root in roots {
        let source = Source::open(&root.name, root.path.clone(), root.one_file_system, root.filter.clone())?;
        let source = Arc::new(source.keeping(root.deletes.keep));
        if let Err(fault) = source.check(clock::now()) {
            failures.push(fault.words);
            continue;
        }
        let inherited = Inherited::duplicate(&source.root)?;
        for target in &root.targets {
            let mut out = io::BufWriter::new(io::stdout().lock());
            writeln!(out, "{} to {} ({}):", root.name, target.name, target.transport.location)?;
            let mut counts = [0_u64; 4];
            let mut written = Ok(());
            let compared = preview(&target.transport, &source.filter, source.keep, &inherited, |deed, name| {
                let (index, word) = match deed {
                    Deed::Send => (0, "send      "),
                    Deed::Create => (1, "create    "),
                    Deed::Attributes => (2, "attributes"),
                    Deed::Delete => (3, "delete    "),
                };
                counts[index] += 1;
                if written.is_ok() {
                    written = writeln!(out, "  {word}  {}", escaped(name));
                }
            });
            written?;
            match compared {
                Ok(()) => {
                    let [send, create, attributes, delete] = counts;
                    let more = root.deletes.hold_over.paths.max(1);
                    writeln!(
                        out,
                        "  {send} to send, {create} to create, {attributes} attributes to set, {delete} to delete{}",
                        if delete > more { ": so many would be held until 'fansync approve'" } else { "" }
                    )?;
                }
                Err(error) => {
                    failures.push(format!("target {}: {}", target.name, super::report::chain(&error.into())));
                }
            }
            out.flush()?;
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(anyhow::anyhow!(failures.join("\nfansync: ")).into()) }
}
