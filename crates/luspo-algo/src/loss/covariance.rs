//! How far each token's log-prob and advantage go together: what Clip-Cov and KL-Cov choose tokens by.
//!
//! ```text
//! covₜ = ( Âₜ − mean Â ) ( log π(yₜ) − mean log π )      means over all response tokens of the update
//! ```
//!
//! arXiv 2505.22617: the entropy falls fastest where this is large. The choice is made on the host. It depends on what
//! the tokens of a row are, never on where the row stands or how it is padded.

use burn::tensor::{Bool, Tensor, TensorData};
use luspo_core::{Purpose, RandomKey};
use xxhash_rust::xxh3::xxh3_64;

use crate::batch::PolicyBatch;

/// A response token.
pub(super) struct Token {
    row: usize,
    position: usize,
    /// A hash of the row's log-probs, old log-probs and advantages, and how many tokens the row has before this one.
    identity: (u64, u64),
    log_prob: f64,
    pub log_ratio: f64,
    pub advantage: f64,
    pub covariance: f64,
}

impl Token {
    /// The token's own random number in [0, 1).
    pub fn draw(&self, seed: u64) -> f64 {
        let (row, index) = self.identity;
        RandomKey::new(seed, Purpose::TokenChoice).at(row).uniform(index)
    }
}

/// The response tokens of a batch.
pub(super) fn tokens(batch: &PolicyBatch) -> Vec<Token> {
    let read = |tensor: &Tensor<2>| tensor.clone().without_autodiff().into_data().iter::<f32>().collect::<Vec<f32>>();
    let (log_probs, old_log_probs) = (read(&batch.log_probs), read(&batch.old_log_probs));
    let advantages = read(&batch.advantages);
    let mask: Vec<bool> = batch.mask.clone().into_data().iter::<bool>().collect();

    let [rows, seq] = batch.mask.dims();
    let mut tokens = Vec::new();
    for row in 0..rows {
        let inside: Vec<usize> = (row * seq..(row + 1) * seq).filter(|&i| mask[i]).collect();
        let content = inside.iter().flat_map(|&i| [log_probs[i], old_log_probs[i], advantages[i]]);
        let digest = xxh3_64(&content.flat_map(f32::to_le_bytes).collect::<Vec<u8>>());
        tokens.extend(inside.iter().enumerate().map(|(index, &i)| Token {
            row,
            position: i % seq,
            identity: (digest, index as u64),
            log_prob: f64::from(log_probs[i]),
            log_ratio: f64::from(log_probs[i]) - f64::from(old_log_probs[i]),
            advantage: f64::from(advantages[i]),
            covariance: f64::NAN, // the means come first
        }));
    }
    let mean = |of: fn(&Token) -> f64| tokens.iter().map(of).sum::<f64>() / tokens.len() as f64;
    let (mean_advantage, mean_log_prob) = (mean(|token| token.advantage), mean(|token| token.log_prob));
    for token in &mut tokens {
        token.covariance = (token.advantage - mean_advantage) * (token.log_prob - mean_log_prob);
    }
    tokens
}

/// Where the first ⌊`share` · `of`⌋ of `tokens`, at least one of them, stand, in the order of `key` and then of what
/// they are, `[batch, seq]`.
pub(super) fn first(
    mut tokens: Vec<Token>,
    share: f64,
    of: usize,
    key: impl Fn(&Token) -> f64,
    batch: &PolicyBatch,
) -> Tensor<2, Bool> {
    tokens.sort_by(|a, b| key(a).total_cmp(&key(b)).then_with(|| a.identity.cmp(&b.identity)));
    let [rows, seq] = batch.mask.dims();
    let mut chosen = vec![false; rows * seq];
    let count = ((share * of as f64) as usize).max(1);
    for token in tokens.iter().take(count) {
        chosen[token.row * seq + token.position] = true;
    }
    Tensor::from_data(TensorData::new(chosen, [rows, seq]), &batch.mask.device())
}
