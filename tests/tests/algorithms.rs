//! Every objective, estimator, KL form and correction runs through `luspo train`, and every knob changes a number.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;

use luspo::algo::LOSS_MODES;
use luspo::algo::advantages::AdvantageEstimator;
use serde_json::Value;
use support::train;

/// Two runs that differ in one knob: the overrides of both, those of the second alone, and what has to differ.
type Case = (&'static str, &'static str, &'static str);

/// What the policy learned, where nothing nearer says it.
const LOSS: &str = "actor/pg_loss";

const OBJECTIVES: [Case; 31] = [
    ("loss_mode=luspo", "clip_ratio_low=0.2 clip_ratio_high=0.2", LOSS),
    ("loss_mode=luspo", "log_ratio_clamp=1e-4", LOSS),
    ("loss_mode=luspo", "algorithm.policy_loss.delta=1.00001", LOSS),
    ("loss_mode=vanilla", "clip_ratio_low=0.001", LOSS),
    ("loss_mode=vanilla", "clip_ratio_c=1.001", LOSS),
    ("loss_mode=vanilla", "loss_agg_mode=seq-mean-token-mean", LOSS),
    ("loss_mode=grpo", "clip_ratio_high=0.001", LOSS),
    ("loss_mode=grpo", "algorithm.policy_loss.delta=1.001", LOSS),
    ("loss_mode=grpo", "loss_agg_mode=seq-mean-token-sum", LOSS),
    ("loss_mode=dr_grpo", "loss_scale_factor=7", LOSS),
    ("loss_mode=dapo", "clip_ratio_high=0.001", LOSS),
    ("loss_mode=bnpo", "loss_agg_mode=seq-mean-token-mean", LOSS),
    ("loss_mode=gspo", "clip_ratio_high=0.2", LOSS),
    ("loss_mode=gspo_token", "clip_ratio_low=0.2", LOSS),
    ("loss_mode=cispo", "clip_ratio_high=0.001", LOSS),
    ("loss_mode=cispo", "cispo_max_ratio=0.9", LOSS),
    ("loss_mode=sapo", "tau_pos=2", LOSS),
    ("loss_mode=sapo", "tau_neg=3", LOSS),
    ("loss_mode=geo_mean", "clip_ratio_low=0.001", LOSS),
    ("loss_mode=gpg", "loss_agg_mode=seq-mean-token-sum", LOSS),
    ("loss_mode=clip_cov", "clip_cov_ratio=0.5 clip_cov_lb=-100 clip_cov_ub=100", LOSS),
    ("loss_mode=clip_cov clip_cov_ratio=0.5 clip_cov_ub=100", "clip_cov_lb=-100", LOSS),
    ("loss_mode=clip_cov clip_cov_ratio=0.5 clip_cov_lb=-100", "clip_cov_ub=-50", LOSS),
    ("loss_mode=kl_cov", "kl_cov_ratio=0.5", LOSS),
    ("loss_mode=kl_cov kl_cov_ratio=0.5", "ppo_kl_coef=10", LOSS),
    ("loss_mode=dppo_tv", "clip_ratio_high=1e-6", LOSS),
    ("loss_mode=dppo_kl", "clip_ratio_low=1e-9", LOSS),
    ("loss_mode=dro dro_beta=0.05", "dro_beta=5", LOSS),
    ("loss_mode=vespo", "vespo_k_pos=1 vespo_k_neg=1", LOSS),
    ("loss_mode=vespo", "vespo_lambda_pos=1 vespo_lambda_neg=1", LOSS),
    ("loss_mode=reinforce", "loss_agg_mode=token-mean", LOSS),
];

const ESTIMATORS: [Case; 18] = [
    ("adv_estimator=grpo", "norm_adv_by_std_in_grpo=false", "critic/advantages/max"),
    ("adv_estimator=grpo", "scale_rewards=batch", "critic/advantages/max"),
    ("adv_estimator=grpo_passk", "norm_adv_by_std_in_grpo=false", "critic/advantages/max"),
    ("", "adv_estimator=rloo", "critic/advantages/max"),
    ("", "adv_estimator=opo", "critic/advantages/max"),
    ("", "adv_estimator=gpg", "critic/advantages/max"),
    ("", "adv_estimator=reinforce_plus_plus_baseline", "critic/advantages/max"),
    ("", "adv_estimator=optimal_token_baseline", "critic/advantages/max"),
    ("", "adv_estimator=gdpo", "critic/advantages/max"),
    ("", "adv_estimator=normalize_then_sum", "critic/advantages/max"),
    ("", "adv_estimator=remax rollout.n=1 ppo_micro_batch_size=2", "critic/advantages/max"),
    ("adv_estimator=reinforce_plus_plus", "gamma=0.9", "critic/advantages/max"),
    ("adv_estimator=gae", "gamma=0.9", "critic/advantages/max"),
    ("adv_estimator=gae", "lam=0.5", "critic/advantages/max"),
    ("adv_estimator=gae", "critic.lr=1e-3", "critic/vf_loss"),
    ("adv_estimator=gae critic.lr=1e-2 ppo_epochs=2", "cliprange_value=0.001", "critic/vf_clipfrac"),
    ("adv_estimator=gae", "critic.value_agg_mode=seq-mean-token-sum", "critic/vf_loss"),
    ("adv_estimator=gae", "critic_warmup=1", "actor/entropy"),
];

const TERMS: [Case; 38] = [
    ("", "use_kl_loss=true", "actor/kl_loss"),
    ("use_kl_loss=true kl_loss_coef=1", "kl_loss_coef=2", "actor/entropy"),
    ("use_kl_loss=true", "kl_loss_type=k1", "actor/kl_loss"),
    ("use_kl_loss=true", "kl_loss_type=k2", "actor/kl_loss"),
    ("use_kl_loss=true", "kl_loss_type=abs", "actor/kl_loss"),
    ("use_kl_loss=true kl_loss_type=k1 kl_loss_coef=1", "kl_loss_type=k1+", "actor/grad_norm"),
    ("use_kl_loss=true kl_loss_type=k3 kl_loss_coef=1", "kl_loss_type=k3+", "actor/grad_norm"),
    ("use_kl_loss=true kl_loss_type=abs kl_loss_coef=1", "kl_loss_type=abs+", "actor/grad_norm"),
    ("use_kl_loss=true", "kl_loss_ratio=token", "actor/kl_loss"),
    ("use_kl_loss=true", "kl_loss_ratio=sequence", "actor/kl_loss"),
    ("", "use_kl_in_reward=true", "actor/reward_kl_penalty"),
    ("use_kl_in_reward=true", "kl_penalty=k3", "actor/reward_kl_penalty"),
    ("use_kl_in_reward=true", "kl_coef=0.5", "critic/rewards/mean"),
    ("use_kl_in_reward=true", "algorithm.kl_ctrl.type=adaptive horizon=20", "actor/reward_kl_penalty_coeff"),
    (
        "use_kl_in_reward=true algorithm.kl_ctrl.type=adaptive horizon=20",
        "horizon=200",
        "actor/reward_kl_penalty_coeff",
    ),
    (
        "use_kl_in_reward=true algorithm.kl_ctrl.type=adaptive horizon=20 total_training_steps=3",
        "target_kl=1e-6",
        "actor/reward_kl_penalty_coeff",
    ),
    ("", "entropy_coeff=0.1", "actor/grad_norm"),
    ("entropy_coeff=0.1", "entropy_agg_mode=token-mean", "actor/grad_norm"),
    ("entropy_coeff=0.1", "algorithm.entropy_ctrl.target=9", "actor/entropy_coeff"),
    ("entropy_coeff=0.1 algorithm.entropy_ctrl.target=9", "algorithm.entropy_ctrl.delta=0.5", "actor/entropy_coeff"),
    (
        "entropy_coeff=0.1 algorithm.entropy_ctrl.target=9 algorithm.entropy_ctrl.delta=0.5",
        "algorithm.entropy_ctrl.max=0.2",
        "actor/entropy_coeff",
    ),
    ("old_log_probs=trainer", "rollout_is=token", "rollout_corr/rollout_is_mean"),
    ("old_log_probs=trainer rollout_is=token", "rollout_is=sequence", "rollout_corr/rollout_is_std"),
    ("old_log_probs=trainer rollout_is=token", "rollout_is_threshold=0.5", LOSS),
    ("old_log_probs=trainer rollout_is=token", "rollout_is_threshold=2_3", LOSS),
    ("old_log_probs=trainer rollout_is=token rollout_is_threshold=0.5", "rollout_is_mode=mask", LOSS),
    ("old_log_probs=trainer rollout_is=token rollout_is_threshold=0.5", "rollout_is_batch_normalize=true", LOSS),
    ("old_log_probs=trainer", "rollout_rs=token_k1 rollout_rs_threshold=1.00000001", LOSS),
    ("old_log_probs=trainer rollout_rs=seq_mean_k3 rollout_rs_threshold=1", "rollout_rs_threshold=1e-30", LOSS),
    ("old_log_probs=sampler", "off_policy_mask_threshold=-1", "actor/off_policy_dropped"),
    ("", "top_entropy_quantile=0.2", LOSS),
    ("", "overlong_max_length=10", "reward/overlong/mean"),
    ("overlong_max_length=10", "overlong_floor=true", "reward/overlong/mean"),
    ("", "length_target=5", "reward/length/mean"),
    ("length_target=5", "length_penalty=0.1", "critic/score/mean"),
    ("", "mask_truncated_completions=true", "response/masked_truncated"),
    ("algorithm.filter_groups.enable=true", "algorithm.filter_groups.metric=score", "train/groups_filtered"),
    ("algorithm.filter_groups.enable=true", "max_num_gen_batches=2", "train/num_gen_batches"),
];

/// Makes every run short: two steps of four updates, without validation.
const SHORT: [&str; 10] = [
    "sft.steps=2",
    "total_training_steps=2",
    "test_freq=0",
    "val_before_train=false",
    "ppo_epochs=2",
    "run.threads=1",
    "reward.format=answer_line",
    "logging.rollouts=false",
    "logging.tensorboard=false",
    "logging.console=false",
];

/// The last step's metrics of a run with these overrides.
fn metrics(dir: &Path, index: usize, overrides: &str) -> Value {
    let name = index.to_string();
    let overrides: Vec<&str> = SHORT.into_iter().chain(overrides.split_whitespace()).collect();
    train(dir, &name, &overrides);
    let lines = std::fs::read_to_string(dir.join("runs").join(name).join("metrics.jsonl")).unwrap();
    serde_json::from_str(lines.lines().last().unwrap()).unwrap()
}

/// Runs every configuration once, and returns the cases whose two runs measure the same.
fn without_effect(cases: &[Case]) -> Vec<String> {
    let both = |(base, knob, _): &Case| [base.to_string(), format!("{base} {knob}")];
    let distinct: BTreeSet<String> = cases.iter().flat_map(both).collect();
    let dir = tempfile::tempdir().unwrap();
    let (queue, measured) = (Mutex::new(distinct.iter().enumerate()), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some((index, overrides)) = queue.lock().unwrap().next() else { break };
                    let metrics = metrics(dir.path(), index, overrides);
                    measured.lock().unwrap().insert(overrides.clone(), metrics);
                }
            });
        }
    });
    let measured = measured.into_inner().unwrap();
    let equal = |case: &&Case| {
        let [one, other] = both(case).map(|overrides| measured[&overrides].get(case.2).cloned());
        one == other
    };
    cases.iter().filter(equal).map(|case| format!("{case:?}: {:?}", measured[&both(case)[0]].get(case.2))).collect()
}

