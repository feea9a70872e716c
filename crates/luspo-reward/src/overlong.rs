//! The soft penalty for answers that come close to the maximum length.
//!
//! ```text
//! R_overlong = min(0, ((L_max − L_buf) − |y|) / L_buf · penalty)
//! ```
//!
//! Equation 11 of arXiv 2602.05261, where the penalty is 0.3; with 1.0 it is DAPO's. At L_max it is −penalty. There is
//! no floor below, as in verl 0.9.1's DAPORewardManager.

/// A linear penalty over the last `buffer` tokens of the longest response.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Overlong {
    /// L_max, in tokens.
    pub max_response_length: usize,
    /// L_buf, in tokens; above 0.
    pub buffer: usize,
    /// What a response of L_max loses.
    pub penalty: f64,
}

impl Overlong {
    /// The penalty, at most 0, of a response of that many tokens.
    pub fn reward(&self, tokens: usize) -> f64 {
        let free = self.max_response_length as f64 - self.buffer as f64;
        ((free - tokens as f64) / self.buffer as f64 * self.penalty).min(0.0)
    }
}
