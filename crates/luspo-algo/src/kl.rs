//! Per-token estimates of KL(π, π_ref) from the sampled tokens' log-probs.
//!
//! With d = log π(y_t) − log π_ref(y_t) (<http://joschu.net/blog/kl-approx.html>):
//!
//! ```text
//! k1 = d      k2 = d²/2      k3 = e⁻ᵈ + d − 1      abs = |d|
//! ```
//!
//! The tokens come from the policy that sampled. Times the ratio π/π_old an estimate is one of the present policy's KL
//! ([`KlTerm::times_ratio`]).

use std::fmt;
use std::str::FromStr;

use burn::tensor::Tensor;

use crate::batch::PolicyBatch;
use crate::error::AlgoError;
use crate::ratio;

/// The KL term of an objective: `coef` times the aggregated penalty.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KlTerm {
    /// The estimator.
    pub kind: KlKind,
    /// Its factor, `kl_loss_coef`.
    pub coef: f64,
    /// Multiplies a token's penalty with the importance ratio π/π_old, which has a gradient too and no bound. TRL's
    /// `use_bias_correction_kl`; `None` is verl's choice.
    pub times_ratio: Option<RatioLevel>,
}

impl KlTerm {
    /// The penalty without importance ratio.
    pub fn new(kind: KlKind, coef: f64) -> Self {
        Self { kind, coef, times_ratio: None }
    }

    /// The penalty of each token, before the coefficient, `[batch, seq]`. `ref_log_probs` has no NaN in its padding.
    pub(crate) fn penalty(&self, batch: &PolicyBatch, ref_log_probs: Tensor<2>) -> Tensor<2> {
        let penalty = |reference| self.kind.penalty(batch.log_probs.clone(), reference);
        match (self.times_ratio, self.kind) {
            (None, _) => penalty(ref_log_probs),
            // r (e⁻ᵈ + d − 1) = π_ref/π_old + r (d − 1). So written its gradient r d is no difference of large numbers.
            (Some(RatioLevel::Token), KlKind::K3Unbounded) => {
                let d = batch.log_probs.clone() - ref_log_probs.clone();
                (ref_log_probs - batch.old_log_probs.clone()).exp() + ratio::token(batch).exp() * (d - 1.0)
            }
            (Some(RatioLevel::Token), _) => penalty(ref_log_probs) * ratio::token(batch).exp(),
            (Some(RatioLevel::Sequence), _) => penalty(ref_log_probs) * ratio::sequence(batch).exp(),
        }
    }
}

/// Which importance ratio a token has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RatioLevel {
    /// Its own, π(y_t)/π_old(y_t); name `token`.
    Token,
    /// The geometric mean of its sequence's; name `sequence`.
    Sequence,
}

impl FromStr for RatioLevel {
    type Err = AlgoError;

    fn from_str(name: &str) -> Result<Self, AlgoError> {
        match name {
            "token" => Ok(Self::Token),
            "sequence" => Ok(Self::Sequence),
            _ => Err(AlgoError::UnknownRatioLevel { name: name.into() }),
        }
    }
}

/// An estimator of the KL divergence. The ones with a plus have the value of the first and the gradient of k2, which in
/// expectation is the KL's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KlKind {
    /// d; names `k1`, `kl`.
    K1,
    /// d²/2; names `k2`, `mse`.
    K2,
    /// e⁻ᵈ + d − 1; names `k3`, `low_var_kl`. As in verl, −d is kept within ±20 and the value within ±10, with no
    /// gradient beyond.
    K3,
    /// e⁻ᵈ + d − 1 without bounds, as in TRL; name `k3_unbounded`. Above about 88 nats of −d it is ∞ in f32.
    K3Unbounded,
    /// |d|; name `abs`.
    Abs,
    /// Value of k1, gradient of k2; names `k1+`, `kl+`.
    K1Plus,
    /// Value of k3, gradient of k2; names `k3+`, `low_var_kl+`.
    K3Plus,
    /// Value of abs, gradient of k2; name `abs+`.
    AbsPlus,
}

impl FromStr for KlKind {
    type Err = AlgoError;

    /// The estimator that verl's `kl_loss_type` or `kl_penalty` names.
    fn from_str(name: &str) -> Result<Self, AlgoError> {
        match name {
            "k1" | "kl" => Ok(Self::K1),
            "k2" | "mse" | "k2+" | "mse+" => Ok(Self::K2),
            "k3" | "low_var_kl" => Ok(Self::K3),
            "k3_unbounded" => Ok(Self::K3Unbounded),
            "abs" => Ok(Self::Abs),
            "k1+" | "kl+" => Ok(Self::K1Plus),
            "k3+" | "low_var_kl+" => Ok(Self::K3Plus),
            "abs+" => Ok(Self::AbsPlus),
            _ => Err(AlgoError::UnknownKlKind {
                name: name.into(),
                known:
                    "k1 (or kl), k2 (or mse), k3 (or low_var_kl), abs, each also with + for the gradient of k2, and \
                        k3_unbounded"
                        .into(),
            }),
        }
    }
}

