//! How to reach TRL's cases. TRL clamps no ratio and counts empty rows as sequences.

use std::sync::Arc;

use luspo_algo::{Aggregation, BatchTotals, Grpo, Gspo, KlKind, KlTerm, Luspo, Objective, PolicyLoss};
use serde_json::Value;

use super::account::Plan;
use super::{GoldenBatch, Rows, Setting, number, text};

const KL_TIMES_RATIO: &str = "no PolicyLoss contains KL: its term is not multiplied by the ratio";
const K3_BOUNDS: &str = "k3 is bounded as in verl";
const RATIO_CAP: &str = "no bound of the ratio for both signs of the advantage";
const ENTROPY_AGGREGATION: &str = "the entropy term uses the policy's aggregation";

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
    let param = |key: &str, default: f64| params.get(key).map_or(default, number);
    let loss_type = text(&params["loss_type"]);
    let by_sequence = params.get("level").is_some_and(|level| level == "sequence");

    let mut totals = batch.totals();
    totals.tokens = totals.tokens.max(1);
    let gas = param("gas", 1.0);
    // Every loss type but dapo divides by the number of accumulated micro-batches.
    let (totals, accumulated) = (BatchTotals { sequences: totals.rows, ..totals }, 1.0 / gas);
    let (aggregation, totals, scale) = match loss_type {
        "grpo" => (Aggregation::SeqMeanTokenMean, totals, accumulated),
        "luspo" => (Aggregation::SeqMeanTokenSum, totals, accumulated),
        "bnpo" => (Aggregation::TokenMean, totals, accumulated),
        "dr_grpo" => {
            let loss_scale_factor = param("max_len", batch.seq() as f64);
            (Aggregation::SeqMeanTokenSumNorm { loss_scale_factor }, totals, accumulated)
        }
        "dapo" => {
            let tokens = param("n_items", totals.tokens as f64) as usize;
            (Aggregation::TokenMean, BatchTotals { tokens, ..totals }, param("spg", 1.0) / gas)
        }
        _ => return Plan::OtherAlgorithm,
    };

    let low = param("eps", 0.2);
    let policy = policy(loss_type, by_sequence, low, param("eps_high", low), aggregation);
    let beta = param("beta", 0.0);
    let kl = (beta != 0.0).then_some(KlTerm { kind: KlKind::K3, coef: beta });
    let setting = Setting {
        objective: Objective { policy, kl, entropy_coeff: param("entropy_coef", 0.0) },
        totals,
        scale,
        token_weights: token_weights(params, batch),
        token_advantages: false,
    };

    if kl.is_some() && params.get("bias_corr") != Some(&Value::Bool(false)) {
        return Plan::Differs(setting, KL_TIMES_RATIO);
    }
    if kl.is_some() && exceeds_k3_bounds(batch) {
        return Plan::Differs(setting, K3_BOUNDS);
    }
    if params.get("delta").is_some_and(|cap| exceeds(batch, number(cap), by_sequence, param("eps_high", low))) {
        return Plan::Differs(setting, RATIO_CAP);
    }
    if setting.objective.entropy_coeff != 0.0 {
        return Plan::Differs(setting, ENTROPY_AGGREGATION);
    }
    Plan::Equal(setting)
}

/// The case with an entropy bonus, without it: TRL reports its policy loss, and entropies are constants there.
pub fn without_entropy(case: &Value, batch: &GoldenBatch) -> Option<Setting> {
    match plan(case, batch) {
        Plan::Differs(mut setting, ENTROPY_AGGREGATION) => {
            setting.objective.entropy_coeff = 0.0;
            Some(setting)
        }
        _ => None,
    }
}

