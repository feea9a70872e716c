//! `exp` and reductions that the compiler can vectorise.

/// Independent partial results of a reduction: as many as the widest vectors hold.
pub(super) const LANES: usize = 16;

/// eˣ for x up to 88, and e⁸⁸ above, within 2 units in the last place; 0 below the smallest normal result. NaN stays NaN.
///
/// x = n ln 2 + r with |r| ≤ ½ ln 2; the Taylor polynomial of degree 7 in r is exact to 6e-9 there.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const LOWEST: f32 = -87.0;
    const HIGHEST: f32 = 88.0;
    /// Adding it to a small number rounds that to an integer, which then stands in the lowest bits.
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³
    /// ln 2 in two parts, so that n times the first is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;

    let bounded = if x < LOWEST { LOWEST } else { x };
    let bounded = if bounded > HIGHEST { HIGHEST } else { bounded };
    let shifted = bounded * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (bounded - n * LN_2_HIGH) - n * LN_2_LOW;
    let mut power = 1.0 / 5040.0;
    for factor in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        power = power * r + factor;
    }
    let two_to_n = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    let result = power * two_to_n;
    if x < LOWEST { 0.0 } else { result }
}

/// The highest value; NaNs are passed over.
#[inline(always)]
pub(super) fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = values.as_chunks::<LANES>();
    for values in whole {
        for (lane, value) in lanes.iter_mut().zip(values) {
            *lane = if *value > *lane { *value } else { *lane };
        }
    }
    rest.iter().chain(&lanes).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// Σ f(x), where `f` may change x. Short runs are summed in f32, the runs in f64.
#[inline(always)]
pub(super) fn sum_of(values: &mut [f32], f: impl Fn(&mut f32) -> f32) -> f64 {
    const RUN: usize = 64 * LANES;
    let mut total = 0.0;
    for run in values.chunks_mut(RUN) {
        let mut lanes = [0f32; LANES];
        let (whole, rest) = run.as_chunks_mut::<LANES>();
        for values in whole {
            for (lane, value) in lanes.iter_mut().zip(values) {
                *lane += f(value);
            }
        }
        for (lane, value) in lanes.iter_mut().zip(rest) {
            *lane += f(value);
        }
        total += lanes.iter().map(|lane| f64::from(*lane)).sum::<f64>();
    }
    total
}

/// Σ a·b in f32.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let ((a, rest_a), (b, rest_b)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    let rest: f32 = rest_a.iter().zip(rest_b).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exact_to_two_units_in_the_last_place() {
        for i in -870_000..880_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            // 2⁻²³ is the distance of neighbouring floats, relative to the lower one.
            assert!(error < 2.0 * 2f64.powi(-23), "exp({x}): {error}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn reductions_reach_every_value() {
        for n in [1, 15, 16, 17, 100, 2100] {
            let values: Vec<f32> = (0..n).map(|i| (i * 37 % 101) as f32 - 50.0).collect();
            assert_eq!(max(&values), values.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            // Small integers: every order of summation is exact.
            assert_eq!(dot(&values, &values), values.iter().map(|x| x * x).sum::<f32>());
            let sum = values.iter().map(|x| f64::from(*x)).sum::<f64>();
            assert_eq!(sum_of(&mut values.clone(), |x| *x), sum);
        }
    }
}
