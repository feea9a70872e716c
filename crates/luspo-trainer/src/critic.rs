//! The critic: a value model with its own optimizer, for advantages that need one.

use std::path::Path;

use burn::optim::GradientsParams;
use luspo_algo::{Aggregation, MetricAccumulator, PolicyLossOutput, value_loss};
use luspo_core::{Local, Purpose, RandomKey};
use luspo_model::{MemoryOptions, Qwen2Config, Qwen2ForTokenClassification};

use crate::batch::{mask_grid, token_grid, token_rows};
use crate::config::CriticConfig;
use crate::guard::{Guard, Place};
use crate::learner::UpdateReport;
use crate::micro::MicroBatches;
use crate::objective::scale_factor;
use crate::sample::{lengths, totals};
use crate::{AdamW, Config, Policy, RunFolder, Sample, TrainError};

/// A value model with its optimizer.
pub(crate) struct Critic {
    pub model: Qwen2ForTokenClassification,
    pub optimizer: AdamW,
    config: CriticConfig,
    pub guard: Guard,
    aggregation: Aggregation,
    micro: MicroBatches,
    memory: MemoryOptions,
    /// Updates of this step so far.
    updates: usize,
}

impl Critic {
    /// The critic that a configuration describes; it begins as `policy`'s trunk unless the configuration names a folder.
    ///
    /// # Errors
    /// A folder that cannot be loaded, or an unknown aggregation.
    pub fn new(config: &Config, policy: &Policy) -> Result<Self, TrainError> {
        let key = RandomKey::new(config.run.seed, Purpose::Critic);
        let model = match &config.critic.model_path {
            Some(path) => Qwen2ForTokenClassification::load_as(path, key, &policy.model.device(), config.dtype())?.0,
            None => Qwen2ForTokenClassification::from_policy(&policy.model, key),
        };
        Self::with(config, model)
    }

    /// The critic with the value model of a checkpoint.
    pub fn with(config: &Config, model: Qwen2ForTokenClassification) -> Result<Self, TrainError> {
        Ok(Self {
            model,
            optimizer: AdamW::new(config.critic.optimizer().offloaded(config.optimizer.offload)),
            guard: Guard::default(),
            aggregation: Aggregation::from_name(&config.critic.value_agg_mode, scale_factor(config))?,
            config: config.critic.clone(),
            micro: MicroBatches::of(config),
            memory: config.memory_options(),
            updates: 0,
        })
    }

    /// Attaches the value of every token's state.
    pub fn remember_values(&mut self, samples: &mut [Sample]) {
        self.updates = 0;
        for rows in self.micro.split(samples) {
            let rows = &mut samples[rows];
            let values = self.model.response_values(&self.micro.read(rows), &self.memory);
            let values = token_rows(values, &lengths(rows));
            for (sample, values) in rows.iter_mut().zip(values) {
                sample.values = values;
            }
        }
    }

    /// One optimizer step towards the returns at learning rate `lr`. Skipped where loss or gradient are not finite.
    ///
    /// # Errors
    /// Too many skipped updates in a row, or a file that cannot be written.
    pub fn update(
        &mut self,
        rows: &[Sample],
        lr: f64,
        step: usize,
        folder: &RunFolder,
    ) -> Result<UpdateReport, TrainError> {
        self.updates += 1;
        let totals = totals(rows, &Local);
        let update_is_empty = totals.tokens == 0;
        let mut total = GradientsParams::new();
        let mut metrics = MetricAccumulator::default();
        let mut loss_sum = 0.0;
        for part in self.micro.split(rows) {
            let rows = &rows[part];
            let batch = self.micro.read(rows);
            self.model.value_gradients(&batch, &self.memory, &mut total, |values| {
                let (seq, device) = (batch.seq(), values.device());
                let grid = |rows: Vec<Vec<f32>>| token_grid(rows.iter().map(Vec::as_slice), seq, &device);
                let old = grid(rows.iter().map(|row| row.values.clone()).collect());
                let returns = |row: &Sample| row.returns.iter().map(|value| *value as f32).collect();
                let returns = grid(rows.iter().map(returns).collect());
                let mask = mask_grid(rows.iter().map(|row| row.mask.as_slice()), seq, &device);

                let leaf = values.clone().autodiff().require_grad();
                let PolicyLossOutput { loss, metrics: measured } = value_loss(
                    leaf.clone(),
                    old,
                    returns,
                    &mask,
                    self.config.cliprange_value,
                    self.aggregation,
                    &totals,
                );
                metrics.add(measured);
                let gradient = leaf.grad(&loss.backward());
                loss_sum += f64::from(loss.without_autodiff().into_scalar::<f32>());
                gradient.unwrap_or_else(|| values.zeros_like())
            });
        }
        let grad_norm = match loss_sum.is_finite() {
            // Without a gradient, momentum and decay would still move the critic.
            true if update_is_empty => 0.0,
            true => self.optimizer.step(&mut self.model, total, lr),
            false => f64::NAN,
        };
        let at = Place { step, update: self.updates, name: "critic_update", lr: "critic.lr", folder };
        let skipped = self.guard.skips(loss_sum, grad_norm, rows, at)?;
        let metrics = if skipped { Vec::new() } else { metrics.finish() };
        Ok(UpdateReport { metrics, grad_norm, skipped, gap: None, weights: Vec::new() })
    }

    /// Writes the value model as a Hugging Face folder.
    pub fn save(&self, dir: &Path, shape: &Qwen2Config) -> Result<(), TrainError> {
        std::fs::create_dir_all(dir).map_err(TrainError::write(dir))?;
        Ok(self.model.save(dir, shape)?)
    }
}
