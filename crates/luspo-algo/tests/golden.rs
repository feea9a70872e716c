//! Losses, gradients, KL penalties and advantages are those of verl 0.9.1, TRL 1.16.0 and the LUSPO paper's equations,
//! reached through public options and hand-set totals. Where no option reaches a reference's choice, the account names
//! the rule, and at least one committed case shows the difference.

mod support;

use std::path::{Path, PathBuf};

use luspo_algo::{KlKind, advantages};
use support::account::{EMPTY_UPDATE, no_metrics, run};
use support::{
    GoldenBatch, close, devices, fixtures, number, numbers, paper, read, rows, tensor, text, trl, values, verl,
};

#[test]
fn verl_losses_are_reproduced() {
    let account = run(&fixtures(), "losses_verl.json", verl::plan, verl::metrics);
    assert!(account.equal >= 300, "only {} cases ran", account.equal);
    assert_eq!(account.differences.keys().collect::<Vec<_>>(), [&EMPTY_UPDATE]);
    account.assert_every_difference_shows();
}

#[test]
fn trl_losses_are_reproduced() {
    let account = run(&fixtures(), "losses_trl.json", trl::plan, no_metrics);
    assert!(account.equal >= 200, "only {} cases ran", account.equal);
    account.assert_every_difference_shows();
}

#[test]
fn the_equations_of_the_paper_are_reproduced() {
    let account = run(&fixtures(), "losses_paper.json", paper::plan, no_metrics);
    assert!(account.equal >= 40, "only {} cases ran", account.equal);
    assert_eq!(account.other, 3, "the wrong values have a test of their own");
}

#[test]
fn beside_an_entropy_bonus_trl_has_the_same_policy_loss_and_gradient() {
    assert!(policy_part_of_trl_entropy_cases(&fixtures()) >= 10);
}

#[test]
fn the_length_is_not_counted_twice() {
    assert_eq!(anti_golden(&fixtures()), 3);
}

#[test]
fn verl_kl_penalties_are_reproduced() {
    assert!(kl_penalties(&fixtures()) >= 28);
}

#[test]
fn grpo_advantages_are_reproduced() {
    let (equal, different) = grpo_advantages(&fixtures());
    assert!(equal >= 20 && different >= 4, "{equal} equal, {different} known differences");
}

/// The same on complete golden files in `$LUSPO_TEST_DATA/golden`, which may hold other cases and other values.
#[test]
#[ignore = "needs LUSPO_TEST_DATA"]
fn complete_golden_files_are_accounted_for() {
    let data = std::env::var_os("LUSPO_TEST_DATA").expect("LUSPO_TEST_DATA names a folder");
    let folder = PathBuf::from(data).join("golden");
    assert!(run(&folder, "losses_verl.json", verl::plan, verl::metrics).equal > 0);
    assert!(run(&folder, "losses_trl.json", trl::plan, no_metrics).equal > 0);
    assert!(run(&folder, "losses_paper.json", paper::plan, no_metrics).equal > 0);
    assert!(policy_part_of_trl_entropy_cases(&folder) > 0);
    assert!(anti_golden(&folder) > 0);
    assert!(kl_penalties(&folder) > 0);
    assert!(grpo_advantages(&folder).0 > 0);
}

fn policy_part_of_trl_entropy_cases(folder: &Path) -> usize {
    let golden = read(folder, "losses_trl.json");
    let mut compared = 0;
    for case in golden["cases"].as_array().unwrap() {
        let batch = GoldenBatch(&golden["batches"][text(&case["batch"])]);
        let Some(setting) = trl::without_entropy(case, &batch) else { continue };
        compared += 1;
        for (backend, device) in devices() {
            let outcome = setting.run(&batch, &device);
            let loss = number(&case["out"]["metrics"]["policy_loss"]);
            assert!(outcome.is(loss, &rows(&case["out"]["grad"])), "{} on {backend}", case["id"]);
        }
    }
    compared
}

fn anti_golden(folder: &Path) -> usize {
    let golden = read(folder, "losses_paper.json");
    let mut compared = 0;
    for case in golden["cases"].as_array().unwrap().iter().filter(|case| case["algo"] == "anti_golden") {
        let batch = GoldenBatch(&golden["batches"][text(&case["batch"])]);
        let out = &case["out"];
        compared += 1;
        for (backend, device) in devices() {
            let outcome = paper::anti_golden(case, &batch).run(&batch, &device);
            let buggy = rows(&out["buggy_grad"]);
            assert!(outcome.is(number(&out["fixed_loss"]), &rows(&out["fixed_grad"])), "{} on {backend}", case["id"]);
            assert!(!close(outcome.loss, number(&out["buggy_loss"])), "{} on {backend}", case["id"]);
            assert!(!outcome.is(outcome.loss, &buggy), "{} on {backend}: gradient", case["id"]);
        }
    }
    compared
}

