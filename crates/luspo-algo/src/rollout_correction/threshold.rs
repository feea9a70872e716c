//! Thresholds as a config writes them.

use crate::error::AlgoError;

/// `u` or `l_u`: an upper bound, and a lower one.
pub(super) fn bounds(key: &'static str, text: &str) -> Result<(Option<f64>, f64), AlgoError> {
    let malformed = || AlgoError::Malformed {
        key,
        text: text.into(),
        expected: "an upper bound like 2.0, or two bounds like 0.5_2.0, positive and the lower one first",
    };
    let positive = |text: &str| text.trim().parse().ok().filter(|&bound: &f64| bound > 0.0).ok_or_else(malformed);
    match text.split_once('_') {
        None => Ok((None, positive(text)?)),
        Some((lower, upper)) => {
            let (lower, upper) = (positive(lower)?, positive(upper)?);
            if lower <= upper { Ok((Some(lower), upper)) } else { Err(malformed()) }
        }
    }
}

/// The parts of a comma list.
pub(super) fn list(text: &str) -> Vec<&str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect()
}
