//! verl's estimators and TRL's scaling.

use std::path::Path;

use luspo_algo::advantages::{AdvantageBatch, AdvantageEstimator, AdvantageOptions, Advantages};
use luspo_algo::masked;
use luspo_core::Local;
use serde_json::Value;

use crate::account::{Account, Verdict, close, data, own, run};
use crate::files::{self, Rows, number, numbers, rows, text};

/// Rules of the design.
const GROUP_OF_ONE: &str = "a group of one has advantage 0";
const NO_VARIANCE: &str =
    "a group whose answers all have the same return has advantage 0, its longest answer's tail too";

#[test]
fn advantages_are_those_of_verl_and_trl() {
    let account = compare(&own());
    assert_eq!(account.equal, 111);
    assert_eq!(account.differences.keys().copied().collect::<Vec<_>>(), [GROUP_OF_ONE, NO_VARIANCE]);
}

#[test]
#[ignore = "needs LUSPO_TEST_DATA"]
fn advantages_of_the_complete_file_are_accounted_for() {
    assert!(compare(&data()).equal > 0);
}

fn compare(folder: &Path) -> Account {
    run(folder, "advantages.json", |golden, case| {
        let data = &golden["data"][text(&case["data"])];
        match text(&case["estimator"]) {
            "trl" => trl(data, case),
            _ => verl(data, case),
        }
    })
}

struct Data {
    groups: Vec<usize>,
    mask: Vec<Vec<bool>>,
    rewards: Rows,
    values: Rows,
    log_probs: Rows,
    sum_pi_squared: Rows,
    baselines: Vec<f64>,
    components: Vec<(Vec<f64>, f64)>,
}

impl Data {
    fn new(data: &Value) -> Self {
        let uids: Vec<&str> = data["uid"].as_array().unwrap().iter().map(text).collect();
        let rewards = rows(&data["token_level_rewards"]);
        Self {
            groups: uids.iter().map(|uid| uids.iter().position(|other| other == uid).unwrap()).collect(),
            mask: rows(&data["mask"]).iter().map(|row| row.iter().map(|&inside| inside > 0.5).collect()).collect(),
            values: rows(&data["values"]),
            log_probs: rows(&data["old_log_probs"]),
            sum_pi_squared: rows(&data["sum_pi_squared"]),
            baselines: numbers(&data["reward_baselines"]),
            // verl normalises the total where no reward is named.
            components: vec![(rewards.iter().map(|row| row.iter().sum()).collect(), 1.0)],
            rewards,
        }
    }

    fn batch(&self) -> AdvantageBatch<'_> {
        AdvantageBatch {
            values: Some(&self.values),
            baselines: Some(&self.baselines),
            log_probs: Some(&self.log_probs),
            sum_pi_squared: Some(&self.sum_pi_squared),
            components: &self.components,
            ..AdvantageBatch::new(&self.groups, &self.rewards, &self.mask)
        }
    }

    fn members(&self, row: usize) -> Vec<usize> {
        (0..self.groups.len()).filter(|&other| self.groups[other] == self.groups[row]).collect()
    }

    /// A row alone in its group.
    fn is_alone(&self, row: usize) -> bool {
        self.members(row).len() == 1
    }

    /// A row whose tokens an estimator per token has nothing to compare with: the other answers of its group have no
    /// tokens, or the same return everywhere.
    fn is_silent(&self, row: usize) -> bool {
        let returns = |row: usize| {
            let inside = (0..self.mask[row].len()).filter(move |&t| self.mask[row][t]);
            inside.clone().map(move |t| inside.clone().filter(|&u| u >= t).map(|u| self.rewards[row][u]).sum::<f64>())
        };
        let answers: Vec<usize> = self.members(row).into_iter().filter(|&row| self.mask[row].contains(&true)).collect();
        let all: Vec<f64> = answers.iter().flat_map(|&row| returns(row)).collect();
        answers.len() < 2 || all.iter().all(|&value| value == all[0])
    }
}

