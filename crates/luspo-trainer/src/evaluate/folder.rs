//! The folder of an evaluation: what was asked, and every answer. An evaluation that was cut short goes on in it.
//!
//! ```text
//! eval.json                  what was asked; another evaluation in the same folder is refused
//! parts/00/000003.parquet    answers to some of the prompts, while an evaluation goes on
//! answers/00.parquet         all answers of the first model, once there are
//! metrics.jsonl              a line a model, once there are all
//! ```

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use luspo_core::durable;
use luspo_rollout::{BatchLimits, Engine};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Answers, Evaluation, Exam, read_answers, write_answers};
use crate::checkpoint::{hex, sha256_of};
use crate::run_folder::lock;
use crate::{Policy, TrainError};

const ASKED: &str = "eval.json";

/// Answers of a part for each one that is decoded at once. A part is what may be lost; its last answers are decoded in
/// batches that are no longer full.
const BATCHES: usize = 8;

/// What an evaluation asks, as far as the answers depend on it: one JSON object, key by key.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked(Value);

impl Asked {
    /// Of something that serialises as an object.
    ///
    /// # Errors
    /// What JSON cannot say.
    pub fn of(settings: &impl Serialize) -> Result<Self, serde_json::Error> {
        Ok(Self(serde_json::to_value(settings)?))
    }

    /// The keys in which two differ, with both values.
    fn differences(&self, there: &Value) -> Vec<String> {
        let keys = |value: &Value| value.as_object().into_iter().flat_map(|object| object.keys().cloned()).collect();
        let mut all: Vec<String> = keys(&self.0);
        all.extend(Vec::into_iter(keys(there)).filter(|key| self.0.get(key).is_none()));
        let differs = |key: &String| (self.0.get(key) != there.get(key)).then(|| described(key, there, &self.0));
        all.iter().filter_map(differs).collect()
    }
}

/// A key with what it was and what it is, where that is short.
fn described(key: &str, there: &Value, here: &Value) -> String {
    let text = |value: Option<&Value>| value.map_or("absent".to_string(), Value::to_string);
    let (there, here) = (text(there.get(key)), text(here.get(key)));
    match there.len() + here.len() < 200 {
        true => format!("{key} (there {there}, here {here})"),
        false => key.into(),
    }
}

/// The folder of an evaluation.
#[derive(Debug)]
pub struct EvalFolder {
    dir: PathBuf,
    asked: Asked,
    /// Held from the first answer on.
    lock: Option<File>,
}

impl EvalFolder {
    /// A folder that is new, empty, or that of the same evaluation. Writes nothing yet.
    ///
    /// # Errors
    /// A folder that holds another evaluation, or something else.
    pub fn open(dir: PathBuf, asked: Asked) -> Result<Self, TrainError> {
        let folder = Self { dir, asked, lock: None };
        folder.check()?;
        Ok(folder)
    }

    fn check(&self) -> Result<(), TrainError> {
        let failed = |problem: String| TrainError::Evaluation { dir: self.dir.clone(), problem };
        let file = self.dir.join(ASKED);
        let text = match fs::read(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return self.check_empty(),
            Err(source) => return Err(TrainError::Read { file, source }),
        };
        let there = serde_json::from_slice(&text).map_err(|error| failed(format!("{ASKED} is damaged: {error}")))?;
        match self.asked.differences(&there).as_slice() {
            [] => Ok(()),
            differences => Err(failed(format!(
                "it holds another evaluation: {}; go on with that one by the same command, or name another folder",
                differences.join(", ")
            ))),
        }
    }

