//! One update: rows to gradients, in micro-batches whose number does not change the result.

use burn::optim::GradientsParams;
use burn::tensor::{Bool, Device, Tensor, TensorData};
use luspo_algo::{BatchTotals, MetricAccumulator, Objective, PolicyBatch};
use luspo_model::{HeadOptions, Qwen2ForCausalLM, ResponseBatch, TokenStats};
use luspo_rollout::LogProbGap;

use crate::batch::{token_grid, token_rows};
use crate::sample::{Sample, lengths, responses};

/// What an update's backward pass gives.
pub struct UpdateGradients {
    /// ∂loss/∂θ for every parameter.
    pub gradients: GradientsParams,
    /// The update's loss.
    pub loss: f64,
    /// The objective's metrics over all rows of the update.
    pub metrics: Vec<(&'static str, f64)>,
    /// How far the sampler's log-probs are from those of this forward pass. It means something only as long as the
    /// parameters are those that sampled: in a step's first update.
    pub gap: LogProbGap,
}

/// The gradients of `objective` over the rows of one update, `micro` rows at a time.
///
/// Denominators come from `totals`, counted over the whole update beforehand, so that the sum over micro-batches is the
/// update's loss whatever `micro` is. Objectives that choose tokens over the whole update see all rows at once.
///
/// # Panics
/// If `micro` is 0, a micro-batch has no response token, or the objective has a KL term and a row no reference
/// log-probs.
pub fn gradients(
    model: &Qwen2ForCausalLM,
    objective: &Objective,
    samples: &[Sample],
    totals: &BatchTotals,
    micro: usize,
    head: &HeadOptions,
) -> UpdateGradients {
    let micro = if objective.policy.needs_whole_update() { samples.len() } else { micro };
    let mut total = GradientsParams::new();
    let mut metrics = MetricAccumulator::default();
    let mut loss = 0.0;
    let mut differences: Vec<(f32, f32)> = Vec::new();
    for rows in samples.chunks(micro) {
        let batch = responses(rows);
        let gradients = model.response_gradients(&batch, head, |stats| {
            let trainer = token_rows(stats.log_probs.clone(), &lengths(rows));
            for (row, trainer) in rows.iter().zip(trainer) {
                differences.extend(row.rollout.log_probs.iter().copied().zip(trainer));
            }
            let (policy_batch, reference) = assemble(rows, &batch, stats);
            let result = objective.gradients(policy_batch, reference.as_ref(), totals);
            loss += f64::from(result.loss.into_scalar::<f32>());
            metrics.add(result.metrics);
            (result.log_probs, result.entropy)
        });
        model.accumulate(&mut total, gradients);
    }
    UpdateGradients { gradients: total, loss, metrics: metrics.finish(), gap: LogProbGap::measure(differences) }
}

/// The objective's view of the rows, and the reference's log-probs where there are any; all `[batch, seq]`.
fn assemble(rows: &[Sample], batch: &ResponseBatch, stats: &TokenStats) -> (PolicyBatch, Option<Tensor<2>>) {
    let (seq, device) = (batch.seq(), stats.log_probs.device());
    let old: Option<Vec<&[f32]>> = rows.iter().map(|row| row.old_log_probs.as_deref()).collect();
    let old = match old {
        Some(old) => token_grid(old.into_iter(), seq, &device),
        None => stats.log_probs.clone(),
    };
    let reference: Option<Vec<&[f32]>> = rows.iter().map(|row| row.ref_log_probs.as_deref()).collect();
    let advantages: Vec<Vec<f32>> =
        rows.iter().map(|row| vec![row.advantage as f32; row.rollout.response_len()]).collect();
    let advantages = token_grid(advantages.iter().map(Vec::as_slice), seq, &device);
    let policy_batch = PolicyBatch::new(stats.log_probs.clone(), old, advantages, mask(&lengths(rows), seq, &device));
    let policy_batch = match &stats.entropy {
        Some(entropy) => policy_batch.with_entropy(entropy.clone()),
        None => policy_batch,
    };
    (policy_batch, reference.map(|rows| token_grid(rows.into_iter(), seq, &device)))
}

/// `[batch, seq]`, true on the first `lengths[i]` tokens of a row.
fn mask(lengths: &[usize], seq: usize, device: &Device) -> Tensor<2, Bool> {
    let mask: Vec<bool> = lengths.iter().flat_map(|len| (0..seq).map(move |t| t < *len)).collect();
    Tensor::from_data(TensorData::new(mask, [lengths.len(), seq]), device)
}
