use std::path::PathBuf;

use crate::WeightDtype;

/// What can go wrong with a backend, a configuration or a folder of weights.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A backend's name that nobody knows.
    #[error("unknown backend `{name}`; write flex (or cpu), ndarray, wgpu, cuda or cuda:N")]
    UnknownBackend {
        /// What was written.
        name: String,
    },
    /// The backend was left out of this build.
    #[error("backend `{name}` is not in this build; rebuild with `--features {feature}`")]
    BackendNotBuilt {
        /// The backend's name.
        name: String,
        /// The cargo feature that brings it.
        feature: &'static str,
    },
    /// The backend is in the build, but this machine cannot run it.
    #[error("backend `{name}` does not work here: {reason}")]
    BackendUnusable {
        /// The backend's name.
        name: String,
        /// What is missing.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A folder is not that of a model.
    #[error("{}: there is no config.json; name a folder that holds a model's config.json, weights and tokenizer",
            folder.display())]
    NoConfig {
        /// The folder.
        folder: PathBuf,
    },
    /// A model at the hub was named, and this build cannot fetch one.
    #[error(
        "{name}: there is no such folder; if it is a model at the Hugging Face hub, rebuild with `--features hub`, \
             or download it (`hf download {name}`) and name its folder"
    )]
    HubNotBuilt {
        /// The model's name.
        name: String,
    },
    /// A model at the hub cannot be had.
    #[error("{name}: {problem}")]
    Hub {
        /// The model's name.
        name: String,
        /// Which file, why not, and what to do.
        problem: String,
    },
    /// A file is not the JSON that belongs there.
    #[error("{}: {source}; copy the file again from the model that it belongs to", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser says, with line and column.
        source: serde_json::Error,
    },
    /// The model asks for something that is not implemented.
    #[error("{place}: {key} = {value} is not supported; only {supported}")]
    Unsupported {
        /// The file, or `model config` for one made in memory.
        place: String,
        /// The configuration's key.
        key: String,
        /// Its value.
        value: String,
        /// What would be accepted.
        supported: String,
    },
    /// The sizes of a configuration cannot be those of a model.
    #[error("{place}: {reason}")]
    InvalidConfig {
        /// The file, or `model config` for one made in memory.
        place: String,
        /// Which sizes, and why not.
        reason: String,
    },
    /// More than this machine can hold.
    #[error("{what} takes {:.1} GB, but {:.1} GB of memory are free here; {instead}", *needed / 1e9, *available as f64 / 1e9)]
    TooLarge {
        /// What would be held.
        what: String,
        /// How many bytes that takes.
        needed: f64,
        /// How many there are.
        available: u64,
        /// What to do.
        instead: &'static str,
    },
    /// A folder holds no weights.
    #[error("{}: there is neither model.safetensors nor model.safetensors.index.json; copy the weights into the folder",
            folder.display())]
    NoWeights {
        /// The folder.
        folder: PathBuf,
    },
    /// A weight file is damaged.
    #[error("{}: not a sound safetensors file: {reason}; copy it again", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The index of a sharded checkpoint names a file outside its folder.
    #[error("{}: `{tensor}` is said to be in `{shard}`, which is not a plain file name", path.display())]
    ShardName {
        /// The index file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shard's name as written.
        shard: String,
    },
    /// A file of a sharded checkpoint holds a tensor that belongs in another one.
    #[error("{}: tensor `{tensor}` is in `{shard}`, but belongs in `{said}` alone; readers would disagree on which is \
             meant. Copy the checkpoint again", path.display())]
    TensorElsewhere {
        /// The index file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The file where it belongs.
        said: String,
        /// The file where it is.
        shard: String,
    },
    /// Tensors that the model needs are not there.
    #[error("{}: {} missing; weights and config.json must be of one model", path.display(), match tensors.as_slice() {
        [one] => format!("tensor `{one}` is"),
        many => format!("tensors {} are", listed(many)),
    })]
    MissingTensors {
        /// The file that should hold them.
        path: PathBuf,
        /// Their Hugging Face names.
        tensors: Vec<String>,
    },
    /// Tensors of an adapter that the model has no place for.
    #[error("{}: {} to no projection of the base that has an adapter: {}; adapter and base must be of one model",
            path.display(), if tensors.len() == 1 { "a tensor belongs" } else { "tensors belong" }, listed(tensors))]
    ForeignTensors {
        /// The file that holds them.
        path: PathBuf,
        /// Their names.
        tensors: Vec<String>,
    },
    /// A tensor's shape contradicts the configuration.
    #[error("{}: tensor `{tensor}` has shape {}; the configuration asks for {expected:?}", path.display(), shape(found))]
    WrongShape {
        /// The file that holds it.
        path: PathBuf,
        /// Its Hugging Face name.
        tensor: String,
        /// The shape in the file.
        found: Vec<usize>,
        /// The shape by the configuration.
        expected: Vec<usize>,
    },
    /// A tied model has a head of its own all the same.
    #[error("{}: config.json has tie_word_embeddings = true, but `lm_head.weight` is not the embedding; if the model has a \
             head of its own, set tie_word_embeddings to false there", path.display())]
    UntiedHead {
        /// The weight file, or the index of several.
        path: PathBuf,
    },
    /// A weight is NaN or infinite.
    #[error("{}: tensor `{tensor}` holds {value}, which is not finite; the file is damaged, or the run that wrote it \
             had diverged", path.display())]
    NonFinite {
        /// The file that holds it.
        path: PathBuf,
        /// Its Hugging Face name.
        tensor: String,
        /// The first such value.
        value: f32,
    },
    /// A tensor is stored in a type that is not read.
    #[error("{}: tensor `{tensor}` is stored as {dtype}; only F32, BF16 and F16 are read", path.display())]
    UnsupportedDtype {
        /// The file that holds it.
        path: PathBuf,
        /// Its Hugging Face name.
        tensor: String,
        /// The type in the file.
        dtype: String,
    },
    /// There can be no such adapter.
    #[error("{problem}")]
    Lora {
        /// What is wrong with it.
        problem: String,
    },
    /// A number type's name that nobody knows.
    #[error("unknown number type `{name}`; write f32, bf16 or f16")]
    UnknownDtype {
        /// What was written.
        name: String,
    },
    /// The backend does not compute with this number type.
    #[error("this backend does not compute in {dtype}; `luspo devices` lists the types of each, and f32 works on all")]
    DtypeNotComputed {
        /// The type.
        dtype: WeightDtype,
    },
    /// A number is too large for the type in which it was to be stored.
    #[error("tensor `{tensor}` holds {value}, which would be infinite in {dtype}; choose f32, or bf16 where it fits")]
    OutOfRange {
        /// Its Hugging Face name.
        tensor: String,
        /// The number.
        value: f32,
        /// The type.
        dtype: WeightDtype,
    },
}

/// A shape as a file says it, unless it is none that anybody has.
fn shape(found: &[usize]) -> String {
    match found.len() {
        0..=8 => format!("{found:?}"),
        dimensions => format!("of {dimensions} dimensions"),
    }
}

/// The first few names and how many more there are.
pub(crate) fn listed(names: &[String]) -> String {
    const FIRST: usize = 8;
    let short = |name: &String| name.chars().take(100).collect::<String>();
    let first: Vec<_> = names.iter().take(FIRST).map(|name| format!("`{}`", short(name))).collect();
    match names.len().saturating_sub(FIRST) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

impl ModelError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn json(path: impl Into<PathBuf>) -> impl FnOnce(serde_json::Error) -> Self {
        let path = path.into();
        move |source| Self::Json { path, source }
    }
}
