//! Coefficients that follow what they control.

use burn::serde::{Deserialize, Serialize};

use crate::error::{AlgoError, in_range};

/// The coefficient of a KL penalty in the reward. Its serialised form is the whole state.
///
/// The adaptive one steers towards a target (arXiv 1909.08593):
///
/// ```text
/// β ← β · (1 + clip(kl / target − 1, ±0.2) · n / horizon)
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(crate = "burn::serde", tag = "type", rename_all = "snake_case")]
pub enum KlController {
    /// Never changes.
    Fixed {
        /// The coefficient.
        #[serde(with = "exact")]
        kl_coef: f64,
    },
    /// Rises where the policy is further away than wanted, falls where it is closer.
    Adaptive {
        /// The coefficient as it is now.
        #[serde(with = "exact")]
        kl_coef: f64,
        /// The divergence to keep, in nats.
        #[serde(with = "exact")]
        target_kl: f64,
        /// How many samples a change takes.
        #[serde(with = "exact")]
        horizon: f64,
    },
}

/// Largest relative distance from the target that a change answers to.
const KL_LARGEST_ERROR: f64 = 0.2;

impl KlController {
    /// The controller of a `kl_ctrl.type`: `fixed` reads `kl_coef` alone, `adaptive` all three.
    ///
    /// # Errors
    /// If the name is unknown, the coefficient is negative, or a target or horizon that is read is not above 0.
    pub fn from_name(name: &str, kl_coef: f64, target_kl: f64, horizon: f64) -> Result<Self, AlgoError> {
        in_range("kl_ctrl.kl_coef", kl_coef, kl_coef >= 0.0, "at least 0")?;
        match name {
            "fixed" => Ok(Self::Fixed { kl_coef }),
            "adaptive" => {
                in_range("kl_ctrl.target_kl", target_kl, target_kl > 0.0, "above 0")?;
                in_range("kl_ctrl.horizon", horizon, horizon > 0.0, "above 0")?;
                Ok(Self::Adaptive { kl_coef, target_kl, horizon })
            }
            _ => {
                let known = "fixed, adaptive".into();
                Err(AlgoError::UnknownName { key: "kl_ctrl.type", name: name.into(), known })
            }
        }
    }

    /// The coefficient.
    pub fn value(&self) -> f64 {
        match *self {
            Self::Fixed { kl_coef } | Self::Adaptive { kl_coef, .. } => kl_coef,
        }
    }

    /// Takes note of the divergence of `n_steps` samples (rows of a step), in nats.
    pub fn update(&mut self, kl: f64, n_steps: usize) {
        if let Self::Adaptive { kl_coef, target_kl, horizon } = self {
            let error = (kl / *target_kl - 1.0).clamp(-KL_LARGEST_ERROR, KL_LARGEST_ERROR);
            *kl_coef *= 1.0 + error * n_steps as f64 / *horizon;
        }
    }
}

/// The coefficient of the entropy bonus. Its serialised form is the whole state.
///
/// The adaptive one moves by a constant after each update, up while the entropy is at or below its target and down while
/// it is above, and is applied in the former case alone (arXiv 2505.22312; TRL's `use_adaptive_entropy`). Before the
/// first measurement nothing is applied.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(crate = "burn::serde", tag = "type", rename_all = "snake_case")]
pub enum EntropyController {
    /// Never changes.
    Fixed {
        /// The coefficient.
        #[serde(with = "exact")]
        entropy_coeff: f64,
    },
    /// Keeps the entropy from falling below a target.
    Adaptive {
        /// The coefficient as it is now.
        #[serde(with = "exact")]
        entropy_coeff: f64,
        /// By how much it moves after an update.
        #[serde(with = "exact")]
        delta: f64,
        /// Its lower bound.
        #[serde(with = "exact")]
        min: f64,
        /// Its upper bound.
        #[serde(with = "exact")]
        max: f64,
        /// The entropy to keep, in nats a token.
        #[serde(with = "exact")]
        target: f64,
        /// The entropy of the last update, in nats a token; infinite before the first.
        #[serde(with = "exact")]
        last_entropy: f64,
    },
}

impl EntropyController {
    /// A controller that starts at `entropy_coeff`, moves by `delta` within `min` to `max`, and keeps `target` nats a
    /// token. TRL's defaults are a delta of 0.005, bounds 0 and 1, and a target of 0.2.
    ///
    /// # Errors
    /// If a number is not finite, delta or target are negative, or the bounds do not enclose the start.
    pub fn adaptive(entropy_coeff: f64, delta: f64, min: f64, max: f64, target: f64) -> Result<Self, AlgoError> {
        in_range("entropy_coeff_min", min, min <= max, "at most entropy_coeff_max")?;
        in_range("entropy_coeff_max", max, true, "finite")?;
        let enclosed = (min..=max).contains(&entropy_coeff);
        in_range("entropy_coeff", entropy_coeff, enclosed, "from entropy_coeff_min to entropy_coeff_max")?;
        in_range("entropy_coeff_delta", delta, delta >= 0.0, "at least 0")?;
        in_range("entropy_target", target, target >= 0.0, "at least 0")?;
        Ok(Self::Adaptive { entropy_coeff, delta, min, max, target, last_entropy: f64::INFINITY })
    }

