//! What is in a dataset, before a run trusts it.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use serde::Serialize;

use crate::read::{open, read_file};
use crate::{DataError, PromptText, Row, Tokenizer};

/// How many rows are shown as examples.
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
    /// Rows whose gold answer is empty or blank.
    pub empty_golds: usize,
    /// Lengths of the prompts' text (contents of all messages), in characters.
    pub prompt_chars: Lengths,
    /// Lengths of the prompts as the model reads them, in tokens; needs a tokenizer.
    pub prompt_tokens: Option<Lengths>,
    /// The first rows.
    pub examples: Vec<Example>,
}

/// A leaf column of a Parquet file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Column {
    /// Its path, dotted.
    pub path: String,
    /// Its physical type and, after it in brackets, its logical one.
    pub parquet_type: String,
}

/// Statistics of lengths. A percentile is the smallest length that at least that share of the rows does not exceed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Lengths {
    /// The shortest.
    pub min: usize,
    /// The mean.
    pub mean: f64,
    /// Half of the rows are at most this long.
    pub p50: usize,
    /// 90 % of the rows are at most this long.
    pub p90: usize,
    /// 99 % of the rows are at most this long.
    pub p99: usize,
    /// The longest.
    pub max: usize,
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

/// Looks at datasets in verl's schema; with a tokenizer, as its model would read them.
///
/// # Errors
/// As [`read_rows`](crate::read_rows) and [`Tokenizer::encode_prompt`].
pub fn inspect(files: &[PathBuf], tokenizer: Option<&Tokenizer>) -> Result<Inspection, DataError> {
    let mut rows = Vec::new();
    let mut columns = Vec::new();
    let mut prompt_tokens = Vec::new();
    for file in files {
        for leaf in open(file)?.parquet_schema().columns() {
            let logical = leaf.logical_type_ref().map(|logical| format!(" ({logical:?})")).unwrap_or_default();
            let parquet_type = format!("{}{logical}", leaf.physical_type());
            let column = Column { path: leaf.path().string(), parquet_type };
            if !columns.contains(&column) {
                columns.push(column);
            }
        }
        let read = read_file(file)?;
        if let Some(tokenizer) = tokenizer {
            prompt_tokens.extend(tokenizer.encode_prompts(file, &read)?.iter().map(Vec::len));
        }
        rows.extend(read);
    }
    if rows.is_empty() {
        return Err(DataError::Empty { files: crate::error::names(files) });
    }

    let mut data_sources: HashMap<&str, usize> = HashMap::new();
    let mut golds: HashMap<&PromptText, HashSet<&str>> = HashMap::new();
    let mut seen = HashSet::new();
    for row in &rows {
        *data_sources.entry(&row.data_source).or_default() += 1;
        golds.entry(&row.prompt).or_default().insert(&row.ground_truth);
        seen.insert((&row.data_source, &row.prompt, &row.ground_truth));
    }
    let mut data_sources: Vec<(String, usize)> =
        data_sources.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
    data_sources.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));

    let example = |row: &Row| {
        Ok(Example {
            prompt: match tokenizer {
                Some(tokenizer) => tokenizer.render_prompt(&row.prompt)?,
                None => text(&row.prompt),
            },
            data_source: row.data_source.clone(),
            ground_truth: row.ground_truth.clone(),
            extra_info: row.extra_info.clone(),
        })
    };
    Ok(Inspection {
        rows: rows.len(),
        columns,
        data_sources,
        distinct_prompts: golds.len(),
        exact_duplicates: rows.len() - seen.len(),
        conflicting_golds: golds.values().filter(|golds| golds.len() > 1).count(),
        empty_golds: rows.iter().filter(|row| row.ground_truth.trim().is_empty()).count(),
        prompt_chars: Lengths::of(rows.iter().map(|row| text(&row.prompt).chars().count()).collect()),
        prompt_tokens: tokenizer.map(|_| Lengths::of(prompt_tokens)),
        examples: rows.iter().take(EXAMPLES).map(example).collect::<Result<_, _>>()?,
    })
}

/// The contents of all messages, a line break between them.
fn text(prompt: &PromptText) -> String {
    let messages = prompt.messages();
    messages.iter().map(|message| message.content.as_str()).collect::<Vec<_>>().join("\n")
}

impl Lengths {
    /// Of at least one length.
    fn of(mut lengths: Vec<usize>) -> Self {
        lengths.sort_unstable();
        let percentile = |share: usize| lengths[(lengths.len() * share).div_ceil(100) - 1];
        Self {
            min: lengths[0],
            mean: lengths.iter().sum::<usize>() as f64 / lengths.len() as f64,
            p50: percentile(50),
            p90: percentile(90),
            p99: percentile(99),
            max: lengths[lengths.len() - 1],
        }
    }
}
