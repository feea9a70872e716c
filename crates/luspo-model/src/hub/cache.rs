//! The environment's settings, and what the cache holds.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use luspo_core::read_text;
use serde::Deserialize;

use super::HubName;
use crate::ModelError;
use crate::save::{INDEX, SINGLE};

/// How long nothing may arrive, in seconds, where the environment does not say.
const TIMEOUT: f64 = 10.0;

/// Where models come from and where they are kept.
pub(super) struct Settings {
    pub endpoint: String,
    pub cache: PathBuf,
    pub token: Option<String>,
    pub offline: bool,
    /// How long nothing may arrive.
    pub timeout: Duration,
}

impl Settings {
    /// What the environment says, in the words of Hugging Face's own tools.
    pub fn from_env() -> Self {
        let home = path("HF_HOME")
            .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
            .unwrap_or_else(|| env::home_dir().unwrap_or_default().join(".cache/huggingface"));
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE"));
        let token_file = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
        let token = word("HF_TOKEN").or_else(|| fs::read_to_string(token_file).ok());
        let seconds = word("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|text| text.parse().ok()).unwrap_or(TIMEOUT);
        Self {
            endpoint: word("HF_ENDPOINT")
                .unwrap_or_else(|| "https://huggingface.co".into())
                .trim_end_matches('/')
                .into(),
            cache: cache.unwrap_or_else(|| home.join("hub")),
            token: token.map(|token| token.trim().to_string()).filter(|token| !token.is_empty()),
            offline: ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].into_iter().any(is_on),
            timeout: Duration::try_from_secs_f64(seconds).unwrap_or(Duration::from_secs_f64(TIMEOUT)),
        }
    }
}

fn word(variable: &str) -> Option<String> {
    env::var(variable).ok().map(|text| text.trim().to_string()).filter(|text| !text.is_empty())
}

fn path(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from)
}

fn is_on(variable: &str) -> bool {
    word(variable).is_some_and(|text| ["1", "true", "yes", "on"].contains(&text.to_ascii_lowercase().as_str()))
}

/// A model's part of the cache: `blobs/` with contents by their hash, `snapshots/COMMIT/` with links to them by the
/// files' names, `refs/` with the commits of branches and tags.
pub(super) struct CachedModel {
    /// Where processes lock the contents that they fetch.
    locks: PathBuf,
    folder: PathBuf,
    revision: String,
}

impl CachedModel {
    pub fn new(name: &HubName, cache: &Path) -> Self {
        let folder = format!("models--{}", name.repository.replace('/', "--"));
        let locks = cache.join(".locks").join(&folder);
        Self { locks, folder: cache.join(folder), revision: name.revision().into() }
    }

    fn reference(&self) -> PathBuf {
        self.folder.join("refs").join(&self.revision)
    }

    /// The commit that the revision was when it was last asked for.
    pub fn commit(&self) -> Option<String> {
        let commit = match is_commit(&self.revision) {
            true => self.revision.clone(),
            false => fs::read_to_string(self.reference()).ok()?.trim().to_string(),
        };
        is_commit(&commit).then_some(commit)
    }

    /// Remembers that the revision is this commit.
    pub fn remember(&self, commit: &str) -> io::Result<()> {
        if is_commit(&self.revision) || self.commit().as_deref() == Some(commit) {
            return Ok(());
        }
        let reference = self.reference();
        reference.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(reference, commit)
    }

    /// Where the files of a commit are.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// Where a content is.
    pub fn blob(&self, hash: &str) -> PathBuf {
        self.folder.join("blobs").join(hash)
    }

    /// Keeps other processes from fetching the same content, until the file that comes back is closed.
    pub fn lock(&self, hash: &str) -> io::Result<File> {
        fs::create_dir_all(&self.locks)?;
        let file = File::create(self.locks.join(format!("{hash}.lock")))?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            log::warn!("{}: another process is fetching a file of it; waiting", self.folder.display());
            file.lock()?;
        }
        Ok(file)
    }

    /// Gives a content that is in the cache a file's name in a commit.
    pub fn link(&self, hash: &str, commit: &str, file: &str) -> io::Result<()> {
        let snapshot = self.snapshot(commit);
        fs::create_dir_all(&snapshot)?;
        let link = snapshot.join(file);
        match fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        #[cfg(unix)]
        return std::os::unix::fs::symlink(Path::new("../../blobs").join(hash), link);
        #[cfg(not(unix))]
        return fs::hard_link(self.blob(hash), link);
    }
}

pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.chars().all(|c| c.is_ascii_hexdigit())
}

/// The first file that a model needs and that its folder lacks.
///
/// # Errors
/// An index that cannot be read, or that names something else than files beside it.
pub(super) fn missing(folder: &Path) -> Result<Option<String>, ModelError> {
    let mut needed = vec!["config.json".to_string()];
    match folder.join(INDEX).exists() && !folder.join(SINGLE).exists() {
        true => needed.extend(shard_names(&folder.join(INDEX))?),
        false => needed.push(SINGLE.into()),
    }
    Ok(needed.into_iter().find(|file| !folder.join(file).exists()))
}

/// The weight files that an index names.
///
/// # Errors
/// An index that cannot be read, or that names something else than files beside it.
pub(super) fn shard_names(index: &Path) -> Result<BTreeSet<String>, ModelError> {
    #[derive(Deserialize)]
    struct ShardIndex {
        weight_map: BTreeMap<String, String>,
    }
    let text = read_text(index).map_err(ModelError::io(index))?;
    let ShardIndex { weight_map } = serde_json::from_str(&text).map_err(ModelError::json(index))?;
    match weight_map.iter().find(|(_, shard)| Path::new(shard).file_name() != Some(shard.as_ref())) {
        None => Ok(weight_map.into_values().collect()),
        Some((tensor, shard)) => {
            Err(ModelError::ShardName { path: index.into(), tensor: tensor.clone(), shard: shard.clone() })
        }
    }
}
