//! The shape of a Qwen2 model, as `config.json` has it.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use luspo_core::read_text;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::ModelError;
use crate::dtype::WeightDtype;
use crate::weights::{EMBEDDING, HEAD};

/// The implementation of a language model.
pub(crate) const POLICY: &str = "Qwen2ForCausalLM";

/// A Qwen2 model's `config.json`. Fields bear their Hugging Face names; keys that do not matter here are kept in
/// [`extra`](Self::extra), so that what is written back still has them.
///
/// The rotary base is read from `rope_parameters.rope_theta` (transformers 5) or `rope_theta` (before).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Qwen2Config {
    /// Implementations by name; `Qwen2ForCausalLM` must be among them, or the list empty.
    #[serde(default)]
    pub architectures: Vec<String>,
    /// The family; only `qwen2` is accepted.
    pub model_type: String,
    /// Rows of the embedding and columns of the logits.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layers.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key and value heads; divides the number of query heads.
    pub num_key_value_heads: usize,
    /// Activation of the feed-forward layers; only `silu` is accepted.
    #[serde(default = "silu")]
    pub hidden_act: String,
    /// What RMSNorm adds to the mean square.
    #[serde(default = "default_rms_norm_eps")]
    pub rms_norm_eps: f64,
    /// Base of the rotary angles.
    #[serde(default = "default_rope_theta")]
    pub rope_theta: f64,
    /// Whether the logits use the embedding as their matrix.
    #[serde(default)]
    pub tie_word_embeddings: bool,
    /// The longest sequence the model is meant for, in tokens.
    #[serde(default = "default_max_position_embeddings")]
    pub max_position_embeddings: usize,
    /// Every other key of the file.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

// What transformers assumes where a key is absent.
fn silu() -> String {
    "silu".into()
}
fn default_rms_norm_eps() -> f64 {
    1e-6
}
fn default_rope_theta() -> f64 {
    10_000.0
}
fn default_max_position_embeddings() -> usize {
    32_768
}

/// The first key whose value is of another kind than its field: the derived reader would not name it.
fn wrong_kind(keys: &Map<String, Value>) -> Option<(&'static str, &Value, &'static str)> {
    type Kind = (fn(&Value) -> bool, &'static str);
    const SIZE: Kind = (Value::is_u64, "a whole number of at least 0");
    const NUMBER: Kind = (Value::is_number, "a number");
    const TEXT: Kind = (Value::is_string, "text");
    let kinds: [(&str, Kind); 13] = [
        ("architectures", (Value::is_array, "a list")),
        ("model_type", TEXT),
        ("vocab_size", SIZE),
        ("hidden_size", SIZE),
        ("intermediate_size", SIZE),
        ("num_hidden_layers", SIZE),
        ("num_attention_heads", SIZE),
        ("num_key_value_heads", SIZE),
        ("hidden_act", TEXT),
        ("rms_norm_eps", NUMBER),
        ("rope_theta", NUMBER),
        ("tie_word_embeddings", (Value::is_boolean, "true or false")),
        ("max_position_embeddings", SIZE),
    ];
    kinds.into_iter().find_map(|(key, (is, kind))| Some((key, keys.get(key).filter(|value| !is(value))?, kind)))
}

impl<'de> Deserialize<'de> for Qwen2Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut keys = Map::deserialize(deserializer)?;
        // null means the default, of which that of the key heads is another key.
        if keys.get("num_key_value_heads") == Some(&Value::Null)
            && let Some(heads) = keys.get("num_attention_heads").cloned()
        {
            keys.insert("num_key_value_heads".into(), heads);
        }
        for key in ["architectures", "hidden_act", "rms_norm_eps", "rope_theta", "tie_word_embeddings"] {
            if keys.get(key) == Some(&Value::Null) {
                keys.remove(key);
            }
        }
        if let Some((key, value, kind)) = wrong_kind(&keys) {
            return Err(serde::de::Error::custom(format!("`{key}` is {value} and not {kind}")));
        }
        let mut config = Self::deserialize(Value::Object(keys)).map_err(serde::de::Error::custom)?;
        let newer = config.extra.get("rope_parameters").filter(|rope| !rope.is_null());
        if let Some(rope) = newer.filter(|rope| !rope.is_object()) {
            return Err(serde::de::Error::custom(format!("`rope_parameters` is {rope} and not an object")));
        }
        if let Some(theta) = newer.and_then(|rope| rope.get("rope_theta")) {
            let wrong =
                || serde::de::Error::custom(format!("`rope_parameters.rope_theta` is {theta} and not a number"));
            config.rope_theta = theta.as_f64().ok_or_else(wrong)?;
        }
        Ok(config)
    }
}

impl Serialize for Qwen2Config {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut config = self.clone();
        // Where the file has the newer layout too, both must say the same.
        if let Some(rope) = config.extra.get_mut("rope_parameters").and_then(Value::as_object_mut) {
            rope.insert("rope_theta".into(), Value::from(self.rope_theta));
        }
        Self::serialize(&config, serializer)
    }
}

