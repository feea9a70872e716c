//! What a configuration names: the shapes of its models, and what of it is not there.

use std::path::Path;

use luspo_data::Tokenizer;
use luspo_model::Qwen2Config;
use luspo_model::hub::HubName;

use super::published::shape_by_name;
use crate::inputs::shape;
use crate::{Config, TrainError};

/// The shape of the policy and where it comes from; `None` where nothing says it.
pub(super) fn policy(config: &Config) -> Result<Option<(String, Qwen2Config)>, TrainError> {
    if let Some(path) = &config.model.path {
        if path.join("config.json").exists() {
            return Ok(Some((path.display().to_string(), Qwen2Config::from_folder(path)?)));
        }
        return Ok(shape_by_name(path).map(|shape| (format!("as published, by the name {}", path.display()), shape)));
    }
    let Some(init) = &config.model.init else { return Ok(None) };
    let known = match &init.tokenizer {
        Some(folder) if folder.join("tokenizer.json").exists() => Some(Tokenizer::from_folder(folder)?.vocab_size()),
        Some(_) => init.vocab_size,
        None => Some(crate::inputs::BYTE_VOCABULARY),
    };
    known.map(|ids| Ok(("[model.init]".to_string(), shape(init, ids)?))).transpose()
}

/// The shape of the critic, where it has a folder of its own that is there.
pub(super) fn critic(config: &Config) -> Result<Option<Qwen2Config>, TrainError> {
    match &config.critic.model_path {
        Some(path) if path.join("config.json").exists() => Ok(Some(Qwen2Config::from_folder(path)?)),
        _ => Ok(None),
    }
}

/// What a run needs and is not there, a sentence each.
pub(super) fn missing(config: &Config) -> Vec<String> {
    let mut missing = Vec::new();
    if let Err(error) = config.run.backend.device() {
        missing.push(error.to_string());
    }
    missing.extend(missing_folders(config, true));
    missing.extend(missing_data(config));
    missing
}

/// The same, of what is read before the weights and without a device.
pub(super) fn missing_to_read(config: &Config) -> Vec<String> {
    let mut missing = missing_folders(config, false);
    missing.extend(missing_data(config));
    missing
}

/// Whether a model is not here, but at the hub, from where it is fetched when the run starts.
pub(super) fn is_at_the_hub(config: &Config) -> bool {
    [&config.model.path, &config.critic.model_path].into_iter().flatten().any(|path| !path.is_dir())
}

fn missing_folders(config: &Config, weights: bool) -> Vec<String> {
    let mut missing = Vec::new();
    for (key, folder, files) in [
        ("model.path", &config.model.path, &["config.json", "tokenizer.json", WEIGHTS][..]),
        ("critic.model_path", &config.critic.model_path, &["config.json", WEIGHTS]),
        (
            "model.init.tokenizer",
            &config.model.init.as_ref().and_then(|init| init.tokenizer.clone()),
            &["tokenizer.json"],
        ),
    ] {
        let Some(folder) = folder else { continue };
        let wanted = files.iter().copied().filter(|file| weights || *file != WEIGHTS);
        let absent: Vec<&str> = wanted.filter(|file| !is_there(folder, file)).collect();
        if !folder.is_dir() {
            // Where the build can, it is fetched when the run starts.
            match HubName::parse(folder) {
                Some(_) if cfg!(feature = "hub") => {}
                _ => missing.push(format!("{key} = {}: there is no such folder", folder.display())),
            }
        } else if !absent.is_empty() {
            missing.push(format!("{key} = {}: there is no {}", folder.display(), absent.join(", no ")));
        }
    }
    missing
}

fn missing_data(config: &Config) -> Vec<String> {
    let sft = config.sft.iter().filter(|sft| sft.steps > 0).flat_map(|sft| &sft.files);
    let files = (config.data.train_files.iter().map(|file| ("data.train_files", file)))
        .chain(config.data.val_files.iter().map(|file| ("data.val_files", file)))
        .chain(sft.map(|file| ("sft.files", file)));
    let absent = files.filter(|(_, file)| !file.exists());
    let mut missing: Vec<String> = absent.map(|(key, file)| format!("{key}: there is no {}", file.display())).collect();
    missing.extend(config.reward.missing());
    if config.data.train_files.is_empty() && config.data.task.is_none() {
        missing.push("data.train_files is empty; name Parquet files or a [data.task]".into());
    }
    missing
}

/// What stands for the weights, in one file or in several.
const WEIGHTS: &str = "model.safetensors";

fn is_there(folder: &Path, file: &str) -> bool {
    folder.join(file).exists() || (file == WEIGHTS && folder.join("model.safetensors.index.json").exists())
}
