//! Text from tokens as they come.

use luspo_data::Tokenizer;

use super::failure::Failure;

/// The character that stands for bytes that are no UTF-8, and so for a character whose last bytes are still to come.
const INCOMPLETE: char = '\u{fffd}';

/// The text of an answer, token by token, up to a stop string.
///
/// Text that may turn out to be the beginning of a character or of a stop string is held back.
#[derive(Debug)]
pub(super) struct TextStream {
    stop: Vec<String>,
    /// Tokens that still take part in decoding: some before the new ones, as a tokenizer may write a token differently
    /// at the start of a text.
    tokens: Vec<u32>,
    /// The length of the text of `tokens` that is in `pending` or was given out.
    decoded: usize,
    /// Text that has not been given out.
    pending: String,
    stopped: bool,
}

/// How many tokens are decoded again with each new one.
const CONTEXT: usize = 8;

impl TextStream {
    pub fn new(stop: Vec<String>) -> Self {
        Self { stop, tokens: Vec::new(), decoded: 0, pending: String::new(), stopped: false }
    }

    /// Whether a stop string has come up.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// Adds a token; returns the text that is certain now. `last` gives out all that was held back.
    pub fn push(&mut self, tokenizer: &Tokenizer, token: u32, last: bool) -> Result<String, Failure> {
        if self.stopped {
            return Ok(String::new());
        }
        self.tokens.push(token);
        let text = tokenizer.decode(&self.tokens).map_err(|error| Failure::internal(error.to_string()))?;
        let whole = if last { text.as_str() } else { text.trim_end_matches(INCOMPLETE) };
        // Where decoding changed its mind about text that is out already, there is nothing to add.
        self.pending.push_str(whole.get(self.decoded..).unwrap_or_default());
        self.decoded = self.decoded.max(whole.len());
        if self.tokens.len() >= 2 * CONTEXT && whole.len() == text.len() {
            self.tokens.drain(..self.tokens.len() - CONTEXT);
            let kept = tokenizer.decode(&self.tokens).map_err(|error| Failure::internal(error.to_string()))?;
            self.decoded = kept.len();
        }
        Ok(self.certain(last))
    }

    fn certain(&mut self, last: bool) -> String {
        if let Some(at) = self.stop.iter().filter_map(|stop| self.pending.find(stop.as_str())).min() {
            self.stopped = true;
            self.pending.truncate(at);
            return std::mem::take(&mut self.pending);
        }
        let held = if last { 0 } else { self.stop.iter().map(|stop| overlap(&self.pending, stop)).max().unwrap_or(0) };
        let held = self.pending.split_off(self.pending.len() - held);
        std::mem::replace(&mut self.pending, held)
    }
}

/// Bytes at the end of `text` that `stop` begins with.
fn overlap(text: &str, stop: &str) -> usize {
    let fits = |length: &usize| stop.is_char_boundary(*length) && text.ends_with(&stop[..*length]);
    (1..stop.len().min(text.len() + 1)).rev().find(fits).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(text: &str, stop: &[&str]) -> (Vec<String>, bool) {
        let tokenizer = Tokenizer::train_byte_level([""].into_iter(), 259).unwrap();
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
}
