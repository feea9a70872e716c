//! What is in a dataset, before a run trusts it.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::names;
use crate::identity::{Novelty, Repetitions, hash_of};
use crate::lengths::Lengths;
use crate::load::CHUNK;
use crate::read::columns;
use crate::{DataError, PromptText, Row, Rows, Tokenizer};

/// How many rows, conflicts and overlaps are shown.
const EXAMPLES: usize = 3;

/// What [`inspect`] finds.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// Rows over all files.
    pub rows: usize,
    /// The columns, leaf by leaf, in the order in which the files have them.
    pub columns: Vec<Column>,
    /// The data sources with their rows, the most frequent first.
    pub data_sources: Vec<(String, usize)>,
    /// Different prompts.
    pub distinct_prompts: usize,
    /// Rows whose data source, prompt and gold answer appeared before.
    pub exact_duplicates: usize,
    /// Prompts that appear with more than one gold answer.
    pub conflicting_golds: usize,
    /// The first of those prompts.
    pub conflicts: Vec<Conflict>,
    /// Rows whose gold answer is empty or blank.
    pub empty_golds: usize,
    /// Lengths of the prompts' text (contents of all messages), in characters.
    pub prompt_chars: Lengths,
    /// Lengths of the prompts as the model reads them, in tokens; needs a tokenizer.
    pub prompt_tokens: Option<Lengths>,
    /// What the validation files share with these, where there are some.
    pub overlap: Option<Overlap>,
    /// The first rows.
    pub examples: Vec<Example>,
}

/// A column that holds no others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Column {
    /// Its path, dotted.
    pub path: String,
    /// In Parquet its physical type and, after it in brackets, its logical one; in JSON Lines the kinds of its values.
    pub kind: String,
}

/// A prompt with more than one gold answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Conflict {
    /// The contents of its messages.
    pub prompt: String,
    /// Its different gold answers, each with its first row, counted over all files.
    pub golds: Vec<(usize, String)>,
}

/// What validation files share with the files that were inspected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Overlap {
    /// Different prompts of the validation files.
    pub val_prompts: usize,
    /// How many of them are in the files that were inspected.
    pub shared: usize,
    /// The first of these: the contents of their messages.
    pub examples: Vec<String>,
}

/// A row as a run would use it.
#[derive(Clone, Debug, Serialize)]
pub struct Example {
    /// The prompt as the model reads it; without a tokenizer, the contents of its messages.
    pub prompt: String,
    /// Its data source.
    pub data_source: String,
    /// Its gold answer.
    pub ground_truth: String,
    /// What else the row says.
    pub extra_info: serde_json::Value,
}

/// Looks at datasets in verl's schema; with a tokenizer, as its model would read them; with validation files, at what
/// these share with them.
///
/// # Errors
/// As [`Rows`] and [`Tokenizer::encode_prompt`].
pub fn inspect(
    files: &[PathBuf],
    val_files: &[PathBuf],
    tokenizer: Option<&Tokenizer>,
) -> Result<Inspection, DataError> {
    let mut all_columns: Vec<Column> = Vec::new();
    let mut data_sources: HashMap<String, usize> = HashMap::new();
    let mut seen = Repetitions::default();
    let (mut rows, mut exact_duplicates, mut empty_golds) = (0, 0, 0);
    let (mut chars, mut tokens, mut examples) = (Vec::new(), Vec::new(), Vec::new());
    for file in files {
        for column in columns(file)? {
            if !all_columns.contains(&column) {
                all_columns.push(column);
            }
        }
        in_chunks(file, |chunk| {
            if let Some(tokenizer) = tokenizer {
                for token_ids in tokenizer.encode_prompts(file, chunk) {
                    tokens.push(token_ids?.len());
                }
            }
            for (_, row) in chunk {
                rows += 1;
                *data_sources.entry(row.data_source.clone()).or_default() += 1;
                let novelty = seen.add(hash_of(&row.prompt.messages()), &row.data_source, &row.ground_truth, None);
                exact_duplicates += usize::from(novelty == Novelty::Duplicate);
                empty_golds += usize::from(row.ground_truth.trim().is_empty());
                chars.push(text(&row.prompt).chars().count());
                if examples.len() < EXAMPLES {
                    examples.push(Example::of(row, tokenizer)?);
                }
            }
            Ok(())
        })?;
    }
    if rows == 0 {
        return Err(DataError::Empty { files: names(files) });
    }
    let mut data_sources: Vec<(String, usize)> = data_sources.into_iter().collect();
    data_sources.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    Ok(Inspection {
        rows,
        columns: all_columns,
        data_sources,
        distinct_prompts: seen.conversations(),
        exact_duplicates,
        conflicting_golds: seen.conflicting_golds(),
        conflicts: conflicts(files, &seen)?,
        empty_golds,
        prompt_chars: Lengths::of(chars),
        prompt_tokens: tokenizer.map(|_| Lengths::of(tokens)),
        overlap: overlap(val_files, &seen)?,
        examples,
    })
}

