//! JSON lines to work on, from a file or from standard input.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;

/// The longest line, in bytes: a million token ids take a tenth of it. What has no lines is not read into memory.
const LONGEST: u64 = 64 << 20;

/// Lines that are read one by one.
pub struct InputLines {
    name: String,
    input: Box<dyn BufRead>,
    number: usize,
}

impl InputLines {
    /// Opens a file; `-` is standard input.
    pub fn open(file: &Path) -> Result<Self> {
        if file.as_os_str() == "-" {
            return Ok(Self { name: "standard input".into(), input: Box::new(std::io::stdin().lock()), number: 0 });
        }
        let name = file.display().to_string();
        let opened = File::open(file).with_context(|| format!("{name}: cannot be opened"))?;
        let folder = opened.metadata().is_ok_and(|found| found.is_dir());
        ensure!(!folder, "{name}: a folder; name a file of JSON lines");
        Ok(Self { name, input: Box::new(BufReader::new(opened)), number: 0 })
    }

    /// The next line that is not blank, and its place for messages; none at the end. `expected` says what a line is.
    pub fn next<T: DeserializeOwned>(&mut self, expected: &str) -> Result<Option<(String, T)>> {
        loop {
            self.number += 1;
            let place = format!("{}: line {}", self.name, self.number);
            let mut line = Vec::new();
            let read = (&mut self.input).take(LONGEST + 1).read_until(b'\n', &mut line);
            match read.with_context(|| place.clone())? as u64 {
                0 => return Ok(None),
                bytes => ensure!(bytes <= LONGEST, "{place}: has more than {LONGEST} bytes; {expected}"),
            }
            let line = std::str::from_utf8(&line).ok().with_context(|| format!("{place}: is not UTF-8 text"))?;
            if !line.trim().is_empty() {
                let line = serde_json::from_str(line).with_context(|| format!("{place}: {expected}"))?;
                return Ok(Some((place, line)));
            }
        }
    }
}
