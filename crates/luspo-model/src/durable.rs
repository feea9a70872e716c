//! Files that are either whole or not there, also after the power failed.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::Path;

use crate::ModelError;

/// Writes a file aside, flushes it to the disk and renames it, so that `path` has the old bytes or the new ones.
pub(crate) fn write(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> Result<(), ModelError>,
) -> Result<(), ModelError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = path.with_file_name(format!(".{name}.partial"));
    let complete = || {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(&aside).map_err(ModelError::io(path))?);
        fill(&mut file)?;
        let file = file.into_inner().map_err(|error| ModelError::io(path)(error.into_error()))?;
        file.sync_all().map_err(ModelError::io(path))
    };
    if let Err(error) = complete() {
        // What is half written helps nobody and may hold the space that is missing.
        let _ = fs::remove_file(&aside);
        return Err(error);
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::rename(&aside, path).and_then(|()| File::open(parent)?.sync_all()).map_err(ModelError::io(path))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_that_was_not_finished_does_not_replace_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights");
        write(&path, |file| file.write_all(b"old").map_err(ModelError::io(&path))).unwrap();
        let failed = write(&path, |file| {
            file.write_all(b"ne").map_err(ModelError::io(&path))?;
            Err(ModelError::NoWeights { folder: path.clone() })
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing half written is left");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_said_in_the_systems_words_beside_the_files_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights");
        // The file aside is a device on which there is never any space.
        std::os::unix::fs::symlink("/dev/full", dir.path().join(".weights.partial")).unwrap();
        let error = write(&path, |file| file.write_all(b"new").map_err(ModelError::io(&path))).unwrap_err();
        let (message, path) = (error.to_string(), path.display().to_string());
        assert!(message.contains(&path) && message.contains("No space left on device"), "{message}");
    }
}
