//! Writing Hugging Face weight files: one `model.safetensors`, or shards with an index.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use luspo_core::durable::{self, Draft};
use luspo_core::read_text;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::json;

use crate::ModelError;
use crate::dtype::WeightDtype;
use crate::names::Named;
use crate::weights::{ShardIndex, is_plain_name};

pub(crate) const SINGLE: &str = "model.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// How weights are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaveOptions {
    /// The number type of every tensor. `None` (the default) keeps each tensor's own: that of the file it comes from, or
    /// that which the model computes with.
    pub dtype: Option<WeightDtype>,
    /// Bytes of tensors in one file, at most; a tensor larger than that has a file of its own. 5 GB by default.
    pub max_shard_bytes: u64,
}

impl Default for SaveOptions {
    fn default() -> Self {
        Self { dtype: None, max_shard_bytes: 5_000_000_000 }
    }
}

/// Bytes that are handed on at a time: few against a model, many against the cost of handing them on. A multiple of every
/// number's size.
pub(crate) const PIECE: usize = 16 << 20;

/// A tensor that is read when its turn comes, so that only one is in memory at a time.
pub(crate) trait Source {
    fn dtype(&self) -> WeightDtype;
    fn shape(&self) -> &[usize];

    /// Hands on its bytes, as a safetensors file holds them, in order and in pieces of whole numbers.
    fn pieces(&self, sink: &mut dyn FnMut(&[u8]) -> Result<(), ModelError>) -> Result<(), ModelError>;
}

impl<S: Source + ?Sized> Source for Box<S> {
    fn dtype(&self) -> WeightDtype {
        (**self).dtype()
    }

    fn shape(&self) -> &[usize] {
        (**self).shape()
    }

    fn pieces(&self, sink: &mut dyn FnMut(&[u8]) -> Result<(), ModelError>) -> Result<(), ModelError> {
        (**self).pieces(sink)
    }
}

/// A tensor with its name and the type in which it will be stored.
struct Pending<S> {
    name: String,
    source: S,
    dtype: WeightDtype,
}

impl<S: Source> Pending<S> {
    /// Bytes in the file.
    fn size(&self) -> usize {
        self.source.shape().iter().product::<usize>() * self.dtype.size()
    }

    /// Hands on what will be in the file.
    fn pieces(&self, sink: &mut impl FnMut(&[u8]) -> Result<(), ModelError>) -> Result<(), ModelError> {
        let own = self.source.dtype();
        if own == self.dtype {
            return self.source.pieces(sink);
        }
        let mut converted = Vec::new();
        self.source.pieces(&mut |bytes| {
            converted.resize(bytes.len() / own.size() * self.dtype.size(), 0);
            own.convert(bytes, self.dtype, &mut converted).map_err(|value| ModelError::OutOfRange {
                tensor: self.name.clone(),
                value,
                dtype: self.dtype,
            })?;
            sink(&converted)
        })
    }
}

/// Writes tensors under their Hugging Face names, one at a time, and returns their number type unless they have several.
/// The bytes depend on the values alone.
///
/// Wherever it is cut off, the folder holds the weights of the save before, or these, or none that can be read; never some
/// of each.
pub(crate) fn write<S: Source>(
    dir: &Path,
    tensors: impl IntoIterator<Item = (String, S)>,
    options: &SaveOptions,
) -> Result<Option<WeightDtype>, ModelError> {
    let mut tensors: Vec<_> = tensors
        .into_iter()
        .map(|(name, source)| Pending { dtype: options.dtype.unwrap_or(source.dtype()), name, source })
        .collect();
    // Wider types first, so that every tensor is aligned.
    tensors.sort_by(|a, b| (Reverse(a.dtype.size()), &a.name).cmp(&(Reverse(b.dtype.size()), &b.name)));
    let shards = split(&tensors, options.max_shard_bytes);
    if let [all] = shards.as_slice() {
        let before = shards_of(dir);
        write_file(&dir.join(SINGLE), all)?; // which readers look for first
        before.iter().map(String::as_str).chain([INDEX]).try_for_each(|file| remove(&dir.join(file)))?;
    } else {
        let staged = Staged::new(dir)?;
        let mut weight_map = BTreeMap::new();
        for (number, shard) in shards.iter().enumerate() {
            let file = format!("model-{:05}-of-{:05}.safetensors", number + 1, shards.len());
            write_file(&staged.folder.join(&file), shard)?;
            weight_map.extend(shard.iter().map(|tensor| (tensor.name.as_str(), file.clone())));
        }
        let total_size: usize = tensors.iter().map(Pending::size).sum();
        let index = json!({ "metadata": { "total_size": total_size }, "weight_map": weight_map });
        write_json(&staged.folder.join(INDEX), &index)?;
        staged.put_in_place(dir, weight_map.values().cloned().collect())?;
    }
    let first = tensors.first().map(|tensor| tensor.dtype);
    Ok(first.filter(|first| tensors.iter().all(|tensor| tensor.dtype == *first)))
}

