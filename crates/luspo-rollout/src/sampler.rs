//! One token from one row of logits, on the host.
//!
//! A token's *weight* is exp((logit − best) / temperature), with the best logit among the tokens that may be sampled:
//! whatever the logits, the best token has weight 1 and nothing overflows. Each filter keeps a prefix of the tokens in
//! order of preference, so that all filters together are one prefix; the token is where the uniform number falls on the
//! kept weights laid end to end in order of id. The work is proportional to the vocabulary: nothing is sorted.

use std::cmp::Ordering;

use luspo_model::row_weights::{BLOCK, block_sums, exponentials, highest};

use crate::Sampling;

#[cfg(test)]
mod tests;

/// A sampled token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Token {
    pub id: u32,
    /// In nats, of the whole distribution at the sampling temperature, filters excluded.
    pub log_prob: f32,
}

/// The tokens before the one that is to be sampled.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Before<'a> {
    pub prompt: &'a [u32],
    pub response: &'a [u32],
}

/// Chooses tokens. What it holds between calls is memory alone.
#[derive(Default)]
pub(crate) struct Sampler {
    weights: Vec<f64>,
    sums: Vec<f64>,
    ids: Vec<u32>,
    changed: Vec<f32>,
}

impl Sampler {
    /// The token that `uniform`, in [0, 1) with at most 53 bits, falls on; `None` if a logit is not finite.
    pub fn sample(&mut self, logits: &[f32], sampling: &Sampling, before: Before<'_>, uniform: f64) -> Option<Token> {
        let greedy = sampling.temperature == 0.0;
        let inverse = if greedy { 1.0 } else { 1.0 / sampling.temperature };
        let (logits, beyond_limit) = logits.split_at(sampling.vocab_limit.min(logits.len()));
        let best = highest(logits)?;
        let scaled = |logit: f32| (f64::from(logit) - f64::from(best)) * inverse;

        exponentials(logits, best, inverse, &mut self.weights);
        block_sums(&self.weights, &mut self.sums);
        let mut log_normalizer = self.sums.iter().sum::<f64>().ln();
        if !beyond_limit.is_empty() {
            let best_beyond = highest(beyond_limit)?;
            let sum: f64 = beyond_limit.iter().map(|&l| (scaled(l) - scaled(best_beyond)).exp()).sum();
            log_normalizer = log_add_exp(log_normalizer, scaled(best_beyond) + sum.ln());
        }

        let changed = change(logits, sampling, before, &mut self.changed);
        let id = match (changed, greedy) {
            (None, true) => position(logits, best),
            (None, false) => self.choose(logits, sampling, uniform),
            (Some(best), greedy) => {
                let changed = std::mem::take(&mut self.changed);
                let id = match greedy {
                    true => position(&changed, best),
                    false => {
                        exponentials(&changed, best, inverse, &mut self.weights);
                        self.choose(&changed, sampling, uniform)
                    }
                };
                self.changed = changed;
                id
            }
        };
        Some(Token { id: id as u32, log_prob: (scaled(logits[id]) - log_normalizer) as f32 })
    }

    /// Where `uniform` falls among the tokens that all filters keep.
    fn choose(&mut self, logits: &[f32], sampling: &Sampling, uniform: f64) -> usize {
        let row = Row { logits, weights: &self.weights };
        let last = row.last_kept(sampling, &mut self.ids);
        if last.is_some() || sampling.min_p > 0.0 {
            drop_others(logits, &mut self.weights, last, sampling.min_p);
        }
        block_sums(&self.weights, &mut self.sums);
        draw(&self.weights, &self.sums, uniform)
    }
}

/// Puts into `changed` the logits as penalties and a minimum length leave them, and returns the best of these; `None` if
/// they leave them as they are.
fn change(logits: &[f32], sampling: &Sampling, before: Before<'_>, changed: &mut Vec<f32>) -> Option<f32> {
    let penalty = sampling.repetition_penalty;
    let too_short = before.response.len() < sampling.min_tokens;
    if penalty == 1.0 && !too_short {
        return None;
    }
    changed.clear();
    changed.extend_from_slice(logits);
    if penalty != 1.0 {
        for &id in before.prompt.iter().chain(before.response) {
            if let (Some(changed), Some(&logit)) = (changed.get_mut(id as usize), logits.get(id as usize)) {
                let logit = f64::from(logit);
                let logit = if logit > 0.0 { logit / penalty } else { logit * penalty };
                // A tiny penalty makes a large logit larger than any f32.
                *changed = logit.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32;
            }
        }
    }
    if too_short {
        for &id in &sampling.stop_token_ids {
            if let Some(changed) = changed.get_mut(id as usize) {
                *changed = f32::NEG_INFINITY;
            }
        }
    }
    Some(changed.iter().copied().fold(f32::NEG_INFINITY, f32::max))
}

