use std::collections::BTreeSet;
use std::path::PathBuf;

use luspo_core::Prompt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::load::Loading;
use crate::order::Order;
use crate::spool::Spool;
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
    /// Its last tokens are cut off.
    TruncateRight,
    /// Loading fails.
    Error,
}

/// Which rows become prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadOptions {
    /// The longest prompt, in tokens.
    pub max_prompt_length: usize,
    /// What becomes of longer ones.
    pub overlong: PromptOverlong,
    /// Leave rows out that cannot be used (without prompt, source or gold answer), where loading would fail.
    pub filter_invalid: bool,
    /// Count rows that differ in their `extra_info` alone as different prompts, for whoever judges by it.
    pub by_extra_info: bool,
}

/// What loading did to the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LoadReport {
    /// Rows of the files.
    pub rows: usize,
    /// Rows left out because they cannot be used.
    pub invalid: usize,
    /// Rows left out for their length.
    pub filtered: usize,
    /// Prompts cut for their length.
    pub truncated: usize,
    /// Prompts whose data source, conversation and gold answer (and, where asked for, `extra_info`) appeared before.
    pub duplicates: usize,
    /// Conversations that appear with more than one gold answer.
    pub conflicting_golds: usize,
}

/// The prompts that a run trains or validates on.
///
/// A large dataset does not stay in memory: what exceeds 16 MiB is kept in a temporary file without a name, in the
/// system's folder for such files (`TMPDIR`), and prompts come back from it as they are asked for. In memory are some
/// ten bytes a prompt, and a hundred while the files are read.
pub struct PromptDataset {
    pub(crate) prompts: Spool,
    /// The first of each set of equal prompts.
    pub(crate) distinct: Vec<usize>,
    pub(crate) data_sources: BTreeSet<String>,
    pub(crate) longest: usize,
    pub(crate) report: LoadReport,
}

impl PromptDataset {
    /// Reads, renders and tokenises the prompts of `files`. A prompt's id is its row's number over all files, so that
    /// it does not change when others are left out.
    ///
    /// # Errors
    /// As [`Rows`](crate::Rows) and [`Tokenizer::encode_prompt`]; where a prompt has no gold answer or no token, or is too long and
    /// the options say so; where no prompt is left; where the prompts cannot be kept.
    pub fn load(files: &[PathBuf], tokenizer: &Tokenizer, options: LoadOptions) -> Result<Self, DataError> {
        let mut loading = Loading::new(tokenizer, options);
        for file in files {
            loading.read(file)?;
        }
        loading.finish(files)
    }

    /// How many prompts there are.
    pub fn len(&self) -> usize {
        self.prompts.len()
    }

    /// Whether there is none; [`load`](Self::load) never gives such a dataset.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The prompts, in the order of the files.
    ///
    /// # Errors
    /// Where the temporary file cannot be read.
    pub fn iter(&self) -> impl Iterator<Item = Result<Prompt, DataError>> {
        (0..self.len()).map(|number| self.prompts.get(number))
    }

    /// What loading did to the rows.
    pub fn report(&self) -> LoadReport {
        self.report
    }

    /// The data sources of the prompts, each once.
    pub fn data_sources(&self) -> impl Iterator<Item = &String> {
        self.data_sources.iter()
    }

    /// Tokens of the longest prompt.
    pub fn longest_prompt(&self) -> usize {
        self.longest
    }

    /// The prompts of a step (from 1): the steps deal out one epoch after the other, each in a new order. A batch may
    /// span two epochs; its prompts are distinct all the same, because their answers are keyed by (step, prompt).
    ///
    /// A function of its arguments alone: a resumed run goes on with the same batches.
    ///
    /// # Errors
    /// Where the temporary file cannot be read.
    ///
    /// # Panics
    /// Where `step` is 0, or `batch_size` is 0 or more than there are prompts.
    pub fn batch(&self, step: u64, batch_size: usize, seed: u64) -> Result<Vec<Prompt>, DataError> {
        assert!(step > 0, "steps count from 1");
        let len = self.len();
        assert!((1..=len).contains(&batch_size), "a batch of {batch_size} prompts from a dataset of {len}");
        let numbers = Order { len, batch_size, seed }.batch(step);
        numbers.into_iter().map(|number| self.prompts.get(number)).collect()
    }

    /// How many different prompts there are.
    pub fn distinct_len(&self) -> usize {
        self.distinct.len()
    }

    /// The prompts without repetitions: of rows with the same data source, conversation and gold answer (and `extra_info`,
    /// where the options say so), the first.
    /// Validation files repeat their rows to be sampled more often.
    ///
    /// # Errors
    /// Where the temporary file cannot be read.
    pub fn distinct(&self) -> Result<Vec<Prompt>, DataError> {
        self.distinct.iter().map(|&number| self.prompts.get(number)).collect()
    }
}

impl std::fmt::Debug for PromptDataset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PromptDataset").field("report", &self.report).finish_non_exhaustive()
    }
}
