//! The trait that every objective implements.

use burn::tensor::Tensor;

use crate::aggregate::Aggregation;
use crate::batch::{BatchTotals, PolicyBatch};
use crate::metric::Metric;

/// A policy-gradient objective, to be minimised. Dyn-compatible: the trainer holds `Arc<dyn PolicyLoss>`.
///
/// An objective never meets the model: it maps log-probs to a loss, and whoever called it pushes the gradient of the
/// log-probs through the model. It contains neither a KL nor an entropy term; [`Objective`](crate::Objective) adds them.
pub trait PolicyLoss: Send + Sync {
    /// How this objective turns per-token terms into a loss; the KL and the entropy term use it too.
    fn aggregation(&self) -> Aggregation;

    /// True for objectives that choose tokens over the whole update (Clip-Cov, KL-Cov): they see all its rows at once.
    fn needs_whole_update(&self) -> bool {
        false
    }

    /// Loss of these rows; summed over the micro-batches of an update it is the update's loss.
    fn forward(&self, batch: &PolicyBatch, totals: &BatchTotals) -> PolicyLossOutput;
}

/// The loss of some rows, and what there is to know about it.
#[derive(Debug)]
pub struct PolicyLossOutput {
    /// The rows' share of the update's loss, `[1]`, connected to the log-probs.
    pub loss: Tensor<1>,
    /// Named measurements; names are verl's.
    pub metrics: Vec<(&'static str, Metric)>,
}

/// The terms of the tokens before they are aggregated, and what there is to know about them.
#[derive(Debug)]
pub struct Terms {
    /// What is to be minimised of each token, `[batch, seq]`.
    pub terms: Tensor<2>,
    /// Named measurements; names are verl's.
    pub metrics: Vec<(&'static str, Metric)>,
}

impl Terms {
    /// The loss: the terms times the batch's token weights, aggregated.
    pub fn aggregate(self, aggregation: Aggregation, batch: &PolicyBatch, totals: &BatchTotals) -> PolicyLossOutput {
        let terms = match &batch.token_weights {
            Some(weights) => self.terms * weights.clone(),
            None => self.terms,
        };
        PolicyLossOutput { loss: aggregation.apply(terms, &batch.mask, totals), metrics: self.metrics }
    }
}