impl fmt::Display for KlKind {
    /// The first of its names.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::K1 => "k1",
            Self::K2 => "k2",
            Self::K3 => "k3",
            Self::K3Unbounded => "k3_unbounded",
            Self::Abs => "abs",
            Self::K1Plus => "k1+",
            Self::K3Plus => "k3+",
            Self::AbsPlus => "abs+",
        })
    }
}

impl KlKind {
    /// The penalty of each token, `[batch, seq]`.
    pub fn penalty(self, log_probs: Tensor<2>, ref_log_probs: Tensor<2>) -> Tensor<2> {
        let d = log_probs - ref_log_probs;
        let square = |d: Tensor<2>| d.clone() * d / 2.0;
        let with_gradient_of_k2 = |value: Tensor<2>, d: Tensor<2>| {
            let k2 = square(d);
            value.detach() + (k2.clone() - k2.detach())
        };
        match self {
            Self::K1 => d,
            Self::K2 => square(d),
            Self::K3 => k3(d),
            Self::K3Unbounded => d.clone().neg().exp() + d - 1.0,
            Self::Abs => d.abs(),
            Self::K1Plus => with_gradient_of_k2(d.clone(), d),
            Self::K3Plus => with_gradient_of_k2(k3(d.clone()), d),
            Self::AbsPlus => with_gradient_of_k2(d.clone().abs(), d),
        }
    }

    /// The penalty of one token with d = log π − log π_ref, in nats: the value that [`penalty`](Self::penalty) has, for
    /// use in a reward.
    pub fn value(self, d: f64) -> f64 {
        match self {
            Self::K1 | Self::K1Plus => d,
            Self::K2 => d * d / 2.0,
            Self::K3 | Self::K3Plus => {
                let k = (-d).clamp(-K3_LARGEST_EXPONENT, K3_LARGEST_EXPONENT);
                (k.exp() - k - 1.0).clamp(-K3_LARGEST_VALUE, K3_LARGEST_VALUE)
            }
            Self::K3Unbounded => (-d).exp() + d - 1.0,
            Self::Abs | Self::AbsPlus => d.abs(),
        }
    }
}

/// verl's bounds of k3.
const K3_LARGEST_EXPONENT: f64 = 20.0;
const K3_LARGEST_VALUE: f64 = 10.0;

