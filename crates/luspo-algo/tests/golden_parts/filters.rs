//! The token filters of an objective, as its gradient shows them.

use std::path::Path;

use luspo_algo::{LossOptions, Objective, PolicyBatch, TokenFilters, policy_loss};
use serde_json::Value;

use crate::account::{Account, Verdict, data, own, run};
use crate::files::{Rows, close, devices, number, numbers, rows, tensor, text, values};

/// TRL takes the quantile in f32, and compares f64 numbers with it here.
const AT_THE_QUANTILE: &str = "the token at the quantile is kept; TRL's rounding may put it below";
const OF_VESPO: &str = "VESPO's weights are those of its loss";

#[test]
fn token_filters_are_those_of_trl() {
    let account = filters(&own());
    assert_eq!((account.equal, account.differences.keys().copied().collect::<Vec<_>>()), (16, vec![AT_THE_QUANTILE]));
}

#[test]
#[ignore = "needs LUSPO_TEST_DATA"]
fn token_filters_of_the_complete_file_are_accounted_for() {
    assert!(filters(&data()).equal > 0);
}

fn filters(folder: &Path) -> Account {
    run(folder, "trl_helpers.json", |golden, case| {
        let threshold = || number(&case["threshold"]);
        let filters = match text(&case["op"]) {
            "get_high_entropy_mask" => {
                TokenFilters { top_entropy_quantile: Some(1.0 - threshold()), ..TokenFilters::default() }
            }
            "get_off_policy_mask" => {
                TokenFilters { off_policy_mask_threshold: Some(threshold()), ..TokenFilters::default() }
            }
            "get_gamma_weights" => return Ok(Verdict::Elsewhere(OF_VESPO)),
            other => return Err(format!("nothing reaches {other}")),
        };
        judge(filters, &golden["batches"][text(&case["batch"])], &case["out"])
    })
}

/// With the sum of −A log π over tokens as loss, a token's gradient is −A if it is kept, else 0.
fn judge(filters: TokenFilters, batch: &Value, kept: &Value) -> Result<Verdict, String> {
    let options = LossOptions { loss_agg_mode: Some("token-sum".into()), ..LossOptions::default() };
    let objective = Objective { filters, ..Objective::new(policy_loss("reinforce", &options).unwrap()) };
    let (mask, entropies) = (rows(&batch["mask"]), rows(&batch["entropies"]));
    let per_row = numbers(&batch["advantages"]);
    let advantages: Rows = per_row.iter().zip(&mask).map(|(value, row)| vec![*value; row.len()]).collect();
    // One value a row where whole rows are dropped.
    let keeps = |row: usize, t: usize| {
        let of_row = kept[row].as_array().expect("a list");
        let value = &of_row[t.min(of_row.len() - 1)];
        value.as_bool().unwrap_or_else(|| number(value) > 0.5)
    };

    let of_tokens = entropies.iter().flatten().zip(mask.iter().flatten()).filter(|(_, inside)| **inside > 0.5);
    let mut sorted: Vec<f64> = of_tokens.map(|(entropy, _)| *entropy).collect();
    sorted.sort_by(f64::total_cmp);
    let at_the_quantile = |entropy: f64| {
        let position = filters.top_entropy_quantile.map(|share| (1.0 - share) * (sorted.len() - 1) as f64);
        // A whole number, but for the rounding of the share.
        position.is_some_and(|at| (at - at.round()).abs() < 1e-9 && sorted[at.round() as usize] == entropy)
    };

    let mut verdict = Verdict::Equal;
    for (backend, device) in devices() {
        let table = |key: &str| tensor(&rows(&batch[key]), &device);
        let [log_probs, old_log_probs, inside] = ["log_probs", "old_log_probs", "mask"].map(table);
        let advantages_there = tensor(&advantages, &device);
        let policy_batch = PolicyBatch::new(log_probs, old_log_probs, advantages_there, inside.greater_scalar(0.5))
            .with_entropy(table("entropies"))
            .with_rollout_log_probs(table("sampling_log_probs"));
        let gradient = values(objective.gradients(policy_batch, None, &Default::default()).log_probs);
        for (row, mask) in mask.iter().enumerate() {
            for t in (0..mask.len()).filter(|&t| mask[t] > 0.5) {
                let (got, advantage) = (gradient[row][t], advantages[row][t]);
                if close(got, if keeps(row, t) { -advantage } else { 0.0 }) {
                    continue;
                }
                if keeps(row, t) || !close(got, -advantage) || !at_the_quantile(entropies[row][t]) {
                    return Err(format!("[{row}, {t}] has gradient {got} on {backend}"));
                }
                verdict = Verdict::Differs(AT_THE_QUANTILE);
            }
        }
    }
    Ok(verdict)
}