    fn check_empty(&self) -> Result<(), TrainError> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(TrainError::Read { file: self.dir.clone(), source }),
        };
        // What a process leaves that was killed before it began.
        let left = |name: &str| name == ".lock" || durable::is_aside(name);
        match entries.flatten().find(|entry| !left(&entry.file_name().to_string_lossy())) {
            None => Ok(()),
            Some(entry) => Err(TrainError::Evaluation {
                dir: self.dir.clone(),
                problem: format!("it holds {}, and no evaluation; name another folder", entry.file_name().display()),
            }),
        }
    }

    /// Makes the folder and keeps other processes out.
    fn begin(&mut self) -> Result<(), TrainError> {
        if self.lock.is_some() {
            return Ok(());
        }
        fs::create_dir_all(&self.dir).map_err(TrainError::write(&self.dir))?;
        self.lock = Some(lock(&self.dir)?);
        // Looked at again under the lock: another evaluation may have begun meanwhile.
        self.check()?;
        self.write(ASKED, &format!("{:#}\n", self.asked.0))
    }

    /// The answers of the model of this number, if all of them are there.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn finished(&self, model: usize) -> Result<Option<Answers>, TrainError> {
        let file = self.answers(model);
        if file.exists() { read_answers(&file).map(Some) } else { Ok(None) }
    }

    /// How many parts of a model's answers are there.
    pub fn parts(&self, model: usize) -> usize {
        let parts = fs::read_dir(self.parts_of(model)).into_iter().flatten().flatten();
        parts.filter(|part| !durable::is_aside(&part.file_name().to_string_lossy())).count()
    }

    /// Samples and judges the answers of a model that are not there yet, and keeps them all. `name` is what the model
    /// goes by.
    ///
    /// Parts have the same prompts whether or not the evaluation was cut short, and each has an engine of its own: the
    /// answers are the same, too.
    ///
    /// # Errors
    /// As [`Exam::answers`]; files that cannot be read or written.
    pub fn evaluate(
        &mut self,
        (model, name): (usize, &str),
        exam: &Exam<'_>,
        policy: &Policy,
        limits: BatchLimits,
    ) -> Result<Evaluation, TrainError> {
        self.begin()?;
        let parts = self.parts_of(model);
        fs::create_dir_all(&parts).map_err(TrainError::write(&parts))?;
        let prompts = (BATCHES * limits.max_batch_size / exam.n).max(1);
        let mut all = Answers::default();
        for (number, prompts) in exam.prompts.chunks(prompts).enumerate() {
            let file = parts.join(format!("{number:06}.parquet"));
            if !file.exists() {
                let answers = Exam { prompts, ..*exam }.answers(policy, &mut Engine::new(limits)?, name)?;
                write_answers(&file, &answers)?;
            }
            all.add(read_answers(&file)?);
        }
        let file = self.answers(model);
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).map_err(TrainError::write(folder))?;
        }
        write_answers(&file, &all)?;
        Ok(Evaluation::of(exam.n, all))
    }

    /// Writes the results, a JSON line a model, and removes what was only for going on.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn finish(&mut self, lines: &[Value]) -> Result<(), TrainError> {
        self.begin()?;
        self.write("metrics.jsonl", &lines.iter().map(|line| format!("{line}\n")).collect::<String>())?;
        let parts = self.dir.join("parts");
        match fs::remove_dir_all(&parts) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(TrainError::write(&parts)(error)),
            _ => Ok(()),
        }
    }

    fn write(&self, name: &str, text: &str) -> Result<(), TrainError> {
        let file = self.dir.join(name);
        durable::write(&file, text.as_bytes()).map_err(TrainError::write(&file))
    }

    fn answers(&self, model: usize) -> PathBuf {
        self.dir.join("answers").join(format!("{model:02}.parquet"))
    }

    fn parts_of(&self, model: usize) -> PathBuf {
        self.dir.join("parts").join(format!("{model:02}"))
    }
}

impl Answers {
    fn add(&mut self, part: Self) {
        self.rows.extend(part.rows);
        for (name, count) in part.errors {
            match self.errors.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += count,
                None => self.errors.push((name, count)),
            }
        }
    }
}

/// SHA-256 of a file, as `sha256sum` prints it.
///
/// # Errors
/// A file that cannot be read.
pub fn file_sha256(file: &Path) -> Result<String, TrainError> {
    sha256_of(file).map_err(|source| TrainError::Read { file: file.into(), source })
}

/// SHA-256 over the names and hashes of a model's files: weights, configuration and tokenizer of its folders.
///
/// # Errors
/// A folder or a file that cannot be read.
pub fn model_sha256(folders: &[&Path]) -> Result<String, TrainError> {
    let mut hasher = Sha256::new();
    for folder in folders {
        let failed = |source| TrainError::Read { file: folder.to_path_buf(), source };
        let mut files: Vec<PathBuf> = Vec::new();
        for entry in fs::read_dir(folder).map_err(failed)? {
            files.push(entry.map_err(failed)?.path());
        }
        let counts = |file: &PathBuf| file.extension().is_some_and(|kind| kind == "safetensors" || kind == "json");
        files.retain(counts);
        files.sort();
        for file in files {
            hasher.update(file.file_name().unwrap_or_default().as_encoded_bytes());
            hasher.update(file_sha256(&file)?);
        }
    }
    Ok(hex(&hasher.finalize()))
}
