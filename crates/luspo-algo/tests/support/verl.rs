//! How to reach verl's cases.

use std::sync::Arc;

use luspo_algo::{Aggregation, BatchTotals, Gspo, KlTerm, LossOptions, Luspo, Objective, PolicyLoss, policy_loss};
use serde_json::Value;

use super::account::Plan;
use super::{GoldenBatch, Outcome, Setting, close, number, text};

pub fn plan(case: &Value, batch: &GoldenBatch) -> Plan {
    let loss_mode = text(&case["loss_mode"]);
    if !["vanilla", "gspo"].contains(&loss_mode) {
        return Plan::OtherAlgorithm;
    }
    let params = &case["params"];
    let agg_mode = text(&case["loss_agg_mode"]);
    let rollout_is = case["rollout_is"] == true;
    let loss_scale_factor = params.get("scale_factor").map_or(batch.seq() as f64, number);

    // With gspo, seq-mean-token-sum is LUSPO. A sum over all tokens is a sum over the tokens of one sequence.
    let (name, agg_mode, one_sequence) = match (loss_mode, agg_mode) {
        ("gspo", "seq-mean-token-sum") => ("luspo", "seq-mean-token-sum", false),
        (mode, "token-sum") => (mode, "seq-mean-token-sum", true),
        (mode, agg_mode) => (mode, agg_mode, false),
    };
    let policy: Arc<dyn PolicyLoss> = if rollout_is && loss_mode == "gspo" {
        // verl's is the GSPO-token form, which shows where a row's token weights differ.
        by_token(name, number(&params["low"]), number(&params["high"]), agg_mode, loss_scale_factor)
    } else {
        let options = LossOptions {
            clip_ratio_low: params.get("low").map(number),
            clip_ratio_high: params.get("high").map(number),
            clip_ratio_c: params.get("c").map(number),
            log_ratio_clamp: None,
            loss_agg_mode: Some(agg_mode.into()),
            loss_scale_factor,
        };
        policy_loss(name, &options).expect("verl's settings are possible")
    };
    let kl = case.get("kl_loss_type").map(|kind| KlTerm {
        kind: text(kind).parse().expect("verl's estimators are known"),
        coef: number(&case["kl_loss_coef"]),
    });
    let info = case.get("global_batch_info");
    let (mut totals, scale) = info.map_or_else(|| (batch.totals(), 1.0), |info| global(batch, info));
    if one_sequence {
        totals.sequences = 1;
    }
    Plan::Equal(Setting {
        objective: Objective { policy, kl, entropy_coeff: 0.0 },
        totals,
        scale,
        token_weights: rollout_is.then(|| batch.table("rollout_is_weights")),
        token_advantages: case["token_advantages"] == true,
    })
}

fn by_token(name: &str, low: f64, high: f64, agg_mode: &str, scale: f64) -> Arc<dyn PolicyLoss> {
    if name == "luspo" {
        let luspo = Luspo::new().with_clip_ratio_low(low).with_clip_ratio_high(high);
        return Arc::new(luspo.with_token_gradient(true));
    }
    let aggregation = Aggregation::from_name(agg_mode, scale).expect("verl's aggregations are known");
    let gspo = Gspo::new().with_clip_ratio_low(low).with_clip_ratio_high(high).with_loss_agg_mode(aggregation);
    Arc::new(gspo.with_token_gradient(true))
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

/// The metrics that verl reports beside the loss.
pub fn metrics(case: &Value, batch: &GoldenBatch, outcome: &Outcome) -> Vec<String> {
    // Above the clamp of log s the mean of the clamped ones is measured here, and of the others there.
    let by_sequence = text(&case["loss_mode"]) == "gspo";
    let clamped = batch.mean_difference("log_probs", "old_log_probs").iter().any(|&log_ratio| log_ratio > 10.0);
    let names = [
        ("pg_loss", "actor/pg_loss"),
        ("kl_loss", "actor/kl_loss"),
        ("pg_clipfrac", "actor/pg_clipfrac"),
        ("pg_clipfrac_lower", "actor/pg_clipfrac_lower"),
        ("ppo_kl", "actor/ppo_kl"),
    ];
    let compared = names.iter().filter(|(key, _)| !(*key == "ppo_kl" && by_sequence && clamped));
    let wrong = compared.filter_map(|(key, name)| {
        let expected = number(case["out"].get(*key)?);
        let got = outcome.metric(name)?;
        (!close(got, expected)).then(|| format!("{name} {got} instead of {expected}"))
    });
    wrong.collect()
}
