//! What holds for every estimator. Their equations are compared with the references' values in `tests/golden_parts`.

use luspo_core::{Collective, Purpose, RandomKey};

use super::*;
use crate::error::AlgoError;
use crate::processes;

/// Everything that an estimator may read, on the host.
#[derive(Clone)]
struct Host {
    groups: Vec<usize>,
    rewards: Vec<Vec<f64>>,
    mask: Vec<Vec<bool>>,
    values: Vec<Vec<f64>>,
    log_probs: Vec<Vec<f64>>,
    sum_pi_squared: Vec<Vec<f64>>,
    rollout_weights: Vec<Vec<f64>>,
    baselines: Vec<f64>,
    components: Vec<(Vec<f64>, f64)>,
}

impl Host {
    /// Six answers to two prompts, one without tokens; two rewards, paid at an answer's end.
    fn new() -> Self {
        let lengths = [4, 2, 3, 1, 5, 0];
        let (right, neat) = ([1.0, 0.0, 1.0, -1.0, 0.5, 0.0], [0.1, 0.3, 0.2, 0.0, 0.3, 0.1]);
        let uniform = |stream: u64, row: usize, t: usize| {
            RandomKey::new(5, Purpose::Init).at(stream).at(row as u64).uniform(t as u64)
        };
        let table = |f: &dyn Fn(usize, usize) -> f64| -> Vec<Vec<f64>> {
            lengths.iter().enumerate().map(|(row, &length)| (0..length).map(|t| f(row, t)).collect()).collect()
        };
        Self {
            groups: vec![3, 3, 3, 8, 8, 8],
            rewards: table(&|row, t| if t + 1 == lengths[row] { right[row] + neat[row] } else { 0.0 }),
            mask: table(&|_, _| 1.0).iter().map(|row| vec![true; row.len()]).collect(),
            values: table(&|row, t| uniform(0, row, t)),
            log_probs: table(&|row, t| -2.0 * uniform(1, row, t)),
            sum_pi_squared: table(&|row, t| 0.5 + 0.5 * uniform(2, row, t)),
            rollout_weights: table(&|row, t| 0.5 + uniform(3, row, t)),
            baselines: vec![0.2, 0.2, 0.2, 0.6, 0.6, 0.6],
            components: vec![(right.to_vec(), 1.0), (neat.to_vec(), 0.5)],
        }
    }

    fn batch(&self) -> AdvantageBatch<'_> {
        AdvantageBatch {
            values: Some(&self.values),
            baselines: Some(&self.baselines),
            log_probs: Some(&self.log_probs),
            sum_pi_squared: Some(&self.sum_pi_squared),
            rollout_weights: Some(&self.rollout_weights),
            components: &self.components,
            ..AdvantageBatch::new(&self.groups, &self.rewards, &self.mask)
        }
    }

    fn tables(&mut self) -> [&mut Vec<Vec<f64>>; 5] {
        [&mut self.rewards, &mut self.values, &mut self.log_probs, &mut self.sum_pi_squared, &mut self.rollout_weights]
    }

    /// These rows, in this order.
    fn select(&self, rows: &[usize]) -> Self {
        let mut selected = self.clone();
        for table in selected.tables() {
            *table = rows.iter().map(|&row| table[row].clone()).collect();
        }
        selected.mask = rows.iter().map(|&row| self.mask[row].clone()).collect();
        selected.groups = rows.iter().map(|&row| self.groups[row]).collect();
        let of_rows = |values: &[f64]| rows.iter().map(|&row| values[row]).collect::<Vec<_>>();
        selected.baselines = of_rows(&self.baselines);
        selected.components = self.components.iter().map(|(scores, weight)| (of_rows(scores), *weight)).collect();
        selected
    }

    /// A token that is no response token before position `t` of each row that has one: garbage, but without a reward.
    fn with_hole(&self, t: usize) -> Self {
        let mut wider = self.clone();
        for (index, table) in wider.tables().into_iter().enumerate() {
            let garbage = if index == 0 { 0.0 } else { f64::NAN };
            table.iter_mut().filter(|row| row.len() >= t).for_each(|row| row.insert(t, garbage));
        }
        wider.mask.iter_mut().filter(|row| row.len() >= t).for_each(|row| row.insert(t, false));
        wider
    }
}

fn estimators() -> impl Iterator<Item = AdvantageEstimator> {
    let options = AdvantageOptions { gamma: 0.9, lam: 0.8, ..AdvantageOptions::default() };
    AdvantageEstimator::names().map(move |name| AdvantageEstimator::from_name(name, &options).unwrap())
}

fn estimate(estimator: &AdvantageEstimator, host: &Host) -> Advantages {
    let estimated = estimator.estimate(&host.batch()).unwrap();
    for table in [&estimated.advantages, &estimated.returns] {
        assert!(table.iter().flatten().all(|value| value.is_finite()), "{}: {table:?}", estimator.name());
    }
    estimated
}

