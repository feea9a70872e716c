//! One token from one row of logits, on the host.
//!
//! A token's *weight* is exp((logit − best) / temperature), with the best logit among the tokens that may be sampled:
//! whatever the logits, the best token has weight 1 and nothing overflows. Each filter keeps a prefix of the tokens in
//! order of preference, so that all filters together are one prefix; the token is where the uniform number falls on the
//! kept weights laid end to end in order of id. The work is proportional to the vocabulary: nothing is sorted.

use std::cmp::Ordering;

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

/// Chooses tokens. What it holds between calls is memory alone.
#[derive(Default)]
pub(crate) struct Sampler {
    weights: Vec<f64>,
    ids: Vec<u32>,
}

impl Sampler {
    /// The token that `uniform`, in [0, 1) with at most 53 bits, falls on; `None` if a logit is not finite.
    pub fn sample(&mut self, logits: &[f32], sampling: &Sampling, uniform: f64) -> Option<Token> {
        if !logits.iter().all(|logit| logit.is_finite()) {
            return None;
        }
        let greedy = sampling.temperature == 0.0;
        let temperature = if greedy { 1.0 } else { sampling.temperature };
        let (logits, beyond_limit) = logits.split_at(sampling.vocab_limit.min(logits.len()));
        let best = argmax(logits);
        let scaled = |logit: f32| (f64::from(logit) - f64::from(logits[best])) / temperature;

        self.weights.clear();
        self.weights.extend(logits.iter().map(|&logit| scaled(logit).exp()));
        let mut log_normalizer = self.weights.iter().sum::<f64>().ln();
        if !beyond_limit.is_empty() {
            let highest = scaled(beyond_limit[argmax(beyond_limit)]);
            let rest = highest + beyond_limit.iter().map(|&l| (scaled(l) - highest).exp()).sum::<f64>().ln();
            log_normalizer = log_add_exp(log_normalizer, rest);
        }

        let id = if greedy {
            best
        } else {
            let row = Row { logits, weights: &self.weights };
            let last = row.last_kept(sampling, &mut self.ids);
            row.draw(last, sampling.min_p, uniform)
        };
        Some(Token { id: id as u32, log_prob: (scaled(logits[id]) - log_normalizer) as f32 })
    }
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
        logit_b.partial_cmp(&logit_a).expect("logits are finite").then(a.cmp(&b))
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

    /// Tokens and weights that all filters keep, in order of id.
    fn kept(&self, last: Option<u32>, min_p: f64) -> impl Iterator<Item = (usize, f64)> {
        self.weights.iter().copied().enumerate().filter(move |&(id, weight)| {
            weight >= min_p && last.is_none_or(|last| self.preference(id as u32, last).is_le())
        })
    }

    /// Inverts the cumulative distribution over the kept tokens.
    fn draw(&self, last: Option<u32>, min_p: f64, uniform: f64) -> usize {
        // Below the total also after rounding, as `uniform` is at most 1 − 2⁻⁵³.
        let target = uniform * self.kept(last, min_p).map(|(_, weight)| weight).sum::<f64>();
        let mut cumulative = 0.0;
        let mut kept = self.kept(last, min_p);
        let (id, _) = kept
            .find(|(_, weight)| {
                cumulative += weight;
                cumulative > target
            })
            .expect("the cumulative weight ends at the total");
        id
    }
}

/// The position of the highest value, the first of several. Values are finite and at least one.
fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (i, &value) in values.iter().enumerate() {
        if value > values[best] {
            best = i;
        }
    }
    best
}

/// ln(eᵃ + eᵇ) without overflow.
fn log_add_exp(a: f64, b: f64) -> f64 {
    a.max(b) + (-(a - b).abs()).exp().ln_1p()
}
