use std::collections::HashSet;
use std::path::PathBuf;

use luspo_core::{Prompt, Purpose, RandomKey};
use rand::seq::SliceRandom;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::names;
use crate::read::read_file;
use crate::{DataError, Tokenizer};

/// What happens to a prompt of more than `data.max_prompt_length` tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PromptOverlong {
    /// It is left out; how many were is logged.
    #[default]
    Filter,
    /// Its first tokens are cut off.
    TruncateLeft,
    /// Loading fails.
    Error,
}

/// What loading did to the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LoadReport {
    /// Rows of the files.
    pub rows: usize,
    /// Rows left out for their length.
    pub filtered: usize,
    /// Prompts cut for their length.
    pub truncated: usize,
}

/// The prompts that a run trains or validates on.
#[derive(Clone, Debug)]
pub struct PromptDataset {
    prompts: Vec<Prompt>,
    report: LoadReport,
}

impl PromptDataset {
    /// Reads, renders and tokenises the prompts of `files`. A prompt's id is its row's number over all files, so that
    /// it does not change when others are filtered.
    ///
    /// # Errors
    /// As [`read_rows`](crate::read_rows) and [`Tokenizer::encode_prompt`]; where a prompt is too long and `overlong`
    /// says so; where no prompt is left.
    pub fn load(
        files: &[PathBuf],
        tokenizer: &Tokenizer,
        max_prompt_length: usize,
        overlong: PromptOverlong,
    ) -> Result<Self, DataError> {
        let mut prompts = Vec::new();
        let mut report = LoadReport::default();
        let mut shortest = usize::MAX;
        for file in files {
            let rows = read_file(file)?;
            let encoded = tokenizer.encode_prompts(file, &rows)?;
            for (row_in_file, (row, mut token_ids)) in rows.into_iter().zip(encoded).enumerate() {
                let id = report.rows as u64;
                report.rows += 1;
                let tokens = token_ids.len();
                if tokens == 0 {
                    return Err(DataError::Value {
                        file: file.clone(),
                        row: row_in_file,
                        key: "prompt".into(),
                        problem: "has no token: it is empty, or the chat template left nothing of it".into(),
                    });
                }
                shortest = shortest.min(tokens);
                if tokens > max_prompt_length {
                    match overlong {
                        PromptOverlong::Filter => {
                            report.filtered += 1;
                            continue;
                        }
                        PromptOverlong::TruncateLeft => {
                            report.truncated += 1;
                            token_ids.drain(..tokens - max_prompt_length);
                        }
                        PromptOverlong::Error => {
                            return Err(DataError::PromptTooLong {
                                file: file.clone(),
                                row: row_in_file,
                                tokens,
                                max: max_prompt_length,
                            });
                        }
                    }
                }
                prompts.push(Prompt {
                    id,
                    messages: row.prompt.messages(),
                    token_ids,
                    data_source: row.data_source,
                    ground_truth: row.ground_truth,
                    extra_info: row.extra_info,
                });
            }
        }
        if report.rows == 0 {
            return Err(DataError::Empty { files: names(files) });
        }
        if prompts.is_empty() {
            return Err(DataError::AllTooLong {
                files: names(files),
                rows: report.rows,
                max: max_prompt_length,
                shortest,
                key: "max_prompt_length",
            });
        }
        let LoadReport { rows, filtered, truncated } = report;
        log::info!("{}: {rows} prompts", names(files));
        if filtered + truncated > 0 {
            log::warn!(
                "{}: {filtered} of {rows} prompts left out and {truncated} cut, longer than {max_prompt_length} tokens",
                names(files)
            );
        }
        Ok(Self { prompts, report })
    }

    /// How many prompts there are.
    pub fn len(&self) -> usize {
        self.prompts.len()
    }

    /// Whether there is none; [`load`](Self::load) never gives such a dataset.
    pub fn is_empty(&self) -> bool {
        self.prompts.is_empty()
    }

    /// The prompts, in the order of the files.
    pub fn prompts(&self) -> &[Prompt] {
        &self.prompts
    }

    /// What loading did to the rows.
    pub fn report(&self) -> LoadReport {
        self.report
    }

    /// The prompts of a step (from 1): the steps deal out one epoch after the other, each in a new order. A batch may
    /// span two epochs; its prompts are distinct all the same, because their answers are keyed by (step, prompt).
    ///
    /// A function of its arguments alone: a resumed run goes on with the same batches.
    ///
    /// # Panics
    /// Where `step` is 0, or `batch_size` is 0 or more than there are prompts.
    pub fn batch(&self, step: u64, batch_size: usize, seed: u64) -> Vec<&Prompt> {
        assert!(step > 0, "steps count from 1");
        assert!(
            (1..=self.len()).contains(&batch_size),
            "a batch of {batch_size} prompts from a dataset of {}",
            self.len()
        );
        let len = self.len() as u64;
        let start = (step - 1) * batch_size as u64;
        let (epoch, offset) = (start / len, (start % len) as usize);
        let order = self.order(epoch, batch_size, seed);
        let mut rows = order[offset..self.len().min(offset + batch_size)].to_vec();
        if rows.len() < batch_size {
            let next = self.next_order(&order, epoch + 1, batch_size, seed);
            rows.extend(&next[..batch_size - rows.len()]);
        }
        rows.into_iter().map(|row| &self.prompts[row]).collect()
    }

    /// The order of an epoch (from 0). It depends on the ones before it through the batches on their borders.
    fn order(&self, epoch: u64, batch_size: usize, seed: u64) -> Vec<usize> {
        let first = self.shuffled(0, seed);
        (1..=epoch).fold(first, |order, epoch| self.next_order(&order, epoch, batch_size, seed))
    }

    /// The order of `epoch` after the one of the epoch before: a shuffle, in which prompts that the batch on the
    /// border already holds change places with later ones.
    fn next_order(&self, before: &[usize], epoch: u64, batch_size: usize, seed: u64) -> Vec<usize> {
        let mut order = self.shuffled(epoch, seed);
        let held = (epoch as u128 * self.len() as u128 % batch_size as u128) as usize;
        if held > 0 {
            let border: HashSet<usize> = before[self.len() - held..].iter().copied().collect();
            let missing = batch_size - held;
            let mut later = missing;
            for place in 0..missing {
                if border.contains(&order[place]) {
                    // There are at least `missing` prompts outside the border batch, so the search ends.
                    while border.contains(&order[later]) {
                        later += 1;
                    }
                    order.swap(place, later);
                }
            }
        }
        order
    }

    fn shuffled(&self, epoch: u64, seed: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.shuffle(&mut RandomKey::new(seed, Purpose::Shuffle).at(epoch).rng());
        order
    }

    /// The prompts without repetitions: of rows with the same data source, conversation and gold answer, the first.
    /// Validation files repeat their rows to be sampled more often.
    pub fn distinct(&self) -> Vec<&Prompt> {
        let mut seen = HashSet::new();
        let mut distinct = Vec::new();
        for prompt in &self.prompts {
            let turns: Vec<_> = prompt.messages.iter().map(|turn| (&turn.role, &turn.content)).collect();
            if seen.insert((&prompt.data_source, turns, &prompt.ground_truth)) {
                distinct.push(prompt);
            }
        }
        distinct
    }
}
