//! One update: rows to gradients, in micro-batches whose number does not change the result.

use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use luspo_algo::diagnostics::row_weights;
use luspo_algo::{BatchTotals, MetricAccumulator, Objective, PolicyBatch};
use luspo_model::{PassOptions, Qwen2ForCausalLM, TokenStats};
use luspo_rollout::LogProbGap;

use crate::batch::{mask_grid, token_grid, token_rows};
use crate::micro::MicroBatches;
use crate::sample::{Sample, lengths};

/// What an update's backward pass gives.
pub struct UpdateGradients {
    /// ∂loss/∂θ for every parameter.
    pub gradients: GradientsParams,
    /// The update's loss.
    pub loss: f64,
    /// The objective's metrics over all rows of the update.
    pub metrics: Vec<(&'static str, f64)>,
    /// Σ_t |∂loss/∂log π(y_t)| of each row, of the objective (first) and of those that it is compared with.
    pub weights: Vec<Vec<f64>>,
    /// How far the sampler's log-probs are from those of this forward pass. It means something only as long as the
    /// parameters are those that sampled: in a step's first update.
    pub gap: LogProbGap,
}

/// The gradients of `objective` over the rows of one update, a micro-batch at a time.
///
/// Denominators come from `totals`, counted over the whole update beforehand, so that the sum over micro-batches is the
/// update's loss however they are split. An objective that chooses among the tokens of the whole update is given all their
/// log-probs at once, which takes a forward pass of its own where there are several micro-batches.
///
/// The gradients of `compared` are taken on the same rows, to be weighed; with none, nothing is weighed.
///
/// # Panics
/// If a micro-batch is to hold 0 rows or has no response token, or the objective has a KL term and a row no reference
/// log-probs.
pub fn gradients(
    model: &Qwen2ForCausalLM,
    objective: &Objective,
    compared: &[Objective],
    samples: &[Sample],
    totals: &BatchTotals,
    micro: &MicroBatches,
    options: &PassOptions,
) -> UpdateGradients {
    let options = PassOptions { sum_pi_squared: false, ..*options };
    let parts = micro.split(samples);
    let weights = vec![Vec::new(); if compared.is_empty() { 0 } else { 1 + compared.len() }];
    let (metrics, differences) = (MetricAccumulator::default(), Vec::new());
    let mut loss = Loss { objective, compared, totals, value: 0.0, metrics, weights, differences };
    let whole = objective.needs_whole_update() && parts.len() > 1;
    let whole = whole.then(|| loss.gradients(samples, &stats(model, samples, micro, &options)));

    let mut total = GradientsParams::new();
    for part in parts {
        let rows = &samples[part.clone()];
        let batch = micro.read(rows);
        model.response_gradients(&batch, &options, &mut total, |stats| match &whole {
            None => loss.gradients(rows, stats),
            Some((log_probs, entropy)) => {
                let part = |all: &Tensor<2>| all.clone().slice([part.clone(), 0..batch.seq()]);
                (part(log_probs), entropy.as_ref().map(part))
            }
        });
    }
    let Loss { value, metrics, weights, differences, .. } = loss;
    let (metrics, gap) = (metrics.finish(), LogProbGap::measure(differences));
    UpdateGradients { gradients: total, loss: value, metrics, weights, gap }
}

/// An update's loss, as far as it was computed.
struct Loss<'a> {
    objective: &'a Objective,
    compared: &'a [Objective],
    totals: &'a BatchTotals,
    value: f64,
    metrics: MetricAccumulator,
    weights: Vec<Vec<f64>>,
    /// Log-probs of the sampler and of the trainer.
    differences: Vec<(f32, f32)>,
}

