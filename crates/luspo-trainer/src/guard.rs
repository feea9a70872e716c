//! Updates that cannot be made: skipped, kept for someone to look at, counted.

use crate::sample::to_json;
use crate::{RunFolder, Sample, TrainError};

/// Updates in a row that may be skipped, for a loss or gradient that is not finite, before the run stops.
pub(crate) const MAX_SKIPPED_UPDATES: usize = 10;

/// Counts the updates of one model that were skipped.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Guard {
    /// In a row, up to now.
    pub skipped: usize,
}

/// Where in a run an update is.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub step: usize,
    /// From 1, within the step.
    pub update: usize,
    /// Of the file that keeps a skipped update's rows.
    pub name: &'static str,
    /// The key of its learning rate.
    pub lr: &'static str,
    pub folder: &'a RunFolder,
}

impl Guard {
    /// Says whether an update with this loss and gradient norm was to be skipped, and keeps its rows where it was.
    ///
    /// # Errors
    /// Too many in a row, or a file that cannot be written.
    pub fn skips(&mut self, loss: f64, grad_norm: f64, rows: &[Sample], at: Place<'_>) -> Result<bool, TrainError> {
        if loss.is_finite() && grad_norm.is_finite() {
            self.skipped = 0;
            return Ok(false);
        }
        self.skipped += 1;
        let step = at.step;
        let file = at.folder.save_skipped(step, &format!("{}_{}", at.name, at.update), &to_json(rows))?;
        log::warn!(
            "step {step}: loss {loss} or gradient norm {grad_norm} is not finite; {} skipped, its rows are in {}",
            at.name,
            file.display()
        );
        match self.skipped {
            MAX_SKIPPED_UPDATES.. => Err(TrainError::Diverged { step, count: self.skipped, lr: at.lr, file }),
            _ => Ok(true),
        }
    }
}
