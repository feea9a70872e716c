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
    /// A tensor that the model needs is not there.
    #[error("{}: tensor `{tensor}` is missing; weights and config.json must be of one model", path.display())]
    MissingTensor {
        /// The file that should hold it.
        path: PathBuf,
        /// Its Hugging Face name.
        tensor: String,
    },
    /// A tensor's shape contradicts the configuration.
    #[error("{}: tensor `{tensor}` has shape {found:?}; config.json asks for {expected:?}", path.display())]
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
    /// A number type's name that nobody knows.
    #[error("unknown number type `{name}`; write f32, bf16 or f16")]
    UnknownDtype {
        /// What was written.
        name: String,
    },
    /// A number is too large for the type in which it was to be stored.
    #[error(
        "tensor `{tensor}` holds {value}, which would be infinite in {dtype}; write it in f32, or bf16 where it fits"
    )]
    OutOfRange {
        /// Its Hugging Face name.
        tensor: String,
        /// The number.
        value: f32,
        /// The type.
        dtype: WeightDtype,
    },
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
