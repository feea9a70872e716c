//! The list of a checkpoint's files with their hashes: what tells a whole checkpoint from a damaged one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::TrainError;

/// The manifest's name in a checkpoint.
pub(super) const MANIFEST: &str = "MANIFEST.json";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    /// The luspo that wrote the checkpoint.
    luspo: String,
    /// By path relative to the checkpoint, with `/` between its parts.
    files: BTreeMap<String, Entry>,
    /// SHA-256 over the two fields above, as JSON without blanks.
    sha256: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    bytes: u64,
    /// What `sha256sum` prints.
    sha256: String,
}

impl Manifest {
    fn hash(&self) -> Result<String, serde_json::Error> {
        Ok(hex(&Sha256::digest(serde_json::to_vec(&(&self.luspo, &self.files))?)))
    }
}

/// Writes the manifest of everything in `dir`. It is the last file of a checkpoint.
pub(super) fn write(dir: &Path) -> Result<(), TrainError> {
    let file = dir.join(MANIFEST);
    let mut files = BTreeMap::new();
    list(dir, "", &mut files).map_err(TrainError::write(&file))?;
    let mut manifest = Manifest { luspo: env!("CARGO_PKG_VERSION").into(), files, sha256: String::new() };
    let bytes = manifest.hash().and_then(|hash| {
        manifest.sha256 = hash;
        serde_json::to_vec_pretty(&manifest)
    });
    bytes.map_err(Into::into).and_then(|bytes| fs::write(&file, bytes)).map_err(TrainError::write(&file))
}

/// Whether every file is there as it was written. Files that the manifest does not list are not looked at.
///
/// # Errors
/// One sentence that names the first file that is missing or changed.
pub(super) fn verify(dir: &Path) -> Result<(), String> {
    let text = fs::read(dir.join(MANIFEST)).map_err(|e| format!("{MANIFEST} cannot be read: {e}"))?;
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|e| format!("{MANIFEST} is damaged: {e}"))?;
    if manifest.hash().ok().as_ref() != Some(&manifest.sha256) {
        return Err(format!("{MANIFEST} is damaged: its hash is not its own"));
    }
    for (name, entry) in &manifest.files {
        let path = dir.join(name);
        let bytes = fs::metadata(&path).map_err(|e| format!("{name} cannot be read: {e}"))?.len();
        if bytes != entry.bytes {
            return Err(format!("{name} has {bytes} bytes, {} were written", entry.bytes));
        }
        let sha256 = sha256_of(&path).map_err(|e| format!("{name} cannot be read: {e}"))?;
        if sha256 != entry.sha256 {
            return Err(format!("{name} is not what was written: its SHA-256 is {sha256}, not {}", entry.sha256));
        }
    }
    Ok(())
}

fn list(dir: &Path, prefix: &str, files: &mut BTreeMap<String, Entry>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            list(&entry.path(), &format!("{name}/"), files)?;
        } else {
            let (bytes, sha256) = (entry.metadata()?.len(), sha256_of(&entry.path())?);
            files.insert(name, Entry { bytes, sha256 });
        }
    }
    Ok(())
}

/// SHA-256 of a file, as `sha256sum` prints it.
pub(crate) fn sha256_of(file: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    io::copy(&mut File::open(file)?, &mut hasher)?;
    Ok(hex(&hasher.finalize()))
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("policy")).unwrap();
        fs::write(dir.path().join("policy/model.safetensors"), b"weights").unwrap();
        fs::write(dir.path().join("state.json"), b"{}").unwrap();
        write(dir.path()).unwrap();
        dir
    }

    #[test]
    fn what_was_written_verifies() {
        assert_eq!(verify(folder().path()), Ok(()));
    }

    #[test]
    fn a_changed_truncated_or_missing_file_is_named() {
        type Damage = fn(&Path);
        let damages: [(Damage, &str); 4] = [
            (|file| fs::write(file, b"weightS").unwrap(), "is not what was written"),
            (|file| fs::write(file, b"weight").unwrap(), "has 6 bytes, 7 were written"),
            (|file| fs::write(file, b"").unwrap(), "has 0 bytes"),
            (|file| fs::remove_file(file).unwrap(), "cannot be read"),
        ];
        for (damage, words) in damages {
            let dir = folder();
            damage(&dir.path().join("policy/model.safetensors"));
            let problem = verify(dir.path()).unwrap_err();
            assert!(problem.contains("policy/model.safetensors") && problem.contains(words), "{problem}");
        }
    }

    #[test]
    fn no_byte_of_the_manifest_can_change_unseen() {
        let dir = folder();
        let file = dir.path().join(MANIFEST);
        let good = fs::read(&file).unwrap();
        let blank = |byte: &u8| byte.is_ascii_whitespace();
        for place in (0..good.len()).filter(|place| !blank(&good[*place])) {
            let mut bad = good.clone();
            bad[place] ^= 1;
            if !blank(&bad[place]) {
                fs::write(&file, &bad).unwrap();
                assert!(verify(dir.path()).is_err(), "byte {place}");
            }
        }
    }
}
