//! Rejection of tokens or sequences that the sampler's policy and the trainer's disagree about.

use super::{Metrics, RolloutCorrectionOptions, SAFETY_BOUND, threshold};
use super::{bounded_deviation, deviation, largest, share, smallest};
use crate::error::AlgoError;
use crate::masked;

/// One rule: a divergence, and how much of it passes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rule {
    name: &'static str,
    scope: Scope,
    kind: Kind,
    /// Of k1 alone, whose sign says something.
    lower: Option<f64>,
    upper: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Token,
    Sum,
    Mean,
    Max,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    K1,
    K2,
    K3,
}

const KNOWN: [(&str, Scope, Kind); 11] = [
    ("token_k1", Scope::Token, Kind::K1),
    ("token_k2", Scope::Token, Kind::K2),
    ("token_k3", Scope::Token, Kind::K3),
    ("seq_sum_k1", Scope::Sum, Kind::K1),
    ("seq_sum_k2", Scope::Sum, Kind::K2),
    ("seq_sum_k3", Scope::Sum, Kind::K3),
    ("seq_mean_k1", Scope::Mean, Kind::K1),
    ("seq_mean_k2", Scope::Mean, Kind::K2),
    ("seq_mean_k3", Scope::Mean, Kind::K3),
    ("seq_max_k2", Scope::Max, Kind::K2),
    ("seq_max_k3", Scope::Max, Kind::K3),
];

/// The rules of a config.
pub(super) fn rules(options: &RolloutCorrectionOptions) -> Result<Vec<Rule>, AlgoError> {
    const THRESHOLD: &str = "rollout_rs_threshold";
    let (names, thresholds) = match (&options.rollout_rs, &options.rollout_rs_threshold) {
        (None, None) => return Ok(Vec::new()),
        (None, Some(_)) => return Err(AlgoError::WithoutEffect { key: THRESHOLD, needs: "rollout_rs" }),
        (Some(_), None) => return Err(AlgoError::WithoutEffect { key: "rollout_rs", needs: THRESHOLD }),
        (Some(names), Some(thresholds)) => (names, thresholds),
    };
    let rules = threshold::list(names);
    let of_rules = threshold::list(thresholds);
    if rules.is_empty() {
        let expected = "a comma list of rules";
        return Err(AlgoError::Malformed { key: "rollout_rs", text: names.clone(), expected });
    }
    if of_rules.len() != 1 && of_rules.len() != rules.len() {
        let expected = "one threshold, or one for each rule of rollout_rs";
        return Err(AlgoError::Malformed { key: THRESHOLD, text: thresholds.clone(), expected });
    }
    let of_rule = |index: usize| if of_rules.len() == 1 { of_rules[0] } else { of_rules[index] };
    rules.iter().enumerate().map(|(index, name)| Rule::new(name, of_rule(index))).collect()
}

/// The mask of what every rule lets pass.
pub(super) fn keep(
    rules: &[Rule],
    log_ratio: &[Vec<f64>],
    mask: &[Vec<bool>],
    metrics: &mut Metrics,
) -> Vec<Vec<bool>> {
    let mut kept = mask.to_vec();
    for rule in rules {
        let divergence = rule.divergence(log_ratio, mask);
        let mut passes = mask.to_vec();
        for (row, passes) in passes.iter_mut().enumerate() {
            for (t, passes) in passes.iter_mut().enumerate() {
                *passes &= rule.lets_pass(divergence[row][t]);
            }
        }
        rule.measure(&divergence, mask, metrics);
        let name = rule.name;
        let valid = mask.iter().filter(|mask| mask.contains(&true)).count();
        metrics.push(format!("rollout_rs_{name}_masked_fraction"), rejected_tokens(&passes, mask));
        let of_valid = rejected_rows(&passes, mask) as f64 / valid.max(1) as f64;
        metrics.push(format!("rollout_rs_{name}_seq_masked_fraction"), of_valid);
        for (kept, passes) in kept.iter_mut().flatten().zip(passes.iter().flatten()) {
            *kept &= passes;
        }
    }
    if !rules.is_empty() {
        metrics.push("rollout_rs_masked_fraction", rejected_tokens(&kept, mask));
        let of_all = rejected_rows(&kept, mask) as f64 / mask.len().max(1) as f64;
        metrics.push("rollout_rs_seq_masked_fraction", of_all);
    }
    kept
}

