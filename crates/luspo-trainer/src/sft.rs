//! Supervised fine-tuning on worked answers.
//!
//! ```text
//! L(θ) = − 1/N Σᵢ Σₜ log π_θ(yᵢₜ | xᵢ, yᵢ,<ₜ)        N = Σᵢ |yᵢ| over the whole batch
//! ```

use std::time::Instant;

use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use luspo_core::{Purpose, RandomKey};
use luspo_data::SftExample;
use luspo_model::{MemoryOptions, PassOptions, ResponseBatch};
use rand::seq::SliceRandom;

use crate::batch::token_grid;
use crate::config::SftConfig;
use crate::optimizer::AdamW;
use crate::schedule::learning_rate;
use crate::{Metrics, Policy, TrainError};

/// Supervised fine-tuning under way.
///
/// Every epoch is a new order of the examples, a function of the seed alone.
pub struct FineTuning<'a> {
    examples: &'a [SftExample],
    config: &'a SftConfig,
    options: PassOptions,
    optimizer: AdamW,
    order: Order,
    step: usize,
}

impl<'a> FineTuning<'a> {
    /// Starts after `step` steps with the optimizer as it was then; at step 0 with a new one.
    pub fn new(
        examples: &'a [SftExample],
        config: &'a SftConfig,
        seed: u64,
        memory: MemoryOptions,
        step: usize,
        optimizer: AdamW,
    ) -> Self {
        let mut order = Order::new(examples.len(), seed);
        order.skip(step * config.batch_size);
        let options = PassOptions { memory, ..PassOptions::default() };
        Self { examples, config, options, optimizer, order, step }
    }

    /// Steps made so far.
    pub fn steps(&self) -> usize {
        self.step
    }

    /// The optimizer as it is after them.
    pub fn optimizer(&self) -> &AdamW {
        &self.optimizer
    }

    /// Makes one step and returns its metrics.
    ///
    /// # Errors
    /// A loss or gradient that is not finite.
    pub fn step(&mut self, policy: &mut Policy) -> Result<Metrics, TrainError> {
        let started = Instant::now();
        let config = self.config;
        self.step += 1;
        let step = self.step;
        let batch: Vec<&SftExample> =
            self.order.next(config.batch_size).into_iter().map(|i| &self.examples[i]).collect();
        let tokens: usize = batch.iter().map(|e| e.response_ids.len()).sum();

        let micro = config.micro_batch_size.unwrap_or(config.batch_size);
        let (gradients, loss) = gradients(policy, &batch, micro, &self.options);
        let lr = learning_rate(&config.optimizer(), step, config.steps);
        let grad_norm = self.optimizer.step(&mut policy.model, gradients, lr);
        if !loss.is_finite() || !grad_norm.is_finite() {
            return Err(TrainError::WarmUpDiverged { step, loss, grad_norm });
        }

        let seconds = started.elapsed().as_secs_f64();
        let mut metrics = Metrics::of_step(step);
        metrics.set("sft/loss", loss);
        metrics.set("sft/grad_norm", grad_norm);
        metrics.set("sft/lr", lr);
        metrics.set("sft/tokens", tokens as f64);
        metrics.set("timing_s/step", seconds);
        metrics.set("perf/throughput", tokens as f64 / seconds);
        Ok(metrics)
    }
}

/// Gradients and loss of a batch, `micro` examples at a time.
fn gradients(policy: &Policy, batch: &[&SftExample], micro: usize, options: &PassOptions) -> (GradientsParams, f64) {
    let tokens: usize = batch.iter().map(|e| e.response_ids.len()).sum();
    let mut total = GradientsParams::new();
    let mut loss = 0.0;
    for rows in batch.chunks(micro) {
        let pairs: Vec<(&[u32], &[u32])> = rows.iter().map(|e| (&e.prompt_ids[..], &e.response_ids[..])).collect();
        let responses = ResponseBatch::new(&pairs);
        policy.model.response_gradients(&responses, options, &mut total, |stats| {
            loss -= f64::from(stats.log_probs.clone().sum().into_scalar::<f32>()) / tokens as f64;
            let weight = -1.0 / tokens as f32;
            let weights: Vec<Vec<f32>> = rows.iter().map(|e| vec![weight; e.response_ids.len()]).collect();
            let gradient: Tensor<2> =
                token_grid(weights.iter().map(Vec::as_slice), responses.seq(), &stats.log_probs.device());
            (gradient, None)
        });
    }
    (total, loss)
}

