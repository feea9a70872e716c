//! Reading Hugging Face weight files: one `model.safetensors`, or shards with an index.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::mem;
use std::ops::Range;
use std::path::{Path, PathBuf};

use burn::tensor::{Element, TensorData};
use bytemuck::Pod;
use half::{bf16, f16};
use luspo_core::{open_file, read_text};
use memmap2::{Mmap, UncheckedAdvice};
use safetensors::tensor::{SafeTensors, TensorInfo};
use serde::Deserialize;

use crate::ModelError;
use crate::config::Qwen2Config;
use crate::dtype::WeightDtype;
use crate::error::listed;
use crate::save::{INDEX, PIECE, SINGLE, Source};

/// Bytes of a file's header, and of an index, at most. The 12 291 tensors of the deepest model that is accepted take a
/// tenth of it; what is longer would take memory before anything is known of it.
const MAX_HEADER: u64 = 16 << 20;

/// The head's matrix in a checkpoint.
pub(crate) const HEAD: &str = "lm_head.weight";

/// The embedding's.
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";

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

/// Which file holds a tensor.
#[derive(Deserialize)]
pub(crate) struct ShardIndex {
    pub(crate) weight_map: BTreeMap<String, String>,
}

/// Whether this names a file in the folder itself and not elsewhere.
pub(crate) fn is_plain_name(shard: &str) -> bool {
    Path::new(shard).file_name() == Some(shard.as_ref())
}

impl WeightFiles {
    /// Maps the weight files of a folder and reads their headers.
    pub(crate) fn open(dir: &Path) -> Result<Self, ModelError> {
        let (single, index) = (dir.join(SINGLE), dir.join(INDEX));
        if single.exists() {
            Self::open_alone(single)
        } else if index.exists() {
            Self::open_shards(dir, index)
        } else {
            Err(ModelError::NoWeights { folder: dir.to_path_buf() })
        }
    }

    /// Maps a single file and reads its header.
    pub(crate) fn open_alone(path: PathBuf) -> Result<Self, ModelError> {
        let (file, tensors) = Mapped::open(path.clone())?;
        let place = tensors.into_iter().map(|(name, info)| (name, (0, info))).collect();
        Ok(Self { files: vec![file], place, top: path })
    }

    fn open_shards(dir: &Path, index: PathBuf) -> Result<Self, ModelError> {
        let bytes = fs::metadata(&index).map_err(ModelError::io(&index))?.len();
        if bytes > MAX_HEADER {
            let reason = format!("an index of {bytes} bytes, where a model's has {MAX_HEADER} at most");
            return Err(ModelError::Safetensors { path: index, reason });
        }
        let text = read_text(&index).map_err(ModelError::io(&index))?;
        let ShardIndex { weight_map } = serde_json::from_str(&text).map_err(ModelError::json(&index))?;
        let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (tensor, shard) in &weight_map {
            if !is_plain_name(shard) {
                let (tensor, shard) = (tensor.clone(), shard.clone());
                return Err(ModelError::ShardName { path: index, tensor, shard });
            }
            shards.entry(shard).or_default().push(tensor);
        }
        let mut files: Vec<Mapped> = Vec::new();
        let mut place: BTreeMap<String, (usize, TensorInfo)> = BTreeMap::new();
        for (shard, promised) in shards {
            let (file, tensors) = Mapped::open(dir.join(shard))?;
            let missing: Vec<_> =
                promised.into_iter().filter(|name| !tensors.contains_key(*name)).map(str::to_string).collect();
            if !missing.is_empty() {
                return Err(ModelError::MissingTensors { path: file.path, tensors: missing });
            }
            for (name, info) in tensors {
                // Readers that go by the files and readers that go by the index would have different models.
                if let Some(said) = weight_map.get(&name).filter(|said| *said != shard) {
                    let (said, shard) = (said.clone(), shard.to_string());
                    return Err(ModelError::TensorElsewhere { path: index, tensor: name, said, shard });
                }
                if let Some((other, _)) = place.insert(name.clone(), (files.len(), info)) {
                    let said = files[other].name();
                    return Err(ModelError::TensorElsewhere { path: index, tensor: name, said, shard: file.name() });
                }
            }
            files.push(file);
        }
        Ok(Self { files, place, top: index })
    }

