//! Golden files: values that reference implementations gave for fixed batches, and how to reach them through the
//! public options.

pub mod account;
mod files;
pub mod paper;
pub mod trl;
pub mod verl;

use burn::tensor::Device;
pub use files::*;
use luspo_algo::{BatchTotals, Objective, PolicyBatch};
use serde_json::Value;

/// A batch of a golden file. Its padding holds numbers on purpose.
pub struct GoldenBatch<'a>(pub &'a Value);

impl GoldenBatch<'_> {
    pub fn table(&self, key: &str) -> Rows {
        rows(&self.0[key])
    }

    pub fn mask(&self) -> Vec<Vec<bool>> {
        self.table("mask").iter().map(|row| row.iter().map(|&inside| inside > 0.5).collect()).collect()
    }

    pub fn lengths(&self) -> Vec<usize> {
        self.mask().iter().map(|row| row.iter().filter(|&&inside| inside).count()).collect()
    }

    pub fn totals(&self) -> BatchTotals {
        BatchTotals::of_lengths(&self.lengths())
    }

    pub fn seq(&self) -> usize {
        self.mask()[0].len()
    }

    pub fn advantages(&self) -> Vec<f64> {
        numbers(&self.0["advantages"])
    }

    /// `key` of every response token.
    pub fn tokens(&self, key: &str) -> Vec<f64> {
        let inside = self.mask().concat();
        self.table(key).concat().into_iter().zip(inside).filter_map(|(value, inside)| inside.then_some(value)).collect()
    }
}

/// The public options that a case is reached by.
pub struct Setting {
    pub objective: Objective,
    pub totals: BatchTotals,
    /// What the reference multiplies its loss with beside the totals, as counts of ranks and micro-batches.
    pub scale: f64,
    pub token_weights: Option<Rows>,
    pub token_advantages: bool,
}

/// What came out.
pub struct Outcome {
    pub loss: f64,
    pub gradient: Rows,
    pub metrics: Vec<(&'static str, f64)>,
}

impl Outcome {
    pub fn metric(&self, name: &str) -> Option<f64> {
        self.metrics.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    /// Whether loss and gradient are these.
    pub fn is(&self, loss: f64, gradient: &Rows) -> bool {
        let expected = gradient.concat();
        let got = self.gradient.concat();
        assert_eq!(got.len(), expected.len());
        close(self.loss, loss) && got.iter().zip(&expected).all(|(&got, &expected)| close(got, expected))
    }

    pub fn is_finite(&self) -> bool {
        self.loss.is_finite() && self.gradient.concat().iter().all(|value| value.is_finite())
    }
}

impl Setting {
    pub fn run(&self, batch: &GoldenBatch, device: &Device) -> Outcome {
        let table = |key: &str| tensor(&batch.table(key), device);
        let seq = batch.seq();
        let advantages = if self.token_advantages {
            table("advantages_token")
        } else {
            tensor(&batch.advantages().iter().map(|&advantage| vec![advantage; seq]).collect(), device)
        };
        let mask = table("mask").greater_scalar(0.5);
        let mut policy_batch = PolicyBatch::new(table("log_probs"), table("old_log_probs"), advantages, mask)
            .with_entropy(table("entropies"))
            .with_rollout_log_probs(table("sampling_log_probs"));
        if let Some(weights) = &self.token_weights {
            policy_batch = policy_batch.with_token_weights(tensor(weights, device));
        }
        let reference = table("ref_log_probs");
        let got = self.objective.gradients(policy_batch, Some(&reference), &self.totals);
        let mut metrics = luspo_algo::MetricAccumulator::default();
        metrics.add(got.metrics);
        let (mut gradient, mut metrics) = (values(got.log_probs), metrics.finish());
        gradient.iter_mut().flatten().for_each(|value| *value *= self.scale);
        let losses = metrics.iter_mut().filter(|(name, _)| ["actor/pg_loss", "actor/kl_loss"].contains(name));
        losses.for_each(|(_, value)| *value *= self.scale);
        Outcome { loss: f64::from(got.loss.into_scalar::<f32>()) * self.scale, gradient, metrics }
    }
}
