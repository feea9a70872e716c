//! A Hugging Face folder written again: in another number type, in files of another size.

use std::io;
use std::path::Path;

use burn::tensor::TensorData;
use luspo_core::durable::Draft;
use luspo_core::{open_file, read_text};
use rayon::prelude::*;
use serde_json::Value;

use crate::ModelError;
use crate::adapter::{Adapter, AdapterFile};
use crate::config::Qwen2Config;
use crate::dtype::WeightDtype;
use crate::save::{self, SaveOptions, Source};
use crate::weights::WeightFiles;

/// What belongs to a model beside `config.json` and the weights; copied byte for byte where it exists.
pub(crate) const COPIED: [&str; 8] = [
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
        let stored = files.find(&name, &shape)?;
        Ok((name, stored))
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

/// As [`export`], of the adapter in the folder `adapter` on the model in the folder `base`, as one model without an
/// adapter: W + s B A, computed in f32 and rounded once, to the wanted number type or that of W. Tokenizer files that the
/// adapter's folder has are taken from there.
///
/// # Errors
/// As [`export`], and as [`Adapter::from_folder`] and [`Adapter::load`].
pub fn export_merged(
    base: &Path,
    adapter: &Path,
    to: &Path,
    options: &SaveOptions,
) -> Result<Option<WeightDtype>, ModelError> {
    let lora = Adapter::from_folder(adapter)?.config;
    let config = Qwen2Config::from_folder(base)?;
    let files = WeightFiles::open(base)?;
    files.check(&config)?;
    // A projection's name, where this is the weight of one that has an adapter.
    let adapted = |name: &str, shape: &[usize]| {
        let projection = name.strip_suffix(".weight")?;
        let (_, last) = projection.rsplit_once('.')?;
        lora.targets(last).then(|| (projection.to_string(), [shape[0], shape[1]]))
    };
    let places = config.parameters().filter_map(|(name, shape)| adapted(&name, &shape));
    let matrices = AdapterFile::open(adapter, &lora, places)?;
    let tensors = config.parameters().map(|(name, shape)| {
        let stored = files.find(&name, &shape)?;
        let source: Box<dyn Source + '_> = match adapted(&name, &shape) {
            None => Box::new(stored),
            Some((projection, size)) => Box::new(Merged {
                base: &files,
                adapter: &matrices,
                dtype: options.dtype.unwrap_or(stored.dtype()),
                name: name.clone(),
                projection,
                shape,
                shapes: lora.shapes(size),
                scale: lora.scale() as f32,
            }),
        };
        Ok((name, source))
    });
    let dtype = save::write(to, tensors.collect::<Result<Vec<_>, ModelError>>()?, options)?;
    for name in COPIED {
        if let Some(from) = [adapter, base].map(|dir| dir.join(name)).into_iter().find(|file| file.exists()) {
            copy(&from, &to.join(name))?;
        }
    }
    write_config(base, to, dtype)?;
    Ok(dtype)
}

/// A weight with its adapter in it.
struct Merged<'a> {
    base: &'a WeightFiles,
    adapter: &'a AdapterFile,
    /// The type of the sum.
    dtype: WeightDtype,
    /// The weight's name.
    name: String,
    projection: String,
    /// `[out, in]`
    shape: Vec<usize>,
    /// Of A and B.
    shapes: [[usize; 2]; 2],
    scale: f32,
}

impl Merged<'_> {
    /// In f32.
    fn sum(&self) -> Result<TensorData, ModelError> {
        let mut weight = self.base.read(&self.name, &self.shape, WeightDtype::F32)?;
        let [a, b] = self.adapter.read(&self.projection, self.shapes, WeightDtype::F32)?;
        let [[rank, inputs], _] = self.shapes;
        let [a, b] = [&a, &b].map(|data| data.as_slice::<f32>().expect("read as f32"));
        let rows = weight.as_mut_slice::<f32>().expect("read as f32").par_chunks_mut(inputs);
        rows.zip(b.par_chunks(rank)).for_each(|(weight, b)| {
            let mut product = vec![0f32; inputs];
            for (b, a) in b.iter().zip(a.chunks(inputs)) {
                product.iter_mut().zip(a).for_each(|(sum, a)| *sum += b * a);
            }
            weight.iter_mut().zip(product).for_each(|(weight, product)| *weight += self.scale * product);
        });
        Ok(weight)
    }
}

impl Source for Merged<'_> {
    fn dtype(&self) -> WeightDtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn pieces(&self, sink: &mut dyn FnMut(&[u8]) -> Result<(), ModelError>) -> Result<(), ModelError> {
        let sum = self.sum()?;
        let mut converted = vec![0; sum.num_elements() * self.dtype.size()];
        let overflow = |value| ModelError::OutOfRange { tensor: self.name.clone(), value, dtype: self.dtype };
        WeightDtype::F32.convert(sum.as_bytes(), self.dtype, &mut converted).map_err(overflow)?;
        sink(&converted)
    }
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
