//! Losses, gradients and KL penalties are those of verl 0.9.1, TRL 1.16.0 and the LUSPO paper's equations,
//! reached through public options and hand-set totals. Where no option reaches a reference's choice, the account names
//! the rule, and at least one committed case shows the difference.

mod support;

use std::path::{Path, PathBuf};

use luspo_algo::KlKind;
use support::account::{EMPTY_UPDATE, no_metrics, run};
use support::{GoldenBatch, close, devices, fixtures, number, paper, read, rows, tensor, text, trl, values, verl};

#[test]
fn verl_losses_are_reproduced() {
    let account = run(&fixtures(), "losses_verl.json", verl::plan, verl::metrics);
    assert!(account.equal >= 300, "only {} cases ran", account.equal);
    assert_eq!(account.differences.keys().copied().collect::<Vec<_>>(), [EMPTY_UPDATE, verl::NO_COVARIANCE]);
    account.assert_every_difference_shows();
}

#[test]
fn trl_losses_are_reproduced() {
    let account = run(&fixtures(), "losses_trl.json", trl::plan, trl::metrics);
    assert_eq!((account.equal, account.wrong), (316, 0));
    account.assert_every_difference_shows();
}

#[test]
fn the_equations_of_the_paper_are_reproduced() {
    let account = run(&fixtures(), "losses_paper.json", paper::plan, no_metrics);
    assert!(account.equal >= 40, "only {} cases ran", account.equal);
    assert_eq!(account.wrong, 3, "the wrong values have a test of their own");
}

#[test]
fn the_length_is_not_counted_twice() {
    assert_eq!(anti_golden(&fixtures()), 3);
}

#[test]
fn verl_kl_penalties_are_reproduced() {
    assert!(kl_penalties(&fixtures()) >= 28);
}

/// The same on complete golden files in `$LUSPO_TEST_DATA/golden`, which may hold other cases and other values.
#[test]
#[ignore = "needs LUSPO_TEST_DATA"]
fn complete_golden_files_are_accounted_for() {
    let data = std::env::var_os("LUSPO_TEST_DATA").expect("LUSPO_TEST_DATA names a folder");
    let folder = PathBuf::from(data).join("golden");
    assert!(run(&folder, "losses_verl.json", verl::plan, verl::metrics).equal > 0);
    assert!(run(&folder, "losses_trl.json", trl::plan, trl::metrics).equal > 0);
    assert!(run(&folder, "losses_paper.json", paper::plan, no_metrics).equal > 0);
    assert!(anti_golden(&folder) > 0);
    assert!(kl_penalties(&folder) > 0);
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