fn verl(golden: &Value, case: &Value) -> Result<Verdict, String> {
    let data = Data::new(golden);
    let (name, params) = (text(&case["estimator"]), &case["params"]);
    let option = |key: &str, default: f64| if params[key].is_null() { default } else { number(&params[key]) };
    let options = AdvantageOptions {
        norm_adv_by_std_in_grpo: params["norm_adv_by_std_in_grpo"].as_bool().unwrap_or(true),
        gamma: option("gamma", 1.0),
        lam: option("lam", 1.0),
        ..AdvantageOptions::default()
    };
    let estimator = AdvantageEstimator::from_name(name, &options).unwrap();
    let got = estimator.estimate(&data.batch()).unwrap();
    if case["raises"].is_string() {
        let alone = (0..data.groups.len()).find(|&row| data.is_alone(row)).expect("pass@k fails for a group of one");
        return match got.advantages[alone].iter().all(|&advantage| advantage == 0.0) {
            true => Ok(Verdict::Differs(GROUP_OF_ONE)),
            false => Err(format!("row {alone} has {:?}", got.advantages[alone])),
        };
    }

    let mut expected =
        Advantages { advantages: rows(&case["out"]["advantages"]), returns: rows(&case["out"]["returns"]) };
    let rule = adapt(&data, &estimator, &options, &mut expected);
    // verl computes these in f32, where the deviation of close scores loses digits.
    let close = if name == "grpo_vectorized" { files::close } else { close };
    for (what, got, expected) in
        [("advantages", &got.advantages, &expected.advantages), ("returns", &got.returns, &expected.returns)]
    {
        for (row, mask) in data.mask.iter().enumerate() {
            for (t, &inside) in mask.iter().enumerate() {
                // verl leaves numbers in padding, we leave 0.
                let expected = if inside { expected[row][t] } else { 0.0 };
                if !close(got[row][t], expected) {
                    return Err(format!("{what}[{row}][{t}] is {} instead of {expected}", got[row][t]));
                }
            }
        }
    }
    Ok(rule.map_or(Verdict::Equal, Verdict::Differs))
}

/// Makes of verl's values those of our rules, and says which rule changed them.
fn adapt(
    data: &Data,
    estimator: &AdvantageEstimator,
    options: &AdvantageOptions,
    expected: &mut Advantages,
) -> Option<&'static str> {
    let compares = estimator.needs_groups();
    let per_token = estimator.needs_sum_pi_squared();
    let alone: Vec<usize> = (0..data.groups.len()).filter(|&row| compares && data.is_alone(row)).collect();
    let silent: Vec<usize> = (0..data.groups.len()).filter(|&row| per_token && data.is_silent(row)).collect();
    let before = expected.clone();
    match estimator.name() {
        "reinforce_plus_plus_baseline" | "gdpo" if !alone.is_empty() => {
            // The whitening sees the 0 of the lonely row: computed again from the scores.
            let normalised: Vec<f64> = (0..data.groups.len())
                .map(|row| {
                    let score = |row: usize| data.rewards[row].iter().sum::<f64>();
                    let members = data.members(row);
                    let n = members.len() as f64;
                    let mean = members.iter().map(|&row| score(row)).sum::<f64>() / n;
                    let squares: f64 = members.iter().map(|&row| (score(row) - mean).powi(2)).sum();
                    let scale = if estimator.name() == "gdpo" && options.norm_adv_by_std_in_grpo {
                        (squares / (n - 1.0)).sqrt() + 1e-6
                    } else {
                        1.0
                    };
                    if members.len() == 1 { 0.0 } else { (score(row) - mean) / scale }
                })
                .collect();
            let wide: Rows = data.mask.iter().zip(&normalised).map(|(mask, &value)| vec![value; mask.len()]).collect();
            expected.advantages = masked::whiten(&wide, &data.mask, &Local);
        }
        _ => {
            for &row in alone.iter().chain(&silent) {
                expected.advantages[row].fill(0.0);
            }
        }
    }
    if !per_token && before.advantages != expected.advantages {
        expected.returns = expected.advantages.clone();
    }
    let changes = |rows: &[usize]| {
        let inside = |row: usize| (0..data.mask[row].len()).filter(move |&t| data.mask[row][t]);
        let distance = |row: usize, t: usize| (before.advantages[row][t] - expected.advantages[row][t]).abs();
        // verl's own zeros are rounded to 1e-8.
        rows.iter().any(|&row| inside(row).any(|t| distance(row, t) > 1e-6))
    };
    match () {
        () if changes(&alone) => Some(GROUP_OF_ONE),
        () if changes(&silent) => Some(NO_VARIANCE),
        () => None,
    }
}

fn trl(golden: &Value, case: &Value) -> Result<Verdict, String> {
    let data = Data::new(golden);
    let scale = text(&case["params"]["scale_rewards"]);
    let options = AdvantageOptions {
        norm_adv_by_std_in_grpo: scale != "none",
        scale_rewards: if scale == "none" { Default::default() } else { scale.parse().unwrap() },
        epsilon: 1e-4,
        ..AdvantageOptions::default()
    };
    // One number a row, those without tokens too.
    let rewards: Rows = numbers(&golden["scores"]).into_iter().map(|score| vec![score]).collect();
    let mask = vec![vec![true]; rewards.len()];
    let batch = AdvantageBatch::new(&data.groups, &rewards, &mask);
    let got = AdvantageEstimator::from_name("grpo", &options).unwrap().estimate(&batch).unwrap().advantages;
    let expected = numbers(&case["out"]["advantages_seq"]);
    match got.concat().iter().zip(&expected).all(|(&got, &expected)| close(got, expected)) {
        true => Ok(Verdict::Equal),
        false => Err(format!("{got:?} instead of {expected:?}")),
    }
}
