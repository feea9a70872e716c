//! What `--json` prints while a run goes on.

use luspo::trainer::{Evaluation, Metrics, Observer};

use crate::live_line::say;

/// Prints the lines of `sft_metrics.jsonl` and `metrics.jsonl` as they come.
pub struct JsonLines;

impl Observer for JsonLines {
    fn interrupted(&mut self) -> bool {
        crate::interrupt::requested()
    }

    fn sft_step(&mut self, _step: usize, _total: usize, metrics: &Metrics) {
        say(&metrics.to_json().to_string());
    }

    fn step(&mut self, _step: usize, _total: usize, metrics: &Metrics) {
        say(&metrics.to_json().to_string());
    }

    fn validation(&mut self, step: usize, evaluation: &Evaluation) {
        // A later validation is part of its step's metrics.
        if step == 0 {
            let mut metrics = Metrics::of_step(0);
            metrics.extend(evaluation.metrics());
            say(&metrics.to_json().to_string());
        }
    }
}