    /// The names of the tensors, sorted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        self.place.keys()
    }

    /// Whether there is a tensor of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.place.contains_key(name)
    }

    /// Compares names, shapes and types of a policy's weights with the configuration, and with the embedding a head
    /// that is there though it is tied. No parameter is made yet.
    pub(crate) fn check(&self, config: &Qwen2Config) -> Result<(), ModelError> {
        self.check_parameters(config.parameters())?;
        match config.tie_word_embeddings && self.has(HEAD) {
            true => self.check_tied_head(&[config.vocab_size, config.hidden_size]),
            false => Ok(()),
        }
    }

    /// Some programs write a tied head as a copy of the embedding. One of other numbers belongs to a model that is not tied,
    /// whatever its configuration says, and readers would differ in which of the two they take.
    fn check_tied_head(&self, shape: &[usize]) -> Result<(), ModelError> {
        let untied = || ModelError::UntiedHead { path: self.top.clone() };
        let embedding = self.find(EMBEDDING, shape)?;
        let head = self.find(HEAD, shape).map_err(|_| untied())?; // of another shape, or of a type that is not read
        let equal = match head.dtype == embedding.dtype {
            true => head.bytes() == embedding.bytes(),
            false => {
                let [head, embedding] = [HEAD, EMBEDDING].map(|name| self.read(name, shape, WeightDtype::F32));
                head?.as_bytes() == embedding?.as_bytes()
            }
        };
        [head, embedding].iter().for_each(Stored::give_back);
        if equal { Ok(()) } else { Err(untied()) }
    }

    /// As [`check`](Self::check), for a model of these names and shapes. The head of a language model may be there too.
    pub(crate) fn check_parameters(
        &self,
        parameters: impl Iterator<Item = (String, Vec<usize>)>,
    ) -> Result<(), ModelError> {
        let wanted = self.compare(parameters)?;
        // What is computed from the configuration was stored too by older versions of transformers.
        let unused = self.place.keys().filter(|name| !wanted.contains(*name) && !name.ends_with("rotary_emb.inv_freq"));
        // A tied model's head is the embedding once more; a value model has no use for it.
        let (head, unused): (Vec<_>, Vec<_>) = unused.cloned().partition(|name| name == HEAD);
        if !head.is_empty() {
            log::debug!("{}: {HEAD} is not part of the model and not read", self.top.display());
        }
        if !unused.is_empty() {
            let (path, names) = (self.top.display(), listed(&unused));
            log::warn!("{path}: what is not part of the model is not read: {names}");
        }
        Ok(())
    }

    /// Compares tensors with the names and shapes of parameters; returns the names.
    pub(crate) fn compare(
        &self,
        parameters: impl Iterator<Item = (String, Vec<usize>)>,
    ) -> Result<BTreeSet<String>, ModelError> {
        let (mut wanted, mut missing) = (BTreeSet::new(), Vec::new());
        for (name, shape) in parameters {
            if self.has(&name) {
                self.find(&name, &shape)?;
            } else {
                missing.push(name.clone());
            }
            wanted.insert(name);
        }
        if !missing.is_empty() {
            return Err(ModelError::MissingTensors { path: self.top.clone(), tensors: missing });
        }
        Ok(wanted)
    }

    /// A tensor's values in the wanted type, in the order of the file.
    pub(crate) fn read(&self, name: &str, shape: &[usize], dtype: WeightDtype) -> Result<TensorData, ModelError> {
        let stored = self.find(name, shape)?;
        match dtype {
            WeightDtype::F32 => stored.read::<f32>(name, dtype),
            WeightDtype::Bf16 => stored.read::<bf16>(name, dtype),
            WeightDtype::F16 => stored.read::<f16>(name, dtype),
        }
    }

    /// A tensor of this name and shape, not yet read.
    pub(crate) fn find(&self, name: &str, shape: &[usize]) -> Result<Stored<'_>, ModelError> {
        let tensor = || name.to_string();
        let Some((file, info)) = self.place.get(name) else {
            return Err(ModelError::MissingTensors { path: self.top.clone(), tensors: vec![tensor()] });
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
        Ok(Stored { file, info, dtype })
    }
}