fn k3(d: Tensor<2>) -> Tensor<2> {
    let k = (-d).clamp(-K3_LARGEST_EXPONENT, K3_LARGEST_EXPONENT);
    (k.clone().exp() - k - 1.0).clamp(-K3_LARGEST_VALUE, K3_LARGEST_VALUE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::zero_padding;
    use crate::host::{HostBatch, assert_close, devices, numeric_gradient, scalar, tensor, values};

    #[test]
    fn estimators_are_those_of_the_formulas() {
        let (log_probs, reference): (Vec<f64>, Vec<f64>) = (vec![-0.5, -2.0, -1.0, -0.1], vec![-1.5, -1.0, -1.0, -9.1]);
        let d: Vec<f64> = log_probs.iter().zip(&reference).map(|(a, b)| a - b).collect();
        for device in devices() {
            for (name, formula, slope) in [
                ("k1", (|d| d) as fn(f64) -> f64, (|_| 1.0) as fn(f64) -> f64),
                ("k2", |d| d * d / 2.0, |d| d),
                ("k3", |d| (-d).exp() + d - 1.0, |d| 1.0 - (-d).exp()),
                ("k3_unbounded", |d| (-d).exp() + d - 1.0, |d| 1.0 - (-d).exp()),
                ("abs", f64::abs, |d| if d == 0.0 { 0.0 } else { d.signum() }),
                ("k1+", |d| d, |d| d),
                ("k3+", |d| (-d).exp() + d - 1.0, |d| d),
                ("abs+", f64::abs, |d| d),
            ] {
                let kind: KlKind = name.parse().unwrap();
                let leaf = tensor(std::slice::from_ref(&log_probs), &device).autodiff().require_grad();
                let penalty = kind.penalty(leaf.clone(), tensor(std::slice::from_ref(&reference), &device));
                let gradient = values(leaf.grad(&penalty.clone().sum().backward()).unwrap());
                let expected = |f: fn(f64) -> f64| d.iter().map(|&d| f(d)).collect::<Vec<f64>>();
                // f32 rounding of exp and of log-probs up to 10.
                assert_close(&values(penalty.without_autodiff())[0], &expected(formula), 1e-5, 1e-6);
                assert_close(&gradient[0], &expected(slope), 1e-5, 1e-6);
            }
        }
    }

    #[test]
    fn k3_is_bounded_and_flat_beyond_its_bounds() {
        for device in devices() {
            // e³ − 3 − 1 > 10 already; −30 and 1000 are beyond ±20.
            let leaf = tensor(&[vec![-3.0, -1000.0, 30.0, -1.0]], &device).autodiff().require_grad();
            let penalty = KlKind::K3.penalty(leaf.clone(), tensor(&[vec![0.0; 4]], &device));
            let gradient = values(leaf.grad(&penalty.clone().sum().backward()).unwrap());
            assert_close(&values(penalty.without_autodiff())[0], &[10.0, 10.0, 10.0, 1f64.exp() - 2.0], 1e-6, 0.0);
            assert_close(&gradient[0], &[0.0, 0.0, 0.0, 1.0 - 1f64.exp()], 1e-6, 0.0);
        }
    }

    #[test]
    fn beyond_the_bounds_k3_unbounded_goes_on() {
        for device in devices() {
            let leaf = tensor(&[vec![-3.0, -25.0, 30.0]], &device).autodiff().require_grad();
            let penalty = KlKind::K3Unbounded.penalty(leaf.clone(), tensor(&[vec![0.0; 3]], &device));
            let gradient = values(leaf.grad(&penalty.clone().sum().backward()).unwrap());
            let value = |d: f64| (-d).exp() + d - 1.0;
            // An exponential in f32.
            assert_close(&values(penalty.without_autodiff())[0], &[value(-3.0), value(-25.0), value(30.0)], 1e-5, 0.0);
            assert_close(&gradient[0], &[1.0 - 3f64.exp(), 1.0 - 25f64.exp(), 1.0], 1e-5, 0.0);
        }
    }

    #[test]
    fn the_value_of_a_token_is_the_same_on_host_and_device() {
        let differences = vec![-1000.0, -30.0, -3.0, -0.4, 0.0, 0.7, 5.0, 25.0];
        for name in NAMES {
            let kind: KlKind = name.parse().unwrap();
            for device in devices() {
                let zeros = tensor(&[vec![0.0; differences.len()]], &device);
                let expected = values(kind.penalty(tensor(std::slice::from_ref(&differences), &device), zeros));
                for (&d, &expected) in differences.iter().zip(&expected[0]) {
                    let got = kind.value(d);
                    // f32 rounding of numbers up to e³⁰; e¹⁰⁰⁰ is no f32.
                    let overflows = got > f32::MAX.into() && expected == f64::INFINITY;
                    assert!(overflows || (got - expected).abs() <= 1e-5 * expected.abs() + 1e-6, "{name} of {d}");
                }
            }
        }
    }

    const NAMES: [&str; 8] = ["k1", "k2", "k3", "k3_unbounded", "abs", "k1+", "k3+", "abs+"];

    #[test]
    fn names_are_read_and_written_alike() {
        for name in NAMES {
            assert_eq!(name.parse::<KlKind>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn times_the_ratio_the_penalty_has_the_gradient_of_the_product() {
        fn reference(host: &HostBatch, kind: KlKind, by_sequence: bool) -> f64 {
            let tokens = host.tokens().map(|(row, t)| {
                let log_ratio = if by_sequence { host.sequence_log_ratio(row) } else { host.log_ratio(row, t) };
                kind.value(host.log_probs[row][t] - host.ref_log_probs[row][t]) * log_ratio.exp()
            });
            tokens.sum()
        }
        let host = HostBatch::random(4, 5);
        for (kind, (name, by_sequence)) in [KlKind::K2, KlKind::K3, KlKind::K3Unbounded]
            .into_iter()
            .flat_map(|kind| [(kind, ("token", false)), (kind, ("sequence", true))])
        {
            let term = KlTerm { times_ratio: Some(name.parse().unwrap()), ..KlTerm::new(kind, 1.0) };
            let value = reference(&host, kind, by_sequence);
            let expected = numeric_gradient(&host, |host| reference(host, kind, by_sequence)).concat();
            for device in devices() {
                let mut batch = host.batch(&device);
                let leaf = batch.log_probs.autodiff().require_grad();
                batch.log_probs = zero_padding("log_probs", leaf.clone(), &batch.mask);
                let ref_log_probs = zero_padding("ref", tensor(&host.ref_log_probs, &device), &batch.mask);
                let penalty = term.penalty(&batch, ref_log_probs).mask_fill(batch.mask.clone().bool_not(), 0.0).sum();
                let gradient = values(leaf.grad(&penalty.backward()).unwrap()).concat();
                // A few f32 operations on numbers up to about 10, and central differences good to about 1e-9.
                assert_close(&[scalar(penalty.without_autodiff())], &[value], 1e-5, 1e-6);
                assert_close(&gradient, &expected, 1e-5, 4e-6);
            }
        }
    }

    #[test]
    fn an_unknown_level_is_refused_by_name() {
        let error = "word".parse::<RatioLevel>().unwrap_err().to_string();
        assert!(error.contains("`word`") && error.contains("sequence"), "{error}");
    }

    #[test]
    fn an_unknown_estimator_is_refused_by_name() {
        let error = "full".parse::<KlKind>().unwrap_err().to_string();
        assert!(error.contains("`full`") && error.contains("low_var_kl"), "{error}");
    }
}
