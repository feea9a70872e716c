//! Opening files that others name: what is no file would never come to an end.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// The most that is read into memory at once. The longest of such files, tokenizers, have tens of megabytes.
const MOST: u64 = 1 << 30;

/// Opens a regular file for reading.
///
/// # Errors
/// A file that cannot be opened, or a folder, pipe or device: reading from those may wait or go on for ever.
pub fn open_file(path: &Path) -> io::Result<File> {
    // Asked before it is opened: opening a pipe waits for somebody to write into it.
    let found = fs::metadata(path)?;
    if found.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    if !found.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "a pipe or a device; name a regular file"));
    }
    File::open(path)
}

/// The bytes of a regular file that is read whole: a configuration, a tokenizer, a template.
///
/// # Errors
/// As [`open_file`]; a file of more than a gigabyte.
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let file = open_file(path)?;
    if file.metadata()?.len() > MOST {
        return Err(ErrorKind::FileTooLarge.into());
    }
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// As [`read_file`], for text.
///
/// # Errors
/// As [`read_file`]; bytes that are no UTF-8.
pub fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read_file(path)?).map_err(|_| io::Error::new(ErrorKind::InvalidData, "not UTF-8 text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_whole() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "text").unwrap();
        assert_eq!(read_text(&file).unwrap(), "text");
        fs::write(&file, [0xff]).unwrap();
        assert_eq!(read_file(&file).unwrap(), [0xff]);
        assert!(read_text(&file).unwrap_err().to_string().contains("UTF-8"));
    }

    #[test]
    fn what_is_no_file_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(open_file(dir.path()).unwrap_err().kind(), ErrorKind::IsADirectory);
        assert_eq!(open_file(&dir.path().join("none")).unwrap_err().kind(), ErrorKind::NotFound);
        #[cfg(target_os = "linux")]
        assert!(read_file(Path::new("/dev/zero")).unwrap_err().to_string().contains("device"));
        let huge = dir.path().join("huge");
        File::create(&huge).unwrap().set_len(MOST + 1).unwrap();
        assert_eq!(read_file(&huge).unwrap_err().kind(), ErrorKind::FileTooLarge);
    }
}
