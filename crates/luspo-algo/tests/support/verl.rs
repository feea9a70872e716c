//! How to reach verl's cases.

use std::sync::Arc;

use luspo_algo::{BatchTotals, KlTerm, LossOptions, Luspo, Objective, PolicyLoss, policy_loss};
use serde_json::Value;

use super::account::Plan;
use super::{GoldenBatch, Outcome, Setting, close, number, text};

pub const NO_COVARIANCE: &str =
    "where all advantages are equal the covariances are 0 but for rounding, and any is largest";

pub fn plan(case: &Value, batch: &GoldenBatch) -> Plan {
    let kl = case.get("kl_loss_type").map(|kind| {
        KlTerm::new(text(kind).parse().expect("verl's estimators are known"), number(&case["kl_loss_coef"]))
    });
    let info = case.get("global_batch_info");
    let (mut totals, scale) = info.map_or_else(|| (batch.totals(), 1.0), |info| global(batch, info));
    if case["loss_mode"] == "geo_mean" {
        // The one loss of verl that counts empty rows.
        totals.sequences = totals.rows;
    }
    let setting = Setting {
        objective: Objective { kl, ..Objective::new(policy(case, batch)) },
        totals,
        scale,
        token_weights: (case["rollout_is"] == true).then(|| batch.table("rollout_is_weights")),
        token_advantages: case["token_advantages"] == true,
    };
    let advantages = batch.advantages();
    match case["loss_mode"] == "kl_cov" && advantages.iter().all(|&advantage| advantage == advantages[0]) {
        true => Plan::Differs(setting, NO_COVARIANCE),
        false => Plan::Equal(setting),
    }
}

/// The loss of a case by its public name and options.
fn policy(case: &Value, batch: &GoldenBatch) -> Arc<dyn PolicyLoss> {
    let params = case["params"].as_object().expect("parameters");
    let agg_mode = text(&case["loss_agg_mode"]);
    let mut options = LossOptions { loss_agg_mode: Some(agg_mode.into()), ..LossOptions::default() };
    let horizon = batch.seq() as f64;
    if agg_mode == "seq-mean-token-sum-norm" {
        options.loss_scale_factor = Some(params.get("scale_factor").map_or(horizon, number));
    }
    for (key, value) in params {
        let option = match key.as_str() {
            "low" => &mut options.clip_ratio_low,
            "high" => &mut options.clip_ratio_high,
            "c" => &mut options.clip_ratio_c,
            "kl_cov_ratio" => &mut options.kl_cov_ratio,
            "ppo_kl_coef" => &mut options.ppo_kl_coef,
            "dro_beta" => &mut options.dro_beta,
            "scale_factor" => continue,
            other => panic!("{}: parameter `{other}` is not accounted for", case["id"]),
        };
        *option = Some(number(value));
    }
    // verl's gspo is the GSPO-token form, which shows where the weights of a row's tokens differ. Summed over a
    // sequence it is LUSPO.
    let by_token = case["rollout_is"] == true;
    let name = match text(&case["loss_mode"]) {
        "gspo" if agg_mode == "seq-mean-token-sum" && by_token => {
            let clip = |key: &str| number(&params[key]);
            let luspo = Luspo::new().with_clip_ratio_low(clip("low")).with_clip_ratio_high(clip("high"));
            return Arc::new(luspo.with_token_gradient(true));
        }
        "gspo" if agg_mode == "seq-mean-token-sum" => "luspo",
        "gspo" if by_token => "gspo_token",
        "geo_mean" => {
            // verl reads no aggregation there.
            options.loss_agg_mode = None;
            "geo_mean"
        }
        name => name,
    };
    policy_loss(name, &options).unwrap_or_else(|error| panic!("{}: {error}", case["id"]))
}

/// verl multiplies a rank's loss by the number of ranks, because their mean is taken afterwards.
fn global(batch: &GoldenBatch, info: &Value) -> (BatchTotals, f64) {
    let count = |key: &str| info[key].as_u64().unwrap_or_else(|| panic!("{key} is no count")) as usize;
    let totals = BatchTotals {
        rows: batch.lengths().len(),
        sequences: count("global_batch_size"),
        tokens: count("batch_num_tokens"),
    };
    (totals, count("dp_size") as f64)
}

/// The metrics that verl reports beside the loss. It writes 0 where a loss does not measure something.
pub fn metrics(case: &Value, _: &GoldenBatch, outcome: &Outcome) -> Vec<String> {
    let names = [
        ("pg_loss", "actor/pg_loss"),
        ("kl_loss", "actor/kl_loss"),
        ("pg_clipfrac", "actor/pg_clipfrac"),
        ("pg_clipfrac_lower", "actor/pg_clipfrac_lower"),
        ("ppo_kl", "actor/ppo_kl"),
    ];
    let wrong = names.iter().filter_map(|(key, name)| {
        let expected = number(case["out"].get(*key)?);
        match outcome.metric(name) {
            Some(got) => (!close(got, expected)).then(|| format!("{name} {got} instead of {expected}")),
            None => (expected != 0.0).then(|| format!("no {name} instead of {expected}")),
        }
    });
    wrong.collect()
}
