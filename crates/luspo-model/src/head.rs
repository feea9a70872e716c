//! The head, a chunk of tokens at a time: `[chunk, vocab]` is the largest thing that is ever held.
//!
//! With logits zⱼ at temperature T, p = softmax(z/T) and target y:
//!
//! ```text
//! log p_y = z_y/T − log Σⱼ exp(zⱼ/T)          ∂ log p_y / ∂zⱼ = (1[j = y] − pⱼ) / T
//! H       = −Σⱼ pⱼ log pⱼ                      ∂H / ∂zⱼ       = −pⱼ (log pⱼ + H) / T
//! ```
//!
//! Σⱼ pⱼ², which the optimal-token baseline weighs tokens by, is a statistic only: nothing is differentiated through it.

use burn::tensor::activation::log_softmax;
use burn::tensor::{FloatDType, IndexingUpdateOp, Int, Tensor, TensorData, s};

use crate::host::{self, HostDistributions};
use crate::linear::times;
use crate::modeling::Qwen2ForCausalLM;
use crate::options::PassOptions;
use crate::tape::Gradients;

/// What a model says of each response token; plain f32 tensors, right-padded with 0.
#[derive(Clone, Debug)]
pub struct TokenStats {
    /// The token's log-prob in nats at the given temperature, `[batch, seq]`.
    pub log_probs: Tensor<2>,
    /// Entropy in nats of the distribution that the token was drawn from, `[batch, seq]`.
    pub entropy: Option<Tensor<2>>,
    /// Σⱼ pⱼ² of that distribution, `[batch, seq]`: the chance that two draws agree, between 1/vocab and 1.
    pub sum_pi_squared: Option<Tensor<2>>,
}

/// One number a token, packed: `[tokens, 1]`.
pub(crate) struct PackedStats {
    pub(crate) log_probs: Tensor<2>,
    pub(crate) entropy: Option<Tensor<2>>,
    pub(crate) sum_pi_squared: Option<Tensor<2>>,
}

/// The loss by a token's statistics, packed: `[tokens, 1]`.
pub(crate) struct PackedGradients {
    pub(crate) log_probs: Tensor<2>,
    pub(crate) entropy: Option<Tensor<2>>,
}

/// The plain view of a model as a function from packed hidden states to log-probs.
pub(crate) struct Head<'a> {
    model: &'a Qwen2ForCausalLM,
    options: &'a PassOptions,
}

impl<'a> Head<'a> {
    pub(crate) fn new(model: &'a Qwen2ForCausalLM, options: &'a PassOptions) -> Self {
        assert!(options.temperature > 0.0, "the temperature of log-probs is above 0, not {}", options.temperature);
        options.memory.check();
        Self { model, options }
    }

    /// `[tokens, hidden]` and as many targets → `[tokens, 1]` each, and the distributions of the last chunk: a backward
    /// pass begins with that one.
    pub(crate) fn stats(&self, hidden: &Tensor<2>, targets: &[i64]) -> (PackedStats, Distributions) {
        let (mut log_probs, mut entropy, mut sum_pi_squared) = (Vec::new(), Vec::new(), Vec::new());
        let mut last = None;
        for (hidden, targets) in self.chunks(hidden, targets) {
            drop(last.take()); // before the next chunk's logits exist
            let distributions = self.distributions(hidden);
            let stats = distributions.stats(targets);
            log_probs.push(stats.log_probs);
            entropy.extend(stats.entropy);
            sum_pi_squared.extend(stats.sum_pi_squared);
            last = Some(distributions);
        }
        let stats = PackedStats {
            log_probs: Tensor::cat(log_probs, 0),
            entropy: self.options.entropy.then(|| Tensor::cat(entropy, 0)),
            sum_pi_squared: self.options.sum_pi_squared.then(|| Tensor::cat(sum_pi_squared, 0)),
        };
        (stats, last.expect("a batch has at least one response token"))
    }

    /// Pushes ∂loss/∂log_probs and ∂loss/∂entropy, `[tokens, 1]` each, through the head: adds the gradient of the matrix
    /// that makes logits, and returns that of the states. `last` is what [`stats`](Self::stats) gave.
    pub(crate) fn backward(
        &self,
        hidden: &Tensor<2>,
        targets: &[i64],
        upstream: &PackedGradients,
        last: Distributions,
        gradients: &mut Gradients,
    ) -> Tensor<2> {
        let vocabulary = self.model.vocabulary();
        let mut last = Some(last);
        let mut d_hidden = Vec::new();
        let chunk = self.options.memory.log_prob_chunk;
        for (index, targets) in targets.chunks(chunk).enumerate().rev() {
            let from = index * chunk;
            let part = |all: &Tensor<2>| all.clone().slice(s![from..from + targets.len(), ..]);
            let hidden = part(hidden);
            let upstream =
                PackedGradients { log_probs: part(&upstream.log_probs), entropy: upstream.entropy.as_ref().map(part) };

            let distributions = last.take().unwrap_or_else(|| self.distributions(hidden.clone()));
            // logits = hidden · Eᵀ, E [vocab, hidden]
            let d_logits = distributions.into_gradient(targets, &upstream).cast(hidden.dtype());
            gradients.add_outer(vocabulary, &d_logits, &hidden);
            d_hidden.push(times(&d_logits, &vocabulary.val(), None));
        }
        d_hidden.reverse();
        Tensor::cat(d_hidden, 0)
    }

