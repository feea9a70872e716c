//! Where a policy is that somebody names.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use luspo::model::hub;
use luspo::trainer::{Checkpoint, Point};

use crate::args::Global;
use crate::fetching::watch;

/// A policy on the disk.
#[derive(Debug, PartialEq)]
pub struct Source {
    /// Its Hugging Face folder.
    pub policy: PathBuf,
    /// The step after which it was saved, where it is a checkpoint's.
    pub step: Option<usize>,
}

impl Source {
    /// Finds the policy that somebody names: a Hugging Face folder is one, a checkpoint has one, a run has that of its
    /// newest whole checkpoint, and what is no path may be a model at the hub. The files of a checkpoint are compared
    /// with its manifest.
    pub fn named(path: &Path, global: &Global) -> Result<Self> {
        let located = hub::locate(path, None, &mut watch(global))?;
        if let Some(commit) = &located.commit {
            log::info!("{}: commit {commit}, in {}", path.display(), located.folder.display());
        }
        Self::find(&located.folder)
    }

    /// The same for what is on the disk.
    fn find(path: &Path) -> Result<Self> {
        // Links are followed: what they lead to may be a checkpoint's.
        let whole = fs::canonicalize(path).with_context(|| path.display().to_string())?;
        let checkpoint = if let Some(checkpoint) = checkpoint_of(&whole) {
            Checkpoint::open(checkpoint)?
        } else if path.join("config.json").is_file() {
            return Ok(Self { policy: path.into(), step: None });
        } else if path.join("policy").is_dir() {
            Checkpoint::open(path)?
        } else if path.join("checkpoints").is_dir() {
            let checkpoints = path.join("checkpoints");
            let (newest, _) = Checkpoint::newest(&checkpoints, Point::Step(usize::MAX))?;
            newest.with_context(|| {
                format!("{}: holds no complete checkpoint; continue the run until it saves one", checkpoints.display())
            })?
        } else {
            bail!(
                "{}: is no run, no checkpoint and no Hugging Face folder: it has no checkpoints/, no policy/ and \
                 no config.json",
                path.display()
            );
        };
        let step = match checkpoint.state.after {
            Point::Step(step) => Some(step),
            Point::Sft(_) => None,
        };
        Ok(Self { policy: checkpoint.policy(), step })
    }
}

/// The checkpoint whose policy folder this is, whole or not.
fn checkpoint_of(policy: &Path) -> Option<&Path> {
    let parent = policy.parent().filter(|_| policy.ends_with("policy"))?;
    ["MANIFEST.json", "state.json"].iter().any(|file| parent.join(file).exists()).then_some(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let error = format!("{:#}", Source::find(&path).unwrap_err());
            assert!(error.contains(words) && error.contains(&*dir.path().to_string_lossy()), "{error}");
        }
    }

    #[test]
    fn the_policy_of_a_checkpoint_is_no_folder_like_any_other() {
        let dir = tempfile::tempdir().unwrap();
        let policy = dir.path().join("policy");
        fs::create_dir(&policy).unwrap();
        fs::write(policy.join("config.json"), "{}").unwrap();
        assert_eq!(Source::find(&policy).unwrap(), Source { policy: policy.clone(), step: None });
        fs::write(dir.path().join("state.json"), "{}").unwrap();
        assert!(format!("{:#}", Source::find(&policy).unwrap_err()).contains("MANIFEST.json cannot be read"));
    }
}
