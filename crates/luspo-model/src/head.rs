//! The head, a chunk of tokens at a time: `[chunk, vocab]` is the largest thing that is ever held.
//!
//! With logits zⱼ at temperature T, p = softmax(z/T) and target y:
//!
//! ```text
//! log p_y = z_y/T − log Σⱼ exp(zⱼ/T)          ∂ log p_y / ∂zⱼ = (1[j = y] − pⱼ) / T
//! H       = −Σⱼ pⱼ log pⱼ                      ∂H / ∂zⱼ       = −pⱼ (log pⱼ + H) / T
//! ```

use burn::tensor::activation::log_softmax;
use burn::tensor::{FloatDType, IndexingUpdateOp, Int, Tensor, s};

use crate::modeling::Qwen2ForCausalLM;

/// How log-probs are computed.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadOptions {
    /// The logits are divided by it; above 0.
    pub temperature: f64,
    /// How many tokens' logits exist at once; at least 1. Changes memory, not results.
    pub chunk: usize,
    /// Whether the entropy is computed too.
    pub entropy: bool,
}

/// What a model says of each response token; plain f32 tensors, right-padded with 0.
#[derive(Clone, Debug)]
pub struct TokenStats {
    /// The token's log-prob in nats at the given temperature, `[batch, seq]`.
    pub log_probs: Tensor<2>,
    /// Entropy in nats of the distribution that the token was drawn from, `[batch, seq]`.
    pub entropy: Option<Tensor<2>>,
}

/// One number a token, packed: `[tokens, 1]`.
pub(crate) struct PackedStats {
    pub(crate) log_probs: Tensor<2>,
    pub(crate) entropy: Option<Tensor<2>>,
}

/// The head's part of a backward pass.
pub(crate) struct HeadGradients {
    /// `[tokens, hidden]`
    pub(crate) hidden: Tensor<2>,
    /// Of the matrix that makes logits, in its own layout.
    pub(crate) vocabulary: Tensor<2>,
}

/// The plain view of a model as a function from packed hidden states to log-probs.
pub(crate) struct Head<'a> {
    model: &'a Qwen2ForCausalLM,
    options: &'a HeadOptions,
}

impl<'a> Head<'a> {
    pub(crate) fn new(model: &'a Qwen2ForCausalLM, options: &'a HeadOptions) -> Self {
        assert!(options.temperature > 0.0, "the temperature of log-probs is above 0, not {}", options.temperature);
        assert!(options.chunk > 0, "a chunk holds at least one token");
        Self { model, options }
    }

    /// `[tokens, hidden]` and `[tokens, 1]` → `[tokens, 1]` each.
    pub(crate) fn stats(&self, hidden: &Tensor<2>, targets: &Tensor<2, Int>) -> PackedStats {
        let mut log_probs = Vec::new();
        let mut entropy = Vec::new();
        for (hidden, targets) in self.chunks(hidden, targets) {
            let log_p = self.log_softmax(hidden);
            if self.options.entropy {
                entropy.push(entropy_of(&log_p));
            }
            log_probs.push(log_p.gather(1, targets));
        }
        let entropy = self.options.entropy.then(|| Tensor::cat(entropy, 0));
        PackedStats { log_probs: Tensor::cat(log_probs, 0), entropy }
    }

    /// Pushes ∂loss/∂log_probs and ∂loss/∂entropy, `[tokens, 1]` each, through the head.
    pub(crate) fn backward(
        &self,
        hidden: &Tensor<2>,
        targets: &Tensor<2, Int>,
        upstream: &PackedStats,
    ) -> HeadGradients {
        let mut d_hidden = Vec::new();
        let mut d_vocabulary: Option<Tensor<2>> = None;
        for (index, (hidden, targets)) in self.chunks(hidden, targets).enumerate() {
            let [tokens, _] = hidden.dims();
            let from = index * self.options.chunk;
            let part = |all: &Tensor<2>| all.clone().slice(s![from..from + tokens, ..]);

            let log_p = self.log_softmax(hidden.clone());
            let d_log_prob = part(&upstream.log_probs);
            let mut weight = d_log_prob.clone().neg();
            let p = log_p.clone().exp();
            let d_scaled = match &upstream.entropy {
                Some(d_entropy) => {
                    let d_entropy = part(d_entropy);
                    weight = weight - d_entropy.clone() * entropy_of(&log_p);
                    p * (weight - log_p * d_entropy)
                }
                None => p * weight,
            };
            let d_scaled = d_scaled.scatter(1, targets, d_log_prob, IndexingUpdateOp::Add);
            let d_logits = d_scaled / self.options.temperature;

            let (chunk_hidden, chunk_vocabulary) = self.logits_backward(hidden, d_logits);
            d_hidden.push(chunk_hidden);
            d_vocabulary = Some(match d_vocabulary {
                Some(sum) => sum + chunk_vocabulary,
                None => chunk_vocabulary,
            });
        }
        let vocabulary = d_vocabulary.expect("a batch has at least one response token");
        HeadGradients { hidden: Tensor::cat(d_hidden, 0), vocabulary }
    }

    /// In f32 whatever the compute dtype: `[chunk, hidden]` → `[chunk, vocab]`.
    fn log_softmax(&self, hidden: Tensor<2>) -> Tensor<2> {
        let logits = self.model.logits(hidden).cast(FloatDType::F32);
        if self.options.temperature == 1.0 {
            return log_softmax(logits, 1);
        }
        // Divided by a low temperature, large logits lose the digits that tell them apart; their distances do not.
        let best = logits.clone().max_dim(1);
        log_softmax((logits - best) / self.options.temperature, 1)
    }

    /// Backward of [`Qwen2ForCausalLM::logits`]: the gradients of the hidden states and of the matrix.
    fn logits_backward(&self, hidden: Tensor<2>, d_logits: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let (_, vocabulary) = self.model.vocabulary();
        match self.model.lm_head {
            // logits = hidden · W, W [hidden, vocab]
            Some(_) => (d_logits.clone().matmul(vocabulary.transpose()), hidden.transpose().matmul(d_logits)),
            // logits = hidden · Eᵀ, E [vocab, hidden]
            None => (d_logits.clone().matmul(vocabulary), d_logits.transpose().matmul(hidden)),
        }
    }

    fn chunks(
        &self,
        hidden: &Tensor<2>,
        targets: &Tensor<2, Int>,
    ) -> impl Iterator<Item = (Tensor<2>, Tensor<2, Int>)> {
        let [tokens, _] = hidden.dims();
        let size = self.options.chunk;
        (0..tokens).step_by(size).map(move |from| {
            let to = (from + size).min(tokens);
            (hidden.clone().slice(s![from..to, ..]), targets.clone().slice(s![from..to, ..]))
        })
    }
}

/// `[tokens, vocab]` → `[tokens, 1]`
fn entropy_of(log_p: &Tensor<2>) -> Tensor<2> {
    (log_p.clone().exp() * log_p.clone()).sum_dim(1).neg()
}