    /// `[chunk, hidden]` → a distribution a token, over `[chunk, vocab]`.
    fn distributions(&self, hidden: Tensor<2>) -> Distributions {
        let logits = self.model.logits(hidden);
        match host::serves(&logits) {
            true => Distributions::Host(HostDistributions::new(logits, self.options)),
            false => Distributions::Tensor(TensorDistributions::new(logits, self.options)),
        }
    }

    fn chunks<'t>(&self, hidden: &Tensor<2>, targets: &'t [i64]) -> impl Iterator<Item = (Tensor<2>, &'t [i64])> {
        targets.chunks(self.options.memory.log_prob_chunk).scan(0, move |from, targets| {
            let to = *from + targets.len();
            let hidden = hidden.clone().slice(s![*from..to, ..]);
            *from = to;
            Some((hidden, targets))
        })
    }
}

/// The distributions of one chunk of tokens: as tensors on any device, or in host memory where that is the device's.
pub(crate) enum Distributions {
    Tensor(TensorDistributions),
    Host(HostDistributions),
}

impl Distributions {
    /// Log-probs of the targets, and what else was asked for.
    fn stats(&self, targets: &[i64]) -> PackedStats {
        match self {
            Self::Tensor(distributions) => distributions.stats(targets),
            Self::Host(distributions) => distributions.stats(targets),
        }
    }

    /// The gradient of the logits from those of the statistics.
    fn into_gradient(self, targets: &[i64], upstream: &PackedGradients) -> Tensor<2> {
        match self {
            Self::Tensor(distributions) => distributions.into_gradient(targets, upstream),
            Self::Host(distributions) => distributions.into_gradient(targets, upstream),
        }
    }
}

/// log p at the temperature, `[chunk, vocab]`.
pub(crate) struct TensorDistributions {
    log_p: Tensor<2>,
    options: PassOptions,
}

impl TensorDistributions {
    /// In f32 whatever the compute dtype.
    pub(crate) fn new(logits: Tensor<2>, options: &PassOptions) -> Self {
        let logits = logits.cast(FloatDType::F32);
        let log_p = if options.temperature == 1.0 {
            log_softmax(logits, 1)
        } else {
            // Divided by a low temperature, large logits lose the digits that tell them apart; their distances do not.
            let best = logits.clone().max_dim(1);
            log_softmax((logits - best) / options.temperature, 1)
        };
        Self { log_p, options: *options }
    }

    pub(crate) fn stats(&self, targets: &[i64]) -> PackedStats {
        let sum_pi_squared = || (self.log_p.clone() * 2.0).exp().sum_dim(1);
        PackedStats {
            log_probs: self.log_p.clone().gather(1, self.column(targets)),
            entropy: self.options.entropy.then(|| entropy_of(&self.log_p)),
            sum_pi_squared: self.options.sum_pi_squared.then(sum_pi_squared),
        }
    }

    pub(crate) fn into_gradient(self, targets: &[i64], upstream: &PackedGradients) -> Tensor<2> {
        let targets = self.column(targets);
        let d_log_prob = upstream.log_probs.clone();
        let mut weight = d_log_prob.clone().neg();
        let p = self.log_p.clone().exp();
        let d_scaled = match &upstream.entropy {
            Some(d_entropy) => {
                weight = weight - d_entropy.clone() * entropy_of(&self.log_p);
                p * (weight - self.log_p * d_entropy.clone())
            }
            None => p * weight,
        };
        d_scaled.scatter(1, targets, d_log_prob, IndexingUpdateOp::Add) / self.options.temperature
    }

    fn column(&self, targets: &[i64]) -> Tensor<2, Int> {
        Tensor::from_data(TensorData::new(targets.to_vec(), [targets.len(), 1]), &self.log_p.device())
    }
}

/// `[tokens, vocab]` → `[tokens, 1]`
fn entropy_of(log_p: &Tensor<2>) -> Tensor<2> {
    (log_p.clone().exp() * log_p.clone()).sum_dim(1).neg()
}
