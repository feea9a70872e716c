//! The names of the objectives in a config.

use std::sync::Arc;

use super::{Grpo, Gspo, Luspo, Ppo};
use crate::aggregate::Aggregation;
use crate::clip::ClipRange;
use crate::error::AlgoError;
use crate::policy_loss::PolicyLoss;

/// What a config says of an objective; an absent key takes the objective's default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LossOptions {
    /// Distance of the lower clip bound from 1, in [0, 1).
    pub clip_ratio_low: Option<f64>,
    /// Distance of the upper clip bound from 1, at least 0.
    pub clip_ratio_high: Option<f64>,
    /// The dual clip, above 1; of `vanilla` alone.
    pub clip_ratio_c: Option<f64>,
    /// Bound on the log-ratio before it is exponentiated: on both sides for `vanilla` and `grpo`, from above for `gspo`
    /// and `luspo`; 0 for no bound.
    pub log_ratio_clamp: Option<f64>,
    /// What a token weighs, by [`Aggregation::from_name`].
    pub loss_agg_mode: Option<String>,
    /// The constant of `seq-mean-token-sum-norm`, usually the maximum response length in tokens; not read otherwise.
    pub loss_scale_factor: f64,
}

const KNOWN: &str = "vanilla (or ppo), grpo, gspo, luspo";

impl LossOptions {
    /// The options of a `loss_mode` with every absent one filled in by the objective's default.
    ///
    /// # Errors
    /// If the name is unknown.
    pub fn resolved(&self, loss_mode: &str) -> Result<Self, AlgoError> {
        let (low, high, c, clamp, aggregation) = match loss_mode {
            "vanilla" | "ppo" => {
                let loss = Ppo::new();
                let c = Some(loss.clip_ratio_c);
                (loss.clip_ratio_low, loss.clip_ratio_high, c, loss.log_ratio_clamp, loss.loss_agg_mode)
            }
            "grpo" => {
                let loss = Grpo::new();
                (loss.clip_ratio_low, loss.clip_ratio_high, None, loss.log_ratio_clamp, loss.loss_agg_mode)
            }
            "gspo" => {
                let loss = Gspo::new();
                (loss.clip_ratio_low, loss.clip_ratio_high, None, loss.log_ratio_clamp, loss.loss_agg_mode)
            }
            "luspo" => {
                let loss = Luspo::new();
                (loss.clip_ratio_low, loss.clip_ratio_high, None, loss.log_ratio_clamp, loss.aggregation())
            }
            _ => return Err(AlgoError::UnknownLossMode { name: loss_mode.into(), known: KNOWN.into() }),
        };
        Ok(Self {
            clip_ratio_low: self.clip_ratio_low.or(Some(low)),
            clip_ratio_high: self.clip_ratio_high.or(Some(high)),
            clip_ratio_c: self.clip_ratio_c.or(c),
            log_ratio_clamp: self.log_ratio_clamp.or(clamp),
            loss_agg_mode: self.loss_agg_mode.clone().or_else(|| Some(aggregation.name().into())),
            loss_scale_factor: self.loss_scale_factor,
        })
    }
}

/// The objective of a `loss_mode`: `vanilla` (or `ppo`), `grpo`, `gspo` or `luspo`. The one place that maps names to
/// objectives.
///
/// # Errors
/// If the name is unknown, a clip range, clamp or aggregation is impossible, `clip_ratio_c` is given to an objective
/// without dual clip, or LUSPO is asked for another aggregation than its own.
pub fn policy_loss(loss_mode: &str, options: &LossOptions) -> Result<Arc<dyn PolicyLoss>, AlgoError> {
    let LossOptions {
        clip_ratio_low,
        clip_ratio_high,
        clip_ratio_c,
        log_ratio_clamp,
        loss_agg_mode,
        loss_scale_factor,
    } = options.resolved(loss_mode)?;
    let (low, high) = (clip_ratio_low.unwrap_or_default(), clip_ratio_high.unwrap_or_default());
    let range = ClipRange::new(low, high);
    range.check()?;
    let clamp = bound(log_ratio_clamp.unwrap_or_default())?;
    let mode = Aggregation::from_name(&loss_agg_mode.unwrap_or_default(), loss_scale_factor)?;
    Ok(match (loss_mode, clip_ratio_c) {
        ("vanilla" | "ppo", Some(c)) => {
            range.with_dual(c).check()?;
            let loss = Ppo::new().with_clip_ratio_low(low).with_clip_ratio_high(high).with_clip_ratio_c(c);
            Arc::new(loss.with_loss_agg_mode(mode).with_log_ratio_clamp(clamp))
        }
        (_, Some(_)) => return Err(AlgoError::NoDualClip { loss_mode: loss_mode.into() }),
        ("grpo", None) => {
            let loss = Grpo::new().with_clip_ratio_low(low).with_clip_ratio_high(high);
            Arc::new(loss.with_loss_agg_mode(mode).with_log_ratio_clamp(clamp))
        }
        ("gspo", None) => {
            let loss = Gspo::new().with_clip_ratio_low(low).with_clip_ratio_high(high);
            Arc::new(loss.with_loss_agg_mode(mode).with_log_ratio_clamp(clamp))
        }
        ("luspo", None) if mode == Aggregation::SeqMeanTokenSum => {
            let loss = Luspo::new().with_clip_ratio_low(low).with_clip_ratio_high(high);
            Arc::new(loss.with_log_ratio_clamp(clamp))
        }
        ("luspo", None) => return Err(AlgoError::LuspoAggregation { name: mode.name().into() }),
        (_, None) => return Err(AlgoError::UnknownLossMode { name: loss_mode.into(), known: KNOWN.into() }),
    })
}

