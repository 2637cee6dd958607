//! The command line of `fansync bench`, and which of its options belong to what.

use std::path::PathBuf;
use std::time::Duration;

use super::scenario::{Scenario, TargetKind, parse_size};
use super::subject::Subject;
use super::{EXIT_CODES, foreign, reader, scale};

/// Who is measured besides the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Peer {
    /// lsyncd, delay 1 s.
    Lsyncd,
    /// A shell loop of inotifywait and rsync.
    Inotifywait,
    /// sersync2.
    Sersync2,
    /// All of them.
    All,
}

impl Peer {
    /// Whom it stands for.
    pub(super) fn subjects(self) -> &'static [Subject] {
        match self {
            Self::Lsyncd => &[Subject::Lsyncd],
            Self::Inotifywait => &[Subject::Script],
            Self::Sersync2 => &[Subject::Sersync],
            Self::All => &[Subject::Lsyncd, Subject::Script, Subject::Sersync],
        }
    }
}

/// What else is measured, each with arguments of its own.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum More {
    /// The claim: 200 files of 100 KB at once, beside one rsync and every other tool that is installed, and a verdict
    Claim(ClaimArguments),
    /// Starts, memory, restarts and overflows on a tree of many directories, beside bare walks of it
    Scale(scale::ScaleArguments),
    /// Two writers that create, write, close and unlink in the root as fast as they can: what the reader costs
    Reader(reader::ReaderArguments),
    /// Unrelated writes on the same file system: what they cost the agent that has a mark on it (fanotify; takes root)
    Foreign(foreign::ForeignArguments),
}

/// Arguments of `bench claim`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub struct ClaimArguments {
    /// Runs of each tool
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub runs: u32,
    /// Writes JSON to a file; `-` prints it instead of the table
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Draws the result into a file
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Where the scratch directory is made [default: the system's directory for temporary files]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// How long the last file may take after the last write
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub patience: u64,
}

/// Measures how soon changes are on the target, beside rsync alone with the same changes and, if asked, other tools
#[derive(Debug, Clone, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArguments {
    /// Something else
    #[command(subcommand)]
    pub more: Option<More>,
    /// What is done, one after the other; without it burst, trickle, delete, small and rewrite
    #[arg(value_enum, value_name = "SCENARIO")]
    pub scenarios: Vec<Scenario>,
    /// All scenarios: takes half an hour and more, and 10 GB
    #[arg(long, conflicts_with = "scenarios")]
    pub all: bool,
    /// Kinds of target, separated by commas; for burst, trickle, delete, small and rewrite
    #[arg(long, value_enum, value_name = "KIND", value_delimiter = ',', default_value = "daemon")]
    pub target: Vec<TargetKind>,
    /// Runs of each scenario
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub runs: u32,
    /// Files in a run, instead of the scenario's own number; for mixed the large ones
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub files: Option<u32>,
    /// Bytes of a file, such as 10K, 1M or 1G; for mixed of a large one
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub size: Option<u64>,
    /// How long files are written: fanout [60], sustained for each step [10], mixed without large files [10]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub seconds: Option<u32>,
    /// New files per second: fanout [167], sustained in the first step [200]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rate: Option<u32>,
    /// The highest rate that sustained tries [default: 100000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rate_max: Option<u32>,
    /// Daemons that the agent of fanout sends to [default: 20]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub targets: Option<u32>,
    /// Round trip to the target of latency-wan [default: 50]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(1..=2_000))]
    pub rtt: Option<u32>,
    /// Writes JSON to a file; `-` prints it instead of the table
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Draws the results into a file
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Measures nothing: reads what --json wrote, for the table and --svg; may be repeated
    #[arg(long, value_name = "FILE", conflicts_with_all = ["scenarios", "all", "peer", "json"])]
    pub from_json: Vec<PathBuf>,
    /// Measures these too, if they are installed (sersync2 sets kernel limits; they are put back)
    #[arg(long, value_enum, value_name = "PEER")]
    pub peer: Vec<Peer>,
    /// Where the scratch directory is made [default: the system's directory for temporary files]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// How long the last file may take after the last write
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub patience: u64,
}

/// The numbers of one scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Numbers {
    pub(super) runs: u32,
    pub(super) files: usize,
    pub(super) size: u64,
    pub(super) span: Duration,
    pub(super) rate: u32,
    pub(super) rate_max: u32,
    pub(super) targets: usize,
    pub(super) rtt: Duration,
    /// They are those that the promises are about; the number of runs is free.
    pub(super) are_defaults: bool,
}

const RATE_MAX: u32 = 100_000;
const TARGETS: u32 = 20;
const RTT_MS: u32 = 50;

impl BenchArguments {
    /// What is measured.
    pub(super) fn chosen(&self) -> Vec<Scenario> {
        match (self.all, &self.scenarios[..]) {
            (true, _) => Scenario::ALL.to_vec(),
            (false, []) => Scenario::QUICK.to_vec(),
            (false, chosen) => chosen.to_vec(),
        }
    }