/// The order in which examples are seen: epoch after epoch, each shuffled.
struct Order {
    seed: u64,
    epoch: u64,
    order: Vec<usize>,
    next: usize,
}

impl Order {
    fn new(examples: usize, seed: u64) -> Self {
        let mut order = Self { seed, epoch: 0, order: (0..examples).collect(), next: 0 };
        order.shuffle();
        order
    }

    fn shuffle(&mut self) {
        self.order.sort_unstable();
        self.order.shuffle(&mut RandomKey::new(self.seed, Purpose::Sft).at(self.epoch).rng());
        self.next = 0;
    }

    /// Goes on as if `count` examples had been seen.
    fn skip(&mut self, count: usize) {
        let len = self.order.len();
        // An order is made by shuffling the sorted examples, so that epochs in between need not be.
        self.epoch = (count / len) as u64;
        self.shuffle();
        self.next = count % len;
    }

    fn next(&mut self, count: usize) -> Vec<usize> {
        (0..count)
            .map(|_| {
                if self.next == self.order.len() {
                    self.epoch += 1;
                    self.shuffle();
                }
                self.next += 1;
                self.order[self.next - 1]
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        let tokenizer = luspo_data::Tokenizer::train_byte_level(["ab"].into_iter(), 259).unwrap();
        let config = luspo_model::Qwen2Config::new(259, 16, 16, 1, 2, 1);
        Policy::init(config, tokenizer, RandomKey::new(0, Purpose::Init), &burn::tensor::Device::flex()).unwrap()
    }

    fn examples() -> Vec<SftExample> {
        let example = |prompt: &[u32], response: &[u32]| SftExample {
            prompt_ids: prompt.to_vec(),
            response_ids: response.to_vec(),
        };
        vec![
            example(&[1], &[2, 3, 256]),
            example(&[4, 5], &[256]),
            example(&[6], &[7, 256]),
            example(&[8, 9, 10], &[11, 12, 13, 256]),
        ]
    }

    fn losses(micro_batch_size: Option<usize>) -> Vec<f64> {
        let config = SftConfig { steps: 20, batch_size: 4, micro_batch_size, lr: 1e-2, ..SftConfig::default() };
        let (examples, mut policy) = (examples(), policy());
        let mut tuning =
            FineTuning::new(&examples, &config, 0, MemoryOptions::default(), 0, AdamW::new(config.optimizer()));
        (0..20).map(|_| tuning.step(&mut policy).unwrap().get("sft/loss").unwrap()).collect()
    }

    #[test]
    fn the_loss_starts_at_that_of_guessing_and_falls() {
        let losses = losses(None);
        assert!((losses[0] - 259f64.ln()).abs() < 0.5, "{}", losses[0]);
        assert!(losses[19] < 0.5 * losses[0], "{losses:?}");
    }

    #[test]
    fn micro_batches_do_not_change_the_training() {
        let (whole, split) = (losses(None), losses(Some(1)));
        for (whole, split) in whole.iter().zip(split) {
            // Sums of f32 in another order, over 20 steps.
            assert!((whole - split).abs() < 1e-3, "{whole} against {split}");
        }
    }

    #[test]
    fn an_epoch_has_every_example_once_and_the_next_another_order() {
        let mut order = Order::new(10, 1);
        let mut first = order.next(10);
        let second = order.next(10);
        assert_ne!(first, second);
        first.sort_unstable();
        assert_eq!(first, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn skipping_arrives_where_dealing_does() {
        for count in [0, 3, 10, 25, 30] {
            let (mut dealt, mut skipped) = (Order::new(10, 1), Order::new(10, 1));
            dealt.next(count);
            skipped.skip(count);
            assert_eq!(dealt.next(15), skipped.next(15), "{count}");
        }
    }

    #[test]
    fn the_order_depends_on_the_seed_alone() {
        assert_eq!(Order::new(10, 1).next(25), Order::new(10, 1).next(25));
        assert_ne!(Order::new(10, 1).next(25), Order::new(10, 2).next(25));
    }
}
