//! Files that are either whole or not there, also after the power failed.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::TrainError;

/// The name under which something is written before it is complete.
pub(crate) fn aside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.partial"))
}

/// Writes a file aside, flushes it to the disk and renames it, so that `path` has the old bytes or the new ones.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let aside = aside(path);
    let written = File::create(&aside).and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    if let Err(source) = written {
        // What is half written helps nobody and may hold the space that is missing.
        let _ = fs::remove_file(&aside);
        return Err(TrainError::Write { file: path.into(), source });
    }
    rename(&aside, path)
}

/// Renames a complete file or folder to its final name, for good.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), TrainError> {
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::rename(from, to)
        .and_then(|()| File::open(parent)?.sync_all())
        .map_err(|source| TrainError::Write { file: to.into(), source })
}

/// Flushes every file and folder below `dir`, and `dir` itself, to the disk.
pub(crate) fn sync_tree(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() { sync_tree(&path)? } else { File::open(&path)?.sync_all()? }
    }
    File::open(dir)?.sync_all()
}
