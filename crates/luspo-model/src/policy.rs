//! The model as a policy: log-probs of responses, and the gradient of any function of them.

use burn::optim::GradientsParams;
use burn::tensor::Tensor;

use crate::batch::ResponseBatch;
use crate::head::{Head, PackedGradients, PackedStats, TokenStats};
use crate::modeling::Qwen2ForCausalLM;
use crate::options::PassOptions;
use crate::tape::{self, Gradients, Tape};

impl Qwen2ForCausalLM {
    /// Log-probs (and the other statistics that were asked for) of every response token. Keeps no graph, on either view
    /// of the model.
    pub fn response_stats(&self, batch: &ResponseBatch, options: &PassOptions) -> TokenStats {
        let model = self.plain();
        let hidden = tape::forward(&model.model, batch, &options.memory);
        let (stats, _) = Head::new(&model, options).stats(&hidden, batch.targets());
        spread(batch, stats)
    }

    /// Adds to `gradients`, in f32, the gradient with respect to all parameters of a loss that is a function of the
    /// responses' statistics.
    ///
    /// `objective` is called once with the statistics of the whole batch, and returns ∂loss/∂log_probs and
    /// ∂loss/∂entropy, `[batch, seq]` each; whatever stands in their padding is ignored. The loss itself is the caller's
    /// business.
    ///
    /// The trunk's blocks run once, or again in the backward pass where `options` say so. The head runs over packed
    /// response positions, a chunk of tokens at a time: once for the statistics, and, but for the last chunk, again for
    /// its part of the backward pass. A tied embedding's gradient is the sum of its parts as embedding and as head.
    ///
    /// # Panics
    /// If `objective` returns a gradient of the entropy that was not asked for.
    pub fn response_gradients(
        &self,
        batch: &ResponseBatch,
        options: &PassOptions,
        gradients: &mut GradientsParams,
        objective: impl FnOnce(&TokenStats) -> (Tensor<2>, Option<Tensor<2>>),
    ) {
        let plain = self.plain();
        let head = Head::new(&plain, options);
        let targets = batch.targets();
        let mut gradients = Gradients::into(gradients).of_adapters_alone(plain.has_lora());

        let (hidden, tape) = Tape::record(&plain.model, batch, &options.memory);
        let (stats, last) = head.stats(&hidden, targets);
        let (d_log_probs, d_entropy) = objective(&spread(batch, stats));
        assert!(
            options.entropy || d_entropy.is_none(),
            "an entropy gradient without entropy: set PassOptions::entropy"
        );
        let upstream = PackedGradients {
            log_probs: batch.pack_tokens(d_log_probs.inner()),
            entropy: d_entropy.map(|gradient| batch.pack_tokens(gradient.inner())),
        };
        let d_hidden = head.backward(&hidden, targets, &upstream, last, &mut gradients);
        drop(hidden);
        tape.backward(&plain.model, d_hidden, &mut gradients);
    }
}

fn spread(batch: &ResponseBatch, stats: PackedStats) -> TokenStats {
    let spread = |packed| batch.spread_tokens(packed);
    TokenStats {
        log_probs: spread(stats.log_probs),
        entropy: stats.entropy.map(spread),
        sum_pi_squared: stats.sum_pi_squared.map(spread),
    }
}
