//! Reading Hugging Face weight files: one `model.safetensors`, or shards with an index.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use luspo_core::{open_file, read_text};
use memmap2::Mmap;
use safetensors::tensor::{SafeTensors, TensorInfo, TensorView};
use serde::Deserialize;

use crate::ModelError;
use crate::config::Qwen2Config;
use crate::dtype::WeightDtype;
use crate::save::{INDEX, SINGLE};

/// The tensors of a folder, mapped and not yet read.
pub(crate) struct WeightFiles {
    files: Vec<Mapped>,
    /// Where each tensor is, as an index into `files`.
    place: BTreeMap<String, (usize, TensorInfo)>,
    /// What to name where a tensor is nowhere: the single file or the index.
    top: PathBuf,
}

struct Mapped {
    path: PathBuf,
    map: Mmap,
    /// Where the tensors' bytes begin.
    data: usize,
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

impl WeightFiles {
    /// Maps the weight files of a folder and reads their headers.
    pub(crate) fn open(dir: &Path) -> Result<Self, ModelError> {
        let (single, index) = (dir.join(SINGLE), dir.join(INDEX));
        if single.exists() {
            let (file, tensors) = Mapped::open(single.clone())?;
            let place = tensors.into_iter().map(|(name, info)| (name, (0, info))).collect();
            Ok(Self { files: vec![file], place, top: single })
        } else if index.exists() {
            Self::open_shards(dir, index)
        } else {
            Err(ModelError::NoWeights { folder: dir.to_path_buf() })
        }
    }

    fn open_shards(dir: &Path, index: PathBuf) -> Result<Self, ModelError> {
        let text = read_text(&index).map_err(ModelError::io(&index))?;
        let ShardIndex { weight_map } = serde_json::from_str(&text).map_err(ModelError::json(&index))?;
        let mut shards: BTreeMap<String, (usize, HashMap<String, TensorInfo>)> = BTreeMap::new();
        let mut files: Vec<Mapped> = Vec::new();
        let mut place = BTreeMap::new();
        for (tensor, shard) in weight_map {
            if Path::new(&shard).file_name() != Some(shard.as_ref()) {
                return Err(ModelError::ShardName { path: index, tensor, shard });
            }
            if !shards.contains_key(&shard) {
                let (file, tensors) = Mapped::open(dir.join(&shard))?;
                files.push(file);
                shards.insert(shard.clone(), (files.len() - 1, tensors));
            }
            let (file, tensors) = shards.get_mut(&shard).expect("the shard was just opened");
            match tensors.remove(&tensor) {
                Some(info) => place.insert(tensor, (*file, info)),
                None => return Err(ModelError::MissingTensor { path: dir.join(shard), tensor }),
            };
        }
        Ok(Self { files, place, top: index })
    }

    /// Compares names, shapes and types of a policy's weights with the configuration, before anything is read or
    /// allocated.
    pub(crate) fn check(&self, config: &Qwen2Config) -> Result<(), ModelError> {
        self.check_parameters(config.parameters())
    }

    /// As [`check`](Self::check), for a model of these names and shapes. The head of a language model may be there too.
    pub(crate) fn check_parameters(
        &self,
        parameters: impl Iterator<Item = (String, Vec<usize>)>,
    ) -> Result<(), ModelError> {
        let mut unused: Vec<&str> = self.place.keys().map(String::as_str).collect();
        for (name, shape) in parameters {
            self.find(&name, &shape)?;
            if let Ok(index) = unused.binary_search(&name.as_str()) {
                unused.remove(index);
            }
        }
        // A tied model's is the embedding once more; a value model has no use for it.
        if let Ok(index) = unused.binary_search(&"lm_head.weight") {
            unused.remove(index);
            log::debug!("{}: lm_head.weight is not part of the model and not read", self.top.display());
        }
        if !unused.is_empty() {
            log::warn!(
                "{}: these tensors are not part of the model and not read: {}",
                self.top.display(),
                unused.join(", ")
            );
        }
        Ok(())
    }

    /// A tensor's values in f32, in the order of the file.
    pub(crate) fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        let (file, info, dtype) = self.find(name, shape)?;
        let values = dtype.decode(file.bytes(info));
        match values.iter().find(|value| !value.is_finite()) {
            None => Ok(values),
            Some(&value) => Err(ModelError::NonFinite { path: file.path.clone(), tensor: name.to_string(), value }),
        }
    }

    /// A tensor as it stands in the file.
    pub(crate) fn view(&self, name: &str, shape: &[usize]) -> Result<TensorView<'_>, ModelError> {
        let (file, info, _) = self.find(name, shape)?;
        TensorView::new(info.dtype, info.shape.clone(), file.bytes(info))
            .map_err(|error| ModelError::Safetensors { path: file.path.clone(), reason: error.to_string() })
    }

    fn find(&self, name: &str, shape: &[usize]) -> Result<(&Mapped, &TensorInfo, WeightDtype), ModelError> {
        let tensor = || name.to_string();
        let Some((file, info)) = self.place.get(name) else {
            return Err(ModelError::MissingTensor { path: self.top.clone(), tensor: tensor() });
        };
        let file = &self.files[*file];
        let path = || file.path.clone();
        if info.shape != shape {
            let (found, expected) = (info.shape.clone(), shape.to_vec());
            return Err(ModelError::WrongShape { path: path(), tensor: tensor(), found, expected });
        }
        let Some(dtype) = WeightDtype::of(info.dtype) else {
            let dtype = format!("{:?}", info.dtype);
            return Err(ModelError::UnsupportedDtype { path: path(), tensor: tensor(), dtype });
        };
        Ok((file, info, dtype))
    }
}

impl Mapped {
    fn open(path: PathBuf) -> Result<(Self, HashMap<String, TensorInfo>), ModelError> {
        let unsound = |reason: String| ModelError::Safetensors { path: path.clone(), reason };
        let file = open_file(&path).map_err(ModelError::io(&path))?;
        // SAFETY: weight files are not changed while they are read; if another process truncated one, the read would
        // end in a signal, not in other memory.
        let map = unsafe { Mmap::map(&file) }.map_err(ModelError::io(&path))?;
        // The length of the header, then the header, then the bytes; offsets are checked against the file's size here.
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|error| unsound(error.to_string()))?;
        let tensors = metadata.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
        Ok((Self { path, map, data: size_of::<u64>() + header }, tensors))
    }

    fn bytes(&self, tensor: &TensorInfo) -> &[u8] {
        let (from, to) = tensor.data_offsets;
        &self.map[self.data + from..self.data + to]
    }
}
