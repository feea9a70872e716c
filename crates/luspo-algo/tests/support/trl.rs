//! How to reach TRL's cases. TRL clamps no log-ratio and counts empty rows as sequences.

use luspo_algo::{
    Aggregation, BatchTotals, KlKind, KlTerm, LossOptions, Objective, RatioLevel, TokenFilters, policy_loss,
};
use serde_json::{Map, Value};

use super::account::Plan;
use super::{GoldenBatch, Outcome, Rows, Setting, close, number, text};

const AT_THE_QUANTILE: &str = "the token at the quantile is kept; TRL's rounding may put it below";

const KNOWN_PARAMS: [&str; 15] = [
    "loss_type",
    "level",
    "eps",
    "eps_high",
    "beta",
    "bias_corr",
    "delta",
    "gas",
    "spg",
    "n_items",
    "max_len",
    "vllm",
    "quantile",
    "opsm",
    "entropy_coef",
];

pub fn plan(case: &Value, batch: &GoldenBatch) -> Plan {
    let params = case["params"].as_object().expect("parameters");
    for key in params.keys() {
        assert!(KNOWN_PARAMS.contains(&key.as_str()), "{}: parameter `{key}` is not accounted for", case["id"]);
    }
    let given = |key: &str| params.get(key).map(number);
    let (loss_type, level) = (text(&params["loss_type"]), params.get("level").map_or("token", text));
    let (loss_mode, options) = policy(params, loss_type, level, batch);

    // Every loss type but dapo's family divides by the number of accumulated micro-batches.
    let (totals, gas) = (batch.totals(), given("gas").unwrap_or(1.0));
    let (tokens, scale) = match loss_type {
        "dapo" | "cispo" | "vespo" => (given("n_items"), given("spg").unwrap_or(1.0) / gas),
        _ => (None, 1.0 / gas),
    };
    let tokens = tokens.map_or(totals.tokens, |items| items as usize);

    // KL and ratio go together unless a case says otherwise.
    let corrected = params.get("bias_corr") != Some(&Value::Bool(false));
    let times_ratio = corrected.then(|| level.parse::<RatioLevel>().expect("TRL's levels are known"));
    let kl = given("beta").map(|beta| KlTerm { times_ratio, ..KlTerm::new(KlKind::K3Unbounded, beta) });
    let setting = Setting {
        objective: Objective {
            kl,
            entropy_coeff: given("entropy_coef").unwrap_or(0.0),
            entropy_aggregation: Some(Aggregation::TokenMean),
            filters: TokenFilters { off_policy_mask_threshold: given("opsm"), top_entropy_quantile: given("quantile") },
            ..Objective::new(policy_loss(loss_mode, &options).expect("TRL's settings are possible"))
        },
        totals: BatchTotals { sequences: totals.rows, tokens, ..totals },
        scale,
        token_weights: sampler_weights(params, batch),
        token_advantages: false,
    };
    match given("quantile").is_some_and(|share| falls_below_itself(batch.tokens("entropies"), 1.0 - share)) {
        true => Plan::Differs(setting, AT_THE_QUANTILE),
        false => Plan::Equal(setting),
    }
}

/// Whether a quantile is one of the values, rounded up: TRL takes it in f32, and compares with f64 here.
fn falls_below_itself(mut values: Vec<f64>, quantile: f64) -> bool {
    values.sort_by(f64::total_cmp);
    let position = quantile * values.len().saturating_sub(1) as f64;
    let at = values.get(position as usize).filter(|_| position.fract() == 0.0);
    at.is_some_and(|&value| f64::from(value as f32) > value)
}

/// The loss that a `loss_type` with this level of ratios is here.
fn policy(
    params: &Map<String, Value>,
    loss_type: &str,
    level: &str,
    batch: &GoldenBatch,
) -> (&'static str, LossOptions) {
    let given = |key: &str| params.get(key).map(number);
    let (clip_ratio_low, loss_scale_factor) = (given("eps").unwrap_or(0.2), batch.seq() as f64);
    let loss_agg_mode = match loss_type {
        "grpo" => "seq-mean-token-mean",
        "luspo" => "seq-mean-token-sum",
        "bnpo" | "dapo" => "token-mean",
        "dr_grpo" => "seq-mean-token-sum-norm",
        // These have no range of ratios, and the aggregation that is their default here.
        "cispo" => {
            let options = LossOptions { cispo_max_ratio: given("eps_high"), ..LossOptions::default() };
            return ("cispo", LossOptions { log_ratio_clamp: Some(0.0), ..options });
        }
        "sapo" => return ("sapo", LossOptions { log_ratio_clamp: Some(0.0), ..LossOptions::default() }),
        "vespo" => return ("vespo", LossOptions::default()),
        other => panic!("loss type `{other}` is not accounted for"),
    };
    let scaled = loss_type == "dr_grpo";
    let options = LossOptions {
        clip_ratio_low: Some(clip_ratio_low),
        clip_ratio_high: given("eps_high").or(Some(clip_ratio_low)),
        delta: given("delta"),
        log_ratio_clamp: Some(0.0),
        loss_agg_mode: Some(loss_agg_mode.into()),
        loss_scale_factor: scaled.then(|| given("max_len").unwrap_or(loss_scale_factor)),
        ..LossOptions::default()
    };
    match (loss_type, level) {
        ("luspo", "sequence") => ("luspo", options),
        (_, "sequence") => ("gspo", options),
        _ => ("grpo", options),
    }
}

/// What TRL multiplies a token's term with, because vLLM's log-probs are others.
fn sampler_weights(params: &Map<String, Value>, batch: &GoldenBatch) -> Option<Rows> {
    let weights = batch.table("rollout_is_weights");
    match text(params.get("vllm")?) {
        "token" => Some(weights),
        // One weight a row, in its first column.
        "sequence" => Some(weights.into_iter().map(|row| vec![row[0]; row.len()]).collect()),
        other => panic!("importance weights by `{other}` are not accounted for"),
    }
}

/// The metrics that TRL reports and that are measured in the same way here.
pub fn metrics(case: &Value, _: &GoldenBatch, outcome: &Outcome) -> Vec<String> {
    // The policy loss is reported beside an entropy bonus, none of which cases has a KL term or accumulates.
    let names = [("entropy", "actor/entropy"), ("policy_loss", "actor/pg_loss")];
    let wrong = names.iter().filter_map(|(key, name)| {
        let expected = number(case["out"].get("metrics")?.get(*key)?);
        let got = outcome.metric(name)?;
        (!close(got, expected)).then(|| format!("{name} {got} instead of {expected}"))
    });
    wrong.collect()
}
