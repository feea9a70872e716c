//! Files and folders that are either whole or not there, also after the power failed.
//!
//! What is to appear is written aside, flushed to the disk, and renamed.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// The name under which something is written before it is complete: `.NAME.partial`, beside it.
pub fn aside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.partial"))
}

/// Whether a name is one that [`aside`] gives: what a process left that was killed while it wrote.
pub fn is_aside(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(".partial")
}

/// A file on its way to its place.
///
/// ```
/// use std::io::Write;
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("weights");
/// let mut draft = luspo_core::durable::Draft::create(&path)?;
/// draft.write_all(b"all of it")?;
/// assert!(!path.exists());
/// draft.finish()?;
/// assert!(path.exists());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Draft {
    file: BufWriter<File>,
    aside: PathBuf,
    path: PathBuf,
}

impl Draft {
    /// Begins the file that will be `path`; what is there now stays until the new one is finished.
    ///
    /// # Errors
    /// A file that cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        let aside = aside(path);
        let file = BufWriter::with_capacity(1 << 20, File::create(&aside)?);
        Ok(Self { file, aside, path: path.into() })
    }

    /// Flushes the file to the disk and puts it in its place.
    ///
    /// # Errors
    /// A disk that is full, or a place that cannot be taken; what was there still is.
    pub fn finish(mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        rename(&self.aside, &self.path)
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // What is half written helps nobody and may hold the space that is missing. (Once finished, it is not there.)
        let _ = fs::remove_file(&self.aside);
    }
}

/// Writes a file, so that `path` has the old bytes or the new ones.
///
/// # Errors
/// As [`Draft::finish`].
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut draft = Draft::create(path)?;
    draft.write_all(bytes)?;
    draft.finish()
}

/// Renames a complete file or folder to its final name, for good.
///
/// # Errors
/// A place that cannot be taken.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_parent(to)
}

/// Removes a file, for good. One that is not there is no error.
///
/// # Errors
/// A file that cannot be removed.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_parent(path),
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

/// Flushes every file and folder below `dir`, and `dir` itself, to the disk.
///
/// # Errors
/// What cannot be read or flushed.
pub fn sync_tree(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() { sync_tree(&path)? } else { File::open(&path)?.sync_all()? }
    }
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_not_finished_does_not_replace_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights");
        write(&path, b"old").unwrap();
        let mut draft = Draft::create(&path).unwrap();
        draft.write_all(b"ne").unwrap();
        drop(draft);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing half written is left");
        write(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_aside_is_known_by_its_name() {
        let aside = aside(Path::new("runs/a/config.toml"));
        assert_eq!(aside, Path::new("runs/a/.config.toml.partial"));
        assert!(is_aside(".config.toml.partial") && !is_aside("mine.partial") && !is_aside(".lock"));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_leaves_the_file_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights");
        fs::write(&path, b"old").unwrap();
        // The file aside is a device on which there is never any space.
        std::os::unix::fs::symlink("/dev/full", aside(&path)).unwrap();
        assert_eq!(write(&path, b"new").unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }
}
