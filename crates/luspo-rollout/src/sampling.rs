use std::collections::HashSet;

use crate::RolloutError;

/// The lowest temperature above greedy. Below it, logits divided by the temperature lose the digits that tell tokens
/// apart in f32.
pub const MIN_TEMPERATURE: f64 = 0.01;

/// How tokens are chosen.
///
/// Penalties and minimum lengths come first. The filters then act in this order: `vocab_limit`, temperature, `top_k`, `top_p`, `min_p`, each on what the one before it
/// left, renormalised. It is the order of Hugging Face transformers; vLLM puts `min_p` before `top_k`, which differs
/// only where `min_p` and `top_p` are both on. Tokens are preferred by higher logit, then by lower id.
///
/// None of these changes the log-probs that are recorded: they are of the model's whole distribution at this temperature
/// (at temperature 1 when greedy).
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most likely token (the lowest id of several). Otherwise at least 0.01.
    pub temperature: f64,
    /// How many of the most likely tokens stay; 0 keeps all.
    pub top_k: usize,
    /// Keeps the smallest set of most likely tokens whose probability reaches this, in (0, 1]; 1 keeps all.
    pub top_p: f64,
    /// Keeps tokens at least this share as likely as the most likely one, in [0, 1]; 0 keeps all.
    pub min_p: f64,
    /// What the logits of tokens that stand in the prompt or in the answer so far are divided by where they are positive,
    /// and multiplied by where they are negative: above 1 what was said becomes less likely, 1 turns it off. Above 0.
    pub repetition_penalty: f64,
    /// Tokens that an answer has before a stop token can be sampled; 0 turns it off.
    pub min_tokens: usize,
    /// Longest answer in tokens, the stop token included.
    pub max_response_length: usize,
    /// Tokens that end an answer. The sampled one is its last token.
    pub stop_token_ids: Vec<u32>,
    /// Strings that end an answer with the token that completes one. The engine knows no text: [`StopStrings`] looks for
    /// them, and [`generate`](crate::generate) refuses them.
    ///
    /// [`StopStrings`]: crate::StopStrings
    pub stop: Vec<String>,
    /// Token ids at or above it are never sampled: rows of the model beyond the tokenizer. They stay in the softmax.
    pub vocab_limit: usize,
}

impl Sampling {
    /// Checks every field's range.
    ///
    /// # Errors
    /// Names the first field that is out of range.
    pub fn validate(&self) -> Result<(), RolloutError> {
        let temperature = self.temperature;
        if !(temperature == 0.0 || (temperature >= MIN_TEMPERATURE && temperature.is_finite())) {
            return Err(RolloutError::Temperature(temperature));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(RolloutError::TopP(self.top_p));
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return Err(RolloutError::MinP(self.min_p));
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            return Err(RolloutError::RepetitionPenalty(self.repetition_penalty));
        }
        if self.max_response_length == 0 {
            return Err(RolloutError::MaxResponseLength);
        }
        if self.min_tokens > self.max_response_length {
            let Self { min_tokens, max_response_length, .. } = *self;
            return Err(RolloutError::MinTokens { min_tokens, max_response_length });
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(RolloutError::EmptyStop);
        }
        if self.vocab_limit == 0 {
            return Err(RolloutError::VocabLimit);
        }
        if self.min_tokens > 0 {
            let stops: HashSet<u32> = self.stop_token_ids.iter().copied().collect();
            if stops.iter().filter(|id| (**id as usize) < self.vocab_limit).count() == self.vocab_limit {
                return Err(RolloutError::NothingButStops { min_tokens: self.min_tokens });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: Sampling = Sampling {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        min_tokens: 0,
        max_response_length: 1,
        stop_token_ids: Vec::new(),
        stop: Vec::new(),
        vocab_limit: 1,
    };

    #[test]
    fn the_ends_of_every_range_are_valid() {
        let ends = [
            Sampling { temperature: 0.0, ..VALID },
            Sampling { temperature: MIN_TEMPERATURE, ..VALID },
            Sampling { top_k: usize::MAX, ..VALID },
            Sampling { top_p: f64::MIN_POSITIVE, ..VALID },
            Sampling { min_p: 1.0, ..VALID },
            Sampling { vocab_limit: usize::MAX, ..VALID },
            Sampling { repetition_penalty: f64::MIN_POSITIVE, ..VALID },
            Sampling { min_tokens: 1, ..VALID },
            VALID,
        ];
        for sampling in ends {
            assert_eq!(sampling.validate(), Ok(()), "{sampling:?}");
        }
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        for temperature in [-1.0, f64::NAN, f64::INFINITY, 0.5 * MIN_TEMPERATURE] {
            let error = Sampling { temperature, ..VALID }.validate().unwrap_err().to_string();
            assert!(error.starts_with(&format!("temperature = {temperature}")), "{error}");
        }
        for top_p in [0.0, -0.1, 1.1, f64::NAN] {
            let error = Sampling { top_p, ..VALID }.validate().unwrap_err().to_string();
            assert!(error.starts_with(&format!("top_p = {top_p}")), "{error}");
        }
        for min_p in [-0.1, 1.1, f64::NAN] {
            let error = Sampling { min_p, ..VALID }.validate().unwrap_err().to_string();
            assert!(error.starts_with(&format!("min_p = {min_p}")), "{error}");
        }
        for repetition_penalty in [0.0, -1.0, f64::INFINITY, f64::NAN] {
            let error = Sampling { repetition_penalty, ..VALID }.validate().unwrap_err().to_string();
            assert!(error.starts_with(&format!("repetition_penalty = {repetition_penalty}")), "{error}");
        }
        let error = Sampling { min_tokens: 2, ..VALID }.validate().unwrap_err();
        assert_eq!(error, RolloutError::MinTokens { min_tokens: 2, max_response_length: 1 });
        let stop_token_ids = vec![0, 0, 9];
        let error = Sampling { min_tokens: 1, stop_token_ids, ..VALID }.validate().unwrap_err();
        assert_eq!(error, RolloutError::NothingButStops { min_tokens: 1 });
        assert_eq!(Sampling { max_response_length: 0, ..VALID }.validate(), Err(RolloutError::MaxResponseLength));
        assert_eq!(Sampling { stop: vec![String::new()], ..VALID }.validate(), Err(RolloutError::EmptyStop));
        assert_eq!(Sampling { vocab_limit: 0, ..VALID }.validate(), Err(RolloutError::VocabLimit));
    }
}
