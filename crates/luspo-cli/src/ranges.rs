//! Numbers on the command line, refused before anything is loaded.

use std::str::FromStr;

use luspo::rollout::MIN_TEMPERATURE;

/// The most answers to a prompt.
pub const MOST_ANSWERS: i64 = 1 << 16;

/// A sampling temperature: 0, or one at which f32 tells tokens apart.
pub fn temperature(text: &str) -> Result<f64, String> {
    let value = number(text)?;
    let can_be = value == 0.0 || (value.is_finite() && value >= MIN_TEMPERATURE);
    can_be.then_some(value).ok_or_else(|| format!("it must be 0 (greedy) or at least {MIN_TEMPERATURE}"))
}

/// A probability above 0.
pub fn top_p(text: &str) -> Result<f64, String> {
    let value = number(text)?;
    (value > 0.0 && value <= 1.0).then_some(value).ok_or_else(|| "it must be above 0 and at most 1".into())
}

/// A share of a probability.
pub fn min_p(text: &str) -> Result<f64, String> {
    let value = number(text)?;
    (0.0..=1.0).contains(&value).then_some(value).ok_or_else(|| "it must be from 0 to 1".into())
}

/// A factor above 0.
pub fn penalty(text: &str) -> Result<f64, String> {
    let value = number(text)?;
    (value > 0.0 && value.is_finite()).then_some(value).ok_or_else(|| "it must be above 0".into())
}

/// A size above 0.
pub fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("it must be at least 1".into()),
        Ok(value) => Ok(value),
        Err(error) => Err(error.to_string()),
    }
}

fn number(text: &str) -> Result<f64, String> {
    f64::from_str(text).map_err(|error| error.to_string())
}