fn kl_penalties(folder: &Path) -> usize {
    let golden = read(folder, "kl_penalty.json");
    let cases = golden["cases"].as_array().unwrap();
    for case in cases {
        let batch = GoldenBatch(&golden["batches"][text(&case["batch"])]);
        let kind: KlKind = text(&case["kl_penalty"]).parse().unwrap();
        for (backend, device) in devices() {
            let log_probs = tensor(&batch.table("log_probs"), &device).autodiff().require_grad();
            let penalty = kind.penalty(log_probs.clone(), tensor(&batch.table("ref_log_probs"), &device));
            let gradient = values(log_probs.grad(&penalty.clone().sum().backward()).unwrap()).concat();
            let penalty = values(penalty.without_autodiff()).concat();
            for (got, expected) in [(penalty, "value"), (gradient, "grad_of_sum")] {
                let expected = rows(&case["out"][expected]).concat();
                let equal = got.len() == expected.len() && got.iter().zip(&expected).all(|(&g, &e)| close(g, e));
                assert!(equal, "{} on {backend}: {got:?} instead of {expected:?}", case["id"]);
            }
        }
    }
    println!("kl_penalty.json: {} cases equal", cases.len());
    cases.len()
}

/// Compares with verl's `grpo` and TRL's unscaled advantages; returns how many cases are equal, and how many differ by
/// rule: a group of one has advantage 0, and the epsilon beside the standard deviation is verl's 1e-6, not TRL's 1e-4.
fn grpo_advantages(folder: &Path) -> (usize, usize) {
    let golden = read(folder, "advantages.json");
    let (mut equal, mut different, mut other) = (0, 0, 0);
    for case in golden["cases"].as_array().unwrap() {
        let (id, data) = (text(&case["id"]), &golden["data"][text(&case["data"])]);
        let uids: Vec<&str> = data["uid"].as_array().unwrap().iter().map(text).collect();
        let groups: Vec<usize> = uids.iter().map(|uid| uids.iter().position(|other| other == uid).unwrap()).collect();
        let members = |row: usize| groups.iter().filter(|&&group| group == groups[row]).count();

        let scaled = match text(&case["estimator"]) {
            "grpo" | "grpo_vectorized" => case["params"]["norm_adv_by_std_in_grpo"] == true,
            "trl" if case["params"]["scale_rewards"] == "none" => false,
            "trl" if case["params"]["scale_rewards"] == "group" => true,
            _ => {
                other += 1;
                continue;
            }
        };
        let from_trl = case["estimator"] == "trl";
        let scores: Vec<f64> = if from_trl {
            numbers(&data["scores"])
        } else {
            rows(&data["token_level_rewards"]).iter().map(|row| row.iter().sum()).collect()
        };
        let got = advantages::grpo(&scores, &groups, scaled);
        let unscaled = advantages::grpo(&scores, &groups, false);
        // One expected value a row; verl's are per token, so that an empty row has none.
        let expected: Vec<Option<f64>> = if from_trl {
            numbers(&case["out"]["advantages_seq"]).into_iter().map(Some).collect()
        } else {
            let mask = rows(&data["mask"]);
            let table = rows(&case["out"]["advantages"]);
            let of_row = |(row, mask): (&Vec<f64>, &Vec<f64>)| Some(row[mask.iter().position(|&inside| inside > 0.5)?]);
            table.iter().zip(&mask).map(of_row).collect()
        };

        let mut differs = false;
        for (row, expected) in expected.into_iter().enumerate().filter_map(|(row, value)| Some((row, value?))) {
            if close(got[row], expected) {
                continue;
            }
            differs = true;
            let singleton = members(row) == 1 && got[row] == 0.0;
            let deviation = unscaled[row] / got[row] - 1e-6;
            let epsilon = from_trl && scaled && close(unscaled[row] / (deviation + 1e-4), expected);
            assert!(singleton || epsilon, "{id}: row {row} has {} instead of {expected}", got[row]);
        }
        *(if differs { &mut different } else { &mut equal }) += 1;
    }
    println!("advantages.json: {equal} equal, {different} known differences, {other} of other estimators");
    (equal, different)
}
