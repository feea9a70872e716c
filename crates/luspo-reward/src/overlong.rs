//! The soft penalty for answers that come close to the maximum length.
//!
//! ```text
//! R_overlong = min(0, ((L_max − L_buf) − |y|) / L_buf · penalty)
//! ```
//!
//! Equation 11 of arXiv 2602.05261, where the penalty is 0.3; with 1.0 it is DAPO's. At L_max it is −penalty. Beyond, it
//! goes on falling, as in verl 0.9.1's DAPORewardManager, or stays at −penalty, as in TRL's soft punishment.

/// A linear penalty over the last `buffer` tokens before `max_length`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Overlong {
    /// L_max, in tokens.
    pub max_length: usize,
    /// L_buf, in tokens; above 0.
    pub buffer: usize,
    /// What a response of L_max loses.
    pub penalty: f64,
    /// Whether a longer one loses no more.
    pub floor: bool,
}

impl Overlong {
    /// The penalty, at most 0, of a response of that many tokens.
    pub fn reward(&self, tokens: usize) -> f64 {
        let free = self.max_length as f64 - self.buffer as f64;
        let tokens = if self.floor { tokens.min(self.max_length) } else { tokens };
        ((free - tokens as f64) / self.buffer as f64 * self.penalty).min(0.0)
    }
}
