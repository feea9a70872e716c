//! A value model's Hugging Face folder in and out.

use std::path::Path;

use burn::tensor::Device;
use luspo_core::RandomKey;
use serde_json::{Value, json};

use super::{Qwen2ForTokenClassification, fresh_head};
use crate::ModelError;
use crate::config::{POLICY, Qwen2Config};
use crate::dtype::WeightDtype;
use crate::init::Parameters;
use crate::names::named;
use crate::save::{self, SaveOptions};
use crate::weights::WeightFiles;

/// The implementation in transformers.
const VALUE_MODEL: &str = "Qwen2ForTokenClassification";

/// The labels that transformers assumes where the file says nothing of them.
const DEFAULT_LABELS: usize = 2;

impl Qwen2ForTokenClassification {
    /// Reads the folder of a value model (`Qwen2ForTokenClassification` with one label), or that of a language model
    /// (`Qwen2ForCausalLM`), which is the trunk of a new one: its head is drawn from `key` as
    /// [`from_policy`](Self::from_policy) draws it. Where the folder has a head, `key` has no effect.
    ///
    /// # Errors
    /// As [`load_as`](Self::load_as).
    pub fn load(dir: &Path, key: RandomKey, device: &Device) -> Result<(Self, Qwen2Config), ModelError> {
        Self::load_as(dir, key, device, WeightDtype::F32)
    }

    /// As [`load`](Self::load), with parameters of the given type, whatever the file's.
    ///
    /// # Errors
    /// As [`Pretrained::load_as`](crate::Pretrained::load_as); a value model with more labels than one, or without its
    /// head.
    pub fn load_as(
        dir: &Path,
        key: RandomKey,
        device: &Device,
        dtype: WeightDtype,
    ) -> Result<(Self, Qwen2Config), ModelError> {
        dtype.check_on(device)?;
        let config = Qwen2Config::from_folder_of(dir, &[VALUE_MODEL, POLICY])?;
        let has_head = config.architectures.iter().any(|name| name == VALUE_MODEL);
        let head = [("score.weight", vec![1, config.hidden_size]), ("score.bias", vec![1])];
        let head = head.into_iter().filter(|_| has_head).map(|(name, shape)| (name.to_string(), shape));
        if has_head {
            refuse_other_heads(dir, &config)?;
        }
        let files = WeightFiles::open(dir)?;
        files.check_parameters(config.trunk_parameters().chain(head))?;

        let mut fresh = fresh_head(key);
        let values = |name: &str, shape: &[usize]| match name.starts_with("score.") && !has_head {
            true => Ok(fresh(shape).convert_dtype(dtype.into())),
            false => files.read(name, shape, dtype),
        };
        let mut parameters = Parameters { values, device };
        let model = parameters.trunk(&config)?;
        let score = parameters.linear("score", config.hidden_size, 1, true)?;
        Ok((Self { model, score }, config))
    }

    /// Writes `config.json`, which is `config` but for what makes it a value model's, and `model.safetensors`, in the
    /// parameters' own type, into an existing folder. Equal models give equal bytes. Each file is written aside, flushed
    /// to the disk and renamed.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn save(&self, dir: &Path, config: &Qwen2Config) -> Result<(), ModelError> {
        let tensors = named(self).into_iter().map(|parameter| (parameter.name.clone(), parameter));
        save::write(dir, tensors, &SaveOptions::default())?;
        let mut keys = config.keys_with(self.dtype());
        keys.insert("architectures".into(), json!([VALUE_MODEL]));
        keys.insert("id2label".into(), json!({ "0": "LABEL_0" }));
        keys.insert("label2id".into(), json!({ "LABEL_0": 0 }));
        // transformers drops a tenth of the states before the head unless told otherwise.
        keys.insert("classifier_dropout".into(), json!(0.0));
        keys.remove("num_labels"); // which transformers reads beside the labels, and the two might differ
        save::write_json(&dir.join("config.json"), &keys)
    }
}

/// A value is one number, and the head has a bias.
fn refuse_other_heads(dir: &Path, config: &Qwen2Config) -> Result<(), ModelError> {
    let refuse = |key: &str, value: Value, supported: &str| {
        let place = dir.join("config.json").display().to_string();
        let (key, value, supported) = (key.into(), value.to_string(), supported.into());
        Err(ModelError::Unsupported { place, key, value, supported })
    };
    let by_name = config.extra.get("id2label").and_then(Value::as_object).map(|labels| labels.len());
    let count = || config.extra.get("num_labels").and_then(Value::as_u64).map(|labels| labels as usize);
    let labels = by_name.or_else(count).unwrap_or(DEFAULT_LABELS);
    if labels != 1 {
        return refuse("num_labels", labels.into(), "1, a value model's, is");
    }
    if config.extra.get("token_classification_bias") == Some(&Value::Bool(false)) {
        return refuse("token_classification_bias", false.into(), "true is");
    }
    Ok(())
}
