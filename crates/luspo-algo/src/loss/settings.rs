//! From a config's options to an objective: its defaults, with the given options in their place.

use std::sync::Arc;

use burn::config::Config;
use serde_json::{Map, Value};

use super::LossOptions;
use crate::aggregate::Aggregation;
use crate::error::{AlgoError, in_range};
use crate::policy_loss::PolicyLoss;

/// A built-in objective. Its settings are its fields; those that a config can give are named as in [`LossOptions`].
pub(super) trait Settings: Config + PolicyLoss + 'static {
    /// Whether there is such an objective.
    fn check(&self) -> Result<(), AlgoError>;

    /// Options that these settings leave without effect, each with the one that does so.
    fn overridden(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }
}

/// An objective, and the options that say all about it.
pub(super) struct Configured {
    pub loss: Arc<dyn PolicyLoss>,
    pub options: LossOptions,
}

/// `default` with the `given` options in place of its own.
pub(super) fn configure<L: Settings>(
    default: L,
    loss_mode: &str,
    given: &LossOptions,
) -> Result<Configured, AlgoError> {
    let unread = |key, beside| AlgoError::UnreadOption { key, loss_mode: loss_mode.into(), beside };
    let mut fields = fields(&default);

    let aggregation = aggregation(default.aggregation(), loss_mode, given)?;
    match fields.get_mut("loss_agg_mode") {
        Some(field) => *field = serde_json::to_value(aggregation).expect("an aggregation can be written"),
        None if aggregation == default.aggregation() => {}
        None => {
            let (own, name) = (default.aggregation().name(), aggregation.name().into());
            return Err(AlgoError::FixedAggregation { loss_mode: loss_mode.into(), own, name });
        }
    }
    if let Some(seed) = fields.get_mut("seed") {
        *seed = given.seed.into();
    }
    for (key, value) in given.numbers() {
        let Some(value) = value else { continue };
        let field = fields.get_mut(key).ok_or_else(|| unread(key, String::new()))?;
        *field = match key {
            "log_ratio_clamp" => {
                in_range(key, value, value >= 0.0, "finite and at least 0 (0 for no bound)")?;
                if value > 0.0 { value.into() } else { Value::Null }
            }
            _ => {
                in_range(key, value, true, "a finite number")?;
                value.into()
            }
        };
    }

    let loss: L = serde_json::from_value(Value::Object(fields.clone())).expect("fields of the same types as before");
    loss.check()?;
    if let Some((key, by)) = loss.overridden().iter().find(|(key, _)| given.number(key).is_some()) {
        return Err(unread(key, format!(" beside {by}")));
    }
    Ok(Configured { options: said_by(&loss, &fields), loss: Arc::new(loss) })
}

/// The aggregation that is asked for, or the loss's own.
fn aggregation(own: Aggregation, loss_mode: &str, given: &LossOptions) -> Result<Aggregation, AlgoError> {
    let (key, loss_mode) = ("loss_scale_factor", loss_mode.to_owned());
    let name = given.loss_agg_mode.as_deref().unwrap_or(own.name());
    let is_scaled = matches!(Aggregation::from_name(name, 1.0)?, Aggregation::SeqMeanTokenSumNorm { .. });
    match given.loss_scale_factor {
        None if is_scaled => Err(AlgoError::MissingOption { key, loss_mode }),
        Some(_) if !is_scaled => {
            Err(AlgoError::UnreadOption { key, loss_mode, beside: format!(" with loss_agg_mode `{name}`") })
        }
        scale => Aggregation::from_name(name, scale.unwrap_or_default()),
    }
}

fn fields(loss: &impl Config) -> Map<String, Value> {
    match serde_json::to_value(loss) {
        Ok(Value::Object(fields)) => fields,
        other => unreachable!("a struct of numbers is written as an object, not {other:?}"),
    }
}

/// The options that `fields` of a loss are named after.
fn said_by(loss: &impl Settings, fields: &Map<String, Value>) -> LossOptions {
    let aggregation = loss.aggregation();
    let mut options = LossOptions { loss_agg_mode: Some(aggregation.name().into()), ..LossOptions::default() };
    if let Aggregation::SeqMeanTokenSumNorm { loss_scale_factor } = aggregation {
        options.loss_scale_factor = Some(loss_scale_factor);
    }
    options.seed = fields.get("seed").and_then(Value::as_u64).unwrap_or_default();
    for (key, option) in options.numbers_mut() {
        let is_overridden = loss.overridden().iter().any(|(overridden, _)| *overridden == key);
        *option = match fields.get(key) {
            Some(Value::Null) if key == "log_ratio_clamp" => Some(0.0),
            Some(value) if !is_overridden => value.as_f64(),
            _ => None,
        };
    }
    options
}