impl Loss<'_> {
    /// Adds these rows; ∂loss/∂log_probs and ∂loss/∂entropy, `[batch, seq]`.
    fn gradients(&mut self, rows: &[Sample], stats: &TokenStats) -> (Tensor<2>, Option<Tensor<2>>) {
        let trainer = token_rows(stats.log_probs.clone(), &lengths(rows));
        for (row, trainer) in rows.iter().zip(trainer) {
            self.differences.extend(row.rollout.log_probs.iter().copied().zip(trainer));
        }
        let (policy_batch, reference) = assemble(rows, stats);
        let result = self.objective.gradients(policy_batch.clone(), reference.as_ref(), self.totals);
        let others = self.compared.iter().map(Some);
        for (weights, other) in self.weights.iter_mut().zip(std::iter::once(None).chain(others)) {
            weights.extend(row_weights(match other {
                None => result.log_probs.clone(),
                Some(other) => other.gradients(policy_batch.clone(), None, self.totals).log_probs,
            }));
        }
        self.value += f64::from(result.loss.into_scalar::<f32>());
        self.metrics.add(result.metrics);
        (result.log_probs, result.entropy)
    }
}

/// The statistics of all rows as one batch, a micro-batch at a time.
fn stats(model: &Qwen2ForCausalLM, samples: &[Sample], micro: &MicroBatches, options: &PassOptions) -> TokenStats {
    let (mut log_probs, mut entropy) = (Vec::new(), options.entropy.then(Vec::new));
    for rows in micro.split(samples) {
        let rows = &samples[rows];
        let stats = model.response_stats(&micro.read(rows), options);
        log_probs.extend(token_rows(stats.log_probs, &lengths(rows)));
        if let (Some(all), Some(entropy)) = (&mut entropy, stats.entropy) {
            all.extend(token_rows(entropy, &lengths(rows)));
        }
    }
    let (seq, device) = (log_probs.iter().map(Vec::len).max().unwrap_or(0), model.device().inner());
    let grid = |rows: Vec<Vec<f32>>| token_grid(rows.iter().map(Vec::as_slice), seq, &device);
    TokenStats { log_probs: grid(log_probs), entropy: entropy.map(grid), sum_pi_squared: None }
}

/// The objective's view of the rows, and the reference's log-probs where there are any; all `[batch, seq]`.
fn assemble(rows: &[Sample], stats: &TokenStats) -> (PolicyBatch, Option<Tensor<2>>) {
    let ([_, seq], device) = (stats.log_probs.dims(), stats.log_probs.device());
    let old: Option<Vec<&[f32]>> = rows.iter().map(|row| row.old_log_probs.as_deref()).collect();
    let old = match old {
        Some(old) => token_grid(old.into_iter(), seq, &device),
        None => stats.log_probs.clone(),
    };
    let reference: Option<Vec<&[f32]>> = rows.iter().map(|row| row.ref_log_probs.as_deref()).collect();
    let grid = |of: &dyn Fn(&Sample) -> Vec<f32>| {
        let rows: Vec<Vec<f32>> = rows.iter().map(of).collect();
        token_grid(rows.iter().map(Vec::as_slice), seq, &device)
    };
    let advantages = grid(&|row| row.advantages.iter().map(|advantage| *advantage as f32).collect());
    let mask = mask_grid(rows.iter().map(|row| row.mask.as_slice()), seq, &device);
    let mut policy_batch = PolicyBatch::new(stats.log_probs.clone(), old, advantages, mask)
        .with_rollout_log_probs(grid(&|row| row.rollout.log_probs.clone()));
    if let Some(entropy) = &stats.entropy {
        policy_batch = policy_batch.with_entropy(entropy.clone());
    }
    if rows.iter().any(|row| row.token_weights.is_some()) {
        let ones = |row: &Sample| vec![1.0; row.rollout.response_len()];
        let weights = grid(&|row| row.token_weights.clone().unwrap_or_else(|| ones(row)));
        policy_batch = policy_batch.with_token_weights(weights);
    }
    (policy_batch, reference.map(|rows| token_grid(rows.into_iter(), seq, &device)))
}
