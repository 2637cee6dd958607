//! A report as a picture: bars, one panel for each scenario and kind of target, as SVG. Pure.
//!
//! Everything is drawn from what the JSON has. Text is text, with a title and a description for those who do not see it; colours
//! follow the reader's choice of light or dark. The axis of each panel begins at zero and is linear: a bar that is ten times
//! as long is ten times as slow.

use std::fmt::Write as _;

use super::measure::Measurement;
use super::report::{Report, short};
use super::scenario::{Scenario, TargetKind};

const WIDTH: f64 = 860.0;
const MARGIN: f64 = 20.0;
/// Where bars begin: labels are left of it.
const AXIS: f64 = 250.0;
/// The longest bar; its figure stands right of it.
const BAR: f64 = 400.0;
const ROW: f64 = 22.0;
const THICK: f64 = 14.0;
/// Above the first bar of a panel: title and what the bars are.
const HEAD: f64 = 46.0;
const GAP: f64 = 22.0;

/// Whose bar it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Agent,
    Limit,
    Peer,
}

impl Kind {
    fn class(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Limit => "limit",
            Self::Peer => "peer",
        }
    }
}

/// A bar, and a mark further out on its line.
#[derive(Debug, Clone, PartialEq)]
struct Bar {
    label: String,
    kind: Kind,
    value: f64,
    far: Option<f64>,
    words: String,
}

/// A scenario and a kind of target.
#[derive(Debug, Clone, PartialEq)]
struct Panel {
    title: String,
    subtitle: String,
    bars: Vec<Bar>,
}

/// Draws it.
pub(super) fn draw(report: &Report) -> String {
    let panels = panels(report);
    let height = panels.iter().map(|panel| HEAD + panel.bars.len() as f64 * ROW + GAP).sum::<f64>() + 96.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\" aria-labelledby=\"title description\">\n\
         <title id=\"title\">{}</title>\n<desc id=\"description\">{}</desc>\n{STYLE}\n\
         <rect class=\"page\" width=\"{WIDTH}\" height=\"{height}\"/>\n",
        escaped(&format!("fansync {}: how soon changes are on the target", report.fansync)),
        escaped(&description(report, &panels))
    );
    let mut y = MARGIN;
    text(&mut svg, MARGIN, y + 14.0, "big", "start", &format!("fansync {}, {}", report.fansync, report.machine.date));
    legend(&mut svg, y + 38.0);
    y += 62.0;
    for panel in &panels {
        y = draw_panel(&mut svg, panel, y);
    }
    text(&mut svg, MARGIN, y + 2.0, "small", "start", &machine_words(report));
    svg.push_str("</svg>\n");
    svg
}

fn draw_panel(svg: &mut String, panel: &Panel, mut y: f64) -> f64 {
    text(svg, MARGIN, y + 14.0, "head", "start", &panel.title);
    text(svg, MARGIN, y + 32.0, "small", "start", &panel.subtitle);
    y += HEAD;
    let longest = panel.bars.iter().map(|bar| bar.far.unwrap_or(0.0).max(bar.value)).fold(0.0, f64::max);
    let scale = |value: f64| if longest > 0.0 { value / longest * BAR } else { 0.0 };
    let bottom = y + panel.bars.len() as f64 * ROW - (ROW - THICK) / 2.0;
    for bar in &panel.bars {
        let middle = y + THICK / 2.0;
        text(svg, AXIS - 8.0, middle + 4.0, "label", "end", &bar.label);
        // What is there is seen, however short.
        let length = scale(bar.value).max(1.0);
        let class = bar.kind.class();
        let _infallible = writeln!(
            svg,
            "<rect class=\"{class}\" x=\"{AXIS}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{THICK}\"/>"
        );
        let mut end = length;
        if let Some(far) = bar.far.map(scale).filter(|far| *far > length) {
            end = far;
            let _infallible = writeln!(
                svg,
                "<path class=\"{class} line\" d=\"M{:.1} {middle:.1}H{:.1}m0 -5v10\"/>",
                AXIS + length,
                AXIS + far
            );
        }
        text(svg, AXIS + end + 8.0, middle + 4.0, "label", "start", &bar.words);
        y += ROW;
    }
    let _infallible =
        writeln!(svg, "<path class=\"axis\" d=\"M{AXIS} {:.1}V{bottom:.1}\"/>", bottom - panel.bars.len() as f64 * ROW);
    y + GAP
}