impl Qwen2Config {
    /// A model from scratch: tied embeddings, rotary base 10 000, RMSNorm epsilon 1e-6, 32 768 positions.
    pub fn new(
        vocab_size: usize,
        hidden_size: usize,
        intermediate_size: usize,
        num_hidden_layers: usize,
        num_attention_heads: usize,
        num_key_value_heads: usize,
    ) -> Self {
        Self {
            architectures: vec![POLICY.into()],
            model_type: "qwen2".into(),
            vocab_size,
            hidden_size,
            intermediate_size,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            hidden_act: silu(),
            rms_norm_eps: default_rms_norm_eps(),
            rope_theta: default_rope_theta(),
            tie_word_embeddings: true,
            max_position_embeddings: default_max_position_embeddings(),
            extra: Map::new(),
        }
    }

    /// With a matrix of its own for the logits (`false`), or the embedding (`true`).
    pub fn with_tie_word_embeddings(mut self, tie: bool) -> Self {
        self.tie_word_embeddings = tie;
        self
    }

    /// With another base of the rotary angles.
    pub fn with_rope_theta(mut self, theta: f64) -> Self {
        self.rope_theta = theta;
        self
    }

    /// With another longest sequence, in tokens.
    pub fn with_max_position_embeddings(mut self, tokens: usize) -> Self {
        self.max_position_embeddings = tokens;
        self
    }

    /// Reads and [validates](Self::validate) the `config.json` of a folder.
    ///
    /// # Errors
    /// The file cannot be read, is no such configuration, or describes what is not supported.
    pub fn from_folder(dir: &Path) -> Result<Self, ModelError> {
        Self::from_folder_of(dir, &[POLICY])
    }

