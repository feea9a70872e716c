//! From files to the prompts of a run: every row is read, judged, rendered and tokenised once.

use std::path::{Path, PathBuf};

use luspo_core::Prompt;

use crate::dataset::{LoadOptions, LoadReport, PromptDataset, PromptOverlong};
use crate::error::names;
use crate::identity::{Novelty, Repetitions, hash_of};
use crate::spool::Spool;
use crate::{DataError, Row, Rows, Tokenizer};

/// Rows that are rendered and tokenised at a time.
pub(crate) const CHUNK: usize = 256;

/// A dataset that is being read.
pub(crate) struct Loading<'a> {
    tokenizer: &'a Tokenizer,
    options: LoadOptions,
    dataset: PromptDataset,
    seen: Repetitions,
    /// Tokens of the shortest prompt.
    shortest: usize,
    /// What is wrong with the first row that was left out as invalid.
    first_invalid: Option<String>,
}

impl<'a> Loading<'a> {
    pub(crate) fn new(tokenizer: &'a Tokenizer, options: LoadOptions) -> Self {
        let dataset = PromptDataset {
            prompts: Spool::new(),
            distinct: Vec::new(),
            data_sources: Default::default(),
            longest: 0,
            report: LoadReport::default(),
        };
        Self { tokenizer, options, dataset, seen: Repetitions::default(), shortest: usize::MAX, first_invalid: None }
    }

    /// Adds the rows of a file.
    pub(crate) fn read(&mut self, file: &Path) -> Result<(), DataError> {
        let before = self.dataset.report.rows;
        let mut rows = Rows::open(file)?.enumerate().peekable();
        while rows.peek().is_some() {
            let mut chunk = Vec::new();
            for (row, read) in rows.by_ref().take(CHUNK) {
                self.dataset.report.rows += 1;
                match read.and_then(|read| with_gold(file, row, read)) {
                    Ok(read) => chunk.push((row, read)),
                    Err(error) => self.leave_out(error)?,
                }
            }
            let encoded = self.tokenizer.encode_prompts(file, &chunk);
            for ((row, read), token_ids) in chunk.into_iter().zip(encoded) {
                match token_ids.and_then(|ids| with_tokens(file, row, ids)) {
                    Ok(token_ids) => self.add(file, row, (before + row) as u64, read, token_ids)?,
                    Err(error) => self.leave_out(error)?,
                }
            }
        }
        Ok(())
    }

    /// Adds a row, unless it is too long.
    fn add(&mut self, file: &Path, row: usize, id: u64, read: Row, mut token_ids: Vec<u32>) -> Result<(), DataError> {
        let LoadOptions { max_prompt_length: max, overlong, by_extra_info, .. } = self.options;
        let Self { dataset, seen, .. } = self;
        let tokens = token_ids.len();
        self.shortest = self.shortest.min(tokens);
        if tokens > max {
            match overlong {
                PromptOverlong::Filter => {
                    dataset.report.filtered += 1;
                    return Ok(());
                }
                PromptOverlong::TruncateLeft => drop(token_ids.drain(..tokens - max)),
                PromptOverlong::TruncateRight => token_ids.truncate(max),
                PromptOverlong::Error => return Err(DataError::PromptTooLong { file: file.into(), row, tokens, max }),
            }
            dataset.report.truncated += 1;
        }
        let messages = read.prompt.messages();
        let extra_info = by_extra_info.then(|| read.extra_info.to_string());
        match seen.add(hash_of(&messages), &read.data_source, &read.ground_truth, extra_info.as_deref()) {
            Novelty::Duplicate => dataset.report.duplicates += 1,
            Novelty::New | Novelty::Variant => dataset.distinct.push(dataset.prompts.len()),
        }
        dataset.longest = dataset.longest.max(token_ids.len());
        if !dataset.data_sources.contains(&read.data_source) {
            dataset.data_sources.insert(read.data_source.clone());
        }
        dataset.prompts.push(&Prompt {
            id,
            messages,
            token_ids,
            data_source: read.data_source,
            ground_truth: read.ground_truth,
            extra_info: read.extra_info,
        })
    }

    /// Leaves a row out that cannot be used, or fails.
    fn leave_out(&mut self, error: DataError) -> Result<(), DataError> {
        if !self.options.filter_invalid || !matches!(error, DataError::Value { .. }) {
            return Err(error);
        }
        self.dataset.report.invalid += 1;
        self.first_invalid.get_or_insert_with(|| error.to_string());
        Ok(())
    }

    /// The dataset, and what there is to say of it in the log.
    pub(crate) fn finish(mut self, files: &[PathBuf]) -> Result<PromptDataset, DataError> {
        let Self { mut dataset, seen, options: LoadOptions { max_prompt_length: max, .. }, .. } = self;
        dataset.report.conflicting_golds = seen.conflicting_golds();
        let LoadReport { rows, invalid, filtered, truncated, duplicates, conflicting_golds } = dataset.report;
        let files = names(files);
        let first_invalid = self.first_invalid.take().unwrap_or_default();
        if rows == 0 {
            return Err(DataError::Empty { files });
        }
        if invalid == rows {
            return Err(DataError::AllInvalid { files, rows, first: first_invalid });
        }
        if dataset.is_empty() {
            let (rows, shortest) = (rows - invalid, self.shortest);
            return Err(DataError::AllTooLong { files, rows, max, shortest, key: "max_prompt_length" });
        }
        log::info!("{files}: {rows} rows, {} prompts, {duplicates} of them repeated", dataset.len());
        if invalid > 0 {
            log::warn!("{files}: {invalid} of {rows} rows left out, they cannot be used; the first: {first_invalid}");
        }
        if filtered + truncated > 0 {
            log::warn!("{files}: {filtered} of {rows} prompts left out and {truncated} cut, longer than {max} tokens");
        }
        if conflicting_golds > 0 {
            log::warn!(
                "{files}: prompts with several gold answers: {conflicting_golds}; `luspo data inspect` shows them"
            );
        }
        Ok(dataset)
    }
}

/// The row, if an answer to it can be judged.
fn with_gold(file: &Path, row: usize, read: Row) -> Result<Row, DataError> {
    if read.ground_truth.trim().is_empty() {
        let problem = "is empty; every prompt needs a gold answer (data.filter_invalid = true leaves such rows out)";
        let key = "reward_model.ground_truth".into();
        return Err(DataError::Value { file: file.into(), row, key, problem: problem.into() });
    }
    Ok(read)
}

/// The token ids of a prompt, if there are any.
pub(crate) fn with_tokens(file: &Path, row: usize, token_ids: Vec<u32>) -> Result<Vec<u32>, DataError> {
    if token_ids.is_empty() {
        let problem = "has no token: it is empty, or the chat template left nothing of it";
        return Err(DataError::Value { file: file.into(), row, key: "prompt".into(), problem: problem.into() });
    }
    Ok(token_ids)
}