/// A tensor in a file.
pub(crate) struct Stored<'a> {
    file: &'a Mapped,
    info: &'a TensorInfo,
    dtype: WeightDtype,
}

impl Stored<'_> {
    fn place(&self) -> Range<usize> {
        let (from, to) = self.info.data_offsets;
        self.file.data + from..self.file.data + to
    }

    /// As they are in the file.
    fn bytes(&self) -> &[u8] {
        &self.file.map[self.place()]
    }

    fn give_back(&self) {
        self.file.give_back(self.place());
    }

    /// The values in `dtype`, which is `T`, in the buffer that becomes the parameter.
    fn read<T: Element + Pod>(&self, name: &str, dtype: WeightDtype) -> Result<TensorData, ModelError> {
        let shape = self.info.shape.as_slice();
        let mut values: Vec<T> = bytemuck::zeroed_vec(shape.iter().product());
        let mut rest: &mut [u8] = bytemuck::cast_slice_mut(&mut values);
        self.pieces(&mut |bytes| {
            let (piece, after) = mem::take(&mut rest).split_at_mut(bytes.len() / self.dtype.size() * dtype.size());
            rest = after;
            if let Some(value) = self.dtype.non_finite(bytes) {
                return Err(ModelError::NonFinite { path: self.file.path.clone(), tensor: name.to_string(), value });
            }
            let overflow = |value| ModelError::OutOfRange { tensor: name.to_string(), value, dtype };
            self.dtype.convert(bytes, dtype, piece).map_err(overflow)
        })?;
        Ok(TensorData::new(values, shape))
    }
}

impl Source for Stored<'_> {
    fn dtype(&self) -> WeightDtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.info.shape
    }

    /// Pages that were read count as this process's memory until they are given back, which is done piece by piece.
    fn pieces(&self, sink: &mut dyn FnMut(&[u8]) -> Result<(), ModelError>) -> Result<(), ModelError> {
        let Range { start, end } = self.place();
        for start in (start..end).step_by(PIECE) {
            let piece = start..end.min(start + PIECE);
            sink(&self.file.map[piece.clone()])?;
            self.file.give_back(piece);
        }
        Ok(())
    }
}

impl Mapped {
    fn open(path: PathBuf) -> Result<(Self, HashMap<String, TensorInfo>), ModelError> {
        let unsound = |reason: String| ModelError::Safetensors { path: path.clone(), reason };
        let file = open_file(&path).map_err(ModelError::io(&path))?;
        // SAFETY: weight files are not changed while they are read; if another process truncated one, the read would
        // end in a signal, not in other memory.
        let map = unsafe { Mmap::map(&file) }.map_err(ModelError::io(&path))?;
        if let Some(length) = map.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)).filter(|len| *len > MAX_HEADER)
        {
            return Err(unsound(format!("a header of {length} bytes, where a model's has {MAX_HEADER} at most")));
        }
        // The length of the header, then the header, then the bytes; offsets are checked against the file's size here.
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|error| unsound(error.to_string()))?;
        let tensors = metadata.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
        Ok((Self { path, map, data: size_of::<u64>() + header }, tensors))
    }

    fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Takes these pages out of the process's memory; read again, they come from the file again.
    #[cfg(unix)]
    fn give_back(&self, bytes: Range<usize>) {
        // SAFETY: nothing is lost, since the file is mapped for reading only. A refusal costs memory and nothing else.
        let _ = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, bytes.start, bytes.len()) };
    }

    #[cfg(not(unix))]
    fn give_back(&self, _bytes: Range<usize>) {}
}
