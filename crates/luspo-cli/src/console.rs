//! What a run looks like in a terminal: one line a step, at most 80 columns, the same when piped; and below them, in a
//! terminal, what is going on right now.

use std::path::Path;
use std::time::{Duration, Instant};

use ::console::style;
use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use luspo::trainer::{Evaluation, Interval, Metrics, Observer, Point, SourceReport, Summary};

use crate::live_line::{LiveLine, clock, say};

/// Lines of the warm-up.
const WARM_UP_LINES: usize = 20;

/// Prints a line for everything worth one, and keeps the live line.
pub struct Console {
    line: LiveLine,
    /// When the stage (loading, warm-up, steps) began.
    stage: Instant,
    /// The stage's first step in this process.
    first: Option<usize>,
    /// Time to the end of the stage, as of the last step.
    left: Option<Duration>,
}

impl Console {
    pub fn new() -> Self {
        let mut line = LiveLine::show();
        line.begin("loading");
        Self { line, stage: Instant::now(), first: None, left: None }
    }

    /// Whatever takes time from now on belongs to another stage.
    fn next_stage(&mut self) {
        (self.stage, self.first, self.left) = (Instant::now(), None, None);
    }

    /// The first step that this process does in the stage; `step` is one of the stage.
    fn first(&mut self, step: usize) -> usize {
        if self.first.is_none() {
            self.line.restart_clock();
        }
        *self.first.get_or_insert(step)
    }

    /// Judges the time to the end of the stage by the steps that this process did in it.
    fn time_left(&mut self, step: usize, total: usize) -> Duration {
        let done = step + 1 - self.first(step);
        let left = self.stage.elapsed().mul_f64((total - step) as f64 / done as f64);
        self.left = Some(left);
        left
    }
}

impl Observer for Console {
    fn interrupted(&mut self) -> bool {
        crate::interrupt::requested()
    }

    fn note(&mut self, text: &str) {
        match text.strip_prefix("warning:") {
            Some(rest) => say(&format!("{}{rest}", style("warning:").yellow().bold())),
            None => say(text),
        }
        self.next_stage();
    }

    fn sft_step(&mut self, step: usize, total: usize, metrics: &Metrics) {
        let left = self.time_left(step, total);
        let loss = of(metrics, "sft/loss");
        let every = (total / WARM_UP_LINES).max(1);
        if step.is_multiple_of(every) || step == total {
            let speed = of(metrics, "perf/throughput");
            say(&format!("warm-up {step:>5}/{total}  loss {loss:.4}  {speed:>6.0} t/s  eta {}", clock(left)));
        }
        self.line.measure(format!("warm-up {step}/{total} loss {loss:.4}"), step, total, Some(left));
        if step == total {
            self.next_stage();
        }
    }

    fn phase(&mut self, step: usize, total: usize, phase: &'static str) {
        if step == 0 {
            return self.line.begin(phase);
        }
        if self.first.is_none() {
            self.next_stage();
            self.first(step);
        }
        // Padded to the longest phase, so that the bar stands still.
        self.line.measure(format!("step {step}/{total} {phase:<10}"), step - 1, total, self.left);
    }

    fn step(&mut self, step: usize, total: usize, metrics: &Metrics) {
        let left = self.time_left(step, total);
        say(&step_line(step, total, metrics, &format!("eta {}", clock(left))));
        let skipped = of(metrics, "actor/skipped_updates");
        if skipped > 0.0 {
            say(&format!("  {}", style(format!("{skipped} updates skipped: loss or gradient not finite")).yellow()));
        }
    }

    fn validation(&mut self, step: usize, evaluation: &Evaluation) {
        for report in &evaluation.sources {
            say(&format!("validation, step {step}: {}", report.source));
            say(&format!(
                "  {:.1}% of {} prompts right, mean length {:.1}",
                100.0 * report.mean,
                report.prompts,
                report.length.mean
            ));
            for (style, share, accuracy) in &report.styles {
                say(&format!(
                    "  {style:<10} {:>5.1}% of answers, {:>5.1}% of them right",
                    100.0 * share,
                    100.0 * accuracy
                ));
            }
        }
        if step == 0 {
            self.next_stage();
        }
    }

    fn saved(&mut self, _after: Point, policy: &Path) {
        say(&format!("saved {}", policy.display()));
    }
}

/// At most 80 columns for up to 9999 steps.
fn step_line(step: usize, total: usize, metrics: &Metrics, time_left: &str) -> String {
    // No update was made: there is no clip fraction.
    let clipped = metrics.get("actor/pg_clipfrac").map_or("    –".to_string(), |share| format!("{share:.3}"));
    let length = of(metrics, "response_length/mean");
    let length = if length < 1000.0 { format!("{length:>5.1}") } else { format!("{length:>5.0}") };
    format!(
        "step {step:>3}/{total} reward {:>5.2} acc {:>5.1}% len {length} clip {clipped} {:>5.0} t/s {time_left}",
        of(metrics, "critic/score/mean"),
        100.0 * of(metrics, "reward/acc/mean"),
        of(metrics, "perf/throughput"),
    )
}

