//! Text from tokens as they come, and the strings that end it.

use std::ops::ControlFlow;

use luspo_data::{DataError, Tokenizer};

use crate::Sampling;

/// The character that stands for bytes that are no UTF-8, and so for a character whose last bytes are still to come.
const INCOMPLETE: char = '\u{fffd}';

/// The text of an answer, token by token, up to a stop string.
///
/// Text that may turn out to be the beginning of a character or of a stop string is held back.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use luspo_data::Tokenizer;
/// use luspo_rollout::TextStream;
///
/// let tokenizer = Tokenizer::train_byte_level(["a"].into_iter(), 259)?; // a token a byte
/// let mut stream = TextStream::new(vec!["END".into()]);
/// let mut text = String::new();
/// for id in tokenizer.encode("größer END and more")? {
///     text += &stream.push(&tokenizer, id, false)?;
/// }
/// assert!(stream.stopped());
/// assert_eq!(text, "größer ");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct TextStream {
    stop: Vec<String>,
    /// Tokens before which no stop string is looked for.
    min_tokens: usize,
    /// Tokens so far.
    count: usize,
    /// Tokens that still take part in decoding: some before the new ones, as a tokenizer may write a token differently
    /// at the start of a text.
    tokens: Vec<u32>,
    /// The length of the text of `tokens` that is in `pending` or was given out.
    decoded: usize,
    /// Text that has not been given out.
    pending: String,
    /// A stop string that ends within so many bytes of `pending` was complete before it could count.
    too_early: usize,
    stopped: bool,
}

/// How many tokens are decoded again with each new one.
const CONTEXT: usize = 8;

impl TextStream {
    /// Of an answer without tokens.
    pub fn new(stop: Vec<String>) -> Self {
        let (tokens, pending) = (Vec::new(), String::new());
        Self { stop, min_tokens: 0, count: 0, tokens, decoded: 0, pending, too_early: 0, stopped: false }
    }

    /// The same, of an answer that may not end before it has so many tokens: a stop string counts only if it is completed by
    /// the last of them or later.
    pub fn not_before(self, min_tokens: usize) -> Self {
        Self { min_tokens, ..self }
    }

    /// Whether a stop string has come up.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// Adds a token; returns the text that is certain now. `last` gives out all that was held back.
    ///
    /// # Errors
    /// An id that the tokenizer does not know.
    pub fn push(&mut self, tokenizer: &Tokenizer, token: u32, last: bool) -> Result<String, DataError> {
        if self.stopped {
            return Ok(String::new());
        }
        self.count += 1;
        self.tokens.push(token);
        let text = tokenizer.decode(&self.tokens)?;
        let whole = if last { text.as_str() } else { text.trim_end_matches(INCOMPLETE) };
        // Where decoding changed its mind about text that is out already, there is nothing to add.
        self.pending.push_str(whole.get(self.decoded..).unwrap_or_default());
        self.decoded = self.decoded.max(whole.len());
        if self.tokens.len() >= 2 * CONTEXT && whole.len() == text.len() {
            self.tokens.drain(..self.tokens.len() - CONTEXT);
            self.decoded = tokenizer.decode(&self.tokens)?.len();
        }
        Ok(self.certain(last))
    }

    fn certain(&mut self, last: bool) -> String {
        if self.count < self.min_tokens {
            self.too_early = self.pending.len();
        } else if let Some(from) = self.first_stop() {
            self.stopped = true;
            self.pending.truncate(from);
            return std::mem::take(&mut self.pending);
        }
        let held = if last { 0 } else { self.stop.iter().map(|stop| overlap(&self.pending, stop)).max().unwrap_or(0) };
        let held = self.pending.split_off(self.pending.len() - held);
        self.too_early = self.too_early.saturating_sub(self.pending.len());
        std::mem::replace(&mut self.pending, held)
    }

    /// Where the first of the stop strings begins that was not complete too early.
    fn first_stop(&self) -> Option<usize> {
        let counts = |from: usize, stop: &String| {
            self.pending[from..].starts_with(stop.as_str()) && from + stop.len() > self.too_early
        };
        let mut places = self.pending.char_indices().map(|(from, _)| from);
        places.find(|from| self.stop.iter().any(|stop| counts(*from, stop)))
    }
}

/// Bytes at the end of `text` that `stop` begins with.
fn overlap(text: &str, stop: &str) -> usize {
    let fits = |length: &usize| stop.is_char_boundary(*length) && text.ends_with(&stop[..*length]);
    (1..stop.len().min(text.len() + 1)).rev().find(fits).unwrap_or(0)
}

