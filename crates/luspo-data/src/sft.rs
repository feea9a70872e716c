use std::path::PathBuf;

use rayon::prelude::*;

use crate::error::names;
use crate::load::{CHUNK, with_tokens};
use crate::{DataError, Row, Rows, Tokenizer};

/// A worked answer to learn from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SftExample {
    /// The prompt as the model reads it.
    pub prompt_ids: Vec<u32>,
    /// The answer, its end-of-sequence token included.
    pub response_ids: Vec<u32>,
}

/// Reads worked answers: the text at `answer_key` of each row's `extra_info` (`answer` in GSM8K's files), tokenised
/// apart from the prompt, as a sampled answer is. Rows of more than `max_length` tokens (prompt and response) are left
/// out; how many is logged.
///
/// # Errors
/// As [`read_rows`](crate::read_rows) and [`Tokenizer::encode_prompt`]; where a row has no answer, the tokenizer no
/// end-of-sequence token, or no row is left.
pub fn load_sft(
    files: &[PathBuf],
    tokenizer: &Tokenizer,
    answer_key: &str,
    max_length: usize,
) -> Result<Vec<SftExample>, DataError> {
    if tokenizer.eos_token_id().is_none() {
        return Err(DataError::NoEos { origin: tokenizer.origin().into() });
    }
    let mut examples = Vec::new();
    let (mut rows, mut shortest) = (0, usize::MAX);
    for file in files {
        let mut read = Rows::open(file)?.enumerate().peekable();
        while read.peek().is_some() {
            let chunk = read.by_ref().take(CHUNK).map(|(row, read)| Ok((row, read?)));
            let chunk = chunk.collect::<Result<Vec<(usize, Row)>, DataError>>()?;
            let answer = |(row, read): &(usize, Row)| {
                let answer = read.extra_info[answer_key].as_str().filter(|answer| !answer.is_empty());
                answer.map(str::to_owned).ok_or_else(|| DataError::Value {
                    file: file.clone(),
                    row: *row,
                    key: format!("extra_info.{answer_key}"),
                    problem: "is missing or no text; supervised training needs a worked answer there".into(),
                })
            };
            let answers = chunk.iter().map(answer).collect::<Result<Vec<String>, _>>()?;
            let prompts = tokenizer.encode_prompts(file, &chunk);
            let responses = tokenizer.encode_all(answers.par_iter().map(String::as_str))?;
            for (((row, _), prompt_ids), mut response_ids) in chunk.iter().zip(prompts).zip(responses) {
                let prompt_ids = with_tokens(file, *row, prompt_ids?)?;
                response_ids.extend(tokenizer.assistant_end());
                let length = prompt_ids.len() + response_ids.len();
                rows += 1;
                shortest = shortest.min(length);
                if length <= max_length {
                    examples.push(SftExample { prompt_ids, response_ids });
                }
            }
        }
    }
    if rows == 0 {
        return Err(DataError::Empty { files: names(files) });
    }
    if examples.is_empty() {
        let key = "max_prompt_length or max_response_length";
        return Err(DataError::AllTooLong { files: names(files), rows, max: max_length, shortest, key });
    }
    log::info!("{}: {} worked answers", names(files), examples.len());
    if examples.len() < rows {
        let dropped = rows - examples.len();
        log::warn!("{}: {dropped} of {rows} worked answers left out, longer than {max_length} tokens", names(files));
    }
    Ok(examples)
}