/// Calls `f` with the rows of a file and their numbers in it, some at a time.
fn in_chunks(file: &Path, mut f: impl FnMut(&[(usize, Row)]) -> Result<(), DataError>) -> Result<(), DataError> {
    let mut rows = Rows::open(file)?.enumerate();
    loop {
        let chunk = rows.by_ref().take(CHUNK).map(|(row, read)| Ok((row, read?)));
        let chunk = chunk.collect::<Result<Vec<_>, DataError>>()?;
        if chunk.is_empty() {
            return Ok(());
        }
        f(&chunk)?;
    }
}

/// The first prompts with several golds, in a second pass over the files: only now is it known which they are.
fn conflicts(files: &[PathBuf], seen: &Repetitions) -> Result<Vec<Conflict>, DataError> {
    let mut places: HashMap<u128, usize> = HashMap::new();
    let mut conflicts: Vec<Conflict> = Vec::new();
    if seen.conflicting_golds() == 0 {
        return Ok(conflicts);
    }
    let mut number = 0;
    for file in files {
        for row in Rows::open(file)? {
            let Row { prompt, ground_truth, .. } = row?;
            let conversation = hash_of(&prompt.messages());
            if seen.conflicts(conversation) {
                if places.len() < EXAMPLES && !places.contains_key(&conversation) {
                    places.insert(conversation, conflicts.len());
                    conflicts.push(Conflict { prompt: text(&prompt), golds: Vec::new() });
                }
                if let Some(&place) = places.get(&conversation) {
                    let golds = &mut conflicts[place].golds;
                    if golds.iter().all(|(_, known)| *known != ground_truth) {
                        golds.push((number, ground_truth));
                    }
                }
            }
            number += 1;
        }
    }
    Ok(conflicts)
}

fn overlap(val_files: &[PathBuf], seen: &Repetitions) -> Result<Option<Overlap>, DataError> {
    if val_files.is_empty() {
        return Ok(None);
    }
    let mut val = HashSet::new();
    let (mut shared, mut examples) = (0, Vec::new());
    for file in val_files {
        for row in Rows::open(file)? {
            let prompt = row?.prompt;
            let conversation = hash_of(&prompt.messages());
            if val.insert(conversation) && seen.contains(conversation) {
                shared += 1;
                if examples.len() < EXAMPLES {
                    examples.push(text(&prompt));
                }
            }
        }
    }
    Ok(Some(Overlap { val_prompts: val.len(), shared, examples }))
}

impl Example {
    fn of(row: &Row, tokenizer: Option<&Tokenizer>) -> Result<Self, DataError> {
        Ok(Self {
            prompt: match tokenizer {
                Some(tokenizer) => tokenizer.render_prompt(&row.prompt)?,
                None => text(&row.prompt),
            },
            data_source: row.data_source.clone(),
            ground_truth: row.ground_truth.clone(),
            extra_info: row.extra_info.clone(),
        })
    }
}

/// The contents of all messages, a line break between them.
fn text(prompt: &PromptText) -> String {
    let messages = prompt.messages();
    messages.iter().map(|message| message.content.as_str()).collect::<Vec<_>>().join("\n")
}