#[test]
fn every_objective_runs_and_its_settings_change_its_loss() {
    let tried =
        |mode: &str| OBJECTIVES.iter().any(|case| case.0.split(' ').next() == Some(&format!("loss_mode={mode}")));
    let missing: Vec<_> =
        LOSS_MODES.into_iter().filter(|mode| !tried(mode) && !["ppo", "gmpo"].contains(mode)).collect();
    assert_eq!(missing, [""; 0]);
    assert_eq!(without_effect(&OBJECTIVES), [""; 0]);
}

#[test]
fn every_estimator_runs_and_its_settings_change_the_advantages() {
    let tried = |name: &str| {
        ESTIMATORS
            .iter()
            .flat_map(|case| [case.0, case.1])
            .any(|line| line.split(' ').any(|word| word == format!("adv_estimator={name}")))
    };
    let same = ["grpo_vectorized", "rloo_vectorized", "tir_optimal_token_baseline"]; // of single-turn answers
    let missing: Vec<_> = AdvantageEstimator::names().filter(|name| !tried(name) && !same.contains(name)).collect();
    assert_eq!(missing, [""; 0]);
    assert_eq!(without_effect(&ESTIMATORS), [""; 0]);
}

/// How the numbers are held, which changes them a little, or not at all.
const PRECISION: [Case; 1] = [("", "model.dtype=bf16", LOSS)];

#[test]
fn the_number_type_changes_the_numbers_and_where_they_are_does_not() {
    assert_eq!(without_effect(&PRECISION), [""; 0]);
    let dir = tempfile::tempdir().unwrap();
    let mut finished = ["", "optimizer.offload=true"].into_iter().enumerate().map(|(index, offload)| {
        // The backend without host buffers of its own: there the state really moves.
        let mut metrics = metrics(dir.path(), index, &format!("run.backend=ndarray adv_estimator=gae {offload}"));
        metrics.as_object_mut().unwrap().retain(|name, _| !name.starts_with("timing_s/") && !name.starts_with("perf/"));
        metrics
    });
    assert_eq!(finished.next(), finished.next());
}

#[test]
fn every_term_and_correction_runs_and_its_settings_change_a_number() {
    assert_eq!(without_effect(&TERMS), [""; 0]);
}
