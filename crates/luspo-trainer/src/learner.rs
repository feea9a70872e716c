//! What turns scored answers into a better policy: advantages, objective, reference, critic, optimizer.

use std::sync::Arc;

use burn::module::Module;
use luspo_algo::{EntropyController, KlController, Objective, PolicyLoss};
use luspo_core::Local;
use luspo_model::{PassOptions, Qwen2ForCausalLM, WeightDtype};
use luspo_rollout::LogProbGap;
use serde::{Deserialize, Serialize};

use crate::advantage::Advantages;
use crate::config::{EngineKind, OldLogProbs};
use crate::critic::Critic;
use crate::guard::{Guard, Place};
use crate::micro::MicroBatches;
use crate::objective::{compared, entropy_controller, objective};
use crate::optimizer::AdamW;
use crate::sample::{Sample, log_probs, log_probs_and_squares, to_json, totals};
use crate::update::gradients;
use crate::{Config, Metrics, Policy, RunFolder, TrainError};

/// Largest difference between the sampler's and the trainer's log-prob of a token, in nats, with which a run in f32
/// goes on.
const MAX_LOG_PROB_GAP: f64 = 1e-3;

/// Largest mean of these differences with which a run in bf16 goes on. Sampler and trainer multiply matrices of other
/// shapes, so that sums are rounded at other places, and single tokens differ by much more than the mean.
const MAX_MEAN_LOG_PROB_GAP_BF16: f64 = 0.02;

/// The objective with its optimizer and, where they are asked for, the frozen reference policy and the critic.
pub struct Learner {
    objective: Objective,
    entropy: Option<EntropyController>,
    /// Objectives whose gradients on the same rows are weighed beside the run's own, by name.
    compared: (Vec<&'static str>, Vec<Objective>),
    advantages: Advantages,
    optimizer: AdamW,
    critic: Option<Critic>,
    reference: Option<Qwen2ForCausalLM>,
    options: PassOptions,
    old_log_probs: OldLogProbs,
    updates_per_step: usize,
    micro: MicroBatches,
    /// Number type that the policy computes with.
    dtype: WeightDtype,
    /// Whether the answers are another sampler's, whose log-probs need not be the trainer's.
    outside: bool,
    /// Updates of this step so far; after the first the parameters are no longer those that sampled.
    updates: usize,
    /// Sampler against trainer over all of the step's rows, where it could be measured before the first update.
    gap: Option<LogProbGap>,
    guard: Guard,
}

/// What a learner is beside its models and their moments, for a checkpoint.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LearnerState {
    /// Updates that the optimizer has made, t of the bias correction.
    pub optimizer_updates: i32,
    /// Updates that were skipped in a row before this point.
    pub skipped_in_a_row: usize,
    /// The same of the critic, where there is one.
    pub critic_updates: i32,
    /// The same of the critic, where there is one.
    pub critic_skipped_in_a_row: usize,
    /// The factor of the KL penalty in the reward, where there is one.
    pub kl: Option<KlController>,
    /// The weight of the entropy bonus, where it moves.
    pub entropy: Option<EntropyController>,
}