fn of(metrics: &Metrics, name: &str) -> f64 {
    metrics.get(name).unwrap_or(f64::NAN)
}

/// The end of a run: before against after, and where everything is.
pub fn summary_text(summary: &Summary) -> String {
    let stages: Vec<(&str, &Evaluation)> = [("before", &summary.before), ("after", &summary.after)]
        .into_iter()
        .filter_map(|(name, e)| Some((name, e.as_ref()?)))
        .collect();
    let mut text = if stages.is_empty() { String::new() } else { format!("\n{}\n", evaluation_table(&stages, false)) };
    text += &format!("policy   {}", summary.policy.display());
    // Metrics may be switched off.
    for (name, file) in [("metrics", "metrics.jsonl"), ("config", "config.toml")] {
        let place = summary.dir.join(file);
        if place.is_file() {
            text += &format!("\n{name:<8} {}", place.display());
        }
    }
    text
}

/// One column for each evaluation of each data source, one row for each number.
/// `intervals` adds those of the shares.
pub fn evaluation_table(stages: &[(&str, &Evaluation)], intervals: bool) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    let mut header = vec![String::new()];
    let mut columns: Vec<Vec<(String, String)>> = Vec::new();
    for source in stages.iter().flat_map(|(_, e)| &e.sources).map(|s| &s.source).fold(Vec::new(), distinct) {
        for (stage, evaluation) in stages {
            let Some(report) = evaluation.sources.iter().find(|s| s.source == *source) else { continue };
            // On two lines, so that the table stays narrow.
            header.push(format!("{source}\n{stage}").trim_end().to_string());
            columns.push(rows(evaluation, report, intervals));
        }
    }
    table.set_header(header);
    let names = columns.iter().flatten().map(|(name, _)| name).fold(Vec::new(), distinct);
    for name in names {
        let cell = |column: &Vec<(String, String)>| {
            column.iter().find(|(n, _)| n == name).map_or("–".to_string(), |(_, value)| value.clone())
        };
        table.add_row(std::iter::once(name.clone()).chain(columns.iter().map(cell)));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn rows(evaluation: &Evaluation, report: &SourceReport, intervals: bool) -> Vec<(String, String)> {
    let n = evaluation.n;
    let percent = |share: f64| if share.is_nan() { "–".to_string() } else { format!("{:.1} %", 100.0 * share) };
    let length = |tokens: f64| if tokens.is_nan() { "–".to_string() } else { format!("{tokens:.1}") };
    let mut rows = vec![("prompts".to_string(), report.prompts.to_string())];
    let mut share = |name: String, share: f64, Interval { low, high }: Interval| {
        rows.push((name.clone(), percent(share)));
        if intervals && !low.is_nan() {
            rows.push((format!("  95 % of {name}"), format!("{:.1} – {}", 100.0 * low, percent(high))));
        }
    };
    share(format!("accuracy (mean@{n})"), report.mean, report.intervals.mean);
    if n > 1 {
        for ((k, value), (_, interval)) in report.pass.iter().zip(&report.intervals.pass) {
            share(format!("pass@{k}"), *value, *interval);
        }
        share(format!("maj@{n}"), report.majority, report.intervals.majority);
    }
    rows.push(("mean length".into(), length(report.length.mean)));
    rows.push(("length, right answers".into(), length(report.length.correct)));
    rows.push(("length, wrong answers".into(), length(report.length.wrong)));
    rows.push(("cut off at the limit".into(), percent(report.truncated)));
    if report.unjudged > 0.0 {
        rows.push(("could not be judged".into(), percent(report.unjudged)));
    }
    for (style, share, accuracy) in &report.styles {
        rows.push((format!("{style}: share, right"), format!("{}, {}", percent(*share), percent(*accuracy))));
    }
    rows
}

fn distinct<'a, T: PartialEq>(mut seen: Vec<&'a T>, next: &'a T) -> Vec<&'a T> {
    if !seen.contains(&next) {
        seen.push(next);
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_fits_into_eighty_columns() {
        let mut metrics = Metrics::default();
        for (name, value) in [
            ("critic/score/mean", -0.123),
            ("reward/acc/mean", 1.0),
            ("response_length/mean", 4096.5),
            ("actor/pg_clipfrac", 0.5),
            ("perf/throughput", 99_999.0),
        ] {
            metrics.set(name, value);
        }
        let line = step_line(9999, 9999, &metrics, "eta 59m59s");
        assert!(line.chars().count() <= 80, "{} columns: {line}", line.chars().count());
    }
}
