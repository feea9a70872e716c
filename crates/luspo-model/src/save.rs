//! Writing Hugging Face weight files: one `model.safetensors`, or shards with an index.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::Path;

use luspo_core::durable::{self, Draft};
use safetensors::tensor::{Dtype, Metadata, TensorInfo, View};
use serde_json::json;

use crate::ModelError;
use crate::dtype::WeightDtype;
use crate::init::transposed;
use crate::names::Named;

pub(crate) const SINGLE: &str = "model.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// How weights are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaveOptions {
    /// The number type of every tensor. `None` (the default) keeps each tensor's own: that of the file it comes from, or
    /// that of the model in memory.
    pub dtype: Option<WeightDtype>,
    /// Bytes of tensors in one file, at most; a tensor larger than that has a file of its own. [`u64::MAX`] (the default)
    /// writes a single file.
    pub max_shard_bytes: u64,
}

impl Default for SaveOptions {
    fn default() -> Self {
        Self { dtype: None, max_shard_bytes: u64::MAX }
    }
}

/// A tensor with its name and the type in which it will be stored.
struct Pending<V> {
    name: String,
    view: V,
    dtype: WeightDtype,
}

impl<V: View> Pending<V> {
    /// Bytes in the file.
    fn size(&self) -> usize {
        self.view.shape().iter().product::<usize>() * self.dtype.size()
    }

    /// What will be in the file.
    fn bytes(&self) -> Result<Cow<'_, [u8]>, ModelError> {
        let (data, own) = (self.view.data(), own_dtype(&self.view));
        if own == self.dtype {
            return Ok(data);
        }
        let bytes = self.dtype.encode(&own.decode(&data)).map_err(|value| ModelError::OutOfRange {
            tensor: self.name.clone(),
            value,
            dtype: self.dtype,
        })?;
        Ok(Cow::Owned(bytes))
    }
}

fn own_dtype(view: &impl View) -> WeightDtype {
    WeightDtype::of(view.dtype()).expect("tensors of other types are refused when a folder is opened")
}

/// Writes tensors under their Hugging Face names, one at a time, and returns their number type unless they have several.
/// The bytes depend on the values alone.
pub(crate) fn write<V: View>(
    dir: &Path,
    tensors: impl IntoIterator<Item = (String, V)>,
    options: &SaveOptions,
) -> Result<Option<WeightDtype>, ModelError> {
    let mut tensors: Vec<_> = tensors
        .into_iter()
        .map(|(name, view)| Pending { dtype: options.dtype.unwrap_or(own_dtype(&view)), name, view })
        .collect();
    // Wider types first, so that every tensor is aligned.
    tensors.sort_by(|a, b| (Reverse(a.dtype.size()), &a.name).cmp(&(Reverse(b.dtype.size()), &b.name)));
    let shards = split(&tensors, options.max_shard_bytes);
    if let [all] = shards.as_slice() {
        write_file(&dir.join(SINGLE), all)?;
        remove(&dir.join(INDEX))?;
    } else {
        let mut weight_map = BTreeMap::new();
        for (number, shard) in shards.iter().enumerate() {
            let file = format!("model-{:05}-of-{:05}.safetensors", number + 1, shards.len());
            write_file(&dir.join(&file), shard)?;
            weight_map.extend(shard.iter().map(|tensor| (tensor.name.as_str(), file.clone())));
        }
        let total_size: usize = tensors.iter().map(Pending::size).sum();
        let index = json!({ "metadata": { "total_size": total_size }, "weight_map": weight_map });
        write_json(&dir.join(INDEX), &index)?;
        // Readers look for the single file first.
        remove(&dir.join(SINGLE))?;
    }
    let first = tensors.first().map(|tensor| tensor.dtype);
    Ok(first.filter(|first| tensors.iter().all(|tensor| tensor.dtype == *first)))
}

/// Runs of tensors whose sizes add up to `max` bytes at most, or that are a single tensor.
fn split<V: View>(tensors: &[Pending<V>], max: u64) -> Vec<&[Pending<V>]> {
    let (mut shards, mut start, mut size) = (Vec::new(), 0, 0_u64);
    for (place, tensor) in tensors.iter().enumerate() {
        let bytes = tensor.size() as u64;
        if place > start && size.saturating_add(bytes) > max {
            shards.push(&tensors[start..place]);
            (start, size) = (place, 0);
        }
        size = size.saturating_add(bytes);
    }
    shards.push(&tensors[start..]);
    shards
}

/// The length of the header, the header, the tensors. (The safetensors crate's own writer cannot refuse a tensor half-way,
/// nor does it flush the file before it renames it.)
fn write_file<V: View>(path: &Path, tensors: &[Pending<V>]) -> Result<(), ModelError> {
    let mut end = 0;
    let infos = tensors.iter().map(|tensor| {
        let start = end;
        end += tensor.size();
        let info = TensorInfo {
            dtype: tensor.dtype.stored(),
            shape: tensor.view.shape().to_vec(),
            data_offsets: (start, end),
        };
        (tensor.name.clone(), info)
    });
    let format = HashMap::from([("format".to_string(), "pt".to_string())]);
    let metadata = Metadata::new(Some(format), infos.collect())
        .map_err(|error| ModelError::Safetensors { path: path.into(), reason: error.to_string() })?;
    let mut header = serde_json::to_vec(&metadata).map_err(ModelError::json(path))?;
    header.resize(header.len().next_multiple_of(size_of::<u64>()), b' ');
    let mut draft = Draft::create(path).map_err(ModelError::io(path))?;
    let mut put = |bytes: &[u8]| draft.write_all(bytes).map_err(ModelError::io(path));
    put(&(header.len() as u64).to_le_bytes())?;
    put(&header)?;
    tensors.iter().try_for_each(|tensor| put(&tensor.bytes()?))?;
    draft.finish().map_err(ModelError::io(path))
}

pub(crate) fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), ModelError> {
    let text = serde_json::to_string_pretty(value).map_err(ModelError::json(path))? + "\n";
    durable::write(path, text.as_bytes()).map_err(ModelError::io(path))
}

/// Weights of an earlier save that would be read in place of these.
fn remove(path: &Path) -> Result<(), ModelError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(ModelError::io(path)(error)),
        _ => Ok(()),
    }
}

impl View for Named {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * size_of::<f32>()
    }

    /// Called when the tensor's turn has come, so that only one is on the host at a time.
    fn data(&self) -> Cow<'_, [u8]> {
        let values: Vec<f32> = self.value.to_data().iter::<f32>().collect();
        let values = match (self.transposed, self.shape.as_slice()) {
            (true, [rows, columns]) => transposed(&values, *columns, *rows),
            _ => values,
        };
        Cow::Owned(values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }
}
