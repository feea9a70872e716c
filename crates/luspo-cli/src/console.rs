//! What a run looks like in a terminal: one line a step, at most 80 columns, the same when piped.

use std::path::Path;
use std::time::{Duration, Instant};

use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use luspo::trainer::{Evaluation, Metrics, Observer, Summary};

/// Lines of the warm-up.
const WARM_UP_LINES: usize = 20;

/// Watches a run and says nothing.
pub struct Quiet;

impl Observer for Quiet {}

/// Prints a line for everything worth one.
pub struct Console {
    stage: Instant,
}

impl Console {
    pub fn new() -> Self {
        Self { stage: Instant::now() }
    }

    /// Time left in the stage that began before step 1, judging by the steps so far.
    fn time_left(&self, step: usize, total: usize) -> String {
        let left = self.stage.elapsed().mul_f64((total - step) as f64 / step as f64);
        format!("{} left", clock(left))
    }
}

impl Observer for Console {
    fn note(&mut self, text: &str) {
        println!("{text}");
        self.stage = Instant::now();
    }

    fn sft_step(&mut self, step: usize, total: usize, metrics: &Metrics) {
        let every = (total / WARM_UP_LINES).max(1);
        if step.is_multiple_of(every) || step == total {
            println!(
                "warm-up {step:>5}/{total}  loss {:.4}  {:>6.0} tok/s  {}",
                of(metrics, "sft/loss"),
                of(metrics, "perf/throughput"),
                self.time_left(step, total)
            );
        }
        if step == total {
            self.stage = Instant::now();
        }
    }

    fn step(&mut self, step: usize, total: usize, metrics: &Metrics) {
        println!(
            "step {step:>4}/{total}  reward {:.3}  acc {:>5.1}%  len {:>5.1}  clip {:.3}  {:>6.0} tok/s  {}",
            of(metrics, "critic/score/mean"),
            100.0 * of(metrics, "reward/acc/mean"),
            of(metrics, "response_length/mean"),
            of(metrics, "actor/pg_clipfrac"),
            of(metrics, "perf/throughput"),
            self.time_left(step, total)
        );
        if of(metrics, "actor/skipped_updates") > 0.0 {
            println!("  {} updates skipped: loss or gradient not finite", of(metrics, "actor/skipped_updates"));
        }
    }

    fn validation(&mut self, step: usize, evaluation: &Evaluation) {
        for report in &evaluation.sources {
            println!(
                "validation after step {step}: {} {:.1}% of {} prompts, mean length {:.1}",
                report.source,
                100.0 * report.mean,
                report.prompts,
                report.length.mean
            );
            for (style, share, accuracy) in &report.styles {
                println!("  {style:<10} {:>5.1}% of answers, {:>5.1}% of them right", 100.0 * share, 100.0 * accuracy);
            }
        }
        if step == 0 {
            self.stage = Instant::now();
        }
    }

    fn saved(&mut self, _step: usize, policy: &Path) {
        println!("saved {}", policy.display());
    }
}

fn of(metrics: &Metrics, name: &str) -> f64 {
    metrics.get(name).unwrap_or(f64::NAN)
}

fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// The end of a run: before against after, and where everything is.
pub fn print_summary(summary: &Summary) {
    let stages: Vec<(&str, &Evaluation)> = [("before", &summary.before), ("after", &summary.after)]
        .into_iter()
        .filter_map(|(name, e)| Some((name, e.as_ref()?)))
        .collect();
    if !stages.is_empty() {
        println!("\n{}", evaluation_table(&stages));
    }
    println!("policy   {}", summary.policy.display());
    println!("metrics  {}", summary.dir.join("metrics.jsonl").display());
    println!("config   {}", summary.dir.join("config.toml").display());
}

/// One column for each evaluation of each data source, one row for each number.
pub fn evaluation_table(stages: &[(&str, &Evaluation)]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    let mut header = vec![String::new()];
    let mut columns: Vec<Vec<(String, String)>> = Vec::new();
    for source in stages.iter().flat_map(|(_, e)| &e.sources).map(|s| &s.source).fold(Vec::new(), distinct) {
        for (stage, evaluation) in stages {
            let Some(report) = evaluation.sources.iter().find(|s| s.source == *source) else { continue };
            header.push(format!("{source} {stage}").trim_end().to_string());
            columns.push(rows(evaluation, report));
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

fn rows(evaluation: &Evaluation, report: &luspo::trainer::SourceReport) -> Vec<(String, String)> {
    let n = evaluation.n;
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let length = |tokens: f64| if tokens.is_nan() { "–".to_string() } else { format!("{tokens:.1}") };
    let mut rows = vec![
        ("prompts".to_string(), report.prompts.to_string()),
        (format!("accuracy (mean@{n})"), percent(report.mean)),
    ];
    if n > 1 {
        rows.extend(report.pass.iter().map(|(k, share)| (format!("pass@{k}"), percent(*share))));
        rows.push((format!("maj@{n}"), percent(report.majority)));
    }
    rows.push(("mean length".into(), length(report.length.mean)));
    rows.push(("mean length, right answers".into(), length(report.length.correct)));
    rows.push(("mean length, wrong answers".into(), length(report.length.wrong)));
    rows.push(("cut off at the limit".into(), percent(report.truncated)));
    for (style, share, accuracy) in &report.styles {
        rows.push((format!("{style} answers: share, right"), format!("{}, {}", percent(*share), percent(*accuracy))));
    }
    rows
}

fn distinct<'a, T: PartialEq>(mut seen: Vec<&'a T>, next: &'a T) -> Vec<&'a T> {
    if !seen.contains(&next) {
        seen.push(next);
    }
    seen
}