fn policy(loss_type: &str, by_sequence: bool, low: f64, high: f64, aggregation: Aggregation) -> Arc<dyn PolicyLoss> {
    if !by_sequence {
        let grpo = Grpo::new().with_clip_ratio_low(low).with_clip_ratio_high(high);
        return Arc::new(grpo.with_loss_agg_mode(aggregation).with_log_ratio_clamp(None));
    }
    if loss_type == "luspo" {
        let luspo = Luspo::new().with_clip_ratio_low(low).with_clip_ratio_high(high);
        return Arc::new(luspo.with_log_ratio_clamp(None));
    }
    let gspo = Gspo::new().with_clip_ratio_low(low).with_clip_ratio_high(high);
    Arc::new(gspo.with_loss_agg_mode(aggregation).with_log_ratio_clamp(None))
}

/// What TRL multiplies a token's term with.
fn token_weights(params: &serde_json::Map<String, Value>, batch: &GoldenBatch) -> Option<Rows> {
    let seq = batch.seq();
    let by_row = |weights: Vec<f64>| weights.into_iter().map(|weight| vec![weight; seq]).collect::<Rows>();
    let mut factors = Vec::new();
    if let Some(vllm) = params.get("vllm") {
        let weights = batch.table("rollout_is_weights");
        factors.push(match text(vllm) {
            "token" => weights,
            // One weight a row, in its first column.
            "sequence" => by_row(weights.iter().map(|row| row[0]).collect()),
            other => panic!("importance weights by `{other}` are not accounted for"),
        });
    }
    if let Some(quantile) = params.get("quantile") {
        let threshold = quantile_in_f32(batch.tokens("entropies"), number(quantile));
        let entropies = batch.table("entropies");
        let keep = |row: &Vec<f64>| row.iter().map(|&h| f64::from(u8::from(h >= threshold))).collect();
        factors.push(entropies.iter().map(keep).collect());
    }
    if let Some(limit) = params.get("opsm") {
        let (gaps, limit) = (batch.mean_difference("sampling_log_probs", "log_probs"), number(limit));
        let keep = batch.advantages().into_iter().zip(gaps).map(|(advantage, gap)| {
            let off_policy = advantage < 0.0 && gap > limit;
            f64::from(u8::from(!off_policy))
        });
        factors.push(by_row(keep.collect()));
    }
    factors.into_iter().reduce(|product, factor| {
        let row = |(a, b): (&Vec<f64>, &Vec<f64>)| a.iter().zip(b).map(|(a, b)| a * b).collect();
        product.iter().zip(&factor).map(row).collect()
    })
}

/// A quantile with linear interpolation; TRL takes it in f32, which decides whether the median itself is kept.
fn quantile_in_f32(values: Vec<f64>, quantile: f64) -> f64 {
    let mut sorted: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
    if sorted.is_empty() {
        return 0.0;
    }
    sorted.sort_by(f32::total_cmp);
    let position = quantile * (sorted.len() - 1) as f64;
    let below = sorted[position.floor() as usize];
    let above = sorted[position.ceil() as usize];
    f64::from(below + (above - below) * position.fract() as f32)
}

/// Whether a ratio is above `cap` where the clip does not hide it.
fn exceeds(batch: &GoldenBatch, cap: f64, by_sequence: bool, high: f64) -> bool {
    let (mask, advantages) = (batch.mask(), batch.advantages());
    let (log_probs, old_log_probs) = (batch.table("log_probs"), batch.table("old_log_probs"));
    let means = batch.mean_difference("log_probs", "old_log_probs");
    (0..mask.len()).any(|row| {
        let log_ratio = |t: usize| if by_sequence { means[row] } else { log_probs[row][t] - old_log_probs[row][t] };
        let visible = advantages[row] < 0.0 || cap < 1.0 + high;
        visible && (0..mask[row].len()).any(|t| mask[row][t] && log_ratio(t).exp() > cap)
    })
}

fn exceeds_k3_bounds(batch: &GoldenBatch) -> bool {
    let difference = batch.tokens("ref_log_probs").into_iter().zip(batch.tokens("log_probs")).map(|(r, p)| r - p);
    difference.into_iter().any(|k| k.abs() > 20.0 || k.exp() - k - 1.0 > 10.0)
}
