//! An adapter's folder in and out, as PEFT writes it: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use luspo_core::read_text;
use serde_json::{Map, Value, json};

use crate::ModelError;
use crate::dtype::WeightDtype;
use crate::lora::{LoraConfig, PROJECTIONS};
use crate::modeling::Qwen2ForCausalLM;
use crate::names::named;
use crate::save;
use crate::weights::WeightFiles;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// What PEFT's names of tensors begin with.
const PREFIX: &str = "base_model.model.";

/// Keys that say nothing of what an adapter computes.
const WITHOUT_EFFECT: [&str; 15] = [
    "auto_mapping",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "inference_mode",
    "layers_pattern",
    "loftq_config",
    "lora_dropout", // of training
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "velora_config", // of training
];

/// How A and B began, of those that leave the base as it was.
const PLAIN_BEGINNINGS: [&str; 3] = ["eva", "gaussian", "orthogonal"];

/// What an adapter's folder says of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// Its size and its places.
    pub config: LoraConfig,
    /// The model that it belongs to: a folder or a name at the hub.
    pub base: String,
    /// That model's commit, branch or tag at the hub.
    pub revision: Option<String>,
}

impl Adapter {
    /// Whether a folder is that of an adapter.
    pub fn is_in(dir: &Path) -> bool {
        dir.join(CONFIG).is_file()
    }

    /// Reads `adapter_config.json`.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] with the key where it is no LoRA adapter of a language model, or one with something
    /// that is not implemented: DoRA, biases, other modules, ranks by layer, a pattern of modules, a changed base.
    pub fn from_folder(dir: &Path) -> Result<Self, ModelError> {
        let file = dir.join(CONFIG);
        let text = read_text(&file).map_err(ModelError::io(&file))?;
        let keys: Map<String, Value> = serde_json::from_str(&text).map_err(ModelError::json(&file))?;
        Self::from_keys(keys, &file)
    }

    fn from_keys(mut keys: Map<String, Value>, file: &Path) -> Result<Self, ModelError> {
        let refuse = |key: &str, value: Value, supported: &str| {
            let (place, key, supported) = (file.display().to_string(), key.to_string(), supported.to_string());
            ModelError::Unsupported { place, key, value: value.to_string(), supported }
        };
        let mut take = |key: &str| keys.remove(key).unwrap_or_default();
        let kind = take("peft_type");
        if kind != "LORA" {
            return Err(refuse("peft_type", kind, "\"LORA\" is"));
        }
        let task = take("task_type");
        if !task.is_null() && task != "CAUSAL_LM" {
            return Err(refuse("task_type", task, "\"CAUSAL_LM\" is"));
        }
        let rank = take("r");
        let Some(size) = rank.as_u64().and_then(|rank| usize::try_from(rank).ok()) else {
            return Err(refuse("r", rank, "a whole number is"));
        };
        let alpha = take("lora_alpha");
        let Some(numerator) = alpha.as_f64() else { return Err(refuse("lora_alpha", alpha, "a number is")) };
        let targets = take("target_modules");
        let target_modules = match (&targets, targets.as_array()) {
            (Value::String(all), _) if all == "all-linear" => PROJECTIONS.map(String::from).into(),
            (_, Some(names)) if names.iter().all(Value::is_string) => {
                names.iter().filter_map(Value::as_str).map(String::from).collect()
            }
            _ => return Err(refuse("target_modules", targets, "a list of projections or \"all-linear\" is")),
        };
        let bias = take("bias");
        if !bias.is_null() && bias != "none" {
            return Err(refuse("bias", bias, "\"none\" is"));
        }
        let beginning = take("init_lora_weights");
        if beginning.as_str().is_some_and(|name| !PLAIN_BEGINNINGS.contains(&name)) {
            return Err(refuse("init_lora_weights", beginning, "what leaves the base as it was is"));
        }
        let base = take("base_model_name_or_path");
        let Some(name) = base.as_str().filter(|name| !name.is_empty()) else {
            return Err(refuse("base_model_name_or_path", base, "a folder or a name at the hub is"));
        };
        let use_rslora = take("use_rslora") == true;
        let revision = keys.get("revision").and_then(Value::as_str).map(String::from);
        // Everything else changes what is computed, unless it is off; keys of versions to come do too.
        let changes = |(key, value): &(String, Value)| !WITHOUT_EFFECT.contains(&key.as_str()) && !is_off(value);
        if let Some((key, value)) = keys.into_iter().find(changes) {
            return Err(refuse(&key, value, "an adapter without it is"));
        }
        let config = LoraConfig { rank: size, alpha: numerator, use_rslora, target_modules };
        match config.check() {
            Ok(()) => Ok(Self { config, base: name.into(), revision }),
            Err(error) => {
                Err(ModelError::InvalidConfig { place: file.display().to_string(), reason: error.to_string() })
            }
        }
    }

