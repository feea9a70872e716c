//! verl's rollout correction.

use std::path::Path;

use luspo_algo::{Correction, RolloutCorrection, RolloutCorrectionOptions};
use luspo_core::Local;
use serde_json::Value;

use crate::account::{Account, Verdict, close, data, own, run};
use crate::files::{Rows, number, rows, text};

#[test]
fn rollout_correction_is_that_of_verl() {
    assert_eq!(compare(&own()).equal, 60);
}

#[test]
#[ignore = "needs LUSPO_TEST_DATA"]
fn rollout_corrections_of_the_complete_file_are_accounted_for() {
    assert!(compare(&data()).equal > 0);
}

fn compare(folder: &Path) -> Account {
    run(folder, "rollout_correction.json", |golden, case| {
        let out = &case["out"];
        let threshold = |value: &Value| Some(value.as_str().map_or_else(|| value.to_string(), String::from));
        let (options, metrics) = match text(&case["op"]) {
            "weights" => {
                let options = RolloutCorrectionOptions {
                    rollout_is: Some(text(&case["rollout_is"]).into()),
                    rollout_is_threshold: threshold(&case["threshold"]),
                    rollout_is_batch_normalize: case["batch_normalize"].as_bool().unwrap(),
                    ..RolloutCorrectionOptions::default()
                };
                (options, &out["metrics"])
            }
            "rejection" => {
                let options = RolloutCorrectionOptions {
                    rollout_rs: Some(text(&case["rollout_rs"]).into()),
                    rollout_rs_threshold: threshold(&case["threshold"]),
                    ..RolloutCorrectionOptions::default()
                };
                (options, &out["metrics"])
            }
            _ => (RolloutCorrectionOptions::default(), out),
        };
        let batch = &golden["batches"][text(&case["batch"])];
        let mask: Vec<Vec<bool>> =
            rows(&batch["mask"]).iter().map(|row| row.iter().map(|&inside| inside > 0.5).collect()).collect();
        let (old, rollout) = (rows(&batch["old_log_probs"]), rows(&batch["sampling_log_probs"]));
        let got = RolloutCorrection::new(&options).unwrap().apply(&old, &rollout, &mask, &Local).unwrap();

        check_metrics(&got, metrics)?;
        if out["weights"].is_array() {
            let expected: Rows = rows(&out["weights"]);
            let weights = got.weights.as_ref().expect("weights were asked for").concat();
            if weights.iter().zip(&expected.concat()).any(|(&got, &expected)| !close(got, expected)) {
                return Err(format!("weights {weights:?} instead of {expected:?}"));
            }
        } else if got.weights.is_some() {
            return Err("weights that nobody asked for".into());
        }
        let expected: Vec<Vec<bool>> = match out["mask"].is_array() {
            true => rows(&out["mask"]).iter().map(|row| row.iter().map(|&inside| inside > 0.5).collect()).collect(),
            false => mask,
        };
        if got.mask == expected { Ok(Verdict::Equal) } else { Err(format!("mask {:?}", got.mask)) }
    })
}

/// Every metric of the reference is there with its value, and there are no others but those of the divergence.
fn check_metrics(got: &Correction, expected: &Value) -> Result<(), String> {
    let expected = expected.as_object().unwrap();
    for (name, value) in expected {
        let ours = got.metrics.iter().find(|(known, _)| *known == format!("rollout_corr/{name}"));
        match ours {
            Some((_, ours)) if close(*ours, number(value)) => {}
            // The 1e-8 beside the reference's counts, in a difference of squares under a root: seen where it is about 0.
            Some((_, ours)) if name.ends_with("_std") && (ours.powi(2) - number(value).powi(2)).abs() < 1e-7 => {}
            other => return Err(format!("{name}: {other:?} instead of {value}")),
        }
    }
    const OF_DIVERGENCE: usize = 13;
    let count = expected.len() + if expected.contains_key("chi2_seq") { 0 } else { OF_DIVERGENCE };
    if got.metrics.len() == count { Ok(()) } else { Err(format!("{} metrics instead of {count}", got.metrics.len())) }
}
