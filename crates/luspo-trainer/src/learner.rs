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
    /// Updates of this step so far; after the first the parameters are no longer those that sampled.
    updates: usize,
    /// Sampler against trainer over all of the step's rows, where it could be measured before the first update.
    gap: Option<LogProbGap>,
    skipped_in_a_row: usize,
}

/// What the configuration says of the objective.
fn loss_options(config: &Config) -> LossOptions {
    let algorithm = &config.algorithm;
    LossOptions {
        clip_ratio_low: algorithm.clip_ratio_low,
        clip_ratio_high: algorithm.clip_ratio_high,
        clip_ratio_c: algorithm.clip_ratio_c,
        log_ratio_clamp: algorithm.log_ratio_clamp,
        loss_agg_mode: algorithm.loss_agg_mode.clone(),
        loss_scale_factor: algorithm.loss_scale_factor.unwrap_or(config.data.max_response_length as f64),
    }
}

/// The configuration with the defaults that depend on other keys filled in: what a run folder keeps.
///
/// # Errors
/// An unknown objective.
pub(crate) fn resolved(config: &Config) -> Result<Config, TrainError> {
    let options = loss_options(config).resolved(&config.algorithm.loss_mode)?;
    let mut config = config.clone();
    config.trainer.ppo_mini_batch_size = Some(config.mini_batch_size());
    config.trainer.ppo_micro_batch_size = Some(config.micro_batch_size());
    let algorithm = &mut config.algorithm;
    algorithm.clip_ratio_low = options.clip_ratio_low;
    algorithm.clip_ratio_high = options.clip_ratio_high;
    algorithm.clip_ratio_c = options.clip_ratio_c;
    algorithm.log_ratio_clamp = options.log_ratio_clamp;
    algorithm.loss_agg_mode = options.loss_agg_mode;
    Ok(config)
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
}

