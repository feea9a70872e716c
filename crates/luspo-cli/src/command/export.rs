//! `luspo export`: a trained policy as a Hugging Face folder for others.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use luspo::model::{SaveOptions, export, export_merged};

use crate::args::{ExportArgs, Global};
use crate::source::Source;

pub fn run(args: ExportArgs, global: &Global) -> Result<()> {
    let source = Source::named(&args.source, global)?;
    let options = SaveOptions { dtype: args.dtype, max_shard_bytes: args.max_shard_size };
    let place = Place::new(&args.out)?;
    let dtype = place.fill(|dir| {
        Ok(match &source.base {
            Some(base) => export_merged(base, &source.policy, dir, &options)?,
            None => export(&source.policy, dir, &options)?,
        })
    })?;

    let (files, bytes) = listed(&args.out).with_context(|| args.out.display().to_string())?;
    let dtype = dtype.map(|dtype| dtype.to_string());
    let mut out = std::io::stdout().lock();
    if global.json {
        let result = serde_json::json!({
            "out": args.out,
            "policy": source.policy,
            "base": source.base,
            "step": source.step,
            "dtype": dtype,
            "files": files,
            "bytes": bytes,
        });
        writeln!(out, "{result}")?;
    } else {
        writeln!(
            out,
            "wrote {} ({}, {} files, {:.1} MB) from {}",
            args.out.display(),
            dtype.as_deref().unwrap_or("several number types"),
            files.len(),
            bytes as f64 / 1e6,
            source.policy.display()
        )?;
    }
    Ok(())
}

/// The names of a folder's files, sorted, and their size together.
fn listed(dir: &Path) -> io::Result<(Vec<String>, u64)> {
    let (mut files, mut bytes) = (Vec::new(), 0);
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        files.push(entry.file_name().to_string_lossy().into_owned());
        bytes += entry.metadata()?.len();
    }
    files.sort();
    Ok((files, bytes))
}

/// A folder that will appear when it is complete.
struct Place<'a> {
    out: &'a Path,
    aside: PathBuf,
    /// The folders above it that had to be made, the lowest first.
    made: Vec<PathBuf>,
}

impl<'a> Place<'a> {
    /// Refuses a folder that is not empty.
    fn new(out: &'a Path) -> Result<Self> {
        match fs::read_dir(out) {
            Ok(mut entries) => {
                ensure!(
                    entries.next().is_none(),
                    "{}: is not empty, and nothing is overwritten; choose another --out",
                    out.display()
                );
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("{}: cannot be --out", out.display())),
        }
        let whole = std::path::absolute(out).with_context(|| format!("{}: cannot be --out", out.display()))?;
        let (Some(parent), Some(name)) = (whole.parent(), whole.file_name()) else {
            bail!("{}: cannot be --out; give the name of a folder that is to appear", out.display());
        };
        let made = parent.ancestors().take_while(|folder| !folder.exists()).map(Path::to_path_buf).collect();
        fs::create_dir_all(parent).with_context(|| format!("{}: cannot be made", parent.display()))?;
        let aside = parent.join(format!(".{}.partial", name.to_string_lossy()));
        match fs::create_dir(&aside) {
            Ok(()) => Ok(Self { out, aside, made }),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                bail!(
                    "{}: is left of an export that is running or was cut off; remove it to begin again",
                    aside.display()
                )
            }
            Err(error) => Err(error).with_context(|| format!("{}: cannot be made", aside.display())),
        }
    }

    /// Writes into the folder aside and gives it its name; where either fails nothing is left.
    fn fill<T>(self, write: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        let appear = || {
            // An empty folder may be in the way.
            match fs::remove_dir(self.out) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                _ => fs::rename(&self.aside, self.out),
            }
            .with_context(|| format!("{}: cannot be written", self.out.display()))
        };
        let result = write(&self.aside).and_then(|written| appear().map(|()| written));
        if result.is_err() {
            // The error that ended the export is the one worth telling.
            let _ = fs::remove_dir_all(&self.aside);
            let _ = self.made.iter().try_for_each(fs::remove_dir);
        }
        result
    }
}

/// Bytes from a number with a unit: powers of 1000 (`5GB`) or of 1024 (`5GiB`).
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => Some(1),
        "kb" => Some(1000),
        "mb" => Some(1000_u64.pow(2)),
        "gb" => Some(1000_u64.pow(3)),
        "kib" => Some(1 << 10),
        "mib" => Some(1 << 20),
        "gib" => Some(1 << 30),
        _ => None,
    };
    let bytes = number.parse().ok().zip(unit).and_then(|(number, unit): (u64, u64)| number.checked_mul(unit));
    bytes.filter(|bytes| *bytes > 0).ok_or("write a whole number and a unit, such as 5GB or 500MiB".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(paths: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for path in paths {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        dir
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [("5GB", 5_000_000_000), ("500 MiB", 500 << 20), ("1kb", 1000), ("77", 77), ("8B", 8)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "GB", "0MB", "-1", "1.5GB", "5XB", "99999999999GB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_fails_leaves_nothing_behind() {
        let dir = folder(&["empty"]);
        for name in ["new", "empty", "a/b/new"] {
            let out = dir.path().join(name);
            let failed = Place::new(&out).unwrap().fill(|aside| -> Result<()> {
                fs::write(aside.join("half"), "")?;
                bail!("the disk is full")
            });
            assert!(failed.is_err());
            assert_eq!(out.exists(), name == "empty");
            assert!(!dir.path().join("a").exists());
            Place::new(&out).unwrap().fill(|aside| Ok(fs::write(aside.join("whole"), "")?)).unwrap();
            assert!(out.join("whole").is_file());
            assert!(Place::new(&out).is_err(), "it is not empty any more");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }
}