#[track_caller]
fn assert_equal(estimator: &AdvantageEstimator, got: &[Vec<f64>], expected: &[Vec<f64>]) {
    assert_eq!(got.len(), expected.len());
    for (row, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert_eq!(got.len(), expected.len(), "{}: row {row}", estimator.name());
        // Sums of a dozen f64 numbers in another order.
        let close = got.iter().zip(expected).all(|(got, expected)| (got - expected).abs() <= 1e-12);
        assert!(close, "{}: row {row} is {got:?} instead of {expected:?}", estimator.name());
    }
}

#[test]
fn every_name_is_an_estimator_and_says_something() {
    for estimator in estimators() {
        let estimated = estimate(&estimator, &Host::new());
        let name = estimator.name();
        assert!(estimated.advantages.iter().flatten().any(|advantage| advantage.abs() > 0.01), "{name}");
        assert_eq!(AdvantageEstimator::from_name(name, &AdvantageOptions::default()).unwrap().name(), name);
    }
    let error = AdvantageEstimator::from_name("grppo", &AdvantageOptions::default()).unwrap_err().to_string();
    assert!(error.contains("adv_estimator `grppo`") && error.contains("optimal_token_baseline"), "{error}");
}

#[test]
fn a_group_that_says_nothing_has_advantage_zero_before_the_whitening() {
    let mut host = Host::new();
    // A group of one, and a group of equal scores: 0.1 + 0.1 + 0.1 is not 0.3 in binary.
    host.groups[5] = 9;
    host.rewards[3..5].iter_mut().for_each(|row| *row.last_mut().unwrap() = 0.1);
    host.components = vec![(vec![0.1, 0.2, 0.3, 0.1, 0.1, 7.0], 1.0)];
    host = host.with_hole(5);
    for estimator in estimators().filter(AdvantageEstimator::needs_groups) {
        let advantages = estimate(&estimator, &host).advantages;
        let silent: Vec<f64> = masked_tokens(&advantages[3..5], &host.mask[3..5]);
        // Whitened, 0 becomes minus the mean, the same for all of them.
        let expected = if is_whitened(&estimator) { silent[0] } else { 0.0 };
        assert!(silent.iter().all(|&advantage| advantage == expected), "{}: {silent:?}", estimator.name());
    }
    let mut lonely = Host::new().select(&[0, 3]);
    lonely.components = vec![(vec![1.0, 5.0], 1.0)];
    for estimator in estimators().filter(AdvantageEstimator::needs_groups) {
        let advantages = estimate(&estimator, &lonely).advantages;
        assert_eq!(advantages.concat(), [0.0; 5], "{}", estimator.name());
    }
}

fn is_whitened(estimator: &AdvantageEstimator) -> bool {
    ["reinforce_plus_plus_baseline", "gdpo", "normalize_then_sum"].contains(&estimator.name())
}

fn masked_tokens(table: &[Vec<f64>], mask: &[Vec<bool>]) -> Vec<f64> {
    crate::masked::tokens(table, mask).collect()
}

#[test]
fn the_order_of_rows_and_the_names_of_groups_say_nothing() {
    let (host, order) = (Host::new(), [4, 0, 5, 2, 1, 3]);
    let mut other = host.select(&order);
    other.groups.iter_mut().for_each(|group| *group = 100 - *group);
    for estimator in estimators() {
        let (expected, got) = (estimate(&estimator, &host), estimate(&estimator, &other));
        for (expected, got) in [(expected.advantages, got.advantages), (expected.returns, got.returns)] {
            let expected: Vec<Vec<f64>> = order.iter().map(|&row| expected[row].clone()).collect();
            assert_equal(&estimator, &got, &expected);
        }
    }
}

#[test]
fn padding_and_holes_change_nothing_whatever_stands_there() {
    let host = Host::new();
    // After the end of the longest row, at the start of all, and in between.
    for hole in [5, 0, 2] {
        let wider = host.with_hole(hole);
        for estimator in estimators() {
            if hole == 2 && estimator.name() == "optimal_token_baseline" {
                continue; // compares what stands at the same place, hole or not
            }
            let (expected, got) = (estimate(&estimator, &host), estimate(&estimator, &wider));
            for (expected, got) in [(expected.advantages, got.advantages), (expected.returns, got.returns)] {
                let tokens: Vec<Vec<f64>> = got
                    .iter()
                    .zip(&wider.mask)
                    .map(|(row, mask)| masked_tokens(std::slice::from_ref(row), std::slice::from_ref(mask)))
                    .collect();
                assert_equal(&estimator, &tokens, &expected);
                let outside = got.iter().flatten().zip(wider.mask.iter().flatten()).filter(|(_, inside)| !**inside);
                assert!(outside.map(|(value, _)| value).all(|&value| value == 0.0), "{}", estimator.name());
            }
        }
    }
}