    /// As [`from_folder`](Self::from_folder), where the folder may be that of other implementations.
    pub(crate) fn from_folder_of(dir: &Path, architectures: &[&str]) -> Result<Self, ModelError> {
        let path = dir.join("config.json");
        let text = read_text(&path).map_err(|source| match source.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => ModelError::NoConfig { folder: dir.into() },
            _ => ModelError::Io { path: path.clone(), source },
        })?;
        let config: Self = serde_json::from_str(&text).map_err(ModelError::json(&path))?;
        config.validate_as(&path.display().to_string(), architectures)?;
        Ok(config)
    }

    /// Refuses, by name, what is not implemented and sizes that cannot be a model's.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] or [`ModelError::InvalidConfig`].
    pub fn validate(&self) -> Result<(), ModelError> {
        self.validate_as("model config", &[POLICY])
    }

    fn validate_as(&self, place: &str, architectures: &[&str]) -> Result<(), ModelError> {
        self.refuse_unsupported(place, architectures)?;
        match self.impossible_size() {
            Some(reason) => Err(ModelError::InvalidConfig { place: place.into(), reason }),
            None => Ok(()),
        }
    }

    fn refuse_unsupported(&self, place: &str, architectures: &[&str]) -> Result<(), ModelError> {
        let refuse = |key: &str, value: &Value, supported: &str| {
            Err(ModelError::Unsupported {
                place: place.into(),
                key: key.into(),
                value: value.to_string(),
                supported: supported.into(),
            })
        };
        if self.model_type != "qwen2" {
            return refuse("model_type", &self.model_type.as_str().into(), "\"qwen2\" is");
        }
        if !self.architectures.is_empty() && !self.architectures.iter().any(|name| architectures.contains(&&**name)) {
            let names: Vec<_> = architectures.iter().map(|name| format!("{name:?}")).collect();
            let supported = format!("{} {}", names.join(" and "), if names.len() == 1 { "is" } else { "are" });
            return refuse("architectures", &self.architectures.as_slice().into(), &supported);
        }
        if self.hidden_act != "silu" {
            return refuse("hidden_act", &self.hidden_act.as_str().into(), "\"silu\" is");
        }
        for key in ["rope_scaling", "rope_parameters"] {
            let Some(rope) = self.extra.get(key).filter(|rope| !rope.is_null()) else { continue };
            let kind = rope.get("rope_type").or_else(|| rope.get("type"));
            if kind.is_some_and(|kind| kind != "default") || (kind.is_none() && key == "rope_scaling") {
                return refuse(key, rope, "unscaled rotary positions (rope_type \"default\") are");
            }
        }
        for key in ["use_sliding_window", "use_mrope"] {
            if let Some(value) = self.extra.get(key).filter(|value| !matches!(value, Value::Null | Value::Bool(false)))
            {
                return refuse(key, value, "false is");
            }
        }
        let layers = match self.extra.get("layer_types") {
            None | Some(Value::Null) => &[],
            Some(Value::Array(layers)) => layers.as_slice(),
            Some(other) => std::slice::from_ref(other),
        };
        if let Some(other) = layers.iter().find(|kind| **kind != "full_attention") {
            return refuse("layer_types", other, "\"full_attention\" is");
        }
        if let Some(value) = self.extra.get("head_dim").filter(|value| !value.is_null())
            && Some(value) != self.hidden_size.checked_div(self.num_attention_heads).map(Value::from).as_ref()
        {
            return refuse("head_dim", value, "hidden_size / num_attention_heads is");
        }
        Ok(())
    }

    fn impossible_size(&self) -> Option<String> {
        let sizes = [
            ("vocab_size", self.vocab_size, 1 << 24),
            ("hidden_size", self.hidden_size, 1 << 20),
            ("intermediate_size", self.intermediate_size, 1 << 22),
            ("num_hidden_layers", self.num_hidden_layers, 1 << 10),
            ("num_attention_heads", self.num_attention_heads, 1 << 12),
            ("num_key_value_heads", self.num_key_value_heads, 1 << 12),
            ("max_position_embeddings", self.max_position_embeddings, 1 << 31),
        ];
        for (key, size, limit) in sizes {
            if size == 0 || size > limit {
                return Some(format!("{key} = {size} is not between 1 and {limit}"));
            }
        }
        let (hidden, heads, kv_heads) = (self.hidden_size, self.num_attention_heads, self.num_key_value_heads);
        if !hidden.is_multiple_of(heads) {
            return Some(format!("hidden_size = {hidden} is not a multiple of num_attention_heads = {heads}"));
        }
        if !heads.is_multiple_of(kv_heads) {
            return Some(format!(
                "num_attention_heads = {heads} is not a multiple of num_key_value_heads = {kv_heads}"
            ));
        }
        if !self.head_dim().is_multiple_of(2) {
            return Some(format!("a head has {} dimensions; rotary positions need an even number", self.head_dim()));
        }
        for (key, value) in [("rms_norm_eps", self.rms_norm_eps), ("rope_theta", self.rope_theta)] {
            // As the model computes with it.
            let computed = value as f32;
            if !(computed.is_finite() && computed > 0.0) {
                return Some(format!("{key} = {value} is not a positive number within the range of f32"));
            }
        }
        None
    }

    /// Dimensions of one attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// The keys of the file, sorted, with the type in which the weights beside it are written.
    pub(crate) fn keys_with(&self, dtype: WeightDtype) -> BTreeMap<String, Value> {
        let Ok(Value::Object(keys)) = serde_json::to_value(self) else {
            unreachable!("a configuration is a JSON object")
        };
        let mut keys: BTreeMap<String, Value> = keys.into_iter().collect();
        keys.insert("torch_dtype".into(), dtype.torch_name().into());
        keys.entry("dtype".into()).and_modify(|said| *said = dtype.torch_name().into());
        keys
    }

    /// Every parameter's Hugging Face name and shape (`[out, in]` for a linear layer), in the order in which
    /// [`Qwen2ForCausalLM::init`](crate::Qwen2ForCausalLM::init) draws them: the embedding, then block by block
    /// q, k, v (weight, bias), o, gate, up, down and the two norms, then the last norm and the untied head.
    pub fn parameters(&self) -> impl Iterator<Item = (String, Vec<usize>)> {
        let head = (HEAD.to_string(), vec![self.vocab_size, self.hidden_size]);
        self.trunk_parameters().chain((!self.tie_word_embeddings).then_some(head))
    }

    /// [`parameters`](Self::parameters) up to the last norm.
    pub(crate) fn trunk_parameters(&self) -> impl Iterator<Item = (String, Vec<usize>)> {
        let (hidden, feed) = (self.hidden_size, self.intermediate_size);
        let keys = self.num_key_value_heads * self.head_dim();
        let block = [
            ("self_attn.q_proj.weight", vec![hidden, hidden]),
            ("self_attn.q_proj.bias", vec![hidden]),
            ("self_attn.k_proj.weight", vec![keys, hidden]),
            ("self_attn.k_proj.bias", vec![keys]),
            ("self_attn.v_proj.weight", vec![keys, hidden]),
            ("self_attn.v_proj.bias", vec![keys]),
            ("self_attn.o_proj.weight", vec![hidden, hidden]),
            ("mlp.gate_proj.weight", vec![feed, hidden]),
            ("mlp.up_proj.weight", vec![feed, hidden]),
            ("mlp.down_proj.weight", vec![hidden, feed]),
            ("input_layernorm.weight", vec![hidden]),
            ("post_attention_layernorm.weight", vec![hidden]),
        ];
        let blocks = (0..self.num_hidden_layers).flat_map(move |layer| {
            block.clone().into_iter().map(move |(name, shape)| (format!("model.layers.{layer}.{name}"), shape))
        });
        std::iter::once((EMBEDDING.to_string(), vec![self.vocab_size, hidden]))
            .chain(blocks)
            .chain(std::iter::once(("model.norm.weight".to_string(), vec![hidden])))
    }

    /// Number of parameters; a tied head counts once.
    pub fn num_params(&self) -> usize {
        self.parameters().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }

    /// Numbers that the keys and values of a token take in a [`KvCache`](crate::KvCache).
    pub(crate) fn cached_per_token(&self) -> usize {
        2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim()
    }
}