    /// The coefficient to apply in the next update.
    pub fn value(&self) -> f64 {
        match *self {
            Self::Fixed { entropy_coeff } => entropy_coeff,
            Self::Adaptive { entropy_coeff, target, last_entropy, .. } if last_entropy <= target => entropy_coeff,
            Self::Adaptive { .. } => 0.0,
        }
    }

    /// Takes note of an update's mean entropy, in nats a token.
    pub fn update(&mut self, entropy: f64) {
        if let Self::Adaptive { entropy_coeff, delta, min, max, target, last_entropy } = self {
            let step = if entropy <= *target { *delta } else { -*delta };
            *entropy_coeff = (*entropy_coeff + step).clamp(*min, *max);
            *last_entropy = entropy;
        }
    }
}

/// Numbers as text: JSON readers may be one bit off, and a run that goes on has to go on exactly.
mod exact {
    use burn::serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&value.to_string())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_coefficient_stays() {
        let mut kl = KlController::from_name("fixed", 0.001, 0.0, 0.0).unwrap();
        kl.update(100.0, 1000);
        assert_eq!(kl.value(), 0.001);
        let mut entropy = EntropyController::Fixed { entropy_coeff: 0.01 };
        entropy.update(0.0);
        assert_eq!(entropy.value(), 0.01);
    }

    #[test]
    fn an_adaptive_kl_coefficient_rises_and_falls_by_a_fifth_of_n_over_horizon_at_most() {
        let mut kl = KlController::from_name("adaptive", 1.0, 0.1, 100.0).unwrap();
        kl.update(0.11, 10); // 10 % above the target
        assert!((kl.value() - 1.01).abs() < 1e-12);
        kl.update(50.0, 10);
        assert!((kl.value() - 1.01 * 1.02).abs() < 1e-12);
        kl.update(0.0, 10);
        assert!((kl.value() - 1.01 * 1.02 * 0.98).abs() < 1e-12);
    }

    #[test]
    fn the_entropy_bonus_is_applied_at_or_below_the_target_only_and_stays_in_its_bounds() {
        let mut entropy = EntropyController::adaptive(0.01, 0.005, 0.0, 0.02, 1.0).unwrap();
        assert_eq!(entropy.value(), 0.0, "nothing was measured yet");
        entropy.update(1.0);
        assert_eq!(entropy.value(), 0.015);
        for _ in 0..3 {
            entropy.update(0.5);
        }
        assert_eq!(entropy.value(), 0.02);
        entropy.update(1.5);
        assert_eq!(entropy.value(), 0.0, "the entropy is high enough");
        entropy.update(0.9);
        assert_eq!(entropy.value(), 0.02, "the fall above the target was counted: 0.02 − 0.005 + 0.005");
        for _ in 0..9 {
            entropy.update(2.0);
        }
        entropy.update(0.9);
        assert_eq!(entropy.value(), 0.005, "the lower bound is 0");
    }

    #[test]
    fn controllers_are_saved_and_restored_whole() {
        let mut kl = KlController::from_name("adaptive", 1.0, 0.1, 100.0).unwrap();
        kl.update(0.1 / 3.0 + 0.1, 7);
        let mut entropy = EntropyController::adaptive(0.01, 0.005, 0.0, 0.02, 1.0).unwrap();
        let unmeasured = serde_json::to_string(&entropy).unwrap();
        assert_eq!(serde_json::from_str::<EntropyController>(&unmeasured).unwrap(), entropy);
        entropy.update(0.25);
        assert_eq!(serde_json::from_str::<KlController>(&serde_json::to_string(&kl).unwrap()).unwrap(), kl);
        let text = serde_json::to_string(&entropy).unwrap();
        assert_eq!(serde_json::from_str::<EntropyController>(&text).unwrap(), entropy);
    }

    #[test]
    fn impossible_settings_are_refused_by_key() {
        for (name, kl_coef, target_kl, horizon, expected) in [
            ("adaptve", 0.1, 0.1, 1.0, "kl_ctrl.type `adaptve` is unknown"),
            ("fixed", -0.1, 0.1, 1.0, "kl_ctrl.kl_coef = -0.1"),
            ("fixed", f64::NAN, 0.1, 1.0, "kl_ctrl.kl_coef = NaN"),
            ("adaptive", 0.1, 0.0, 1.0, "kl_ctrl.target_kl = 0"),
            ("adaptive", 0.1, 0.1, -1.0, "kl_ctrl.horizon = -1"),
        ] {
            let error = KlController::from_name(name, kl_coef, target_kl, horizon).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        for (coeff, delta, min, max, target, expected) in [
            (0.5, 0.1, 0.0, 0.4, 1.0, "entropy_coeff = 0.5"),
            (0.5, 0.1, 0.6, 0.4, 1.0, "entropy_coeff_min = 0.6"),
            (0.5, 0.1, 0.0, f64::INFINITY, 1.0, "entropy_coeff_max = inf"),
            (0.5, -0.1, 0.0, 1.0, 1.0, "entropy_coeff_delta = -0.1"),
            (0.5, 0.1, 0.0, 1.0, f64::NAN, "entropy_target = NaN"),
        ] {
            let error = EntropyController::adaptive(coeff, delta, min, max, target).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
