use std::ops::AddAssign;
use std::time::Duration;

/// What the engine did and how long it took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Statistics {
    /// Prompt tokens that were read; those of a group once.
    pub prefill_tokens: usize,
    /// Time that took, with the logits of the first response tokens.
    pub prefill: Duration,
    /// Tokens that were read one by one.
    pub decode_tokens: usize,
    /// Time that took, with the logits.
    pub decode: Duration,
    /// Time in which tokens were chosen from logits.
    pub choice: Duration,
    /// Passes over a batch of answers.
    pub decode_steps: usize,
    /// Answers that there was room for, summed over these passes.
    pub decode_rows: usize,
    /// Places of the cache that held a token, summed over these passes.
    pub filled: usize,
    /// Places of the cache, summed over these passes.
    pub capacity: usize,
    /// The most places that belonged to answers and their prompts at one time.
    pub most_taken: usize,
}

impl Statistics {
    /// Prompt tokens read a second; none where none were.
    pub fn prefill_tokens_per_second(&self) -> Option<f64> {
        (self.prefill_tokens > 0).then(|| self.prefill_tokens as f64 / self.prefill.as_secs_f64())
    }

    /// Tokens decoded a second, with their choice; none where none were.
    pub fn decode_tokens_per_second(&self) -> Option<f64> {
        (self.decode_tokens > 0).then(|| self.decode_tokens as f64 / (self.decode + self.choice).as_secs_f64())
    }

    /// Share of the places of a batch that had an answer, over all passes; none where there was no pass.
    pub fn batch_occupancy(&self) -> Option<f64> {
        (self.decode_rows > 0).then(|| self.decode_tokens as f64 / self.decode_rows as f64)
    }

    /// Share of the cache that held tokens, over all passes; none where there was no pass.
    pub fn cache_use(&self) -> Option<f64> {
        (self.capacity > 0).then(|| self.filled as f64 / self.capacity as f64)
    }
}

impl AddAssign for Statistics {
    fn add_assign(&mut self, other: Self) {
        self.prefill_tokens += other.prefill_tokens;
        self.prefill += other.prefill;
        self.decode_tokens += other.decode_tokens;
        self.decode += other.decode;
        self.choice += other.choice;
        self.decode_steps += other.decode_steps;
        self.decode_rows += other.decode_rows;
        self.filled += other.filled;
        self.capacity += other.capacity;
        self.most_taken = self.most_taken.max(other.most_taken);
    }
}