/// The share of response tokens that do not pass.
fn rejected_tokens(passes: &[Vec<bool>], mask: &[Vec<bool>]) -> f64 {
    let tokens = passes.iter().flatten().zip(mask.iter().flatten()).filter(|(_, inside)| **inside);
    masked::mean_of(tokens.map(|(passes, _)| f64::from(u8::from(!passes))))
}

/// How many rows lose a token.
fn rejected_rows(passes: &[Vec<bool>], mask: &[Vec<bool>]) -> usize {
    passes.iter().zip(mask).filter(|(passes, mask)| passes != mask).count()
}

impl Rule {
    fn new(name: &str, threshold: &str) -> Result<Self, AlgoError> {
        let Some(&(name, scope, kind)) = KNOWN.iter().find(|(known, ..)| *known == name) else {
            let known = KNOWN.map(|(name, ..)| name).join(", ");
            return Err(AlgoError::UnknownName { key: "rollout_rs", name: name.into(), known });
        };
        let (lower, upper) = match (kind, threshold::bounds("rollout_rs_threshold", threshold)?) {
            (Kind::K1, (lower, upper)) => {
                // A single bound below 1 would be the lower one.
                let lower = lower.unwrap_or(1.0 / upper);
                if lower > upper {
                    return Err(malformed(threshold, "at least 1 where it is the only bound of a k1 rule"));
                }
                (Some(lower.ln()), upper.ln())
            }
            (_, (None, upper)) => (None, upper),
            (_, (Some(_), _)) => return Err(malformed(threshold, "a single bound for a k2 or k3 rule")),
        };
        Ok(Self { name, scope, kind, lower, upper })
    }

    /// The divergence that each token is judged by: its own, or its sequence's.
    fn divergence(&self, log_ratio: &[Vec<f64>], mask: &[Vec<bool>]) -> Vec<Vec<f64>> {
        let own = masked::fill(mask, |row, t| {
            let rho = log_ratio[row][t].clamp(-SAFETY_BOUND, SAFETY_BOUND);
            match self.kind {
                Kind::K1 => -rho,
                Kind::K2 => rho * rho / 2.0,
                Kind::K3 => rho.exp() - 1.0 - rho,
            }
        });
        let of_row = |row: usize| {
            let tokens = masked::of_row(&own[row], &mask[row]);
            match self.scope {
                Scope::Sum => tokens.sum(),
                Scope::Max => largest(tokens),
                Scope::Token | Scope::Mean => masked::mean_of(tokens),
            }
        };
        if self.scope == Scope::Token {
            return own;
        }
        let of_rows: Vec<f64> = (0..mask.len()).map(of_row).collect();
        masked::fill(mask, |row, _| of_rows[row])
    }

    fn lets_pass(&self, divergence: f64) -> bool {
        divergence <= self.upper && self.lower.is_none_or(|lower| divergence >= lower)
    }

    fn measure(&self, divergence: &[Vec<f64>], mask: &[Vec<bool>], metrics: &mut Metrics) {
        let (lower, upper) = (self.lower, self.upper);
        let mut push = |name: &str, value: f64| metrics.push(format!("rollout_rs_{}_{name}", self.name), value);
        let tokens = masked::tokens(divergence, mask);
        // Of a sequence's rule all tokens have the same value, which is then the mean too.
        let of_rows = masked::sequence_means(divergence, mask);
        let rows = of_rows.iter().copied();
        let too_low = |value: f64| lower.is_some_and(|lower| value < lower);

        let judged: Vec<f64> = if self.scope == Scope::Token { tokens.clone().collect() } else { of_rows.clone() };
        let judged = judged.iter().copied();
        push("mean", masked::mean_of(tokens.clone()));
        push("max", largest(judged.clone()));
        push("min", smallest(judged.clone()));
        push("fraction_high", share(judged.clone(), |value| value > upper));
        push("fraction_low", share(judged, too_low));
        push("std", bounded_deviation(tokens, lower.unwrap_or(0.0), upper));

        push("seq_mean", masked::mean_of(rows.clone()));
        push("seq_std", deviation(rows.clone()));
        push("seq_max", largest(rows.clone()));
        push("seq_min", smallest(rows.clone()));
        push("seq_max_deviation", largest(rows.clone().map(f64::abs)));
        push("seq_fraction_high", share(rows.clone(), |value| value > upper));
        if lower.is_some() {
            push("seq_fraction_low", share(rows, too_low));
        }
    }
}

fn malformed(text: &str, expected: &'static str) -> AlgoError {
    AlgoError::Malformed { key: "rollout_rs_threshold", text: text.into(), expected }
}
