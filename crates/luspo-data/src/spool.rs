//! Prompts that are kept aside while a run lasts, so that memory does not grow with the dataset.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::{Mutex, PoisonError};

use luspo_core::Prompt;
use tempfile::SpooledTempFile;

use crate::DataError;

/// What stays in memory; more goes to a file without a name in the system's folder for temporary files, which vanishes
/// with the process however that ends.
const IN_MEMORY: usize = 16 << 20;

/// Prompts behind each other as JSON; in memory is where each begins.
pub(crate) struct Spool {
    file: Mutex<SpooledTempFile>,
    /// Where each prompt begins, and where the last one ends.
    starts: Vec<u64>,
}

impl Spool {
    pub(crate) fn new() -> Self {
        Self { file: Mutex::new(SpooledTempFile::new(IN_MEMORY)), starts: vec![0] }
    }

    pub(crate) fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Adds a prompt behind the others.
    pub(crate) fn push(&mut self, prompt: &Prompt) -> Result<(), DataError> {
        let bytes = serde_json::to_vec(prompt).map_err(|e| failed(e.into()))?;
        let end = self.starts[self.len()];
        let file = self.file.get_mut().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(end)).and_then(|_| file.write_all(&bytes)).map_err(failed)?;
        self.starts.push(end + bytes.len() as u64);
        Ok(())
    }

    /// The prompt with this number.
    pub(crate) fn get(&self, number: usize) -> Result<Prompt, DataError> {
        let (start, end) = (self.starts[number], self.starts[number + 1]);
        let mut bytes = vec![0; (end - start) as usize];
        {
            let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
            file.seek(SeekFrom::Start(start)).and_then(|_| file.read_exact(&mut bytes)).map_err(failed)?;
        }
        serde_json::from_slice(&bytes).map_err(|e| failed(e.into()))
    }
}

fn failed(source: io::Error) -> DataError {
    DataError::Spool { source }
}
