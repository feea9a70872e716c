//! A Hugging Face folder written again: in another number type, in files of another size.

use std::io;
use std::path::Path;

use luspo_core::durable::Draft;
use luspo_core::{open_file, read_text};
use serde_json::Value;

use crate::ModelError;
use crate::config::Qwen2Config;
use crate::dtype::WeightDtype;
use crate::save::{self, SaveOptions};
use crate::weights::WeightFiles;

/// What belongs to a model beside `config.json` and the weights; copied byte for byte where it exists.
const COPIED: [&str; 8] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
];

/// Writes the model of the folder `from` into the existing folder `to`: its weights as `options` say, its `config.json`
/// with the number type that was written, its tokenizer and `generation_config.json` byte for byte.
///
/// Returns the number type of the written tensors, or `None` if they have several. Tensors go from file to file, one at a
/// time, so that no memory and no backend for the whole model is needed. A tensor that keeps its type keeps its bytes;
/// tensors that are not part of the model are left out.
///
/// # Errors
/// Names the file, and the key or tensor, of what is missing, damaged, contradictory or not supported in `from`
/// (as [`Pretrained::load`](crate::Pretrained::load)); [`ModelError::OutOfRange`] for a number that the wanted type cannot
/// hold; a file that cannot be written. Files written before the error stay.
pub fn export(from: &Path, to: &Path, options: &SaveOptions) -> Result<Option<WeightDtype>, ModelError> {
    let config = Qwen2Config::from_folder(from)?;
    let files = WeightFiles::open(from)?;
    files.check(&config)?;
    let tensors = config.parameters().map(|(name, shape)| {
        let view = files.view(&name, &shape)?;
        Ok((name, view))
    });
    let dtype = save::write(to, tensors.collect::<Result<Vec<_>, ModelError>>()?, options)?;
    for name in COPIED {
        if from.join(name).exists() {
            copy(&from.join(name), &to.join(name))?;
        }
    }
    write_config(from, to, dtype)?;
    Ok(dtype)
}

/// Copies `config.json`; where it does not say the type that was written, it says so in the copy.
fn write_config(from: &Path, to: &Path, dtype: Option<WeightDtype>) -> Result<(), ModelError> {
    let (from, to) = (from.join("config.json"), to.join("config.json"));
    let text = read_text(&from).map_err(ModelError::io(&from))?;
    let mut config: Value = serde_json::from_str(&text).map_err(ModelError::json(&from))?;
    let (Some(dtype), Some(keys)) = (dtype, config.as_object_mut()) else { return copy(&from, &to) };
    let name = Value::from(dtype.torch_name());
    // transformers 5 writes `dtype`, its predecessors `torch_dtype`; all of them read the latter.
    let stale = keys.get("torch_dtype").or(keys.get("dtype")) != Some(&name)
        || keys.get("dtype").is_some_and(|said| *said != name);
    if !stale {
        return copy(&from, &to);
    }
    keys.entry("dtype").and_modify(|said| *said = name.clone());
    keys.insert("torch_dtype".into(), name);
    save::write_json(&to, &config)
}

fn copy(from: &Path, to: &Path) -> Result<(), ModelError> {
    let mut source = open_file(from).map_err(ModelError::io(from))?;
    let mut draft = Draft::create(to).map_err(ModelError::io(to))?;
    io::copy(&mut source, &mut draft).map_err(ModelError::io(to))?;
    draft.finish().map_err(ModelError::io(to))
}