fn legend(svg: &mut String, y: f64) {
    let mut x = MARGIN;
    for (kind, words, width) in [
        (Kind::Agent, "fansync", 90.0),
        (Kind::Limit, "rsync alone, the limit", 180.0),
        (Kind::Peer, "other tools", 110.0),
    ] {
        let class = kind.class();
        let _infallible =
            writeln!(svg, "<rect class=\"{class}\" x=\"{x}\" y=\"{:.1}\" width=\"12\" height=\"12\"/>", y - 10.0);
        text(svg, x + 18.0, y, "label", "start", words);
        x += width;
    }
    text(svg, x, y, "small", "start", "shorter is better; the thin line is the p99 or the slowest run");
}

fn text(svg: &mut String, x: f64, y: f64, class: &str, anchor: &str, words: &str) {
    let _infallible = writeln!(
        svg,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>",
        escaped(words)
    );
}

const STYLE: &str = "<style>\n\
    svg { --page: #ffffff; --ink: #1f2328; --pale: #59636e; --agent: #0969da; --limit: #8c959f; --peer: #bc4c00; }\n\
    @media (prefers-color-scheme: dark) {\n\
    svg { --page: #0d1117; --ink: #f0f6fc; --pale: #9198a1; --agent: #4493f8; --limit: #6e7681; --peer: #db6d28; }\n\
    }\n\
    text { font: 13px system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif; fill: var(--ink); }\n\
    .big { font-size: 16px; font-weight: 600; } .head { font-size: 14px; font-weight: 600; }\n\
    .small { font-size: 12px; fill: var(--pale); } .page { fill: var(--page); }\n\
    .agent { fill: var(--agent); stroke: var(--agent); } .limit { fill: var(--limit); stroke: var(--limit); }\n\
    .peer { fill: var(--peer); stroke: var(--peer); } rect { stroke: none; }\n\
    .line { fill: none; stroke-width: 1.5; } .axis { stroke: var(--pale); fill: none; }\n\
    </style>";

/// Text as it stands in SVG; what XML cannot hold is left out.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\t' | '\n' | '\r' | ' ' => safe.push(' '),
            '\u{fffe}' | '\u{ffff}' => {}
            other if other.is_control() => {}
            other => safe.push(other),
        }
    }
    safe
}

fn panels(report: &Report) -> Vec<Panel> {
    let mut blocks: Vec<(Scenario, TargetKind, Vec<&Measurement>)> = Vec::new();
    for measurement in &report.measurements {
        let key = (measurement.scenario, measurement.target);
        match blocks.iter_mut().find(|block| (block.0, block.1) == key) {
            Some(block) => block.2.push(measurement),
            None => blocks.push((key.0, key.1, vec![measurement])),
        }
    }
    let panels = blocks.into_iter().map(|(scenario, target, of)| Panel {
        title: format!("{}: {}", scenario.name(), of[0].words),
        subtitle: format!("{}; to {}", what_bars_are(scenario), target.words()),
        bars: bars(scenario, &of),
    });
    panels.filter(|panel| !panel.bars.is_empty()).collect()
}

fn what_bars_are(scenario: Scenario) -> &'static str {
    match scenario {
        Scenario::Burst | Scenario::Small | Scenario::Rewrite => {
            "first change to last file in place, median of the runs"
        }
        Scenario::Rename => "until the new name is whole and the old one gone, median of the runs",
        Scenario::Trickle | Scenario::Delete | Scenario::LatencyWan => {
            "one change: from when it was due until in place, p50"
        }
        Scenario::Mixed => "a small file: from when it was due until in place, p50",
        Scenario::Fanout => "from when a file was due until it is in place, over all targets, p50",
        Scenario::Sustained => {
            "from when a file was due until it is in place, p50, by files per second, in the last run"
        }
    }
}

fn bars(scenario: Scenario, of: &[&Measurement]) -> Vec<Bar> {
    let mut bars = Vec::new();
    for measurement in of {
        bars.extend(of_subject(scenario, measurement));
    }
    // The limit is that of the agent's own runs.
    if let Some(agent) = of.iter().find(|measurement| kind_of(measurement) == Kind::Agent) {
        bars.extend(of_limit(scenario, agent));
    }
    bars
}

