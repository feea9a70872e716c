//! Whether a folder on the disk still holds the model that something was made for.

use std::path::Path;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::ModelError;
use crate::config::Qwen2Config;
use crate::save::Source;
use crate::weights::WeightFiles;

/// SHA-256, as hexadecimal digits, of what decides what the model in a folder computes: heads, epsilon and rotary base,
/// and every parameter with its name, shape and bytes as stored. In how many files they are makes no difference. All
/// threads take part, a parameter each.
///
/// # Errors
/// As [`Pretrained::load`](crate::Pretrained::load), but for numbers that are not finite.
pub fn fingerprint(dir: &Path) -> Result<String, ModelError> {
    let config = Qwen2Config::from_folder(dir)?;
    let files = WeightFiles::open(dir)?;
    files.check(&config)?;
    let parameters: Vec<_> = config.parameters().collect();
    let digests = parameters.into_par_iter().map(|(name, shape)| {
        let stored = files.find(&name, &shape)?;
        let mut hash = Sha256::new();
        hash.update(format!("{name} {shape:?} {}\n", stored.dtype()));
        stored.pieces(&mut |bytes| {
            hash.update(bytes);
            Ok(())
        })?;
        Ok(hash.finalize())
    });
    let mut hash = Sha256::new();
    let Qwen2Config { num_attention_heads: heads, num_key_value_heads: kv_heads, .. } = config;
    hash.update(format!("{heads} {kv_heads} {:e} {:e}\n", config.rms_norm_eps, config.rope_theta));
    for digest in digests.collect::<Result<Vec<_>, ModelError>>()? {
        hash.update(digest);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