    /// Where the base is: what is relative and not below the working directory is looked for from the adapter's folder
    /// `dir` on, so that a folder which holds both can be moved. What is nowhere on the disk may be a name at the hub.
    pub fn base_near(&self, dir: &Path) -> PathBuf {
        let named = PathBuf::from(&self.base);
        match dir.join(&named) {
            near if named.starts_with("..") && near.exists() => near,
            _ => named,
        }
    }

    /// The model `base` with this adapter, whose weights are in `dir`, in the number type that the base computes with.
    /// Weights of the base are shared.
    ///
    /// # Errors
    /// Names the file, and the tensor, of what is missing, damaged or of another model; no tensor is left out.
    pub fn load(&self, dir: &Path, base: &Qwen2ForCausalLM) -> Result<Qwen2ForCausalLM, ModelError> {
        let file = AdapterFile::open(dir, &self.config, base.places(&self.config))?;
        base.with_adapters(&self.config, |_, name, shapes| file.read(name, shapes, base.dtype()))
    }

    /// Writes the adapter of `model` into an existing folder, in its own number type. Equal adapters give equal bytes.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn save(&self, dir: &Path, model: &Qwen2ForCausalLM) -> Result<(), ModelError> {
        let tensors = named(model).into_iter().filter_map(|parameter| Some((in_peft(&parameter.name)?, parameter)));
        save::write_alone(&dir.join(WEIGHTS), tensors)?;
        let LoraConfig { rank, alpha, use_rslora, target_modules } = &self.config;
        // A whole number as one: that is what PEFT has there.
        let alpha = if alpha.fract() == 0.0 && alpha.abs() < 1e15 { json!(*alpha as i64) } else { json!(alpha) };
        let config = json!({
            "base_model_name_or_path": self.base,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "lora_alpha": alpha,
            "lora_dropout": 0.0,
            "modules_to_save": null,
            "peft_type": "LORA",
            "r": rank,
            "revision": self.revision,
            "target_modules": target_modules,
            "task_type": "CAUSAL_LM",
            "use_rslora": use_rslora,
        });
        save::write_json(&dir.join(CONFIG), &config)
    }
}

/// The weights of an adapter, mapped and not yet read.
pub(crate) struct AdapterFile(WeightFiles);

impl AdapterFile {
    /// Compares names, shapes and types with what projections of these names and sizes (`[out, in]`) need, before memory
    /// is taken for any.
    pub(crate) fn open(
        dir: &Path,
        config: &LoraConfig,
        places: impl IntoIterator<Item = (String, [usize; 2])>,
    ) -> Result<Self, ModelError> {
        let file = WeightFiles::open_alone(dir.join(WEIGHTS))?;
        let (mut wanted, mut missing) = (BTreeSet::new(), Vec::new());
        for (projection, size) in places {
            for (name, shape) in names(&projection).into_iter().zip(config.shapes(size)) {
                match file.has(&name) {
                    true => _ = file.find(&name, &shape)?,
                    false => missing.push(name.clone()),
                }
                wanted.insert(name);
            }
        }
        let path = dir.join(WEIGHTS);
        if !missing.is_empty() {
            return Err(ModelError::MissingTensors { path, tensors: missing });
        }
        // A tensor that is left out would make another model.
        let others: Vec<String> = file.names().filter(|name| !wanted.contains(*name)).cloned().collect();
        if !others.is_empty() {
            return Err(ModelError::ForeignTensors { path, tensors: others });
        }
        Ok(Self(file))
    }

    /// A and B of a projection, of these shapes, in the wanted type.
    pub(crate) fn read(
        &self,
        projection: &str,
        shapes: [[usize; 2]; 2],
        dtype: WeightDtype,
    ) -> Result<[TensorData; 2], ModelError> {
        let ([name_a, name_b], [a, b]) = (names(projection), shapes);
        Ok([self.0.read(&name_a, &a, dtype)?, self.0.read(&name_b, &b, dtype)?])
    }
}

/// PEFT's names of A and B of a projection.
fn names(projection: &str) -> [String; 2] {
    ["lora_A", "lora_B"].map(|matrix| format!("{PREFIX}{projection}.{matrix}.weight"))
}

/// PEFT's name of an adapter's parameter.
fn in_peft(parameter: &str) -> Option<String> {
    let [name_a, name_b] = names(parameter.strip_suffix(".a").or(parameter.strip_suffix(".b"))?.strip_suffix(".lora")?);
    Some(if parameter.ends_with(".a") { name_a } else { name_b })
}

/// Whether a key says that there is nothing of what it names.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(keys) => keys.is_empty(),
        _ => false,
    }
}