impl Learner {
    /// The learner that a configuration describes.
    ///
    /// # Errors
    /// An unknown objective, aggregation or KL estimator, or a clip range or clamp that cannot be.
    pub fn new(config: &Config) -> Result<Self, TrainError> {
        let algorithm = &config.algorithm;
        let options = loss_options(config);
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
                temperature: config.rollout.temperature,
                chunk: config.model.log_prob_chunk,
                entropy: true,
            },
            old_log_probs: algorithm.old_log_probs,
            updates_per_step: config.updates_per_step(),
            micro_batch_size: config.micro_batch_size(),
            updates: 0,
            gap: None,
            skipped_in_a_row: 0,
        })
    }

    /// Whether a KL term needs the frozen starting policy.
    pub fn needs_reference(&self) -> bool {
        self.objective.kl.is_some()
    }

    /// Measures the KL term against this policy from now on.
    pub fn set_reference(&mut self, reference: Qwen2ForCausalLM) {
        self.reference = Some(reference);
    }

    /// Goes on with the optimizer and the count of skipped updates of an earlier process.
    pub fn restore(&mut self, optimizer: AdamW, skipped_in_a_row: usize) {
        (self.optimizer, self.skipped_in_a_row) = (optimizer, skipped_in_a_row);
    }

    /// The optimizer with its history.
    pub fn optimizer(&self) -> &AdamW {
        &self.optimizer
    }

    /// Updates that were skipped in a row so far.
    pub fn skipped_in_a_row(&self) -> usize {
        self.skipped_in_a_row
    }

    /// Starts a step: attaches the log-probs of the policy that sampled, which stay fixed during its updates.
    pub fn remember_old_log_probs(&mut self, policy: &Policy, samples: &mut [Sample]) {
        (self.updates, self.gap) = (0, None);
        match self.old_log_probs {
            OldLogProbs::Sampler => {
                for sample in samples.iter_mut() {
                    sample.old_log_probs = Some(sample.rollout.log_probs.clone());
                }
            }
            OldLogProbs::Trainer if self.updates_per_step > 1 => {
                let old = log_probs(&policy.model.valid(), samples, self.micro_batch_size, &self.head);
                let sampler = samples.iter().flat_map(|sample| &sample.rollout.log_probs).copied();
                self.gap = Some(LogProbGap::measure(sampler.zip(old.iter().flatten().copied())));
                for (sample, old) in samples.iter_mut().zip(old) {
                    sample.old_log_probs = Some(old);
                }
            }
            // The only update's own log-probs, detached, are the old ones.
            OldLogProbs::Trainer => {}
        }
    }

    /// Attaches the reference policy's log-probs, if a KL term needs them.
    pub fn remember_reference_log_probs(&self, samples: &mut [Sample]) {
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
        self.updates += 1;
        let gap = (self.updates == 1).then(|| self.gap.take().unwrap_or(result.gap));
        // An infinite gap comes from log-probs that are not finite, which is for the guard below.
        if let Some(gap) = gap.as_ref().filter(|gap| gap.max.is_finite() && gap.max > MAX_LOG_PROB_GAP) {
            let file = folder.save_skipped(step, self.updates, &to_json(rows))?;
            return Err(TrainError::LogProbGap { step, max: gap.max, allowed: MAX_LOG_PROB_GAP, file });
        }

        let grad_norm = match result.loss.is_finite() {
            true => self.optimizer.step(&mut policy.model, result.gradients, lr),
            false => f64::NAN,
        };
        if grad_norm.is_finite() {
            self.skipped_in_a_row = 0;
            return Ok(UpdateReport { metrics: result.metrics, grad_norm, skipped: false, gap });
        }
        self.skipped_in_a_row += 1;
        let file = folder.save_skipped(step, self.updates, &to_json(rows))?;
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use burn::tensor::Device;
    use luspo_algo::{Aggregation, BatchTotals, PolicyBatch, PolicyLoss, PolicyLossOutput};
    use luspo_core::{FinishReason, Purpose, RandomKey, Rollout, Score};
    use luspo_data::Tokenizer;
    use luspo_model::Qwen2Config;

    use super::*;

    /// A loss that is not a number.
    struct Broken;

    impl PolicyLoss for Broken {
        fn aggregation(&self) -> Aggregation {
            Aggregation::TokenMean
        }

        fn forward(&self, batch: &PolicyBatch, _totals: &BatchTotals) -> PolicyLossOutput {
            PolicyLossOutput { loss: batch.log_probs.clone().sum() * f64::NAN, metrics: Vec::new() }
        }
    }

    fn policy() -> Policy {
        let tokenizer = Tokenizer::train_byte_level(["ab"].into_iter(), 259).unwrap();
        let config = Qwen2Config::new(259, 16, 16, 1, 2, 1);
        Policy::init(config, tokenizer, RandomKey::new(0, Purpose::Init), &Device::flex()).unwrap()
    }

    fn learner(old_log_probs: OldLogProbs, updates: usize) -> Learner {
        let mut config = Config::default();
        config.algorithm.old_log_probs = old_log_probs;
        config.data.train_batch_size = updates;
        config.trainer.ppo_mini_batch_size = Some(1);
        config.optimizer.lr = 1e-2;
        Learner::new(&config).unwrap()
    }

    /// Two answers whose sampler log-probs are the policy's own, shifted.
    fn samples(policy: &Policy, shift: f32) -> Vec<Sample> {
        let answer = |response: &[u32], advantage: f64| Sample {
            rollout: Rollout {
                prompt_id: 0,
                sample: 0,
                prompt_ids: vec![97, 98],
                response_ids: response.to_vec(),
                log_probs: Vec::new(),
                finish: FinishReason::Stop,
            },
            score: Score { total: 0.0, components: Vec::new(), correct: false, extracted: None, style: None },
            advantage,
            old_log_probs: None,
            ref_log_probs: None,
        };
        let mut samples = vec![answer(&[99, 256], 1.0), answer(&[100, 101, 256], -1.0)];
        let head = HeadOptions { temperature: 1.0, chunk: 64, entropy: false };
        let own = log_probs(&policy.model, &samples, 2, &head);
        for (sample, own) in samples.iter_mut().zip(own) {
            sample.rollout.log_probs = own.into_iter().map(|x| x + shift).collect();
        }
        samples
    }

    fn folder() -> (tempfile::TempDir, RunFolder) {
        let dir = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(dir.path().join("run")).unwrap();
        (dir, folder)
    }

    #[test]
    fn an_update_that_is_not_finite_is_skipped_kept_and_ends_the_run_when_it_goes_on() {
        let (mut policy, (_dir, folder)) = (policy(), folder());
        let samples = samples(&policy, 0.0);
        let mut learner = learner(OldLogProbs::Sampler, 1);
        learner.objective.policy = Arc::new(Broken);
        let before = format!("{}", policy.model.model.norm.weight.val());
        for update in 1..MAX_SKIPPED_UPDATES {
            let report = learner.update(&mut policy, &samples, 1e-2, 3, &folder).unwrap();
            assert!(report.skipped);
            assert!(folder.path().join(format!("skipped/step_000003_update_{update}.json")).is_file());
        }
        let error = learner.update(&mut policy, &samples, 1e-2, 3, &folder).unwrap_err();
        assert!(matches!(error, TrainError::Diverged { step: 3, count: MAX_SKIPPED_UPDATES, .. }), "{error}");
        assert_eq!(format!("{}", policy.model.model.norm.weight.val()), before);
    }

    #[test]
    fn a_sampler_that_disagrees_with_the_trainer_stops_the_run() {
        for (mode, updates) in [(OldLogProbs::Sampler, 1), (OldLogProbs::Trainer, 1), (OldLogProbs::Trainer, 2)] {
            let (mut policy, (_dir, folder)) = (policy(), folder());
            let mut samples = samples(&policy, 0.01);
            let mut learner = learner(mode, updates);
            learner.remember_old_log_probs(&policy, &mut samples);
            let error = learner.update(&mut policy, &samples, 1e-2, 1, &folder).unwrap_err();
            assert!(matches!(error, TrainError::LogProbGap { step: 1, .. }), "{error}");
        }
    }

    #[test]
    fn the_ratio_is_against_the_log_probs_from_before_the_first_update() {
        let (mut policy, (_dir, folder)) = (policy(), folder());
        let mut samples = samples(&policy, 0.0);
        let mut learner = learner(OldLogProbs::Trainer, 2);
        learner.remember_old_log_probs(&policy, &mut samples);
        let ratio = |report: &UpdateReport| report.metrics.iter().find(|(n, _)| *n == "actor/ratio_max").unwrap().1;
        let first = learner.update(&mut policy, &samples, 1e-2, 1, &folder).unwrap();
        assert!((ratio(&first) - 1.0).abs() < 1e-6);
        assert!(first.gap.is_some_and(|gap| gap.max < 5e-5));
        let second = learner.update(&mut policy, &samples, 1e-2, 1, &folder).unwrap();
        assert!(ratio(&second) > 1.001, "{}", ratio(&second));
        assert!(second.gap.is_none());
    }
}
