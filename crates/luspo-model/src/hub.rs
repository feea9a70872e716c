//! Models by their name at the Hugging Face hub, such as `Qwen/Qwen2.5-0.5B` or `Qwen/Qwen2.5-0.5B@REVISION`.
//!
//! [`locate`] turns what somebody named into a folder: a path into itself, a name into the folder of the usual cache
//! where its files are, after fetching what is not there yet. Fetching needs the cargo feature `hub`.
//!
//! The environment says where from and where to, as for Hugging Face's own tools: `HF_ENDPOINT`, `HF_HUB_CACHE`,
//! `HF_HOME`, `HF_TOKEN` (or the file that `hf auth login` writes), `HF_HUB_OFFLINE`, and `HF_HUB_DOWNLOAD_TIMEOUT` in
//! seconds.

use std::fmt::{self, Display, Formatter};
use std::path::{Path, PathBuf};

use crate::ModelError;

#[cfg(feature = "hub")]
mod cache;
#[cfg(feature = "hub")]
mod fetch;
#[cfg(feature = "hub")]
mod server;

/// A model's name at the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubName {
    /// `owner/name`.
    pub repository: String,
    /// A branch, a tag or a commit; the newest commit of `main` where it is absent.
    pub revision: Option<String>,
}

impl HubName {
    /// Reads `owner/name` or `owner/name@revision`; nothing where a path cannot be such a name.
    pub fn parse(path: &Path) -> Option<Self> {
        let text = path.to_str()?;
        let (repository, revision) = match text.split_once('@') {
            Some((repository, revision)) => (repository, Some(revision)),
            None => (text, None),
        };
        let (owner, name) = repository.split_once('/')?;
        let revision_is_one = |revision: &str| revision.split('/').all(is_part);
        let is_name =
            is_part(owner) && is_part(name) && !name.ends_with(".git") && revision.is_none_or(revision_is_one);
        is_name.then(|| Self { repository: repository.into(), revision: revision.map(Into::into) })
    }

    /// The branch, tag or commit that is meant.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }
}

impl Display for HubName {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        self.revision.as_ref().map_or(Ok(()), |revision| write!(f, "@{revision}"))
    }
}

/// What the hub allows between two slashes.
fn is_part(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (1..=96).contains(&text.len())
        && text.chars().all(allowed)
        && !text.starts_with(['-', '.'])
        && !text.ends_with(['-', '.'])
        && !text.contains("..")
        && !text.contains("--")
}

/// Where a model is on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Its Hugging Face folder.
    pub folder: PathBuf,
    /// The commit whose files these are, 40 hexadecimal digits, where the model was named and not a folder.
    pub commit: Option<String>,
}

/// A file on its way from the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Download {
    /// The model's name.
    pub name: HubName,
    /// The file's name.
    pub file: String,
    /// Bytes that are here; 0 when the download begins.
    pub done: u64,
    /// Bytes that there are.
    pub total: u64,
}

impl Display for Download {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "fetching {}: {}, {:.1} MB", self.name, self.file, self.total as f64 / 1e6)
    }
}

/// The folder of a model that is named by its folder or by its name at the hub.
///
/// A path that exists is taken as it is, and so is one that cannot be a name. For a name, the server is asked for the
/// revision's newest commit, and the files of that commit which a model needs (configuration, tokenizer, weights as
/// safetensors) and which the cache lacks are fetched. `commit` is what an earlier call found: that one is taken again,
/// without asking where the cache still has it. `HF_HUB_OFFLINE=1` never asks; a server that cannot be reached is warned
/// of, and the commit that the cache has is taken.
///
/// `tell` hears of every file that is fetched: when it begins, and about five times a second.
///
/// # Errors
/// [`ModelError::HubNotBuilt`] without the feature `hub`. [`ModelError::Hub`] where the model or one of its files is not
/// there, may not be read, comes damaged or not at all. [`ModelError::ShardName`] where the index of the weights names
/// something else than files beside it; no weights are fetched then.
pub fn locate(path: &Path, commit: Option<&str>, tell: &mut dyn FnMut(&Download)) -> Result<Located, ModelError> {
    match HubName::parse(path).filter(|_| !path.exists()) {
        None => Ok(Located { folder: path.into(), commit: None }),
        #[cfg(feature = "hub")]
        Some(name) => fetch::fetch(&name, commit, tell),
        #[cfg(not(feature = "hub"))]
        Some(name) => {
            let _ = (commit, tell); // of the client that is not in this build
            Err(ModelError::HubNotBuilt { name: name.to_string() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_an_owner_and_perhaps_a_revision() {
        let parse = |text: &str| HubName::parse(Path::new(text));
        let name = parse("Qwen/Qwen2.5-0.5B").unwrap();
        assert_eq!((name.repository.as_str(), name.revision()), ("Qwen/Qwen2.5-0.5B", "main"));
        for (text, revision) in [("a/b@v1.0", "v1.0"), ("a/b@refs/pr/3", "refs/pr/3"), ("a_b/c.d@0f3a", "0f3a")] {
            let name = parse(text).unwrap();
            assert_eq!((name.revision(), name.to_string().as_str()), (revision, text));
        }
    }

    #[test]
    fn what_can_only_be_a_path_is_no_name() {
        for text in [
            "", "model", "/", "/a/b", "a/", "/a", "a/b/c", "./a", "../a", "a/..", "a/.b", "~/a", "a b/c", "a/b c",
            "ü/a", "a/b@", "a/b@../c", "a/b@c//d", "a/b@/c", "a--b/c", "-a/b", "a/b.git", "a\\b", "C:/b", "a/b?c",
            "a/b#c", "@a/b",
        ] {
            assert_eq!(HubName::parse(Path::new(text)), None, "{text}");
        }
    }

    #[test]
    fn what_exists_is_no_name() {
        let located = locate(Path::new("src/hub.rs"), None, &mut |_| ()).unwrap();
        assert_eq!(located, Located { folder: "src/hub.rs".into(), commit: None });
        let located = locate(Path::new("no/such/folder"), None, &mut |_| ()).unwrap();
        assert_eq!(located.folder, Path::new("no/such/folder"), "whoever reads it says so");
    }

    #[cfg(not(feature = "hub"))]
    #[test]
    fn a_name_needs_the_feature() {
        let error = locate(Path::new("owner/name"), None, &mut |_| ()).unwrap_err().to_string();
        assert!(error.contains("owner/name") && error.contains("--features hub"), "{error}");
    }
}