fn kind_of(measurement: &Measurement) -> Kind {
    if measurement.subject == "fansync" { Kind::Agent } else { Kind::Peer }
}

fn ms_words(value: f64) -> String {
    if value < 1_000.0 { format!("{} ms", short(value)) } else { format!("{:.2} s", value / 1_000.0) }
}

fn percentile_words(p50: f64, p99: f64) -> String {
    format!("{}, p99 {}", ms_words(p50), ms_words(p99))
}

fn of_subject(scenario: Scenario, measurement: &Measurement) -> Vec<Bar> {
    let kind = kind_of(measurement);
    let lost = measurement.missing + measurement.different;
    let label =
        if lost > 0 { format!("{} ({lost} missing)", measurement.subject) } else { measurement.subject.clone() };
    match scenario {
        Scenario::Burst | Scenario::Small | Scenario::Rewrite | Scenario::Rename => {
            let bar = measurement.makespan_ms.map(|spread| {
                let ratio = measurement.ratio.filter(|_| kind == Kind::Agent);
                let ratio = ratio.map_or_else(String::new, |ratio| format!(", {ratio:.2} × the limit"));
                let words = format!("{}{ratio}", ms_words(spread.median));
                Bar { label, kind, value: spread.median, far: Some(spread.max), words }
            });
            bar.into_iter().collect()
        }
        Scenario::Sustained => {
            let last = measurement.steps.iter().map(|step| step.run).max();
            let mut steps: Vec<_> = measurement.steps.iter().filter(|step| Some(step.run) == last).collect();
            steps.sort_by(|one, other| one.rate.total_cmp(&other.rate));
            let bar = |step: &&super::measure::Step| {
                let latency = step.latency_ms?;
                let held = if step.held { "" } else { ", too fast" };
                Some(Bar {
                    label: format!("{:.0} files/s", step.rate),
                    kind: if step.held { Kind::Agent } else { Kind::Limit },
                    value: latency.p50,
                    far: Some(latency.p99),
                    words: percentile_words(latency.p50, latency.p99) + held,
                })
            };
            steps.iter().filter_map(bar).collect()
        }
        Scenario::Trickle | Scenario::Delete | Scenario::LatencyWan | Scenario::Mixed | Scenario::Fanout => {
            let bar = measurement.latency_ms.map(|latency| Bar {
                label,
                kind,
                value: latency.p50,
                far: Some(latency.p99),
                words: percentile_words(latency.p50, latency.p99),
            });
            bar.into_iter().collect()
        }
    }
}

fn of_limit(scenario: Scenario, agent: &Measurement) -> Vec<Bar> {
    let bar = |label: &str, value: f64, far: f64| Bar {
        label: label.to_owned(),
        kind: Kind::Limit,
        value,
        far: Some(far),
        words: ms_words(value),
    };
    let limit = agent.limit.as_ref();
    match scenario {
        Scenario::Burst | Scenario::Small | Scenario::Rewrite | Scenario::Rename => {
            let ended = limit.and_then(|limit| limit.ended_ms);
            let label = if scenario == Scenario::Rename { "rsync with --link-dest" } else { "one rsync" };
            ended.map(|spread| bar(label, spread.median, spread.max)).into_iter().collect()
        }
        Scenario::Trickle | Scenario::Delete | Scenario::LatencyWan => {
            let of = |label: &str, value: Option<super::measure::Spread>| {
                value.map(|spread| bar(label, spread.median, spread.max))
            };
            let cold = of("one rsync, in place", limit.and_then(|limit| limit.in_place_ms));
            let warm = of("rsync started ahead, in place", limit.and_then(|limit| limit.warm_ms));
            cold.into_iter().chain(warm).collect()
        }
        Scenario::Mixed => {
            let value = |name: &str| agent.figure(name).map(|spread| spread.median);
            let alone = value("alone_p50_ms").zip(value("alone_p99_ms"));
            let alone = alone.map(|(p50, p99)| Bar {
                words: percentile_words(p50, p99),
                ..bar("fansync, without large files", p50, p99)
            });
            alone.into_iter().collect()
        }
        Scenario::Fanout | Scenario::Sustained => Vec::new(),
    }
}