/// The tokens that may be sampled.
struct Row<'a> {
    logits: &'a [f32],
    weights: &'a [f64],
}

impl Row<'_> {
    /// Orders tokens by preference: the higher logit first, of equal logits the lower id.
    fn preference(&self, a: u32, b: u32) -> Ordering {
        let (logit_a, logit_b) = (self.logits[a as usize], self.logits[b as usize]);
        logit_b.partial_cmp(&logit_a).expect("no logit is NaN").then(a.cmp(&b))
    }

    fn weight_of(&self, ids: &[u32]) -> f64 {
        ids.iter().map(|&id| self.weights[id as usize]).sum()
    }

    /// The least preferred token that top-k and then top-p keep; `None` if both keep all.
    fn last_kept(&self, sampling: &Sampling, ids: &mut Vec<u32>) -> Option<u32> {
        let top_k = (1..self.logits.len()).contains(&sampling.top_k);
        let top_p = sampling.top_p < 1.0;
        if !top_k && !top_p {
            return None;
        }
        ids.clear();
        ids.extend(0..self.logits.len() as u32);
        let mut last = None;
        if top_k {
            let (_, &mut kth, _) = ids.select_nth_unstable_by(sampling.top_k - 1, |&a, &b| self.preference(a, b));
            ids.truncate(sampling.top_k);
            last = Some(kth);
        }
        if top_p {
            last = Some(self.last_of_nucleus(sampling.top_p, ids));
        }
        last
    }

    /// The least preferred token of the smallest set whose share of the weight of `ids` reaches `top_p` < 1.
    fn last_of_nucleus(&self, top_p: f64, ids: &mut Vec<u32>) -> u32 {
        let total = self.weight_of(ids);
        // Tokens below this weight hold less than 1 − p together, so that the set is found among the others. The best
        // token is never below it.
        let floor = (1.0 - top_p) * total / ids.len() as f64;
        ids.retain(|&id| self.weights[id as usize] >= floor);

        // Halve the range that the last token lies in; what is before the range is in the set.
        let mut missing = top_p * total;
        let mut range = ids.as_mut_slice();
        while range.len() > 1 {
            let middle = range.len() / 2;
            range.select_nth_unstable_by(middle, |&a, &b| self.preference(a, b));
            let (preferred, others) = range.split_at_mut(middle);
            let weight = self.weight_of(preferred);
            range = if weight >= missing {
                preferred
            } else {
                missing -= weight;
                others
            };
        }
        range[0]
    }
}

/// Sets to 0 the weights that the filters do not keep.
fn drop_others(logits: &[f32], weights: &mut [f64], last: Option<u32>, min_p: f64) {
    let (lowest, last) = last.map_or((f32::NEG_INFINITY, usize::MAX), |last| (logits[last as usize], last as usize));
    for (id, (weight, &logit)) in weights.iter_mut().zip(logits).enumerate() {
        let preferred = logit > lowest || (logit == lowest && id <= last);
        if !preferred || *weight < min_p {
            *weight = 0.0;
        }
    }
}

/// Inverts the cumulative distribution over the weights, whose sums by block are `sums`.
fn draw(weights: &[f64], sums: &[f64], uniform: f64) -> usize {
    // Below the total also after rounding, as `uniform` is at most 1 − 2⁻⁵³.
    let target = uniform * sums.iter().sum::<f64>();
    let mut cumulative = 0.0;
    let found = sums.iter().position(|sum| {
        let reached = cumulative + sum > target;
        if !reached {
            cumulative += sum;
        }
        reached
    });
    let first = found.expect("the cumulative weight ends at the total") * BLOCK;
    let block = &weights[first..weights.len().min(first + BLOCK)];
    let within = block.iter().position(|weight| {
        cumulative += weight;
        cumulative > target
    });
    // Added one by one, a block's weights may miss its sum by a rounding.
    let last = || block.iter().rposition(|weight| *weight > 0.0).expect("the sum is above 0");
    first + within.unwrap_or_else(last)
}

/// Where the highest value, which is known, comes first.
fn position(values: &[f32], highest: f32) -> usize {
    values.iter().position(|value| *value == highest).expect("the highest value is one of them")
}

/// ln(eᵃ + eᵇ) without overflow.
fn log_add_exp(a: f64, b: f64) -> f64 {
    a.max(b) + (-(a - b).abs()).exp().ln_1p()
}
