//! From scores to advantages: masks, corrections for the sampler, the KL penalty in the reward, the estimator.

use luspo_algo::advantages::{AdvantageBatch, AdvantageEstimator, AdvantageOptions, ScaleRewards};
use luspo_algo::{KlController, KlKind, RolloutCorrection, RolloutCorrectionOptions, kl_in_reward};
use luspo_core::{FinishReason, Local};

use crate::config::{self, ControlKind};
use crate::{Config, Metrics, Sample, TrainError};

/// What a configuration says of advantages.
pub(crate) struct Advantages {
    estimator: AdvantageEstimator,
    correction: Option<RolloutCorrection>,
    kl: Option<(KlKind, KlController)>,
    mask_truncated: bool,
    /// Weights of the reward's components, for estimators that look at each by itself.
    component_weights: Vec<(&'static str, f64)>,
    answers: usize,
}

/// The estimator that a configuration names.
pub(crate) fn estimator(config: &Config) -> Result<AdvantageEstimator, TrainError> {
    let algorithm = &config.algorithm;
    let scale_rewards = match algorithm.scale_rewards {
        config::ScaleRewards::Group => ScaleRewards::Group,
        config::ScaleRewards::Batch => ScaleRewards::Batch,
    };
    let options = AdvantageOptions {
        norm_adv_by_std_in_grpo: algorithm.norm_adv_by_std_in_grpo,
        scale_rewards,
        gamma: algorithm.gamma,
        lam: algorithm.lam,
        ..AdvantageOptions::default()
    };
    Ok(AdvantageEstimator::from_name(&algorithm.adv_estimator, &options)?)
}

fn correction(config: &Config) -> Result<Option<RolloutCorrection>, TrainError> {
    let asked = &config.algorithm.rollout_correction;
    if asked.rollout_is.is_none() && asked.rollout_rs.is_none() {
        return Ok(None);
    }
    let options = RolloutCorrectionOptions {
        rollout_is: asked.rollout_is.clone(),
        rollout_is_threshold: asked.rollout_is_threshold.clone(),
        rollout_is_mode: asked.rollout_is_mode.clone(),
        rollout_is_batch_normalize: asked.rollout_is_batch_normalize,
        rollout_rs: asked.rollout_rs.clone(),
        rollout_rs_threshold: asked.rollout_rs_threshold.clone(),
    };
    Ok(Some(RolloutCorrection::new(&options)?))
}

impl Advantages {
    pub fn new(config: &Config) -> Result<Self, TrainError> {
        let algorithm = &config.algorithm;
        let kl = match algorithm.use_kl_in_reward {
            true => {
                let control = &algorithm.kl_ctrl;
                let name = match control.kind {
                    ControlKind::Fixed => "fixed",
                    ControlKind::Adaptive => "adaptive",
                };
                let controller = KlController::from_name(name, control.kl_coef, control.target_kl, control.horizon)?;
                let kind = algorithm.kl_penalty.parse().map_err(|error| {
                    TrainError::Mismatch(format!("algorithm.kl_penalty = \"{}\": {error}", algorithm.kl_penalty))
                })?;
                Some((kind, controller))
            }
            false => None,
        };
        let reward = &config.reward;
        Ok(Self {
            estimator: estimator(config)?,
            correction: correction(config)?,
            kl,
            mask_truncated: algorithm.mask_truncated_completions,
            component_weights: vec![
                ("accuracy", reward.accuracy_weight.abs()),
                ("format", reward.format_weight.abs()),
                ("overlong", 1.0),
            ],
            answers: config.rollout.n,
        })
    }

    /// Whether the answers to one prompt are compared.
    pub fn needs_groups(&self) -> bool {
        self.estimator.needs_groups()
    }

    /// Whether later rewards count less.
    pub fn discounts(&self) -> bool {
        matches!(self.estimator.name(), "gae" | "reinforce_plus_plus")
    }

    /// Whether a critic's values are asked for.
    pub fn needs_values(&self) -> bool {
        self.estimator.needs_values()
    }

    /// Whether the greedy answer's reward is asked for.
    pub fn needs_baselines(&self) -> bool {
        self.estimator.needs_baselines()
    }

    /// Whether Σ p² is asked for.
    pub fn needs_sum_pi_squared(&self) -> bool {
        self.estimator.needs_sum_pi_squared()
    }

    /// Whether the log-probs of the policy that sampled are asked for, as the trainer computes them.
    pub fn needs_old_log_probs(&self) -> bool {
        self.correction.is_some() || self.kl.is_some() || self.needs_sum_pi_squared()
    }

    /// Whether the reference policy's log-probs are asked for.
    pub fn needs_reference(&self) -> bool {
        self.kl.is_some()
    }

    /// The factor of the KL penalty and how it moves, where there is one.
    pub fn kl_controller(&self) -> Option<&KlController> {
        self.kl.as_ref().map(|(_, controller)| controller)
    }

    /// Goes on with the controller of an earlier process.
    pub fn restore(&mut self, controller: Option<KlController>) {
        if let (Some((_, own)), Some(earlier)) = (&mut self.kl, controller) {
            *own = earlier;
        }
    }

