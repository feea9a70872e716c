//! A Hugging Face folder in and out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::tensor::Device;
use luspo_core::read_text;
use serde_json::{Map, Value};

use crate::ModelError;
use crate::config::Qwen2Config;
use crate::dtype::WeightDtype;
use crate::init::build;
use crate::modeling::Qwen2ForCausalLM;
use crate::names::named;
use crate::save::{self, SaveOptions};
use crate::weights::{Stored, WeightFiles};

/// A model with what its folder says about it.
#[derive(Clone, Debug)]
pub struct Pretrained {
    /// The weights.
    pub model: Qwen2ForCausalLM,
    /// Its `config.json`.
    pub config: Qwen2Config,
    /// The tokens that end an answer: the union of `config.json`'s and `generation_config.json`'s, sorted. Nothing else
    /// is taken from the latter; its temperature and penalties are for chatting.
    pub eos_token_ids: Vec<u32>,
}

impl Pretrained {
    /// Reads a folder as transformers writes it: `config.json`, `generation_config.json` if there is one, and
    /// `model.safetensors` or its shards in f32, bf16 or f16, read as f32.
    ///
    /// # Errors
    /// As [`load_as`](Self::load_as).
    pub fn load(dir: &Path, device: &Device) -> Result<Self, ModelError> {
        Self::load_as(dir, device, WeightDtype::F32)
    }

    /// As [`load`](Self::load), with parameters of the given type, whatever the file's: each number is rounded to the
    /// nearest one there is, and one that the file has in this type already keeps its bits. f32 holds every number of the
    /// other two; bf16 keeps 8 of the 11 significant bits that an f16 has.
    ///
    /// Weights go from the file piece by piece into what becomes the parameter, so that the host holds little more than
    /// the parameters, or, where the device has its own memory, than one of them.
    ///
    /// # Errors
    /// Names the file, and the key or tensor, of what is missing, damaged, contradictory or not supported. Shapes are
    /// compared with the configuration before memory is taken. [`ModelError::DtypeNotComputed`] where the device does not
    /// compute with the type; [`ModelError::OutOfRange`] for a number that the type cannot hold.
    pub fn load_as(dir: &Path, device: &Device, dtype: WeightDtype) -> Result<Self, ModelError> {
        Self::read(dir, device, dtype, |_| dtype)
    }

    /// As [`load_as`](Self::load_as); `held` gives the number type of each parameter.
    pub(crate) fn read(
        dir: &Path,
        device: &Device,
        dtype: WeightDtype,
        held: impl Fn(&Stored) -> WeightDtype,
    ) -> Result<Self, ModelError> {
        dtype.check_on(device)?;
        let config = Qwen2Config::from_folder(dir)?;
        let mut eos = eos_token_ids(&config.extra, &dir.join("config.json"))?;
        let path = dir.join("generation_config.json");
        if path.exists() {
            let text = read_text(&path).map_err(ModelError::io(&path))?;
            eos.extend(eos_token_ids(&serde_json::from_str(&text).map_err(ModelError::json(&path))?, &path)?);
        }
        let files = WeightFiles::open(dir)?;
        files.check(&config)?;
        let model = build(&config, device, |name, shape| {
            let dtype = held(&files.find(name, shape)?);
            files.read(name, shape, dtype)
        })?;
        Ok(Self { model, config, eos_token_ids: eos.into_iter().collect() })
    }

    /// Writes `config.json`, `generation_config.json` and `model.safetensors` (or its shards above 5 GB), in the type
    /// that the model computes with, into an existing folder. Adapters are [merged](Qwen2ForCausalLM::merged). Equal models
    /// give equal bytes.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), ModelError> {
        self.save_with(dir, &SaveOptions::default())
    }

    /// As [`save`](Self::save), in another number type or in files of another size (`model-00001-of-0000N.safetensors` and
    /// `model.safetensors.index.json`). Every file is written aside, flushed to the disk and renamed when all are there:
    /// wherever this is cut off, the folder has the weights of the save before, or these, or none that can be read.
    ///
    /// # Errors
    /// [`ModelError::OutOfRange`] for a number that the wanted type cannot hold; a file that cannot be written.
    pub fn save_with(&self, dir: &Path, options: &SaveOptions) -> Result<(), ModelError> {
        let tensors = named(&self.model.merged()).into_iter().map(|parameter| (parameter.name.clone(), parameter));
        let dtype = options.dtype.unwrap_or(self.model.dtype());
        save::write(dir, tensors, &SaveOptions { dtype: Some(dtype), ..options.clone() })?;
        save::write_json(&dir.join("config.json"), &self.config_to_write(dtype))?;
        let generation: BTreeMap<_, _> = self.eos_value().map(|ids| ("eos_token_id", ids)).into_iter().collect();
        save::write_json(&dir.join("generation_config.json"), &generation)
    }

    /// The configuration with what is true of the written files: the type, and end-of-sequence ids that are ours.
    fn config_to_write(&self, dtype: WeightDtype) -> BTreeMap<String, Value> {
        let mut config = self.config.keys_with(dtype);
        let written = config.get("eos_token_id").and_then(ids).unwrap_or_default();
        if written.is_empty() || !written.iter().all(|id| self.eos_token_ids.contains(id)) {
            // One id: readers that want a number here exist. All of them are in generation_config.json.
            config.insert("eos_token_id".into(), self.eos_token_ids.first().copied().into());
        }
        config
    }

    fn eos_value(&self) -> Option<Value> {
        match self.eos_token_ids.as_slice() {
            [] => None,
            [id] => Some((*id).into()),
            ids => Some(ids.into()),
        }
    }
}

/// The end-of-sequence tokens that a file names.
fn eos_token_ids(keys: &Map<String, Value>, file: &Path) -> Result<BTreeSet<u32>, ModelError> {
    let Some(value) = keys.get("eos_token_id").filter(|value| !value.is_null()) else { return Ok(BTreeSet::new()) };
    ids(value).ok_or_else(|| ModelError::InvalidConfig {
        place: file.display().to_string(),
        reason: format!("eos_token_id = {value} is neither a token id nor a list of them"),
    })
}

/// An id, or a list of ids.
fn ids(value: &Value) -> Option<BTreeSet<u32>> {
    let ids = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    ids.iter().map(|id| u32::try_from(id.as_u64()?).ok()).collect()
}
