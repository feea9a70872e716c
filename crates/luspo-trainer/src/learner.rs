//! What turns scored answers into a better policy: objective, reference, optimizer.

use burn::module::Module;
use luspo_algo::{KlKind, KlTerm, LossOptions, Objective, policy_loss};
use luspo_core::Local;
use luspo_model::{HeadOptions, Qwen2ForCausalLM};
use luspo_rollout::LogProbGap;

use crate::config::OldLogProbs;
use crate::optimizer::AdamW;
use crate::sample::{Sample, log_probs, to_json, totals};
use crate::update::gradients;
use crate::{Config, Policy, RunFolder, TrainError};

/// Updates in a row that may be skipped, for a loss or gradient that is not finite, before the run stops.
const MAX_SKIPPED_UPDATES: usize = 10;

/// Largest difference between the sampler's and the trainer's log-prob of a token, in nats, with which a run in f32
/// goes on.
const MAX_LOG_PROB_GAP: f64 = 1e-3;

/// The objective with its optimizer and, where a KL term is on, the frozen reference policy.
pub struct Learner {
    objective: Objective,
    optimizer: AdamW,
    reference: Option<Qwen2ForCausalLM>,
    head: HeadOptions,
    old_log_probs: OldLogProbs,
    updates_per_step: usize,
    micro_batch_size: usize,
    /// The step whose first update has been made; its parameters are no longer those that sampled.
    moved_in_step: usize,
    skipped_in_a_row: usize,
}

/// What one update did.
#[derive(Debug)]
pub struct UpdateReport {
    /// The objective's metrics; empty if the update was skipped.
    pub metrics: Vec<(&'static str, f64)>,
    /// Global norm of the gradient before clipping; not finite if the update was skipped.
    pub grad_norm: f64,
    /// The update was skipped because loss or gradient were not finite.
    pub skipped: bool,
    /// Sampler against trainer, for a step's first update.
    pub gap: Option<LogProbGap>,
}

impl Learner {
    /// The learner that a configuration describes.
    ///
    /// # Errors
    /// An unknown objective, aggregation or KL estimator, or a clip range that cannot be.
    pub fn new(config: &Config) -> Result<Self, TrainError> {
        let algorithm = &config.algorithm;
        if algorithm.adv_estimator != "grpo" {
            return Err(TrainError::Mismatch(format!(
                "algorithm.adv_estimator = \"{}\" is unknown; known: grpo",
                algorithm.adv_estimator
            )));
        }
        let options = LossOptions {
            clip_ratio_low: algorithm.clip_ratio_low,
            clip_ratio_high: algorithm.clip_ratio_high,
            clip_ratio_c: algorithm.clip_ratio_c,
            loss_agg_mode: algorithm.loss_agg_mode.clone(),
            loss_scale_factor: algorithm.loss_scale_factor.unwrap_or(config.data.max_response_length as f64),
        };
        let kind: KlKind = algorithm.kl_loss_type.parse()?;
        let kl = algorithm.use_kl_loss.then_some(KlTerm { kind, coef: algorithm.kl_loss_coef });
        Ok(Self {
            objective: Objective {
                policy: policy_loss(&algorithm.loss_mode, &options)?,
                kl,
                entropy_coeff: algorithm.entropy_coeff,
            },
            optimizer: AdamW::new(config.optimizer.clone()),
            reference: None,
            head: HeadOptions {
                // Greedy rollouts are recorded at temperature 1.
                temperature: if config.rollout.temperature == 0.0 { 1.0 } else { config.rollout.temperature },
                chunk: config.model.log_prob_chunk,
                entropy: true,
            },
            old_log_probs: algorithm.old_log_probs,
            updates_per_step: config.updates_per_step(),
            micro_batch_size: config.micro_batch_size(),
            moved_in_step: 0,
            skipped_in_a_row: 0,
        })
    }

    /// Keeps the policy as it is now as the reference, if a KL term needs one.
    pub fn freeze_reference(&mut self, policy: &Policy) {
        self.reference = self.objective.kl.is_some().then(|| policy.model.valid());
    }

    /// Attaches the log-probs that stay fixed during a step: those of the policy that sampled, and the reference's.
    pub fn remember_log_probs(&self, policy: &Policy, samples: &mut [Sample]) {
        match self.old_log_probs {
            OldLogProbs::Sampler => {
                for sample in samples.iter_mut() {
                    sample.old_log_probs = Some(sample.rollout.log_probs.clone());
                }
            }
            OldLogProbs::Trainer if self.updates_per_step > 1 => {
                let old = log_probs(&policy.model.valid(), samples, self.micro_batch_size, &self.head);
                for (sample, old) in samples.iter_mut().zip(old) {
                    sample.old_log_probs = Some(old);
                }
            }
            // The only update's own log-probs, detached, are the old ones.
            OldLogProbs::Trainer => {}
        }
        if let Some(reference) = &self.reference {
            let rows = log_probs(reference, samples, self.micro_batch_size, &self.head);
            for (sample, row) in samples.iter_mut().zip(rows) {
                sample.ref_log_probs = Some(row);
            }
        }
    }

    /// One optimizer step on `rows` at learning rate `lr`.
    ///
    /// An update whose loss or gradient is not finite is skipped and its rows are written to the run folder.
    ///
    /// # Errors
    /// Too many skipped updates in a row; a sampler that disagrees with the trainer; a file that cannot be written.
    pub fn update(
        &mut self,
        policy: &mut Policy,
        rows: &[Sample],
        lr: f64,
        step: usize,
        folder: &RunFolder,
    ) -> Result<UpdateReport, TrainError> {
        let totals = totals(rows, &Local);
        let result = gradients(&policy.model, &self.objective, rows, &totals, self.micro_batch_size, &self.head);
        let gap = (self.moved_in_step != step).then_some(result.gap);
        if let Some(gap) = gap.as_ref().filter(|gap| gap.max > MAX_LOG_PROB_GAP) {
            return Err(TrainError::LogProbGap { step, max: gap.max, allowed: MAX_LOG_PROB_GAP });
        }
        self.moved_in_step = step;

        let grad_norm = match result.loss.is_finite() {
            true => self.optimizer.step(&mut policy.model, result.gradients, lr),
            false => f64::NAN,
        };
        if grad_norm.is_finite() {
            self.skipped_in_a_row = 0;
            return Ok(UpdateReport { metrics: result.metrics, grad_norm, skipped: false, gap });
        }
        self.skipped_in_a_row += 1;
        let file = folder.save_skipped(step, self.skipped_in_a_row, &to_json(rows))?;
        log::warn!(
            "step {step}: loss {} or gradient norm {grad_norm} is not finite; update skipped, its rows are in {}",
            result.loss,
            file.display()
        );
        if self.skipped_in_a_row >= MAX_SKIPPED_UPDATES {
            return Err(TrainError::Diverged { step, count: self.skipped_in_a_row, file });
        }
        Ok(UpdateReport { metrics: Vec::new(), grad_norm, skipped: true, gap })
    }
}