/// What a `log_ratio_clamp` means: 0 is no bound.
fn bound(value: f64) -> Result<Option<f64>, AlgoError> {
    if value.is_finite() && value >= 0.0 {
        return Ok((value > 0.0).then_some(value));
    }
    let range = "finite and at least 0 (0 for no bound)";
    Err(AlgoError::OutOfRange { key: "log_ratio_clamp", value, range })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{BatchTotals, PolicyBatch};
    use crate::host::{assert_close, devices, scalar, tensor};

    fn refusal(loss_mode: &str, options: &LossOptions) -> String {
        policy_loss(loss_mode, options).err().expect("this cannot be built").to_string()
    }

    #[test]
    fn every_name_has_its_default_aggregation() {
        for (name, aggregation) in [
            ("vanilla", "token-mean"),
            ("ppo", "token-mean"),
            ("grpo", "seq-mean-token-mean"),
            ("gspo", "seq-mean-token-mean"),
            ("luspo", "seq-mean-token-sum"),
        ] {
            let loss = policy_loss(name, &LossOptions::default()).unwrap();
            assert_eq!(loss.aggregation().name(), aggregation);
        }
    }

    #[test]
    fn resolved_options_build_the_same_objective() {
        let options = LossOptions { clip_ratio_high: Some(0.3), ..LossOptions::default() };
        let resolved = options.resolved("gspo").unwrap();
        assert_eq!((resolved.clip_ratio_low, resolved.clip_ratio_high), (Some(3e-4), Some(0.3)));
        assert_eq!((resolved.clip_ratio_c, resolved.loss_agg_mode.as_deref()), (None, Some("seq-mean-token-mean")));
        assert_eq!(resolved.log_ratio_clamp, Some(10.0));
        assert!(policy_loss("gspo", &resolved).is_ok());
        let resolved = options.resolved("ppo").unwrap();
        assert_eq!((resolved.clip_ratio_c, resolved.log_ratio_clamp), (Some(3.0), Some(20.0)));
        let off = LossOptions { log_ratio_clamp: Some(0.0), ..LossOptions::default() };
        assert_eq!(off.resolved("luspo").unwrap().log_ratio_clamp, Some(0.0), "an explicit 0 is no absent key");
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let error = refusal("lupso", &LossOptions::default());
        assert!(error.contains("`lupso`") && error.contains("luspo") && error.contains("vanilla"), "{error}");
    }

    #[test]
    fn luspo_has_one_aggregation() {
        let with = |mode: &str| LossOptions {
            loss_agg_mode: Some(mode.into()),
            loss_scale_factor: 8.0,
            ..LossOptions::default()
        };
        assert!(policy_loss("luspo", &with("seq-mean-token-sum")).is_ok());
        for mode in ["token-mean", "seq-mean-token-mean", "seq-mean-token-sum-norm"] {
            assert!(refusal("luspo", &with(mode)).contains(mode));
            assert_eq!(policy_loss("gspo", &with(mode)).unwrap().aggregation().name(), mode);
        }
    }

    #[test]
    fn clip_settings_are_checked() {
        let dual = LossOptions { clip_ratio_c: Some(10.0), ..LossOptions::default() };
        assert!(policy_loss("vanilla", &dual).is_ok());
        for name in ["grpo", "gspo", "luspo"] {
            assert!(refusal(name, &dual).contains("clip_ratio_c"));
        }
        for name in ["vanilla", "grpo", "gspo", "luspo"] {
            let low = LossOptions { clip_ratio_low: Some(1.0), ..LossOptions::default() };
            let high = LossOptions { clip_ratio_high: Some(-0.1), ..LossOptions::default() };
            assert!(refusal(name, &low).contains("clip_ratio_low = 1"));
            assert!(refusal(name, &high).contains("clip_ratio_high = -0.1"));
        }
        let c = LossOptions { clip_ratio_c: Some(1.0), ..LossOptions::default() };
        assert!(refusal("vanilla", &c).contains("clip_ratio_c = 1"));
    }

    #[test]
    fn an_extreme_ratio_is_bounded_unless_the_clamp_is_off() {
        const LOG_RATIO: f64 = 30.0;
        for (name, default) in [("vanilla", 20.0), ("grpo", 20.0), ("gspo", 10.0), ("luspo", 10.0)] {
            for (log_ratio_clamp, reached) in
                [(None, default), (Some(0.0), LOG_RATIO), (Some(5.0), 5.0), (Some(40.0), LOG_RATIO)]
            {
                // A dual clip so far away that it hides nothing.
                let clip_ratio_c = (name == "vanilla").then_some(1e30);
                let options = LossOptions { clip_ratio_c, log_ratio_clamp, ..LossOptions::default() };
                let loss = policy_loss(name, &options).unwrap();
                for device in devices() {
                    let token = |value: f64| tensor(&[vec![value]], &device);
                    // One token with advantage −1: the loss is the ratio.
                    let mask = token(1.0).greater_scalar(0.5);
                    let batch = PolicyBatch::new(token(-0.5), token(-0.5 - LOG_RATIO), token(-1.0), mask);
                    let value = scalar(loss.forward(&batch, &BatchTotals::of_lengths(&[1])).loss);
                    // An exponential in f32, whose argument is exact.
                    assert_close(&[value], &[reached.exp()], 1e-5, 0.0);
                }
            }
        }
    }

    #[test]
    fn a_clamp_that_bounds_nothing_is_refused() {
        for name in ["vanilla", "grpo", "gspo", "luspo"] {
            for value in [-1.0, f64::NAN, f64::INFINITY] {
                let options = LossOptions { log_ratio_clamp: Some(value), ..LossOptions::default() };
                assert!(refusal(name, &options).contains(&format!("log_ratio_clamp = {value}")));
            }
        }
    }
}
