//! Aggregation, the value loss, masked statistics, the KL controller, and VESPO's weights.

use std::path::Path;

use burn::tensor::Tensor;
use luspo_algo::{Aggregation, BatchTotals, KlController, MetricAccumulator, PolicyBatch, Vespo, masked, value_loss};
use luspo_core::Local;
use serde_json::Value;

use crate::account::{Account, Verdict, close, data, own, run};
use crate::files::{self, Rows, devices, number, rows, tensor, text, values};

/// Rule of the design: the references divide 0 by 0.
const EMPTY_UPDATE: &str = "an update without any response token has loss 0 and gradient 0";
const OF_THE_MODEL: &str = "log-probs and entropy of logits are computed by the model";
const OF_THE_OBJECTIVE: &str = "token filters are part of the objective: see `filters`";

#[test]
fn operations_are_those_of_verl() {
    let account = compare(&own());
    assert_eq!(account.equal, 83);
    assert_eq!(account.differences.keys().collect::<Vec<_>>(), [&EMPTY_UPDATE]);
}

#[test]
fn the_adaptive_kl_controller_is_that_of_verl() {
    assert_eq!(controllers(&own()).equal, 2);
}

#[test]
fn the_weights_of_vespo_are_those_of_trl() {
    assert_eq!(vespo(&own()).equal, 5);
}

#[test]
#[ignore = "needs LUSPO_TEST_DATA"]
fn operations_of_the_complete_files_are_accounted_for() {
    assert!(compare(&data()).equal > 0);
    assert!(controllers(&data()).equal > 0);
    assert!(vespo(&data()).equal > 0);
}

fn controllers(folder: &Path) -> Account {
    run(folder, "kl_controller.json", |_, case| {
        let [kl_coef, target, horizon, n_steps] =
            ["init_kl_coef", "target_kl", "horizon", "n_steps"].map(|key| number(&case[key]));
        let mut controller = KlController::from_name("adaptive", kl_coef, target, horizon).unwrap();
        for (kl, expected) in files::numbers(&case["kls"]).into_iter().zip(files::numbers(&case["out"])) {
            controller.update(kl, n_steps as usize);
            if (controller.value() - expected).abs() > 1e-15 {
                return Err(format!("{} instead of {expected}", controller.value()));
            }
        }
        Ok(Verdict::Equal)
    })
}

fn vespo(folder: &Path) -> Account {
    run(folder, "trl_helpers.json", |golden, case| {
        if text(&case["op"]) != "get_gamma_weights" {
            return Ok(Verdict::Elsewhere(OF_THE_OBJECTIVE));
        }
        let batch = &golden["batches"][text(&case["batch"])];
        let (mask, expected) = (mask(batch), rows(&case["out"]));
        for (backend, device) in devices() {
            let table = |key: &str| tensor(&rows(&batch[key]), &device);
            let per_row = files::numbers(&batch["advantages"]);
            let advantages: Rows = per_row.iter().zip(&mask).map(|(value, row)| vec![*value; row.len()]).collect();
            let advantages = tensor(&advantages, &device);
            let inside = table("mask").greater_scalar(0.5);
            let weights =
                Vespo::new().weights(&PolicyBatch::new(table("log_probs"), table("old_log_probs"), advantages, inside));
            let weights = values(weights);
            for (row, mask) in mask.iter().enumerate() {
                // The reference has one weight a row; ours stands at each token.
                let equal = |t: usize| !mask[t] || files::close(weights[row][t], expected[row][0]);
                if !(0..mask.len()).all(equal) {
                    return Err(format!(
                        "row {row} has {:?} instead of {} on {backend}",
                        weights[row], expected[row][0]
                    ));
                }
            }
        }
        Ok(Verdict::Equal)
    })
}

fn compare(folder: &Path) -> Account {
    run(folder, "ops.json", |golden, case| {
        let batch = &golden["batches"][case["batch"].as_str().unwrap_or_default()];
        match text(&case["op"]) {
            "agg_loss" => aggregation(batch, case),
            "compute_value_loss" => value(batch, case),
            "masked_mean" => {
                let got = masked::mean(&rows(&batch[text(&case["values"])]), &mask(batch), &Local);
                is(close(got, number(&case["out"])), || format!("{got}"))
            }
            "masked_whiten" => {
                let got = masked::whiten(&rows(&batch[text(&case["values"])]), &mask(batch), &Local);
                let (expected, mask) = (rows(&case["out"]), mask(batch));
                let got: Vec<f64> = masked::tokens(&got, &mask).collect();
                let equal =
                    got.iter().zip(masked::tokens(&expected, &mask)).all(|(&got, expected)| close(got, expected));
                is(equal, || format!("{got:?}"))
            }
            "logprob_entropy" => Ok(Verdict::Elsewhere(OF_THE_MODEL)),
            other => Err(format!("nothing reaches {other}")),
        }
    })
}