/// Writes tensors, each in its own number type, into a single file, aside first.
pub(crate) fn write_alone<S: Source>(
    path: &Path,
    tensors: impl IntoIterator<Item = (String, S)>,
) -> Result<(), ModelError> {
    let pending = |(name, source): (String, S)| Pending { dtype: source.dtype(), name, source };
    let mut tensors: Vec<_> = tensors.into_iter().map(pending).collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    write_file(path, &tensors)
}

/// Shards that are complete, in a folder beside those that they replace.
struct Staged {
    folder: PathBuf,
}

impl Staged {
    fn new(dir: &Path) -> Result<Self, ModelError> {
        let folder = durable::aside(&dir.join(INDEX));
        // What a save that was cut off has left.
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(ModelError::io(&folder))?;
        }
        fs::create_dir(&folder).map_err(ModelError::io(&folder))?;
        Ok(Self { folder })
    }

    fn put_in_place(self, dir: &Path, shards: BTreeSet<String>) -> Result<(), ModelError> {
        let before = shards_of(dir);
        if !before.is_disjoint(&shards) {
            // The index of the save before would lead to shards of this one.
            remove(&dir.join(INDEX))?;
        }
        for file in shards.iter().map(String::as_str).chain([INDEX]) {
            let to = dir.join(file);
            durable::rename(&self.folder.join(file), &to).map_err(ModelError::io(to))?;
        }
        // Readers look for the single file first.
        before.difference(&shards).map(String::as_str).chain([SINGLE]).try_for_each(|file| remove(&dir.join(file)))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Empty where all went well; otherwise it holds the space that may be missing.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The shards of the save before: the weight files that the index in the folder names, if there is one that can be read.
fn shards_of(dir: &Path) -> BTreeSet<String> {
    let index = read_text(&dir.join(INDEX)).ok().and_then(|text| serde_json::from_str::<ShardIndex>(&text).ok());
    let shards = index.into_iter().flat_map(|index| index.weight_map.into_values());
    shards.filter(|shard| is_plain_name(shard) && shard.ends_with(".safetensors") && shard != SINGLE).collect()
}

/// Runs of tensors whose sizes add up to `max` bytes at most, or that are a single tensor.
fn split<S: Source>(tensors: &[Pending<S>], max: u64) -> Vec<&[Pending<S>]> {
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
fn write_file<S: Source>(path: &Path, tensors: &[Pending<S>]) -> Result<(), ModelError> {
    let mut end = 0;
    let infos = tensors.iter().map(|tensor| {
        let start = end;
        end += tensor.size();
        let info = TensorInfo {
            dtype: tensor.dtype.stored(),
            shape: tensor.source.shape().to_vec(),
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
    tensors.iter().try_for_each(|tensor| tensor.pieces(&mut put))?;
    draft.finish().map_err(ModelError::io(path))
}

pub(crate) fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), ModelError> {
    let text = serde_json::to_string_pretty(value).map_err(ModelError::json(path))? + "\n";
    durable::write(path, text.as_bytes()).map_err(ModelError::io(path))
}

/// Removes weights of the save before, for good.
fn remove(path: &Path) -> Result<(), ModelError> {
    durable::remove(path).map_err(ModelError::io(path))
}

impl Source for Named {
    fn dtype(&self) -> WeightDtype {
        WeightDtype::of_tensor(self.value.dtype())
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Only a piece at a time comes from the device, or is copied.
    fn pieces(&self, sink: &mut dyn FnMut(&[u8]) -> Result<(), ModelError>) -> Result<(), ModelError> {
        let (numbers, [size]) = (PIECE / self.dtype().size(), self.value.dims());
        for start in (0..size).step_by(numbers) {
            let piece = self.value.clone().slice(start..size.min(start + numbers)).into_data();
            sink(piece.bytes())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::WeightFiles;

    /// Eight tensors of one number each: of which save they are.
    struct Mark(f32);

    impl Source for Mark {
        fn dtype(&self) -> WeightDtype {
            WeightDtype::F32
        }

        fn shape(&self) -> &[usize] {
            &[1]
        }

        fn pieces(&self, sink: &mut dyn FnMut(&[u8]) -> Result<(), ModelError>) -> Result<(), ModelError> {
            sink(&self.0.to_le_bytes())
        }
    }

    const TENSORS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

    fn save(dir: &Path, mark: f32, max_shard_bytes: u64) -> Result<(), ModelError> {
        let tensors = TENSORS.map(|name| (name.to_string(), Mark(mark)));
        write(dir, tensors, &SaveOptions { dtype: None, max_shard_bytes }).map(drop)
    }

    /// Of which saves the tensors are that a reader finds.
    fn marks(dir: &Path) -> Result<Vec<f32>, ModelError> {
        let files = WeightFiles::open(dir)?;
        let read = |name: &str| files.read(name, &[1], WeightDtype::F32);
        let mark = |name| Ok(read(name)?.iter::<f32>().next().unwrap());
        let mut marks = TENSORS.into_iter().map(mark).collect::<Result<Vec<_>, ModelError>>()?;
        marks.dedup();
        Ok(marks)
    }

    fn names(dir: &Path) -> BTreeSet<String> {
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_save_replaces_the_one_before_and_leaves_nothing_of_it() {
        for before in [4, 8, 16, u64::MAX] {
            for after in [4, 8, 16, u64::MAX] {
                let (used, fresh) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
                save(used.path(), 1.0, before).unwrap();
                save(used.path(), 2.0, after).unwrap();
                save(fresh.path(), 2.0, after).unwrap();
                assert_eq!(marks(used.path()).unwrap(), [2.0]);
                assert_eq!(names(used.path()), names(fresh.path()));
            }
        }
    }

    #[test]
    fn what_an_index_names_beside_weights_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["config.json", "tokenizer.json"] {
            fs::write(dir.path().join(file), "kept").unwrap();
        }
        let index = json!({ "weight_map": { "a": "config.json", "b": SINGLE, "c": "../x.safetensors", "d": "y" } });
        for max in [8, u64::MAX] {
            fs::write(dir.path().join(INDEX), index.to_string()).unwrap();
            save(dir.path(), 1.0, max).unwrap();
            assert_eq!(marks(dir.path()).unwrap(), [1.0]);
            assert!(dir.path().join("config.json").exists() && dir.path().join("tokenizer.json").exists());
        }
    }

    #[test]
    fn a_save_that_is_cut_off_never_mixes_with_the_one_before() {
        // In as many files as before, in more, in fewer, and after a single one.
        for (before, after) in [(8, 8), (8, 4), (4, 8), (u64::MAX, 8)] {
            let shards = save_in(after);
            for step in 0..=shards.len() {
                let dir = tempfile::tempdir().unwrap();
                save(dir.path(), 1.0, before).unwrap();
                // Complete but for one file, at which it stops as a process does that is killed there.
                let staged = Staged::new(dir.path()).unwrap();
                save(&staged.folder, 2.0, after).unwrap();
                let missing = shards.iter().map(String::as_str).chain([INDEX]).nth(step).unwrap();
                fs::remove_file(staged.folder.join(missing)).unwrap();
                assert!(staged.put_in_place(dir.path(), shards.clone()).is_err());
                match marks(dir.path()) {
                    Ok(marks) => assert_eq!(marks, [1.0], "{before} {after} {step}"),
                    Err(error) => assert!(matches!(error, ModelError::NoWeights { .. }), "{error}"),
                }
                // And what is left is no hindrance.
                save(dir.path(), 3.0, after).unwrap();
                assert_eq!(marks(dir.path()).unwrap(), [3.0]);
            }
        }
    }

    /// The names of the shards of a save.
    fn save_in(max: u64) -> BTreeSet<String> {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), 0.0, max).unwrap();
        shards_of(dir.path())
    }

    #[test]
    fn a_save_that_fails_while_it_writes_leaves_the_one_before() {
        struct Broken;
        impl Source for Broken {
            fn dtype(&self) -> WeightDtype {
                WeightDtype::F32
            }
            fn shape(&self) -> &[usize] {
                &[1]
            }
            fn pieces(&self, _: &mut dyn FnMut(&[u8]) -> Result<(), ModelError>) -> Result<(), ModelError> {
                Err(ModelError::NoWeights { folder: "none".into() })
            }
        }
        for max in [4, u64::MAX] {
            let dir = tempfile::tempdir().unwrap();
            save(dir.path(), 1.0, max).unwrap();
            let files = names(dir.path());
            let tensors = TENSORS.map(|name| (name.to_string(), Broken));
            assert!(write(dir.path(), tensors, &SaveOptions { dtype: None, max_shard_bytes: max }).is_err());
            assert_eq!((marks(dir.path()).unwrap(), names(dir.path())), (vec![1.0], files));
        }
    }
}
