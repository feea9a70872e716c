//! When an update is skipped, when a run is stopped, and what a ratio is against.

use burn::tensor::Device;
use luspo_algo::{Aggregation, BatchTotals, PolicyBatch, PolicyLoss, PolicyLossOutput};
use luspo_core::{FinishReason, Purpose, RandomKey, Rollout, Score};
use luspo_data::Tokenizer;
use luspo_model::Qwen2Config;

use super::*;
use crate::guard::MAX_SKIPPED_UPDATES;
use crate::micro::MicroLimit;

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
    Learner::new(&config, None).unwrap()
}

/// Two answers whose sampler log-probs are the policy's own, shifted.
fn samples(policy: &Policy, shift: f32) -> Vec<Sample> {
    let answer = |response: &[u32], advantage: f64| {
        let rollout = Rollout {
            prompt_id: 0,
            sample: 0,
            prompt_ids: vec![97, 98],
            response_ids: response.to_vec(),
            log_probs: Vec::new(),
            finish: FinishReason::Stop,
        };
        let score = Score { total: 0.0, components: Vec::new(), correct: false, extracted: None, style: None };
        Sample { advantages: vec![advantage; response.len()], ..Sample::new(rollout, score) }
    };
    let mut samples = vec![answer(&[99, 256], 1.0), answer(&[100, 101, 256], -1.0)];
    let options = PassOptions::default();
    let micro = MicroBatches { limit: MicroLimit::Rows(2), share_prompts: true };
    let own = log_probs(&policy.model, &samples, &micro, &options);
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
fn in_bf16_the_mean_difference_decides() {
    for (shift, stops) in [(0.01, false), (0.03, true)] {
        let (mut policy, (_dir, folder)) = (policy(), folder());
        let samples = samples(&policy, shift);
        let mut learner = Learner { dtype: WeightDtype::Bf16, ..learner(OldLogProbs::Sampler, 1) };
        match learner.update(&mut policy, &samples, 1e-2, 1, &folder) {
            Ok(report) => assert!(!stops && report.gap.is_some_and(|gap| gap.mean > 9e-3)),
            Err(TrainError::LogProbGap { measure: "on average", gap, .. }) => assert!(stops && gap > 0.02),
            Err(error) => panic!("{error}"),
        }
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