    /// What makes no sense together.
    ///
    /// # Errors
    /// A line for each option that none of the scenarios has a use for.
    pub fn check(&self) -> Result<(), Vec<String>> {
        use Scenario::{Fanout, LatencyWan, Mixed, Sustained};
        if self.more.is_some() {
            return Ok(());
        }
        let chosen = self.chosen();
        let mut problems = Vec::new();
        let mut needs = |is_given: bool, option: &str, who: &[Scenario]| {
            if is_given && !chosen.iter().any(|scenario| who.contains(scenario)) {
                let names: Vec<_> = who.iter().map(|scenario| scenario.name()).collect();
                problems.push(format!("--{option} is for {} only", names.join(", ")));
            }
        };
        let with_files: Vec<_> =
            Scenario::ALL.into_iter().filter(|scenario| !matches!(scenario, Fanout | Sustained)).collect();
        let single: Vec<_> = Scenario::ALL.into_iter().filter(|scenario| scenario.is_of_single_files()).collect();
        needs(self.rtt.is_some(), "rtt", &[LatencyWan]);
        needs(self.targets.is_some(), "targets", &[Fanout]);
        needs(self.rate.is_some(), "rate", &[Fanout, Sustained]);
        needs(self.rate_max.is_some(), "rate-max", &[Sustained]);
        needs(self.seconds.is_some(), "seconds", &[Fanout, Sustained, Mixed]);
        needs(self.files.is_some(), "files", &with_files);
        needs(self.target[..] != [TargetKind::Daemon], "target", &Scenario::QUICK);
        needs(!self.peer.is_empty(), "peer", &single);
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// The numbers of a scenario.
    pub(super) fn numbers(&self, scenario: Scenario) -> Numbers {
        let others = [self.files, self.seconds, self.rate, self.rate_max, self.targets, self.rtt];
        Numbers {
            runs: self.runs,
            files: self.files.map_or_else(|| scenario.files(), |files| files as usize),
            size: self.size.unwrap_or_else(|| scenario.size()),
            span: self.seconds.map_or_else(|| scenario.seconds(), |seconds| Duration::from_secs(seconds.into())),
            rate: self.rate.unwrap_or_else(|| scenario.rate()),
            rate_max: self.rate_max.unwrap_or(RATE_MAX),
            targets: self.targets.unwrap_or(TARGETS) as usize,
            rtt: Duration::from_millis(self.rtt.unwrap_or(RTT_MS).into()),
            are_defaults: others.iter().all(Option::is_none) && self.size.is_none(),
        }
    }

    /// The kinds of target of a scenario.
    pub(super) fn targets_of(&self, scenario: Scenario) -> Vec<TargetKind> {
        if !Scenario::QUICK.contains(&scenario) {
            return vec![TargetKind::Daemon];
        }
        let mut kinds: Vec<TargetKind> = Vec::new();
        for kind in &self.target {
            if !kinds.contains(kind) {
                kinds.push(*kind);
            }
        }
        kinds
    }
}

impl ClaimArguments {
    /// As arguments of the scenario that it is.
    pub(super) fn as_bench(&self) -> BenchArguments {
        BenchArguments {
            more: None,
            scenarios: vec![Scenario::Burst],
            all: false,
            target: vec![TargetKind::Daemon],
            runs: self.runs,
            files: None,
            size: None,
            seconds: None,
            rate: None,
            rate_max: None,
            targets: None,
            rtt: None,
            json: self.json.clone(),
            svg: self.svg.clone(),
            from_json: Vec::new(),
            peer: vec![Peer::All],
            dir: self.dir.clone(),
            patience: self.patience,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        bench: BenchArguments,
    }

    fn parse(words: &[&str]) -> BenchArguments {
        Line::try_parse_from(std::iter::once(&"bench").chain(words)).unwrap().bench
    }

    #[test]
    fn an_option_without_a_use_is_refused() {
        for (words, problem) in [
            (&["burst", "--rtt=10"][..], "--rtt is for latency-wan only"),
            (&["small", "--targets=3"], "--targets is for fanout only"),
            (&["mixed", "--rate=3"], "--rate is for fanout, sustained only"),
            (&["fanout", "--rate-max=3"], "--rate-max is for sustained only"),
            (&["rename", "--seconds=3"], "--seconds is for mixed, fanout, sustained only"),
            (&["fanout", "--target=local"], "--target is for burst, trickle, delete, small, rewrite only"),
            (&["sustained", "--files=9"], "--files is for burst,"),
            (&["rename", "--peer=all"], "--peer is for burst,"),
        ] {
            let problems = parse(words).check().unwrap_err().join("\n");
            let wanted: Vec<_> = problem.split([',', ' ']).filter(|word| !word.is_empty()).collect();
            assert!(wanted.iter().all(|word| problems.contains(word)), "{words:?}: {problems}");
        }
        for words in [
            &[][..],
            &["burst", "latency-wan", "--rtt=10", "--peer=lsyncd"],
            &["--all", "--targets=3"],
            &["fanout", "--rate=1", "--seconds=1", "--size=1K"],
            &["--target=daemon,stock,local", "--files=3"],
        ] {
            assert_eq!(parse(words).check(), Ok(()), "{words:?}");
        }
    }

    #[test]
    fn numbers_are_the_scenarios_own_or_the_users() {
        let own = parse(&["fanout", "--runs=2"]).numbers(Scenario::Fanout);
        assert_eq!((own.runs, own.rate, own.targets, own.span.as_secs(), own.are_defaults), (2, 167, 20, 60, true));
        let given = parse(&["fanout", "--rate=9", "--targets=3"]).numbers(Scenario::Fanout);
        assert_eq!((given.runs, given.rate, given.targets, given.are_defaults), (7, 9, 3, false));
        assert_eq!(parse(&["latency-wan"]).numbers(Scenario::LatencyWan).rtt, Duration::from_millis(50));
        let kinds = parse(&["--target=stock,local,stock"]);
        assert_eq!(kinds.targets_of(Scenario::Burst), [TargetKind::Stock, TargetKind::Local]);
        assert_eq!(kinds.targets_of(Scenario::Mixed), [TargetKind::Daemon]);
    }

    #[test]
    fn what_is_chosen_by_nobody_is_quick() {
        assert_eq!(parse(&[]).chosen(), Scenario::QUICK);
        assert_eq!(parse(&["--all"]).chosen(), Scenario::ALL);
        assert_eq!(parse(&["rename", "burst"]).chosen(), [Scenario::Rename, Scenario::Burst]);
    }
}
