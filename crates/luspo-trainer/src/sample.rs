//! Answers on their way from the sampler to the update.

use luspo_algo::{BatchTotals, advantages};
use luspo_core::{Collective, Prompt, Rollout, Score};
use luspo_model::{HeadOptions, Qwen2ForCausalLM, ResponseBatch};
use luspo_reward::RewardPipeline;

use crate::batch::token_rows;
use crate::evaluate::judge;
use crate::{Config, Policy, TrainError};

/// One scored answer with all that the objective needs of it.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The answer as sampled.
    pub rollout: Rollout,
    /// What the verifiers say of it.
    pub score: Score,
    /// Its advantage within its group, the same for all tokens.
    pub advantage: f64,
    /// Log-probs of the policy that sampled, one a response token; absent when the update's own, detached, serve.
    pub old_log_probs: Option<Vec<f32>>,
    /// Log-probs of the reference policy, where a KL term needs them.
    pub ref_log_probs: Option<Vec<f32>>,
}

/// Scores the rollouts of a step and gives each its group-relative advantage. Rollouts come in groups of
/// `rollout.n` in the order of `prompts`.
///
/// # Errors
/// Ids that the tokenizer cannot decode.
pub fn score_and_compare(
    policy: &Policy,
    prompts: &[&Prompt],
    rollouts: Vec<Rollout>,
    rewards: &RewardPipeline,
    config: &Config,
) -> Result<Vec<Sample>, TrainError> {
    let n = config.rollout.n;
    let scores = rollouts
        .iter()
        .enumerate()
        .map(|(row, rollout)| judge(policy, prompts[row / n], rollout, rewards))
        .collect::<Result<Vec<_>, _>>()?;
    let totals: Vec<f64> = scores.iter().map(|s| s.total).collect();
    let groups: Vec<usize> = (0..rollouts.len()).map(|row| row / n).collect();
    let advantages = advantages::grpo(&totals, &groups, config.algorithm.norm_adv_by_std_in_grpo);
    Ok(rollouts
        .into_iter()
        .zip(scores)
        .zip(advantages)
        .map(|((rollout, score), advantage)| Sample {
            rollout,
            score,
            advantage,
            old_log_probs: None,
            ref_log_probs: None,
        })
        .collect())
}

/// The rows as the model reads them.
pub(crate) fn responses(samples: &[Sample]) -> ResponseBatch {
    let pairs: Vec<(&[u32], &[u32])> =
        samples.iter().map(|s| (&s.rollout.prompt_ids[..], &s.rollout.response_ids[..])).collect();
    ResponseBatch::new(&pairs)
}

/// Lengths of the responses in tokens, |y|.
pub(crate) fn lengths(samples: &[Sample]) -> Vec<usize> {
    samples.iter().map(|s| s.rollout.response_len()).collect()
}

/// A model's log-probs of the sampled tokens, `micro` rows at a time.
pub(crate) fn log_probs(
    model: &Qwen2ForCausalLM,
    samples: &[Sample],
    micro: usize,
    head: &HeadOptions,
) -> Vec<Vec<f32>> {
    let head = HeadOptions { entropy: false, ..*head };
    samples
        .chunks(micro)
        .flat_map(|rows| token_rows(model.response_stats(&responses(rows), &head).log_probs, &lengths(rows)))
        .collect()
}

/// The denominators of an update, over all its rows on all processes.
pub(crate) fn totals(samples: &[Sample], collective: &dyn Collective) -> BatchTotals {
    let local = BatchTotals::of_lengths(&lengths(samples));
    let mut counts = [local.rows as f64, local.sequences as f64, local.tokens as f64];
    collective.all_reduce_sum(&mut counts);
    BatchTotals { rows: counts[0] as usize, sequences: counts[1] as usize, tokens: counts[2] as usize }
}

/// The rows with all that went into their update, for someone to look at.
pub(crate) fn to_json(samples: &[Sample]) -> serde_json::Value {
    let rows = samples.iter().map(|s| {
        serde_json::json!({
            "prompt_id": s.rollout.prompt_id,
            "sample": s.rollout.sample,
            "prompt_ids": s.rollout.prompt_ids,
            "response_ids": s.rollout.response_ids,
            "log_probs": s.rollout.log_probs,
            "score": s.score.total,
            "advantage": s.advantage,
            "old_log_probs": s.old_log_probs,
            "ref_log_probs": s.ref_log_probs,
        })
    });
    rows.collect()
}
