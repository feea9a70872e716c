use std::path::PathBuf;

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
    /// A file is not the JSON that belongs there.
    #[error("{}: {source}", path.display())]
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
    /// A folder holds no weights.
    #[error("{}: there is neither model.safetensors nor model.safetensors.index.json", folder.display())]
    NoWeights {
        /// The folder.
        folder: PathBuf,
    },
    /// A weight file is damaged.
    #[error("{}: not a sound safetensors file: {reason}", path.display())]
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
    #[error("{}: tensor `{tensor}` is missing", path.display())]
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
