//! What sampling asks of a row of logits, in f64: the work is proportional to the vocabulary for every token, and the
//! rest of it is next to nothing.

use super::exp::LANES;
use super::vectorised;

/// Weights whose sum is taken together by [`block_sums`].
pub const BLOCK: usize = 64;

/// The highest of some logits; none if one of them is not finite, or there are none.
pub fn highest(logits: &[f32]) -> Option<f32> {
    let highest = vectorised(|| {
        let (mut lanes, mut sound) = ([f32::NEG_INFINITY; LANES], true);
        let (whole, rest) = logits.as_chunks::<LANES>();
        for logits in whole {
            let mut all = true;
            for (lane, logit) in lanes.iter_mut().zip(logits) {
                all &= logit.abs() < f32::INFINITY;
                *lane = if *logit > *lane { *logit } else { *lane };
            }
            sound &= all;
        }
        sound &= rest.iter().all(|logit| logit.is_finite());
        let highest = rest.iter().chain(&lanes).copied().fold(f32::NEG_INFINITY, f32::max);
        if sound { highest } else { f32::NAN }
    });
    highest.is_finite().then_some(highest)
}

/// exp((z − highest) · inverse) of each logit z, to the rounding of f64; `highest` is not below any of them. A logit of
/// −∞ has weight 0.
pub fn exponentials(logits: &[f32], highest: f32, inverse: f64, weights: &mut Vec<f64>) {
    weights.resize(logits.len(), 0.0);
    vectorised(|| {
        for (weight, logit) in weights.iter_mut().zip(logits) {
            *weight = exp((f64::from(*logit) - f64::from(highest)) * inverse);
        }
    });
}

/// The sums of each [`BLOCK`] weights.
pub fn block_sums(weights: &[f64], sums: &mut Vec<f64>) {
    sums.resize(weights.len().div_ceil(BLOCK), 0.0);
    vectorised(|| {
        for (sum, weights) in sums.iter_mut().zip(weights.chunks(BLOCK)) {
            let mut lanes = [0f64; 8];
            let (whole, rest) = weights.as_chunks::<8>();
            for weights in whole {
                for (lane, weight) in lanes.iter_mut().zip(weights) {
                    *lane += weight;
                }
            }
            *sum = lanes.iter().chain(rest).sum();
        }
    });
}

/// eˣ for x ≤ 0; 0 below the smallest normal result.
///
/// x = n ln 2 + r with |r| ≤ ½ ln 2; the Taylor polynomial of degree 13 in r is exact to 5e-18 there.
#[inline(always)]
fn exp(x: f64) -> f64 {
    const LOWEST: f64 = -708.0;
    /// Adding it to a small number rounds that to an integer, which then stands in the lowest bits.
    const ROUND: f64 = 6_755_399_441_055_744.0; // 1.5 · 2⁵²
    /// ln 2 in two parts, so that n times the first is exact.
    const LN_2_HIGH: f64 = 0.693_147_180_369_123_8;
    const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    const FACTORIALS: [f64; 13] = {
        let (mut inverse, mut k) = ([1.0; 13], 12);
        // 1/12!, 1/11!, …, 1/0!
        let mut factorial = 1.0;
        while k > 0 {
            k -= 1;
            factorial *= (12 - k) as f64;
            inverse[k] = 1.0 / factorial;
        }
        inverse
    };
    let bounded = if x < LOWEST { LOWEST } else { x };
    let shifted = bounded * std::f64::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (bounded - n * LN_2_HIGH) - n * LN_2_LOW;
    let mut power = 1.0 / 6_227_020_800.0;
    for factor in FACTORIALS {
        power = power * r + factor;
    }
    let two_to_n = f64::from_bits((shifted.to_bits() << 52).wrapping_add(1023 << 52));
    if x < LOWEST { 0.0 } else { power * two_to_n }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exact_to_two_units_in_the_last_place() {
        for i in 0..2_000_000 {
            let x = -f64::from(i) * 3.53e-4;
            let exact = x.exp();
            let error = (exp(x) - exact).abs() / exact;
            // 2⁻⁵² is the distance of neighbouring numbers, relative to the lower one.
            assert!(error < 2.0 * 2f64.powi(-52), "exp({x}): {error}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!((exp(-709.0), exp(f64::NEG_INFINITY)), (0.0, 0.0));
    }

    #[test]
    fn the_highest_is_found_wherever_it_is_and_so_is_what_is_not_finite() {
        for n in [1, 15, 16, 17, 100] {
            for at in 0..n {
                let mut logits: Vec<f32> = (0..n).map(|i| -1.0 - i as f32).collect();
                logits[at] = 0.5;
                assert_eq!(highest(&logits), Some(0.5));
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    logits[at] = bad;
                    assert_eq!(highest(&logits), None);
                }
            }
        }
        assert_eq!(highest(&[]), None);
    }

    #[test]
    fn every_weight_is_in_one_block() {
        for n in [1, 63, 64, 65, 130, 1000] {
            let logits: Vec<f32> = (0..n).map(|i| (i % 7) as f32).collect();
            let (mut weights, mut sums) = (Vec::new(), Vec::new());
            exponentials(&logits, 6.0, 0.5, &mut weights);
            block_sums(&weights, &mut sums);
            for (block, sum) in sums.iter().enumerate() {
                let logits = &logits[block * BLOCK..n.min((block + 1) * BLOCK)];
                let expected: f64 = logits.iter().map(|z| ((f64::from(*z) - 6.0) / 2.0).exp()).sum();
                assert!((sum / expected - 1.0).abs() < 1e-14, "{n}, {block}: {sum} {expected}");
            }
        }
    }
}
