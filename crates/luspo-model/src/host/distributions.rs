//! The distributions that rows of logits stand for: statistics in two passes over a row, the gradient in one, in place.
//! The equations are those of [`head`](crate::head).

use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use super::exp::{exp, max, sum_of};
use super::{ROWS, Values, vectorised};
use crate::head::{PackedGradients, PackedStats};
use crate::options::PassOptions;

/// Logits with what normalises each row at its temperature.
pub(crate) struct HostDistributions {
    logits: Values,
    vocab: usize,
    temperature: f32,
    entropy: bool,
    sum_pi_squared: bool,
    rows: Vec<Row>,
}

/// Of z/T: the maximum of z, the logarithm of Σ exp((z − max)/T), and, where they are asked for, Σ p (z − max)/T and Σ p².
#[derive(Clone, Copy)]
struct Row {
    highest: f32,
    log_total: f64,
    mean: f64,
    sum_pi_squared: f64,
}

impl HostDistributions {
    /// Of logits `[tokens, vocab]`.
    pub(crate) fn new(logits: Tensor<2>, options: &PassOptions) -> Self {
        let [_, vocab] = logits.dims();
        let PassOptions { temperature, entropy, sum_pi_squared, .. } = *options;
        let (mut logits, temperature) = (Values::of(logits), temperature as f32);
        let rows = logits.as_mut_slice().par_chunks_mut(ROWS * vocab);
        let rows = rows.flat_map_iter(|rows| {
            rows.chunks_exact_mut(vocab).map(|logits| {
                vectorised(|| {
                    let (highest, inverse) = (max(logits), 1.0 / temperature);
                    let square = |x: f32| x * x;
                    let scaled = |logit: f32| (logit - highest) * inverse;
                    let total = sum_of(logits, |logit| exp(scaled(*logit)));
                    let mean = match entropy {
                        true => sum_of(logits, |logit| scaled(*logit) * exp(scaled(*logit))) / total,
                        false => 0.0,
                    };
                    let sum_pi_squared = match sum_pi_squared {
                        true => sum_of(logits, |logit| square(exp(scaled(*logit)))) / (total * total),
                        false => 0.0,
                    };
                    Row { highest, log_total: total.ln(), mean, sum_pi_squared }
                })
            })
        });
        let rows = rows.collect();
        Self { logits, vocab, temperature, entropy, sum_pi_squared, rows }
    }

    /// Log-probs of `targets`, and what else was asked for, `[tokens, 1]` each.
    pub(crate) fn stats(&self, targets: &[i64]) -> PackedStats {
        let column = |values: Vec<f32>| {
            let shape = [values.len(), 1];
            Tensor::from_data(TensorData::new(values, shape), &self.logits.device)
        };
        let logits = self.logits.as_slice().chunks_exact(self.vocab);
        let log_probs = logits.zip(&self.rows).zip(targets).map(|((logits, row), target)| {
            let distance = f64::from(logits[*target as usize]) - f64::from(row.highest);
            (distance / f64::from(self.temperature) - row.log_total) as f32
        });
        let of_rows = |value: fn(&Row) -> f64| column(self.rows.iter().map(|row| value(row) as f32).collect());
        PackedStats {
            log_probs: column(log_probs.collect()),
            entropy: self.entropy.then(|| of_rows(|row| row.log_total - row.mean)),
            sum_pi_squared: self.sum_pi_squared.then(|| of_rows(|row| row.sum_pi_squared)),
        }
    }

    /// The gradient of the logits, in their place, from those of the statistics.
    pub(crate) fn into_gradient(mut self, targets: &[i64], upstream: &PackedGradients) -> Tensor<2> {
        let (vocab, inverse) = (self.vocab, 1.0 / self.temperature);
        let d_log_probs = Values::of(upstream.log_probs.clone());
        let d_entropy = upstream.entropy.clone().map(Values::of);
        let pieces = self.logits.as_mut_slice().par_chunks_mut(vocab).zip(&self.rows).zip(targets).enumerate();
        pieces.for_each(|(token, ((logits, row), target))| {
            let d_log_prob = d_log_probs.as_slice()[token];
            let Row { highest, log_total, mean, .. } = *row;
            let (log_total, entropy) = (log_total as f32, (log_total - mean) as f32);
            vectorised(|| match &d_entropy {
                None => {
                    let factor = -d_log_prob * inverse;
                    for logit in logits.iter_mut() {
                        *logit = factor * exp((*logit - highest) * inverse - log_total);
                    }
                }
                Some(d_entropy) => {
                    let d_entropy = d_entropy.as_slice()[token];
                    let factor = -d_log_prob - d_entropy * entropy;
                    for logit in logits.iter_mut() {
                        let log_p = (*logit - highest) * inverse - log_total;
                        *logit = exp(log_p) * (factor - log_p * d_entropy) * inverse;
                    }
                }
            });
            logits[*target as usize] += d_log_prob * inverse;
        });
        self.logits.into_tensor()
    }
}