/// Strings that end the answers of a [`generate_with`](crate::generate_with): an answer ends with the token that
/// completes one.
#[derive(Debug)]
pub struct StopStrings<'a> {
    tokenizer: &'a Tokenizer,
    sampling: &'a Sampling,
    /// By answer.
    streams: Vec<TextStream>,
    failed: Option<DataError>,
}

impl<'a> StopStrings<'a> {
    /// The strings of `sampling`, in an answer's text from its shortest length on.
    pub fn new(tokenizer: &'a Tokenizer, sampling: &'a Sampling) -> Self {
        Self { tokenizer, sampling, streams: Vec::new(), failed: None }
    }

    /// `Break` if this token of this answer completes a string.
    pub fn on_token(&mut self, answer: usize, token: u32) -> ControlFlow<()> {
        let Sampling { stop, min_tokens, .. } = self.sampling;
        if stop.is_empty() {
            return ControlFlow::Continue(());
        }
        if self.streams.len() <= answer {
            let stream = || TextStream::new(stop.clone()).not_before(*min_tokens);
            self.streams.resize_with(answer + 1, stream);
        }
        let stream = &mut self.streams[answer];
        match stream.push(self.tokenizer, token, false) {
            Ok(_) if stream.stopped() => ControlFlow::Break(()),
            Ok(_) => ControlFlow::Continue(()),
            Err(error) => {
                self.failed.get_or_insert(error);
                ControlFlow::Break(())
            }
        }
    }

    /// Whether all went well.
    ///
    /// # Errors
    /// The first token that the tokenizer did not know; the answers were ended there.
    pub fn finish(self) -> Result<(), DataError> {
        self.failed.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer() -> Tokenizer {
        Tokenizer::train_byte_level([""].into_iter(), 259).unwrap()
    }

    fn stream(text: &str, stop: &[&str]) -> (Vec<String>, bool) {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode(text).unwrap();
        let mut stream = TextStream::new(stop.iter().map(ToString::to_string).collect());
        let last = ids.len() - 1;
        let parts = ids.iter().enumerate().map(|(i, id)| stream.push(&tokenizer, *id, i == last).unwrap()).collect();
        (parts, stream.stopped())
    }

    #[test]
    fn a_character_comes_out_whole_and_nothing_is_lost() {
        let text = "Größe 数学 🙂 und sehr viel mehr Text dahinter, länger als der Kontext: ∑ 🙂🙂";
        let (parts, stopped) = stream(text, &[]);
        assert!(!stopped);
        assert_eq!(parts.concat(), text);
        assert!(parts.iter().all(|part| !part.contains(INCOMPLETE)));
    }

    #[test]
    fn text_ends_before_a_stop_string_and_its_beginning_is_held_back() {
        let (parts, stopped) = stream("one END two", &["END"]);
        assert!(stopped);
        assert_eq!(parts.concat(), "one ");
        let (parts, stopped) = stream("one EN", &["END"]);
        assert!(!stopped);
        assert_eq!(parts.concat(), "one EN", "what was held back comes at the end");
        assert!(!parts[..parts.len() - 1].concat().contains('E'));
    }

    #[test]
    fn an_answer_ends_with_the_token_that_completes_a_string() {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode("a END b END").unwrap();
        let ends = |min_tokens, stop: &[&str]| {
            let sampling = Sampling {
                temperature: 1.0,
                top_k: 0,
                top_p: 1.0,
                min_p: 0.0,
                repetition_penalty: 1.0,
                min_tokens,
                max_response_length: 20,
                stop_token_ids: Vec::new(),
                stop: stop.iter().map(ToString::to_string).collect(),
                vocab_limit: 259,
            };
            let mut strings = StopStrings::new(&tokenizer, &sampling);
            // A second answer has a text of its own.
            let end = ids.iter().position(|id| {
                assert!(strings.on_token(1, ids[0]).is_continue());
                strings.on_token(0, *id).is_break()
            });
            strings.finish().unwrap();
            end
        };
        assert_eq!(ends(0, &["END"]), Some(4));
        assert_eq!(ends(5, &["END"]), Some(4), "the fifth token completes it");
        assert_eq!(ends(6, &["END"]), Some(10), "too early the first time");
        assert_eq!(ends(6, &["END", "END b"]), Some(6), "the longer one is complete in time");
        assert_eq!(ends(0, &["ENDE", "b"]), Some(6));
        assert_eq!(ends(0, &[]), None);
    }
}
