//! Models that a configuration names by their name at the hub.

use std::collections::BTreeMap;

use luspo_model::hub;

use crate::{Config, Observer, TrainError};

/// Puts folders in place of the names in the configuration, after fetching what the cache lacks, and returns their
/// commits by name; `known` are those of the run so far, which are taken again.
pub(crate) fn locate_models(
    config: &mut Config,
    known: &BTreeMap<String, String>,
    observer: &mut dyn Observer,
) -> Result<BTreeMap<String, String>, TrainError> {
    let mut commits = BTreeMap::new();
    for path in config.model.path.iter_mut().chain(&mut config.critic.model_path) {
        let name = path.display().to_string();
        let located = hub::locate(path, known.get(&name).map(String::as_str), &mut |download| {
            if download.done == 0 {
                observer.note(&download.to_string());
            }
        })?;
        *path = located.folder;
        if let Some(commit) = located.commit {
            observer.note(&format!("model: {name}, commit {commit}"));
            commits.insert(name, commit);
        }
    }
    Ok(commits)
}