/// What one update did.
#[derive(Clone, Debug)]
pub struct UpdateReport {
    /// The objective's metrics; empty if the update was skipped.
    pub metrics: Vec<(&'static str, f64)>,
    /// Global norm of the gradient before clipping; not finite if the update was skipped.
    pub grad_norm: f64,
    /// The update was skipped because loss or gradient were not finite.
    pub skipped: bool,
    /// Sampler against trainer, for a step's first update.
    pub gap: Option<LogProbGap>,
    /// Which rows weigh how much in the gradient of which objective.
    pub weights: Vec<(&'static str, Vec<f64>)>,
}

impl Learner {
    /// The learner that a configuration describes; its critic, where it needs one, is [set](Self::set_critic) later.
    ///
    /// # Errors
    /// An unknown objective, estimator, aggregation or KL estimator, or a number that cannot be.
    pub fn new(config: &Config, custom: Option<Arc<dyn PolicyLoss>>) -> Result<Self, TrainError> {
        let algorithm = &config.algorithm;
        let advantages = Advantages::new(config)?;
        Ok(Self {
            objective: objective(config, custom)?,
            entropy: entropy_controller(config)?,
            compared: if config.logging.gradient_weight { compared() } else { Vec::new() }.into_iter().unzip(),
            optimizer: AdamW::new(config.optimizer.clone()),
            critic: None,
            reference: None,
            options: PassOptions {
                temperature: config.rollout.temperature,
                entropy: true,
                sum_pi_squared: advantages.estimator.needs_sum_pi_squared(),
                memory: config.memory_options(),
            },
            advantages,
            old_log_probs: algorithm.old_log_probs,
            updates_per_step: config.updates_per_step(),
            micro: MicroBatches::of(config),
            dtype: config.dtype(),
            outside: config.rollout.engine == EngineKind::OpenAi,
            updates: 0,
            gap: None,
            guard: Guard::default(),
        })
    }

    /// Whether a KL term needs the frozen starting policy.
    pub fn needs_reference(&self) -> bool {
        self.objective.kl.is_some() || self.advantages.needs_reference()
    }

    /// Whether the advantages need a value model.
    pub(crate) fn needs_critic(&self) -> bool {
        self.advantages.estimator.needs_values()
    }

    /// Whether the advantages compare with the greedy answer.
    pub(crate) fn needs_baselines(&self) -> bool {
        self.advantages.estimator.needs_baselines()
    }

    /// Values states with this critic from now on.
    pub(crate) fn set_critic(&mut self, critic: Critic) {
        self.critic = Some(critic);
    }

    /// The critic, where there is one.
    pub(crate) fn critic(&self) -> Option<&Critic> {
        self.critic.as_ref()
    }

    /// Measures the KL term against this policy from now on.
    pub fn set_reference(&mut self, reference: Qwen2ForCausalLM) {
        self.reference = Some(reference);
    }

    /// Goes on where an earlier process stopped.
    pub fn restore(&mut self, optimizer: AdamW, state: &LearnerState) {
        self.optimizer = optimizer;
        self.guard.skipped = state.skipped_in_a_row;
        self.advantages.restore(state.kl);
        if self.entropy.is_some() {
            self.entropy = state.entropy;
        }
    }

    /// The optimizer with its history.
    pub fn optimizer(&self) -> &AdamW {
        &self.optimizer
    }

    /// What a checkpoint keeps beside models and moments.
    pub fn state(&self) -> LearnerState {
        let critic = self.critic.as_ref();
        LearnerState {
            optimizer_updates: self.optimizer.updates(),
            skipped_in_a_row: self.guard.skipped,
            critic_updates: critic.map_or(0, |critic| critic.optimizer.updates()),
            critic_skipped_in_a_row: critic.map_or(0, |critic| critic.guard.skipped),
            kl: self.advantages.kl_controller().cloned(),
            entropy: self.entropy,
        }
    }

    /// Starts a step: attaches the log-probs of the policy that sampled, which stay fixed during its updates.
    pub fn remember_old_log_probs(&mut self, policy: &Policy, samples: &mut [Sample]) {
        (self.updates, self.gap) = (0, None);
        if self.old_log_probs == OldLogProbs::Sampler {
            for sample in samples.iter_mut() {
                sample.old_log_probs = Some(sample.rollout.log_probs.clone());
            }
        }
        let trainer = self.old_log_probs == OldLogProbs::Trainer;
        let wanted = self.updates_per_step > 1 || self.advantages.needs_old_log_probs();
        // Where nothing wants them, the only update's own log-probs, detached, are the old ones.
        // A sampler that tells no log-probs: the policy's own stand in for them.
        let untold = samples.iter().any(|sample| sample.rollout.log_probs.iter().any(|value| value.is_nan()));
        if self.options.sum_pi_squared || (trainer && wanted) || untold {
            let options = PassOptions { entropy: false, ..self.options };
            let model = policy.model.valid();
            let (own, squares) = log_probs_and_squares(&model, samples, &self.micro, &options);
            if untold {
                samples.iter_mut().zip(&own).for_each(|(sample, own)| sample.rollout.log_probs.clone_from(own));
            }
            let sampler = samples.iter().flat_map(|sample| &sample.rollout.log_probs).copied();
            self.gap = Some(LogProbGap::measure(sampler.zip(own.iter().flatten().copied())));
            for (index, (sample, own)) in samples.iter_mut().zip(own).enumerate() {
                if trainer {
                    sample.old_log_probs = Some(own);
                }
                sample.sum_pi_squared = squares.as_ref().map(|squares| squares[index].clone());
            }
        }
    }

    /// Attaches the reference policy's log-probs, if a KL term needs them.
    pub fn remember_reference_log_probs(&self, samples: &mut [Sample]) {
        if let Some(reference) = &self.reference {
            let rows = log_probs(reference, samples, &self.micro, &self.options);
            for (sample, row) in samples.iter_mut().zip(rows) {
                sample.ref_log_probs = Some(row);
            }
        }
    }

    /// Attaches the critic's values, if the advantages need them.
    pub(crate) fn remember_values(&mut self, samples: &mut [Sample]) {
        if let Some(critic) = &mut self.critic {
            critic.remember_values(samples);
        }
    }

    /// Gives every token its mask, weight, advantage and return.
    ///
    /// # Errors
    /// An estimator that lacks what it compares.
    pub(crate) fn estimate_advantages(&mut self, samples: &mut [Sample]) -> Result<Metrics, TrainError> {
        self.advantages.estimate(samples)
    }

    /// One optimizer step of the critic, where there is one.
    ///
    /// # Errors
    /// Too many skipped updates in a row, or a file that cannot be written.
    pub(crate) fn update_critic(
        &mut self,
        rows: &[Sample],
        lr: f64,
        step: usize,
        folder: &RunFolder,
    ) -> Result<Option<UpdateReport>, TrainError> {
        match &mut self.critic {
            Some(critic) => critic.update(rows, lr, step, folder).map(Some),
            None => Ok(None),
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
        if let Some(controller) = &self.entropy {
            self.objective.entropy_coeff = controller.value();
        }
        let (micro, compared) = (&self.micro, &self.compared.1);
        let result = gradients(&policy.model, &self.objective, compared, rows, &totals, micro, &self.options);
        self.updates += 1;
        let gap = (self.updates == 1).then(|| self.gap.take().unwrap_or(result.gap));
        if let Some(gap) = &gap {
            let (measure, gap, allowed) = match self.dtype {
                WeightDtype::F32 => ("up to", gap.max, MAX_LOG_PROB_GAP),
                _ => ("on average", gap.mean, MAX_MEAN_LOG_PROB_GAP_BF16),
            };
            // An infinite gap comes from log-probs that are not finite, which is for the guard below.
            if !self.outside && gap.is_finite() && gap > allowed {
                let file = folder.save_skipped(step, &format!("update_{}", self.updates), &to_json(rows))?;
                return Err(TrainError::LogProbGap { step, measure, gap, allowed, file });
            }
        }

        let grad_norm = match result.loss.is_finite() {
            // Without a gradient, momentum and decay would still move the policy.
            true if totals.tokens == 0 => 0.0,
            true => self.optimizer.step(&mut policy.model, result.gradients, lr),
            false => f64::NAN,
        };
        let at = Place { step, update: self.updates, name: "update", lr: "optimizer.lr", folder };
        if self.guard.skips(result.loss, grad_norm, rows, at)? {
            return Ok(UpdateReport { metrics: Vec::new(), grad_norm, skipped: true, gap, weights: Vec::new() });
        }
        let mut metrics = result.metrics;
        if let Some(controller) = &mut self.entropy {
            metrics.push(("actor/entropy_coeff", controller.value()));
            if let Some((_, entropy)) = metrics.iter().find(|(name, _)| *name == "actor/entropy") {
                controller.update(*entropy);
            }
        }
        let names = std::iter::once("objective").chain(self.compared.0.iter().copied());
        let weights = names.zip(result.weights).collect();
        Ok(UpdateReport { metrics, grad_norm, skipped: false, gap, weights })
    }
}

#[cfg(test)]
mod tests;
