use std::path::Path;

use crate::{Evaluation, Metrics, Point};

/// Who watches a run. Every method does nothing unless it is overridden.
pub trait Observer {
    /// Something worth a line: what was loaded, written or trained.
    fn note(&mut self, _text: &str) {}
    /// A step of the supervised warm-up is done.
    fn sft_step(&mut self, _step: usize, _total: usize, _metrics: &Metrics) {}
    /// A step of reinforcement learning is done.
    fn step(&mut self, _step: usize, _total: usize, _metrics: &Metrics) {}
    /// The policy was validated; step 0 is before the first step.
    fn validation(&mut self, _step: usize, _evaluation: &Evaluation) {}
    /// A step enters a phase: sampling, scoring, updating, validating or saving.
    fn phase(&mut self, _step: usize, _total: usize, _phase: &'static str) {}
    /// Asked after every step: whether the run is to stop there. It then writes a checkpoint and ends with
    /// [`TrainError::Interrupted`](crate::TrainError::Interrupted).
    fn interrupted(&mut self) -> bool {
        false
    }
    /// A checkpoint was written; `policy` is its Hugging Face folder.
    fn saved(&mut self, _after: Point, _policy: &Path) {}
}

/// Nobody.
impl Observer for () {}
