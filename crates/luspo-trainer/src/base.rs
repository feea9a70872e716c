//! The policy of a run, and the frozen base of one that trains adapters: where it is, and whether it is still the one that
//! the run began with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use luspo_core::{Purpose, RandomKey};
use luspo_data::Tokenizer;
use luspo_model::hub::HubName;
use luspo_model::{Adapter, Pretrained, Qwen2Config, fingerprint};

use crate::checkpoint::Checkpoint;
use crate::{Config, Policy, RunFolder, TrainError};

/// The folder of a base with random weights, in its run's folder.
const BASE: &str = "base";

/// That folder from a checkpoint's policy on, so that a run's folder can be moved.
const FROM_POLICY: &str = "../../../base";

/// The adapter that a configuration asks for, with its base as the configuration names it; `commits` are those of models
/// at the hub.
pub(crate) fn adapter(config: &Config, commits: &BTreeMap<String, String>) -> Option<Adapter> {
    let lora = config.model.lora.as_ref()?.adapter();
    let name = config.model.path.as_ref().map_or(FROM_POLICY.into(), |path| path.display().to_string());
    Some(match (commits.get(&name), HubName::parse(Path::new(&name))) {
        (Some(commit), Some(hub)) => Adapter { config: lora, base: hub.repository, revision: Some(commit.clone()) },
        _ => Adapter { config: lora, base: name, revision: None },
    })
}

/// The policy that a run begins with, or goes on with after `checkpoint`.
///
/// # Errors
/// Whatever is missing or malformed; a base that changed since the run began.
pub(crate) fn policy(
    config: &Config,
    folder: &RunFolder,
    checkpoint: Option<&Checkpoint>,
    shape: Qwen2Config,
    tokenizer: Tokenizer,
    adapter: Option<Adapter>,
    device: &Device,
) -> Result<Policy, TrainError> {
    let (seed, dtype) = (config.run.seed, config.dtype());
    let whole = match (checkpoint, &adapter) {
        (None, _) => config.model.path.clone(),
        (Some(checkpoint), None) => Some(checkpoint.policy()),
        (Some(checkpoint), Some(_)) => {
            let base = dir(config, folder);
            checkpoint.check_base(&base)?;
            Some(base)
        }
    };
    let policy = match whole {
        Some(path) => {
            let load = if adapter.is_some() { Pretrained::load_frozen } else { Pretrained::load_as };
            Policy::load_with(&path, tokenizer, device, dtype, load)?
        }
        None => Policy::init(shape, tokenizer, RandomKey::new(seed, Purpose::Init), device)?.cast(dtype),
    };
    let Some(adapter) = adapter else { return Ok(policy) };
    let model = match checkpoint {
        Some(checkpoint) => adapter.load(&checkpoint.policy(), &policy.model)?,
        None => policy.model.with_lora(&adapter.config, RandomKey::new(seed, Purpose::Lora))?,
    };
    Ok(Policy { model, adapter: Some(adapter), ..policy })
}

/// Writes the base of a run that begins, unless the configuration names one, and returns its fingerprint.
///
/// # Errors
/// A file that cannot be written or read.
pub(crate) fn begin(config: &Config, folder: &RunFolder, policy: &Policy) -> Result<Option<String>, TrainError> {
    if policy.adapter.is_none() {
        return Ok(None);
    }
    let dir = dir(config, folder);
    if config.model.path.is_none() {
        policy.save_base(&dir)?;
    }
    Ok(Some(fingerprint(&dir)?))
}

fn dir(config: &Config, folder: &RunFolder) -> PathBuf {
    config.model.path.clone().unwrap_or_else(|| folder.path().join(BASE))
}

impl Checkpoint {
    /// Refuses another base than the one that the checkpoint's adapter was trained on. A checkpoint without an adapter has
    /// none.
    ///
    /// # Errors
    /// [`TrainError::Mismatch`], or a base that cannot be read.
    pub fn check_base(&self, base: &Path) -> Result<(), TrainError> {
        match &self.state.base {
            Some(expected) if *expected != fingerprint(base)? => Err(TrainError::Mismatch(format!(
                "{}: the weights are not those that the adapter in {} was trained on (their fingerprint in its state.json \
                 differs); put the files back",
                base.display(),
                self.policy().display()
            ))),
            _ => Ok(()),
        }
    }
}
