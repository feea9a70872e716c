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
    /// What a token weighs, by [`Aggregation::from_name`].
    pub loss_agg_mode: Option<String>,
    /// The constant of `seq-mean-token-sum-norm`, usually the maximum response length in tokens; not read otherwise.
    pub loss_scale_factor: f64,
}

const KNOWN: &str = "vanilla (or ppo), grpo, gspo, luspo";

/// The objective of a `loss_mode`: `vanilla` (or `ppo`), `grpo`, `gspo` or `luspo`. The one place that maps names to
/// objectives.
///
/// # Errors
/// If the name is unknown, a clip range or aggregation is impossible, `clip_ratio_c` is given to an objective without
/// dual clip, or LUSPO is asked for another aggregation than its own.
pub fn policy_loss(loss_mode: &str, options: &LossOptions) -> Result<Arc<dyn PolicyLoss>, AlgoError> {
    let aggregation = match &options.loss_agg_mode {
        Some(name) => Some(Aggregation::from_name(name, options.loss_scale_factor)?),
        None => None,
    };
    let clip = |low: f64, high: f64| {
        let range = ClipRange::new(options.clip_ratio_low.unwrap_or(low), options.clip_ratio_high.unwrap_or(high));
        range.check().map(|()| range)
    };
    let single_clip = |low, high| match options.clip_ratio_c {
        Some(_) => Err(AlgoError::NoDualClip { loss_mode: loss_mode.into() }),
        None => clip(low, high),
    };
    match loss_mode {
        "vanilla" | "ppo" => {
            let loss = Ppo::new();
            let c = options.clip_ratio_c.unwrap_or(loss.clip_ratio_c);
            let range = clip(loss.clip_ratio_low, loss.clip_ratio_high)?;
            range.with_dual(c).check()?;
            let mode = aggregation.unwrap_or(loss.loss_agg_mode);
            let loss = loss.with_clip_ratio_low(range.low).with_clip_ratio_high(range.high).with_clip_ratio_c(c);
            Ok(Arc::new(loss.with_loss_agg_mode(mode)))
        }
        "grpo" => {
            let loss = Grpo::new();
            let range = single_clip(loss.clip_ratio_low, loss.clip_ratio_high)?;
            let mode = aggregation.unwrap_or(loss.loss_agg_mode);
            let loss = loss.with_clip_ratio_low(range.low).with_clip_ratio_high(range.high);
            Ok(Arc::new(loss.with_loss_agg_mode(mode)))
        }
        "gspo" => {
            let loss = Gspo::new();
            let range = single_clip(loss.clip_ratio_low, loss.clip_ratio_high)?;
            let mode = aggregation.unwrap_or(loss.loss_agg_mode);
            let loss = loss.with_clip_ratio_low(range.low).with_clip_ratio_high(range.high);
            Ok(Arc::new(loss.with_loss_agg_mode(mode)))
        }
        "luspo" => {
            if let Some(other) = aggregation.filter(|&mode| mode != Aggregation::SeqMeanTokenSum) {
                return Err(AlgoError::LuspoAggregation { name: other.name().into() });
            }
            let loss = Luspo::new();
            let range = single_clip(loss.clip_ratio_low, loss.clip_ratio_high)?;
            Ok(Arc::new(loss.with_clip_ratio_low(range.low).with_clip_ratio_high(range.high)))
        }
        _ => Err(AlgoError::UnknownLossMode { name: loss_mode.into(), known: KNOWN.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