fn description(report: &Report, panels: &[Panel]) -> String {
    let mut words = format!("Measured on {}.", machine_words(report));
    for panel in panels {
        let bars: Vec<String> = panel.bars.iter().map(|bar| format!("{} {}", bar.label, bar.words)).collect();
        let _infallible = write!(words, " {}: {}.", panel.title, bars.join("; "));
    }
    words
}

fn machine_words(report: &Report) -> String {
    report.machine.words()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::limit::Limit;
    use super::super::measure::{Run, Step, latency};
    use super::super::report::tests::report;
    use super::*;

    fn full() -> Report {
        let ms = Duration::from_millis;
        let run = Run {
            makespan: Some(ms(50)),
            latencies: vec![ms(3), ms(9)],
            limit: Limit { ended: vec![ms(40)], in_place: vec![ms(38)], warm: vec![ms(2)], cpu: ms(1) },
            ..Run::default()
        };
        let mut report = report(std::slice::from_ref(&run));
        for scenario in Scenario::ALL {
            let mut measurement = Measurement::begin(scenario, "a < b & \"c\"".into(), "fansync", TargetKind::Daemon)
                .of_runs(std::slice::from_ref(&run));
            measurement.add("alone_p50_ms", "", "ms", [2.0].into_iter());
            measurement.add("alone_p99_ms", "", "ms", [4.0].into_iter());
            for (run, rate) in [(1, 100.0), (2, 400.0), (2, 200.0)] {
                let latency_ms = latency([ms(3)].into_iter());
                let (own_percent, rsync_percent) = (1.0, 2.0);
                let held = rate < 300.0;
                measurement.steps.push(Step { run, rate, latency_ms, missing: 0, own_percent, rsync_percent, held });
            }
            let mut peer = measurement.clone();
            peer.subject = "lsyncd".into();
            report.measurements.extend([measurement, peer]);
        }
        report
    }

    /// Well-formed enough: tags nest, attributes are quoted, text holds no markup.
    fn check(svg: &str) {
        let mut open = Vec::new();
        let mut rest = svg;
        while let Some(at) = rest.find('<') {
            let text = &rest[..at];
            assert!(!text.contains('>') || open.last() == Some(&"style"), "{text}");
            let end = rest[at..].find('>').expect("a tag ends") + at;
            let tag = &rest[at + 1..end];
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            match tag.strip_prefix('/') {
                Some(name) => assert_eq!(open.pop(), Some(name)),
                None if tag.ends_with('/') => {}
                None => open.push(tag.split_whitespace().next().unwrap()),
            }
            rest = &rest[end + 1..];
        }
        assert!(open.is_empty(), "{open:?}");
        for (at, _) in svg.match_indices('&') {
            let entity = &svg[at..svg.len().min(at + 7)];
            assert!(
                ["&amp;", "&lt;", "&gt;", "&quot;", "&#39;"].iter().any(|known| entity.starts_with(known)),
                "{entity}"
            );
        }
    }

    #[test]
    fn every_scenario_has_a_panel_with_whatever_there_is_to_compare() {
        let report = full();
        let svg = draw(&report);
        check(&svg);
        for words in [
            "<title id=\"title\">",
            "<desc id=\"description\">Measured on a &lt;fast&gt; one",
            "prefers-color-scheme: dark",
            "a &lt; b &amp; &quot;c&quot;",
            "lsyncd",
            "one rsync",
            "rsync started ahead",
            "rsync with --link-dest",
            "without large files",
            "400 files/s",
            "1.25 × the limit",
        ] {
            assert!(svg.contains(words), "{words} in {svg}");
        }
        assert!(!svg.contains("100 files/s"), "an earlier run");
        assert_eq!(panels(&report).len(), 1 + Scenario::ALL.len());
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn nothing_measured_is_an_empty_picture() {
        let svg = draw(&report(&[]));
        check(&svg);
        assert!(svg.ends_with("</svg>\n"));
    }

    #[test]
    fn text_is_made_safe() {
        for (text, safe) in [
            ("plain – text", "plain – text"),
            ("</text><script>", "&lt;/text&gt;&lt;script&gt;"),
            ("a&b\"c'd", "a&amp;b&quot;c&#39;d"),
            ("a\u{0}\u{1b}[31m\nb\u{ffff}", "a[31m b"),
        ] {
            assert_eq!(escaped(text), safe);
        }
    }
}