    /// Gives every token its mask, weight, advantage and return; groups of answers stand one after the other.
    ///
    /// # Errors
    /// An estimator that lacks what it compares.
    pub fn estimate(&mut self, samples: &mut [Sample]) -> Result<Metrics, TrainError> {
        let mut metrics = Metrics::default();
        if self.mask_truncated {
            mask_truncated(samples, &mut metrics);
        }
        self.correct(samples, &mut metrics)?;
        let rewards = self.rewards(samples, &mut metrics)?;
        metrics.set_summary("critic/rewards", &rewards.iter().map(|row| row.iter().sum()).collect::<Vec<f64>>());

        let groups: Vec<usize> = (0..samples.len()).map(|row| row / self.answers).collect();
        let mask: Vec<Vec<bool>> = samples.iter().map(|sample| sample.mask.clone()).collect();
        let values = wide(samples, |sample| Some(&sample.values)).filter(|_| self.needs_values());
        let baselines: Option<Vec<f64>> = samples.iter().map(|sample| sample.baseline).collect();
        let log_probs = wide(samples, |sample| sample.old_log_probs.as_ref());
        let sum_pi_squared = wide(samples, |sample| sample.sum_pi_squared.as_ref());
        let rollout_weights = wide(samples, |sample| sample.token_weights.as_ref());
        let components = self.components(samples);
        let estimated = self.estimator.estimate(&AdvantageBatch {
            values: values.as_deref(),
            baselines: baselines.as_deref(),
            log_probs: log_probs.as_deref(),
            sum_pi_squared: sum_pi_squared.as_deref(),
            rollout_weights: rollout_weights.as_deref(),
            components: &components,
            ..AdvantageBatch::new(&groups, &rewards, &mask)
        })?;
        let estimated = estimated.advantages.into_iter().zip(estimated.returns);
        for (sample, (advantages, returns)) in samples.iter_mut().zip(estimated) {
            (sample.advantages, sample.returns) = (advantages, returns);
        }
        Ok(metrics)
    }

    /// Compares the trainer's log-probs with the sampler's.
    fn correct(&self, samples: &mut [Sample], metrics: &mut Metrics) -> Result<(), TrainError> {
        let Some(correction) = &self.correction else { return Ok(()) };
        let old = wide(samples, |sample| sample.old_log_probs.as_ref()).unwrap_or_default();
        let rollout = wide(samples, |sample| Some(&sample.rollout.log_probs)).unwrap_or_default();
        let mask: Vec<Vec<bool>> = samples.iter().map(|sample| sample.mask.clone()).collect();
        let corrected = correction.apply(&old, &rollout, &mask, &Local)?;
        for (name, value) in corrected.metrics {
            metrics.set(name, value);
        }
        for (sample, mask) in samples.iter_mut().zip(corrected.mask) {
            sample.mask = mask;
        }
        for (sample, weights) in samples.iter_mut().zip(corrected.weights.into_iter().flatten()) {
            sample.token_weights = Some(weights.into_iter().map(|weight| weight as f32).collect());
        }
        Ok(())
    }

    /// The reward of each token: the score on the last, less the KL penalty on all.
    fn rewards(&mut self, samples: &[Sample], metrics: &mut Metrics) -> Result<Vec<Vec<f64>>, TrainError> {
        let mut rewards: Vec<Vec<f64>> = samples.iter().map(|sample| vec![0.0; sample.mask.len()]).collect();
        for (rewards, sample) in rewards.iter_mut().zip(samples) {
            if let Some(last) = rewards.last_mut() {
                *last = sample.score.total;
            }
        }
        let Some((kind, controller)) = &mut self.kl else { return Ok(rewards) };
        let old = wide(samples, |sample| sample.old_log_probs.as_ref()).unwrap_or_default();
        let reference = wide(samples, |sample| sample.ref_log_probs.as_ref()).unwrap_or_default();
        let mask: Vec<Vec<bool>> = samples.iter().map(|sample| sample.mask.clone()).collect();
        let kl = kl_in_reward(&mut rewards, &old, &reference, &mask, *kind, controller.value(), &Local)?;
        metrics.set("actor/reward_kl_penalty", kl);
        metrics.set("actor/reward_kl_penalty_coeff", controller.value());
        controller.update(kl, samples.len());
        Ok(rewards)
    }

    /// One list of rewards a component, with its weight.
    fn components(&self, samples: &[Sample]) -> Vec<(Vec<f64>, f64)> {
        let names = samples.first().map(|sample| sample.score.components.iter().map(|(name, _)| name));
        let weight = |name: &str| self.component_weights.iter().find(|(known, _)| *known == name).map_or(1.0, |w| w.1);
        let of = |index: usize| samples.iter().map(|sample| sample.score.components[index].1).collect();
        names.into_iter().flatten().enumerate().map(|(index, name)| (of(index), weight(name))).collect()
    }
}

/// Answers that were cut off leave the update.
fn mask_truncated(samples: &mut [Sample], metrics: &mut Metrics) {
    let mut masked = 0;
    for sample in samples.iter_mut().filter(|sample| sample.rollout.finish == FinishReason::Length) {
        sample.mask.fill(false);
        masked += 1;
    }
    metrics.set("response/masked_truncated", f64::from(masked));
}

/// Numbers of all tokens in f64, where every answer has them.
fn wide<'a>(samples: &'a [Sample], of: impl Fn(&'a Sample) -> Option<&'a Vec<f32>>) -> Option<Vec<Vec<f64>>> {
    samples.iter().map(|sample| Some(of(sample)?.iter().copied().map(f64::from).collect())).collect()
}
