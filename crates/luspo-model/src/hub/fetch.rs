//! From a name to a folder of the cache: which commit, which files, in which order.

use std::collections::HashSet;
use std::path::Path;

use super::cache::{CachedModel, Settings, is_commit, missing, shard_names};
use super::server::{Failure, Listing, Server};
use super::{Download, HubName, Located};
use crate::ModelError;
use crate::export::COPIED;
use crate::save::{INDEX, SINGLE};

/// The model's folder in the cache, after fetching what it lacks.
pub(super) fn fetch(
    name: &HubName,
    commit: Option<&str>,
    tell: &mut dyn FnMut(&Download),
) -> Result<Located, ModelError> {
    let wanted = HubName { revision: commit.map(Into::into).or(name.revision.clone()), ..name.clone() };
    let settings = Settings::from_env();
    let cached = CachedModel::new(&wanted, &settings.cache);
    let failed = |problem: String| ModelError::Hub { name: name.to_string(), problem };
    let located = |commit: String| Located { folder: cached.snapshot(&commit), commit: Some(commit) };

    let known = cached.commit();
    if settings.offline {
        let place = settings.cache.display();
        let problem = match known {
            None => format!("revision `{}` is not in the cache {place}", wanted.revision()),
            Some(commit) => match missing(&cached.snapshot(&commit))? {
                None => return Ok(located(commit)),
                Some(file) => format!("{file} is not in the cache {place}"),
            },
        };
        return Err(failed(format!("{problem}, and HF_HUB_OFFLINE forbids to fetch it; unset it for a while")));
    }
    let known = known.filter(|commit| matches!(missing(&cached.snapshot(commit)), Ok(None)));
    if let Some(commit) = &known
        && is_commit(wanted.revision()) // which never changes
        && cached.snapshot(commit).join("tokenizer.json").exists()
    {
        return Ok(located(commit.clone()));
    }

    let server = Server::new(&wanted, &settings, &cached);
    let listing = match (server.listing(), known) {
        (Ok(listing), _) => listing,
        (Err(Failure { problem, unreachable: true }), Some(commit)) => {
            log::warn!("{name}: {problem}; going on with commit {commit} from the cache");
            return Ok(located(commit));
        }
        (Err(failure), _) => return Err(failed(failure.problem)),
    };
    let commit = fetch_files(&server, &cached, listing, tell).map_err(|failure| failed(failure.problem))?;
    let remembered = cached.remember(&commit);
    remembered.map_err(ModelError::io(settings.cache))?;
    Ok(located(commit))
}

/// Fetches the files that a model needs and returns their commit.
fn fetch_files(
    server: &Server,
    cached: &CachedModel,
    listing: Listing,
    tell: &mut dyn FnMut(&Download),
) -> Result<String, Failure> {
    let Listing { commit, files } = listing;
    let there: HashSet<&str> = files.iter().map(String::as_str).collect();
    let weights = match (there.contains(SINGLE), there.contains(INDEX)) {
        (true, _) => vec![SINGLE.to_string()],
        (false, true) => {
            server.fetch(&commit, INDEX, tell)?;
            shards(&cached.snapshot(&commit).join(INDEX), &there)?
        }
        (false, false) => {
            return Err(Failure::new(format!("the repository has no {SINGLE}; luspo reads no other format")));
        }
    };
    if !there.contains("config.json") {
        return Err(Failure::new("the repository has no config.json; name a model of transformers"));
    }
    let beside = COPIED.into_iter().filter(|file| there.contains(file));
    for file in ["config.json"].into_iter().chain(beside).chain(weights.iter().map(String::as_str)) {
        server.fetch(&commit, file, tell)?;
    }
    Ok(commit)
}

/// The weight files that an index names; all of them lie beside it.
fn shards(index: &Path, there: &HashSet<&str>) -> Result<Vec<String>, Failure> {
    let shards = shard_names(index).map_err(|error| Failure::new(error.to_string()))?;
    match shards.iter().find(|shard| !there.contains(shard.as_str())) {
        None => Ok(shards.into_iter().collect()),
        Some(shard) => Err(Failure::new(format!("{INDEX} names {shard:?}, which the repository does not have"))),
    }
}
