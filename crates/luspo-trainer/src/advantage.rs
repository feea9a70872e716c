//! From scores to advantages: masks, corrections for the sampler, the KL penalty in the reward, the estimator.

use std::borrow::Borrow;

use luspo_algo::advantages::{AdvantageBatch, AdvantageEstimator, AdvantageOptions, ScaleRewards};
use luspo_algo::{KlController, KlKind, RolloutCorrection, RolloutCorrectionOptions, kl_in_reward};
use luspo_core::{FinishReason, Local};

use crate::config::{self, ControlKind, RolloutCorrectionConfig};
use crate::{Config, Metrics, Sample, TrainError};

/// What a configuration says of advantages.
pub(crate) struct Advantages {
    /// What makes advantages of rewards, and says what it reads.
    pub estimator: AdvantageEstimator,
    correction: Option<RolloutCorrection>,
    kl: Option<(KlKind, KlController)>,
    mask_truncated: bool,
    /// Weights of the reward's components, for estimators that look at each by itself.
    component_weights: Vec<(String, f64)>,
    answers: usize,
}

/// The estimator that a configuration names.
fn estimator(config: &Config) -> Result<AdvantageEstimator, TrainError> {
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
    if *asked == RolloutCorrectionConfig::default() {
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
        let weights = config.reward.component_weights();
        Ok(Self {
            estimator: estimator(config)?,
            correction: correction(config)?,
            kl,
            mask_truncated: algorithm.mask_truncated_completions,
            component_weights: weights.into_iter().map(|(name, weight)| (name.into(), weight.abs())).collect(),
            answers: config.rollout.n,
        })
    }

    /// Whether the log-probs of the policy that sampled are asked for, as the trainer computes them.
    pub fn needs_old_log_probs(&self) -> bool {
        self.correction.is_some() || self.kl.is_some() || self.estimator.needs_sum_pi_squared()
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
        for sample in samples.iter_mut().filter(|sample| !sample.is_judged()) {
            sample.mask.fill(false);
        }
        // In verl's order: what is rejected was penalised, and counts in the KL that moves the coefficient.
        let mut rewards = self.kl_penalties(samples, &mut metrics)?;
        self.correct(samples, &mut metrics)?;
        add_scores(&mut rewards, samples);

        // What could not be judged is compared with nothing: the others are the whole of its group.
        let judged: Vec<usize> = (0..samples.len()).filter(|&row| samples[row].is_judged()).collect();
        let rewards: Vec<Vec<f64>> = judged.iter().map(|&row| std::mem::take(&mut rewards[row])).collect();
        let groups: Vec<usize> = judged.iter().map(|&row| row / self.answers).collect();
        let mut samples: Vec<&mut Sample> = samples.iter_mut().filter(|sample| sample.is_judged()).collect();
        if samples.is_empty() {
            return Ok(metrics);
        }
        metrics.set_summary("critic/rewards", &rewards.iter().map(|row| row.iter().sum()).collect::<Vec<f64>>());
        let mask: Vec<Vec<bool>> = samples.iter().map(|sample| sample.mask.clone()).collect();
        let values = wide(&samples, |sample| Some(&sample.values)).filter(|_| self.estimator.needs_values());
        let baselines: Option<Vec<f64>> = samples.iter().map(|sample| sample.baseline).collect();
        let log_probs = wide(&samples, |sample| sample.old_log_probs.as_ref());
        let sum_pi_squared = wide(&samples, |sample| sample.sum_pi_squared.as_ref());
        let rollout_weights = wide(&samples, |sample| sample.token_weights.as_ref());
        let components = self.components(&samples);
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

    /// The reward of each token before its answer's score: less by the KL penalty, where there is one.
    fn kl_penalties(&mut self, samples: &[Sample], metrics: &mut Metrics) -> Result<Vec<Vec<f64>>, TrainError> {
        let mut rewards: Vec<Vec<f64>> = samples.iter().map(|sample| vec![0.0; sample.mask.len()]).collect();
        let Some((kind, controller)) = &mut self.kl else { return Ok(rewards) };
        let old = wide(samples, |sample| sample.old_log_probs.as_ref()).unwrap_or_default();
        let reference = wide(samples, |sample| sample.ref_log_probs.as_ref()).unwrap_or_default();
        let mask: Vec<Vec<bool>> = samples.iter().map(|sample| sample.mask.clone()).collect();
        let kl = kl_in_reward(&mut rewards, &old, &reference, &mask, *kind, controller.value(), &Local)?;
        metrics.set("actor/reward_kl_penalty", kl);
        metrics.set("actor/reward_kl_penalty_coeff", controller.value());
        let judged = mask.iter().filter(|row| row.contains(&true)).count();
        if judged > 0 {
            controller.update(kl, judged);
        }
        Ok(rewards)
    }

    /// One list of rewards a component, with its weight.
    fn components(&self, samples: &[&mut Sample]) -> Vec<(Vec<f64>, f64)> {
        let names = samples.first().map(|sample| sample.score.components.iter().map(|(name, _)| name));
        let weight = |name: &str| self.component_weights.iter().find(|(known, _)| *known == name).map_or(1.0, |w| w.1);
        let of = |index: usize| samples.iter().map(|sample| sample.score.components[index].1).collect();
        names.into_iter().flatten().enumerate().map(|(index, name)| (of(index), weight(name))).collect()
    }
}

/// Adds the score of each answer to the reward of its last token that the update sees, so that no estimator misses it
/// where the last of all was rejected.
fn add_scores(rewards: &mut [Vec<f64>], samples: &[Sample]) {
    for (rewards, sample) in rewards.iter_mut().zip(samples) {
        let last = sample.mask.iter().rposition(|seen| *seen).or(sample.mask.len().checked_sub(1));
        if let Some(last) = last {
            rewards[last] += sample.score.total;
        }
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
fn wide<'a, S: Borrow<Sample>>(
    samples: &'a [S],
    of: impl Fn(&'a Sample) -> Option<&'a Vec<f32>>,
) -> Option<Vec<Vec<f64>>> {
    samples.iter().map(|sample| Some(of(sample.borrow())?.iter().copied().map(f64::from).collect())).collect()
}

#[cfg(test)]
mod tests {
    use luspo_core::{Rollout, Score};

    use super::*;
    use crate::sample::totals;

    /// Two answers of three tokens to one prompt, right and wrong; the second is cut off.
    fn samples() -> Vec<Sample> {
        let answer = |number: u32, total: f64, finish: FinishReason| {
            let rollout = Rollout {
                prompt_id: 0,
                sample: number,
                prompt_ids: vec![1],
                response_ids: vec![2, 3, 4],
                log_probs: vec![-1.0, -2.0, -0.5],
                finish,
            };
            let components = vec![("accuracy".to_string(), total)];
            let score = Score { total, components, correct: total > 0.0, extracted: None, style: None };
            let log_probs = Some(rollout.log_probs.clone());
            Sample { old_log_probs: log_probs.clone(), ref_log_probs: log_probs, ..Sample::new(rollout, score) }
        };
        vec![answer(0, 1.0, FinishReason::Stop), answer(1, 0.0, FinishReason::Length)]
    }

    fn advantages(estimator: &str, change: impl FnOnce(&mut Config)) -> Advantages {
        let mut config = Config::default();
        config.rollout.n = 2;
        config.algorithm.adv_estimator = estimator.into();
        change(&mut config);
        Advantages::new(&config).unwrap()
    }

    #[test]
    fn a_truncated_answer_that_is_masked_is_compared_with_and_leaves_the_denominators() {
        let mut samples = samples();
        let metrics = advantages("grpo", |config| {
            config.algorithm.mask_truncated_completions = true;
            config.algorithm.norm_adv_by_std_in_grpo = false;
        })
        .estimate(&mut samples)
        .unwrap();
        assert_eq!((samples[0].advantages.clone(), samples[1].advantages.clone()), (vec![0.5; 3], vec![0.0; 3]));
        let totals = totals(&samples, &Local);
        assert_eq!((totals.rows, totals.sequences, totals.tokens), (2, 1, 3));
        assert_eq!(metrics.get("response/masked_truncated"), Some(1.0));
    }

    #[test]
    fn an_answer_that_could_not_be_judged_is_compared_with_nothing_and_leaves_the_denominators() {
        let mut with_unknown = samples();
        with_unknown.insert(
            1,
            Sample { score: Score { total: f64::NAN, ..samples()[1].score.clone() }, ..samples().remove(1) },
        );
        let mut alone = samples();
        for estimator in ["grpo", "rloo", "opo", "gpg", "reinforce_plus_plus_baseline", "gdpo", "normalize_then_sum"] {
            let of_three = advantages(estimator, |config| config.rollout.n = 3).estimate(&mut with_unknown).unwrap();
            let of_two = advantages(estimator, |_| ()).estimate(&mut alone).unwrap();
            assert_eq!(of_three, of_two, "{estimator}");
            assert_eq!(with_unknown[0].advantages, alone[0].advantages, "{estimator}");
            assert_eq!(with_unknown[2].advantages, alone[1].advantages, "{estimator}");
            assert_eq!(with_unknown[1].advantages, [0.0; 3], "{estimator}");
        }
        let totals = totals(&with_unknown, &Local);
        assert_eq!((totals.sequences, totals.tokens), (2, 6));
    }

    #[test]
    fn the_kl_penalty_lowers_each_reward_by_its_coefficient_and_moves_it_once_a_step() {
        let mut samples = samples();
        samples[0].ref_log_probs = Some(vec![-1.25, -2.0, -0.75]);
        let mut advantages = advantages("reinforce_plus_plus", |config| {
            config.algorithm.use_kl_in_reward = true;
            config.algorithm.kl_ctrl.kind = ControlKind::Adaptive;
            (config.algorithm.kl_ctrl.kl_coef, config.algorithm.kl_ctrl.horizon) = (0.5, 10.0);
        });
        let metrics = advantages.estimate(&mut samples).unwrap();
        // log π − log π_ref is 0.25, 0 and 0.25: returns are what is left of the score from each token on.
        assert_eq!(samples[0].returns, [0.75, 0.875, 0.875]);
        assert_eq!(samples[1].returns, [0.0; 3]);
        assert_eq!(metrics.get("critic/rewards/max"), Some(0.75));
        let kl = metrics.get("actor/reward_kl_penalty").unwrap();
        assert!((kl - 0.5 / 3.0 / 2.0).abs() < 1e-12, "{kl}");
        assert_eq!(metrics.get("actor/reward_kl_penalty_coeff"), Some(0.5));
        // 17 % below the target of 0.1, over two rows of a horizon of 10.
        let moved = advantages.kl_controller().unwrap().value();
        assert!((moved - 0.5 * (1.0 + (kl / 0.1 - 1.0) * 0.2)).abs() < 1e-12, "{moved}");
    }

    #[test]
    fn a_rejected_last_token_leaves_the_score_to_the_one_before_it() {
        let mut samples = samples();
        samples[0].rollout.log_probs[2] = -3.0; // the last: the sampler's probability is far from the trainer's
        samples[0].ref_log_probs = Some(vec![-1.0, -2.0, -1.5]);
        let metrics = advantages("reinforce_plus_plus", |config| {
            config.algorithm.use_kl_in_reward = true;
            config.algorithm.kl_ctrl.kl_coef = 0.5;
            config.algorithm.rollout_correction.rollout_rs = Some("token_k1".into());
            config.algorithm.rollout_correction.rollout_rs_threshold = Some("2.0".into());
        })
        .estimate(&mut samples)
        .unwrap();
        assert_eq!(samples[0].mask, [true, true, false]);
        assert_eq!(samples[0].returns, [1.0, 1.0, 0.0]);
        assert_eq!(metrics.get("critic/rewards/max"), Some(0.5), "the whole reward has the penalty of the last token");
        assert_eq!(metrics.get("actor/reward_kl_penalty"), Some(1.0 / 3.0 / 2.0));
    }

    #[test]
    fn gae_learns_from_the_critic_and_a_constant_component_says_nothing() {
        let mut with_values = samples();
        with_values.iter_mut().for_each(|sample| sample.values = vec![0.5; 3]);
        advantages("gae", |_| ()).estimate(&mut with_values).unwrap();
        assert_eq!(with_values[0].returns, [1.0; 3]);
        assert!(with_values[0].advantages[0] > 0.0 && with_values[1].advantages[0] < 0.0);

        let mut constant = samples();
        constant.iter_mut().for_each(|sample| sample.score.components.push(("format".into(), 0.5)));
        let mut alone = samples();
        for samples in [&mut constant, &mut alone] {
            advantages("gdpo", |_| ()).estimate(samples).unwrap();
        }
        assert_eq!(constant[0].advantages, alone[0].advantages);
        assert!(alone[0].advantages[0] > 0.0);
    }

    #[test]
    fn an_estimator_without_what_it_compares_says_what_is_missing() {
        let error = advantages("remax", |_| ()).estimate(&mut samples()).unwrap_err().to_string();
        assert!(error.contains("remax") && error.contains("baselines"), "{error}");
    }
}