#[test]
fn processes_that_share_a_batch_say_what_one_would() {
    let host = Host::new();
    for estimator in estimators() {
        let share = |rank: usize, collective: &dyn Collective| {
            let host = host.select(&[[0, 1, 2], [3, 4, 5]][rank]);
            estimator.estimate(&AdvantageBatch { collective, ..host.batch() }).unwrap().advantages
        };
        let shares = processes::run(2, share);
        assert_equal(&estimator, &shares.concat(), &estimate(&estimator, &host).advantages);
    }
    let by_batch = AdvantageOptions { scale_rewards: ScaleRewards::Batch, ..AdvantageOptions::default() };
    let estimator = AdvantageEstimator::from_name("grpo", &by_batch).unwrap();
    let shares = processes::run(2, |rank, collective| {
        let host = host.select(&[[0, 1, 2], [3, 4, 5]][rank]);
        estimator.estimate(&AdvantageBatch { collective, ..host.batch() }).unwrap().advantages
    });
    assert_equal(&estimator, &shares.concat(), &estimate(&estimator, &host).advantages);
}

#[test]
fn a_batch_without_tokens_or_rows_has_no_advantages() {
    let mut host = Host::new();
    host.mask.iter_mut().flatten().for_each(|inside| *inside = false);
    for estimator in estimators() {
        assert!(estimate(&estimator, &host).advantages.iter().flatten().all(|&advantage| advantage == 0.0));
        assert!(estimate(&estimator, &host.select(&[])).advantages.is_empty());
    }
}

#[test]
fn what_is_missing_is_named() {
    let host = Host::new();
    let bare = AdvantageBatch::new(&host.groups, &host.rewards, &host.mask);
    for (name, input) in [
        ("gae", "values"),
        ("remax", "baselines"),
        ("optimal_token_baseline", "log_probs"),
        ("tir_optimal_token_baseline", "log_probs"),
        ("gdpo", "components"),
        ("normalize_then_sum", "components"),
    ] {
        let estimator = AdvantageEstimator::from_name(name, &AdvantageOptions::default()).unwrap();
        assert_eq!(estimator.estimate(&bare), Err(AlgoError::MissingInput { estimator: name, input }));
    }
    let with_log_probs = AdvantageBatch { log_probs: Some(&host.log_probs), ..bare };
    let estimator = AdvantageEstimator::from_name("optimal_token_baseline", &AdvantageOptions::default()).unwrap();
    let error = estimator.estimate(&with_log_probs).unwrap_err().to_string();
    assert!(error.contains("`optimal_token_baseline` needs sum_pi_squared"), "{error}");
}

#[test]
fn other_shapes_and_numbers_that_are_none_are_refused_by_name_and_row() {
    let refused = |change: fn(&mut Host), expected: &str| {
        let mut host = Host::new();
        change(&mut host);
        let error = estimators().next().unwrap().estimate(&host.batch()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused(|host| host.groups.truncate(5), "groups has 5 rows, but the mask has 6");
    refused(|host| host.rewards.truncate(1), "rewards has 1 rows");
    refused(|host| host.rewards[1].push(0.0), "rewards, row 1: 3 tokens, but the mask has 2");
    refused(|host| host.values[2].truncate(1), "values, row 2: 1 tokens, but the mask has 3");
    refused(|host| host.log_probs.truncate(2), "log_probs has 2 rows");
    refused(|host| host.baselines.truncate(4), "baselines has 4 rows");
    refused(|host| host.components[1].0.truncate(3), "components has 3 rows");
    refused(|host| host.rewards[4][0] = f64::NAN, "rewards, row 4: NaN");
    refused(|host| host.values[0][1] = f64::INFINITY, "values, row 0: inf");
    refused(|host| host.components[0].0[3] = f64::NAN, "components, row 3: NaN");
    refused(|host| host.components[0].1 = f64::NAN, "weight of a component = NaN");
}

#[test]
fn options_out_of_range_are_refused_by_key() {
    for (options, expected) in [
        (AdvantageOptions { gamma: 1.5, ..AdvantageOptions::default() }, "gamma = 1.5"),
        (AdvantageOptions { lam: -0.1, ..AdvantageOptions::default() }, "lam = -0.1"),
        (AdvantageOptions { epsilon: f64::NAN, ..AdvantageOptions::default() }, "epsilon = NaN"),
    ] {
        let error = AdvantageEstimator::from_name("grpo", &options).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let error = "none".parse::<ScaleRewards>().unwrap_err().to_string();
    assert!(error.contains("scale_rewards `none`") && error.contains("batch"), "{error}");
}
