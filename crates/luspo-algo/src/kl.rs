//! Per-token estimates of KL(π, π_ref) from the sampled tokens' log-probs.
//!
//! With d = log π(y_t) − log π_ref(y_t) (<http://joschu.net/blog/kl-approx.html>):
//!
//! ```text
//! k1 = d      k2 = d²/2      k3 = e⁻ᵈ + d − 1      abs = |d|
//! ```

use std::str::FromStr;

use burn::tensor::Tensor;

use crate::error::AlgoError;

/// The KL term of an objective: `coef` times the aggregated penalty.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KlTerm {
    /// The estimator.
    pub kind: KlKind,
    /// Its factor, `kl_loss_coef`.
    pub coef: f64,
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

    fn from_str(name: &str) -> Result<Self, AlgoError> {
        match name {
            "k1" | "kl" => Ok(Self::K1),
            "k2" | "mse" | "k2+" | "mse+" => Ok(Self::K2),
            "k3" | "low_var_kl" => Ok(Self::K3),
            "abs" => Ok(Self::Abs),
            "k1+" | "kl+" => Ok(Self::K1Plus),
            "k3+" | "low_var_kl+" => Ok(Self::K3Plus),
            "abs+" => Ok(Self::AbsPlus),
            _ => Err(AlgoError::UnknownKlKind {
                name: name.into(),
                known: "k1 (or kl), k2 (or mse), k3 (or low_var_kl), abs, each also with + for the gradient of k2"
                    .into(),
            }),
        }
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
            Self::Abs => d.abs(),
            Self::K1Plus => with_gradient_of_k2(d.clone(), d),
            Self::K3Plus => with_gradient_of_k2(k3(d.clone()), d),
            Self::AbsPlus => with_gradient_of_k2(d.clone().abs(), d),
        }
    }
}

fn k3(d: Tensor<2>) -> Tensor<2> {
    let k = (-d).clamp(-20.0, 20.0);
    (k.clone().exp() - k - 1.0).clamp(-10.0, 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{assert_close, devices, tensor, values};

    #[test]
    fn estimators_are_those_of_the_formulas() {
        let (log_probs, reference): (Vec<f64>, Vec<f64>) = (vec![-0.5, -2.0, -1.0, -0.1], vec![-1.5, -1.0, -1.0, -9.1]);
        let d: Vec<f64> = log_probs.iter().zip(&reference).map(|(a, b)| a - b).collect();
        for device in devices() {
            for (name, formula, slope) in [
                ("k1", (|d| d) as fn(f64) -> f64, (|_| 1.0) as fn(f64) -> f64),
                ("k2", |d| d * d / 2.0, |d| d),
                ("k3", |d| (-d).exp() + d - 1.0, |d| 1.0 - (-d).exp()),
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
    fn an_unknown_estimator_is_refused_by_name() {
        let error = "full".parse::<KlKind>().unwrap_err().to_string();
        assert!(error.contains("`full`") && error.contains("low_var_kl"), "{error}");
    }
}
