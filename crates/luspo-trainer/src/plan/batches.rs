//! The arithmetic of a configuration's batches, in numbers and in words.

use serde::Serialize;

use crate::Config;

/// How a step's answers are sampled and gone through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Batches {
    /// Prompts a step.
    pub prompts: usize,
    /// Answers a prompt.
    pub answers: usize,
    /// Rows a step: prompts times answers.
    pub rows: usize,
    /// Rows that are decoded at once, at most.
    pub sampled_at_once: usize,
    /// Prompts an update.
    pub prompts_per_update: usize,
    /// Rows an update.
    pub rows_per_update: usize,
    /// Updates a step, with all epochs.
    pub updates_per_step: usize,
    /// Times that a step's rows are gone through.
    pub epochs: usize,
    /// Rows that go through the model at once, at most; `None` where a number of tokens says it.
    pub rows_per_micro_batch: Option<usize>,
    /// Tokens that go through the model at once, at most; `None` where a number of rows says it.
    pub tokens_per_micro_batch: Option<usize>,
    /// Tokens of a row, prompt and answer, at most.
    pub tokens_per_row: usize,
    /// Steps of reinforcement learning.
    pub steps: usize,
    /// The same in sentences.
    pub words: Vec<String>,
}

impl Batches {
    /// Of a configuration that is valid.
    pub(super) fn of(config: &Config) -> Self {
        let (prompts, answers) = (config.data.train_batch_size, config.rollout.n);
        let rows = prompts * answers;
        let prompts_per_update = config.mini_batch_size();
        let tokens_per_micro_batch = config.trainer.max_tokens_per_micro_batch;
        let mut batches = Self {
            prompts,
            answers,
            rows,
            sampled_at_once: rows.min(config.rollout.max_batch_size),
            prompts_per_update,
            rows_per_update: prompts_per_update * answers,
            updates_per_step: config.updates_per_step(),
            epochs: config.trainer.ppo_epochs,
            rows_per_micro_batch: tokens_per_micro_batch.is_none().then(|| config.micro_batch_size()),
            tokens_per_micro_batch,
            tokens_per_row: config.data.max_prompt_length + config.data.max_response_length,
            steps: config.trainer.total_training_steps,
            words: Vec::new(),
        };
        batches.words = batches.sentences(config);
        batches
    }

    fn sentences(&self, config: &Config) -> Vec<String> {
        let Self { prompts, answers, rows, rows_per_update, updates_per_step, epochs, .. } = *self;
        let mut words = Vec::new();
        if let Some(sft) = config.sft.as_ref().filter(|sft| sft.steps > 0) {
            let micro = sft.micro_batch_size.unwrap_or(sft.batch_size);
            words.push(format!(
                "warm-up: {} of {}, {}",
                counted(sft.steps, "step"),
                counted(sft.batch_size, "example"),
                parts(sft.batch_size, micro, "example"),
            ));
        }
        words.push(format!(
            "a step: {} × {} = {}, {}",
            counted(prompts, "prompt"),
            counted(answers, "answer"),
            counted(rows, "row"),
            match rows.div_ceil(self.sampled_at_once) {
                1 => "all sampled at once".to_string(),
                _ => format!("at most {} of them sampled at a time", self.sampled_at_once),
            }
        ));
        let times = if epochs == 1 { String::new() } else { format!(", {epochs} times over") };
        words.push(format!(
            "its updates: {updates_per_step} of {} × {} = {}{times}",
            counted(self.prompts_per_update, "prompt"),
            counted(answers, "answer"),
            counted(rows_per_update, "row"),
        ));
        words.push(match (self.rows_per_micro_batch, self.tokens_per_micro_batch) {
            (_, Some(tokens)) => format!("an update: micro-batches of as many rows as have {tokens} tokens at most"),
            (rows, None) => format!("an update: {}", parts(rows_per_update, rows.unwrap_or(rows_per_update), "row")),
        });
        words.push(format!(
            "a row: a prompt of up to {} and an answer of up to {}, {} together",
            counted(config.data.max_prompt_length, "token"),
            config.data.max_response_length,
            self.tokens_per_row,
        ));
        words.push(format!(
            "the run: {} = {}{}",
            counted(self.steps, "step"),
            counted(self.steps * updates_per_step, "update"),
            match config.trainer.critic_warmup {
                0 => String::new(),
                warmup => format!(", of which the critic alone makes those of the first {}", counted(warmup, "step")),
            }
        ));
        words
    }
}

/// `1 row`, `2 rows`.
fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// In what parts a whole goes through the model.
fn parts(whole: usize, part: usize, what: &str) -> String {
    match whole.div_ceil(part) {
        1 => format!("all {} go through the model at once", counted(whole, what)),
        parts => format!("{parts} micro-batches of {}", counted(part, what)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SftConfig;

    #[test]
    fn the_arithmetic_is_said_in_words() {
        let mut config = Config::default();
        (config.data.train_batch_size, config.rollout.n, config.rollout.max_batch_size) = (128, 8, 64);
        config.trainer.ppo_mini_batch_size = Some(16);
        config.trainer.ppo_micro_batch_size = Some(32);
        config.sft = Some(SftConfig { steps: 10, batch_size: 32, ..SftConfig::default() });
        let batches = Batches::of(&config);
        assert_eq!(
            batches.words,
            [
                "warm-up: 10 steps of 32 examples, all 32 examples go through the model at once",
                "a step: 128 prompts × 8 answers = 1024 rows, at most 64 of them sampled at a time",
                "its updates: 8 of 16 prompts × 8 answers = 128 rows",
                "an update: 4 micro-batches of 32 rows",
                "a row: a prompt of up to 1024 tokens and an answer of up to 1024, 2048 together",
                "the run: 100 steps = 800 updates",
            ]
        );
        config.trainer.ppo_epochs = 2;
        config.trainer.critic_warmup = 1;
        (config.trainer.ppo_micro_batch_size, config.trainer.max_tokens_per_micro_batch) = (None, Some(4096));
        let batches = Batches::of(&config);
        assert_eq!(batches.updates_per_step, 16);
        assert_eq!(batches.words[3], "an update: micro-batches of as many rows as have 4096 tokens at most");
        assert_eq!(batches.words[2], "its updates: 16 of 16 prompts × 8 answers = 128 rows, 2 times over");
    }
}