fn is(equal: bool, otherwise: impl Fn() -> String) -> Result<Verdict, String> {
    if equal { Ok(Verdict::Equal) } else { Err(otherwise()) }
}

fn mask(batch: &Value) -> Vec<Vec<bool>> {
    rows(&batch["mask"]).iter().map(|row| row.iter().map(|&inside| inside > 0.5).collect()).collect()
}

fn totals(batch: &Value) -> BatchTotals {
    let lengths = mask(batch).iter().map(|row| row.iter().filter(|&&inside| inside).count()).collect::<Vec<_>>();
    BatchTotals::of_lengths(&lengths)
}

fn aggregation(batch: &Value, case: &Value) -> Result<Verdict, String> {
    let extra = &case["extra"];
    let given = |key: &str| extra[key].as_u64().map(|count| count as usize);
    let mut totals = totals(batch);
    totals.tokens = given("batch_num_tokens").unwrap_or(totals.tokens);
    totals.sequences = given("global_batch_size").unwrap_or(totals.sequences);
    // verl multiplies by the number of ranks, over which its optimizer averages.
    let ranks = given("dp_size").unwrap_or(1) as f64;
    let terms = rows(&batch[text(&case["loss_mat"])]);
    let scale = given("loss_scale_factor").unwrap_or(terms[0].len()) as f64;
    let mode = Aggregation::from_name(text(&case["mode"]), scale).map_err(|error| error.to_string())?;
    let expected = number(&case["out"]);
    for (backend, device) in devices() {
        let mask = tensor(&rows(&batch["mask"]), &device).greater_scalar(0.5);
        let got: f64 = mode.apply(tensor(&terms, &device), &mask, &totals).into_scalar::<f32>().into();
        if expected.is_nan() && got == 0.0 && totals.tokens == 0 {
            continue;
        }
        if !files::close(got * ranks, expected) {
            return Err(format!("{} instead of {expected} on {backend}", got * ranks));
        }
    }
    Ok(if expected.is_nan() { Verdict::Differs(EMPTY_UPDATE) } else { Verdict::Equal })
}

fn value(batch: &Value, case: &Value) -> Result<Verdict, String> {
    let inputs = &case["inputs"];
    let table = |key: &str| -> Rows { rows(&batch[text(&inputs[key])]) };
    let (expected, clip) = (number(&case["out"]["vf_loss"]), number(&inputs["cliprange_value"]));
    let mode = Aggregation::from_name(text(&case["mode"]), 1.0).unwrap();
    for (backend, device) in devices() {
        let on_device = |key: &str| -> Tensor<2> { tensor(&table(key), &device) };
        let leaf = on_device("vpreds").autodiff().require_grad();
        let mask = tensor(&rows(&batch["mask"]), &device).greater_scalar(0.5);
        let (old, returns) = (on_device("values"), on_device("returns"));
        let output = value_loss(leaf.clone(), old, returns, &mask, clip, mode, &totals(batch));
        let gradient = values(leaf.grad(&output.loss.backward()).unwrap()).concat();
        let mut metrics = MetricAccumulator::default();
        metrics.add(output.metrics);
        let metrics = metrics.finish();
        let metric = |name: &str| metrics.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);

        let loss = metric("critic/vf_loss").unwrap_or(f64::NAN);
        let slopes = rows(&case["out"]["grad_vpreds"]).concat();
        if !gradient.iter().zip(&slopes).all(|(&got, &expected)| files::close(got, expected)) {
            return Err(format!("gradient {gradient:?} instead of {slopes:?} on {backend}"));
        }
        if expected.is_nan() && loss == 0.0 {
            continue;
        }
        let clipped = metric("critic/vf_clipfrac").unwrap_or(f64::NAN);
        if !files::close(loss, expected) || !files::close(clipped, number(&case["out"]["vf_clipfrac"])) {
            return Err(format!("loss {loss}, clipped share {clipped} on {backend}"));
        }
    }
    Ok(if expected.is_nan() { Verdict::Differs(EMPTY_UPDATE) } else { Verdict::Equal })
}
