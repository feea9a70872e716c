//! A Hugging Face folder in and out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use burn::tensor::Device;
use serde_json::Value;

use crate::ModelError;
use crate::config::Qwen2Config;
use crate::dtype::WeightDtype;
use crate::init::build;
use crate::modeling::Qwen2ForCausalLM;
use crate::save::{self, SaveOptions};
use crate::weights::WeightFiles;

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
    /// Names the file, and the key or tensor, of what is missing, damaged, contradictory or not supported. Shapes are
    /// compared with the configuration before memory is taken.
    pub fn load(dir: &Path, device: &Device) -> Result<Self, ModelError> {
        let config = Qwen2Config::from_folder(dir)?;
        let mut eos = BTreeSet::new();
        collect_eos(config.extra.get("eos_token_id"), &mut eos);
        let path = dir.join("generation_config.json");
        if path.exists() {
            let text = fs::read_to_string(&path).map_err(ModelError::io(&path))?;
            let generation: Value = serde_json::from_str(&text).map_err(ModelError::json(&path))?;
            collect_eos(generation.get("eos_token_id"), &mut eos);
        }
        let files = WeightFiles::open(dir)?;
        files.check(&config)?;
        let model = build(&config, device, |name, shape| files.read(name, shape))?;
        Ok(Self { model, config, eos_token_ids: eos.into_iter().collect() })
    }

    /// Writes `config.json`, `generation_config.json` and `model.safetensors` (f32) into an existing folder. Equal
    /// models give equal bytes.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), ModelError> {
        self.save_with(dir, &SaveOptions::default())
    }

    /// As [`save`](Self::save), in another number type or in several files (`model-00001-of-0000N.safetensors` and
    /// `model.safetensors.index.json`). Every file is written aside, flushed to the disk and renamed.
    ///
    /// # Errors
    /// [`ModelError::OutOfRange`] for a number that the wanted type cannot hold; a file that cannot be written.
    pub fn save_with(&self, dir: &Path, options: &SaveOptions) -> Result<(), ModelError> {
        let tensors = self.model.named().into_iter().map(|parameter| (parameter.name.clone(), parameter));
        let dtype = save::write(dir, tensors, options)?.unwrap_or(WeightDtype::F32);
        save::write_json(&dir.join("config.json"), &self.config_to_write(dtype))?;
        let generation: BTreeMap<_, _> = self.eos_value().map(|ids| ("eos_token_id", ids)).into_iter().collect();
        save::write_json(&dir.join("generation_config.json"), &generation)
    }

    /// The configuration with what is true of the written files: the type, and end-of-sequence ids that are ours.
    fn config_to_write(&self, dtype: WeightDtype) -> BTreeMap<String, Value> {
        let Ok(Value::Object(config)) = serde_json::to_value(&self.config) else {
            unreachable!("a configuration is a JSON object")
        };
        let mut config: BTreeMap<String, Value> = config.into_iter().collect();
        config.insert("torch_dtype".into(), dtype.torch_name().into());
        config.entry("dtype".into()).and_modify(|said| *said = dtype.torch_name().into());
        let mut written = BTreeSet::new();
        collect_eos(config.get("eos_token_id"), &mut written);
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

/// An id, a list of ids, or nothing.
fn collect_eos(value: Option<&Value>, into: &mut BTreeSet<u32>) {
    let ids = match value {
        Some(Value::Array(ids)) => ids.as_slice(),
        Some(id) => std::slice::from_ref(id),
        None => &[],
    };
    into.extend(ids.iter().filter_map(Value::as_u64).filter_map(|id| u32::try_from(id).ok()));
}
