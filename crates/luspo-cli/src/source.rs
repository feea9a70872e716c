//! Where a policy is that somebody names.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use luspo::model::hub::{self, HubName};
use luspo::model::{Adapter, ModelError};
use luspo::trainer::{Checkpoint, Point};

use crate::args::Global;
use crate::fetching::watch;

/// A policy on the disk.
#[derive(Debug, PartialEq)]
pub struct Source {
    /// Its Hugging Face folder, or that of its adapter.
    pub policy: PathBuf,
    /// The folder of the model that the adapter is on, where it is one.
    pub base: Option<PathBuf>,
    /// The step after which it was saved, where it is a checkpoint's.
    pub step: Option<usize>,
}

impl Source {
    /// Finds the policy that somebody names: a Hugging Face folder is one, so is that of an adapter in PEFT's format, a
    /// checkpoint has one, a run has that of its newest whole checkpoint, and what is no path may be a model at the hub.
    /// The files of a checkpoint are compared with its manifest, and the base of its adapter with that of the training.
    pub fn named(path: &Path, global: &Global) -> Result<Self> {
        let mut locate = |path: &Path| {
            let located = hub::locate(path, None, &mut watch(global))?;
            if let Some(commit) = &located.commit {
                log::info!("{}: commit {commit}, in {}", path.display(), located.folder.display());
            }
            Ok(located.folder)
        };
        Self::find(&locate(path)?, &mut locate)
    }

    /// The same for what is on the disk; `locate` finds the base of an adapter.
    fn find(path: &Path, locate: &mut dyn FnMut(&Path) -> Result<PathBuf, ModelError>) -> Result<Self> {
        let Some(checkpoint) = checkpoint(path)? else {
            let base = base_of(path, locate)?;
            return Ok(Self { policy: path.into(), base, step: None });
        };
        let policy = checkpoint.policy();
        let base = base_of(&policy, locate)?;
        if let Some(base) = &base {
            checkpoint.check_base(base)?;
        }
        let step = match checkpoint.state.after {
            Point::Step(step) => Some(step),
            Point::Sft(_) => None,
        };
        Ok(Self { policy, base, step })
    }

    /// The folder of its weights, without its adapter if it has one.
    pub fn weights(&self) -> &Path {
        self.base.as_ref().unwrap_or(&self.policy)
    }

    /// The folder of its tokenizer.
    pub fn tokenizer(&self) -> &Path {
        if self.policy.join("tokenizer.json").exists() { &self.policy } else { self.weights() }
    }
}

/// The checkpoint that a path means, after a look at every file of it; none where it is a folder with a model or an
/// adapter.
fn checkpoint(path: &Path) -> Result<Option<Checkpoint>> {
    // Links are followed: what they lead to may be a checkpoint's.
    let whole = fs::canonicalize(path).with_context(|| path.display().to_string())?;
    if let Some(checkpoint) = checkpoint_of(&whole) {
        return Ok(Some(Checkpoint::open(checkpoint)?));
    }
    if path.join("config.json").is_file() || Adapter::is_in(path) {
        return Ok(None);
    }
    if path.join("policy").is_dir() {
        return Ok(Some(Checkpoint::open(path)?));
    }
    let checkpoints = path.join("checkpoints");
    if !checkpoints.is_dir() {
        bail!(
            "{}: is no run, no checkpoint and no Hugging Face folder: it has no checkpoints/, no policy/ and \
             no config.json",
            path.display()
        );
    }
    let (newest, _) = Checkpoint::newest(&checkpoints, Point::Step(usize::MAX))?;
    let newest = newest.with_context(|| {
        format!("{}: holds no complete checkpoint; continue the run until it saves one", checkpoints.display())
    })?;
    Ok(Some(newest))
}

/// The folder of the model that the adapter in a folder is on; none where it holds no adapter.
fn base_of(dir: &Path, locate: &mut dyn FnMut(&Path) -> Result<PathBuf, ModelError>) -> Result<Option<PathBuf>> {
    if !Adapter::is_in(dir) {
        return Ok(None);
    }
    let adapter = Adapter::from_folder(dir)?;
    let mut base = adapter.base_near(dir);
    if let (Some(name), Some(_), false) = (HubName::parse(&base), &adapter.revision, base.exists()) {
        base = HubName { revision: adapter.revision, ..name }.to_string().into();
    }
    let context = || format!("the base of the adapter in {}", dir.display());
    let folder = locate(&base).with_context(context)?;
    if folder.join("config.json").is_file() {
        return Ok(Some(folder));
    }
    Err(ModelError::NoConfig { folder }).with_context(context)
}

/// The checkpoint whose policy folder this is, whole or not.
fn checkpoint_of(policy: &Path) -> Option<&Path> {
    let parent = policy.parent().filter(|_| policy.ends_with("policy"))?;
    ["MANIFEST.json", "state.json"].iter().any(|file| parent.join(file).exists()).then_some(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(path: &Path) -> Result<Source> {
        Source::find(path, &mut |base| Ok(base.into()))
    }

    #[test]
    fn what_holds_no_policy_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("checkpoints/.step_000001.partial/policy")).unwrap();
        for (path, words) in [
            ("checkpoints", "no Hugging Face folder"),
            ("", "no complete checkpoint"),
            ("nowhere", "No such file"),
            ("checkpoints/.step_000001.partial", "MANIFEST.json cannot be read"),
        ] {
            let path = dir.path().join(path);
            let error = format!("{:#}", find(&path).unwrap_err());
            assert!(error.contains(words) && error.contains(&*dir.path().to_string_lossy()), "{error}");
        }
    }

    #[test]
    fn the_policy_of_a_checkpoint_is_no_folder_like_any_other() {
        let dir = tempfile::tempdir().unwrap();
        let policy = dir.path().join("policy");
        fs::create_dir(&policy).unwrap();
        fs::write(policy.join("config.json"), "{}").unwrap();
        assert_eq!(find(&policy).unwrap(), Source { policy: policy.clone(), base: None, step: None });
        fs::write(dir.path().join("state.json"), "{}").unwrap();
        assert!(format!("{:#}", find(&policy).unwrap_err()).contains("MANIFEST.json cannot be read"));
    }

    #[test]
    fn the_base_of_an_adapter_is_found_near_it_or_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let adapter = dir.path().join("run/adapter");
        fs::create_dir_all(&adapter).unwrap();
        fs::create_dir_all(dir.path().join("run/base")).unwrap();
        fs::write(dir.path().join("run/base/config.json"), "{}").unwrap();
        let name = |base: &str, revision: &str| {
            let config = serde_json::json!({ "peft_type": "LORA", "r": 1, "lora_alpha": 1, "revision": revision,
                "target_modules": ["q_proj"], "base_model_name_or_path": base });
            fs::write(adapter.join("adapter_config.json"), config.to_string()).unwrap();
        };
        name("../base", "main");
        assert_eq!(find(&adapter).unwrap().base, Some(adapter.join("../base")));
        // Moved together, they still are together.
        let moved = dir.path().join("moved");
        fs::rename(dir.path().join("run"), &moved).unwrap();
        assert_eq!(find(&moved.join("adapter")).unwrap().base, Some(moved.join("adapter/../base")));
        fs::rename(&moved, dir.path().join("run")).unwrap();

        name("owner/name", "0f3a");
        let mut asked = Vec::new();
        let error = Source::find(&adapter, &mut |base| {
            asked.push(base.to_path_buf());
            Ok(base.into())
        });
        assert_eq!(asked, [Path::new("owner/name@0f3a")]);
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.contains("the base of the adapter in") && error.contains("run/adapter"), "{error}");
    }
}
