//! How far an answer is from the length that is wanted.
//!
//! ```text
//! R_length = −penalty · ||y| − target|
//! ```
//!
//! The length term of LCPO-Exact (arXiv 2503.04697), with one target for all prompts.

/// A linear penalty on the distance from a length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Length {
    /// The length that is wanted, in tokens.
    pub target: usize,
    /// What a token of distance costs.
    pub penalty: f64,
}

impl Length {
    /// The penalty, at most 0, of a response of that many tokens.
    pub fn reward(&self, tokens: usize) -> f64 {
        0.0 - self.penalty * tokens.abs_diff(self.target) as f64
    }
}
