//! Answers on their way from the sampler to the update.

use luspo_algo::BatchTotals;
use luspo_core::{Collective, Rollout, Score};
use luspo_model::{PassOptions, Qwen2ForCausalLM};

use crate::batch::token_rows;
use crate::metrics::mean;
use crate::micro::MicroBatches;

/// One scored answer with all that the objective needs of it. What is a list has one entry a response token.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The answer as sampled.
    pub rollout: Rollout,
    /// What the verifiers say of it.
    pub score: Score,
    /// The reward of the greedy answer to the same prompt, where the advantages are compared with it.
    pub baseline: Option<f64>,
    /// Which tokens the update sees. An answer without any has left every denominator.
    pub mask: Vec<bool>,
    /// How much better than expected each token was.
    pub advantages: Vec<f64>,
    /// The critic's value of each token's state before the step, and what it should have been; empty without critic.
    pub values: Vec<f32>,
    /// See [`values`](Self::values).
    pub returns: Vec<f64>,
    /// Factors of the tokens' terms in the loss; absent: 1.
    pub token_weights: Option<Vec<f32>>,
    /// Log-probs of the policy that sampled; absent when the update's own, detached, serve.
    pub old_log_probs: Option<Vec<f32>>,
    /// Σ p² over the vocabulary at each token, where the advantages need it.
    pub sum_pi_squared: Option<Vec<f32>>,
    /// Log-probs of the reference policy, where a KL term needs them.
    pub ref_log_probs: Option<Vec<f32>>,
}

impl Sample {
    /// A scored answer of which the update sees every token, before anything is known of its advantage.
    pub fn new(rollout: Rollout, score: Score) -> Self {
        let len = rollout.response_len();
        Self {
            rollout,
            score,
            baseline: None,
            mask: vec![true; len],
            advantages: vec![0.0; len],
            values: Vec::new(),
            returns: Vec::new(),
            token_weights: None,
            old_log_probs: None,
            sum_pi_squared: None,
            ref_log_probs: None,
        }
    }

    /// Whether its score is known, and what it is compared with; otherwise it is not learned from.
    pub fn is_judged(&self) -> bool {
        self.score.is_known() && !self.baseline.is_some_and(f64::is_nan)
    }

    /// The mean of the tokens' advantages; 0 of an answer without tokens.
    pub fn advantage(&self) -> f64 {
        match self.advantages.as_slice() {
            [] => 0.0,
            // Not subject to rounding where all tokens share one.
            [first, rest @ ..] if rest.iter().all(|advantage| advantage == first) => *first,
            all => mean(all),
        }
    }
}

/// Lengths of the responses in tokens, |y|.
pub(crate) fn lengths(samples: &[Sample]) -> Vec<usize> {
    samples.iter().map(|s| s.rollout.response_len()).collect()
}

/// A model's log-probs of the sampled tokens, a micro-batch at a time.
pub(crate) fn log_probs(
    model: &Qwen2ForCausalLM,
    samples: &[Sample],
    micro: &MicroBatches,
    options: &PassOptions,
) -> Vec<Vec<f32>> {
    let options = PassOptions { entropy: false, sum_pi_squared: false, ..*options };
    log_probs_and_squares(model, samples, micro, &options).0
}

/// The same, and where the options ask for it Σ p² at each token.
pub(crate) fn log_probs_and_squares(
    model: &Qwen2ForCausalLM,
    samples: &[Sample],
    micro: &MicroBatches,
    options: &PassOptions,
) -> (Vec<Vec<f32>>, Option<Vec<Vec<f32>>>) {
    let (mut log_probs, mut squares) = (Vec::new(), options.sum_pi_squared.then(Vec::new));
    for rows in micro.split(samples) {
        let rows = &samples[rows];
        let stats = model.response_stats(&micro.read(rows), options);
        log_probs.extend(token_rows(stats.log_probs, &lengths(rows)));
        if let (Some(all), Some(squares)) = (&mut squares, stats.sum_pi_squared) {
            all.extend(token_rows(squares, &lengths(rows)));
        }
    }
    (log_probs, squares)
}

/// The denominators of an update, over all its rows on all processes.
pub(crate) fn totals(samples: &[Sample], collective: &dyn Collective) -> BatchTotals {
    let seen = |sample: &Sample| sample.mask.iter().filter(|seen| **seen).count();
    let local = BatchTotals::of_lengths(&samples.iter().map(seen).collect::<Vec<_>>());
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
            "advantages": s.advantages,
            "mask": s.mask,
            "token_weights": s.token_weights,
            "values": s.values,
            "returns": s.returns,
            "old_log_probs": s.old_log_probs,
            "ref_log_probs": s.ref_log_probs,
        })
    });
    rows.collect()
}
