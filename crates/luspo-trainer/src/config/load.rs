//! From a TOML file and `KEY=VALUE` overrides to a [`Config`].

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Table, Value};

use super::Config;
use super::keys::{nearest, sections};
use crate::TrainError;
use crate::objective::resolved;

impl Config {
    /// Reads a configuration file, applies `KEY=VALUE` overrides, and checks the result.
    ///
    /// A key is dotted (`algorithm.loss_mode`) or, where only one section has it, its last part (`loss_mode`). A value
    /// is TOML; what is not TOML is taken as text, so `loss_mode=gspo` needs no quotes.
    ///
    /// # Errors
    /// A file that cannot be read, is not TOML, or has an unknown key (the nearest known one is named); an override
    /// without `=`, of an unknown or ambiguous key; values of the wrong type or out of range; sizes that do not divide.
    pub fn load(file: &Path, overrides: &[String]) -> Result<Self, TrainError> {
        Self::parse(&read(file)?, file, overrides)
    }

    fn parse(text: &str, file: &Path, overrides: &[String]) -> Result<Self, TrainError> {
        let mut table: Table = toml::from_str(text).map_err(|e| config_error(file, in_words(&e)))?;
        reject_unknown_keys(&table, "", file)?;
        let mut config: Config = toml::from_str(text).map_err(|e| config_error(file, in_words(&e)))?;
        for word in overrides {
            (table, config) = apply(&table, word)?;
        }
        config.check().map_err(|problem| config_error(file, problem))?;
        Ok(config)
    }

    /// The configuration as a file.
    ///
    /// # Errors
    /// A number that TOML cannot say.
    pub(crate) fn to_toml(&self) -> Result<String, TrainError> {
        toml::to_string(self).map_err(|e| TrainError::Mismatch(format!("the configuration cannot be written: {e}")))
    }

    /// The dotted keys whose values differ between two configurations.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let flat = |config: &Self| {
            let mut keys = std::collections::BTreeMap::new();
            // Every configuration is a TOML table; that it cannot be written would show when the run begins.
            if let Ok(table) = Table::try_from(config) {
                flatten(&table, "", &mut keys);
            }
            keys
        };
        let (mine, theirs) = (flat(self), flat(other));
        let mut keys: Vec<String> = mine.keys().chain(theirs.keys()).cloned().collect();
        keys.sort_unstable();
        keys.dedup();
        keys.retain(|key| mine.get(key) != theirs.get(key));
        keys
    }

    /// The dotted keys that `file` sets to something else than this configuration of a run says; `overrides` are applied
    /// to the file first. Where the run is to be kept is no difference: `run.name` and `run.dir` are not compared.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn contradicted_by(&self, file: &Path, overrides: &[String]) -> Result<Vec<String>, TrainError> {
        let (text, said) = (read(file)?, resolved(&Self::load(file, overrides)?)?);
        let mut set = std::collections::BTreeMap::new();
        flatten(&toml::from_str(&text).map_err(|e| config_error(file, in_words(&e)))?, "", &mut set);
        let mut keys = said.differences(self);
        keys.retain(|key| set.contains_key(key) && !["run.name", "run.dir"].contains(&key.as_str()));
        Ok(keys)
    }

    /// The run folder.
    pub fn run_dir(&self) -> PathBuf {
        self.run.dir.clone().unwrap_or_else(|| PathBuf::from("runs").join(&self.run.name))
    }
}

fn read(file: &Path) -> Result<String, TrainError> {
    let bytes = luspo_core::read_file(file).map_err(|source| TrainError::Read { file: file.into(), source })?;
    String::from_utf8(bytes).map_err(|_| config_error(file, "the file is not UTF-8 text"))
}

fn flatten(table: &Table, prefix: &str, keys: &mut std::collections::BTreeMap<String, Value>) {
    for (key, value) in table {
        let key = format!("{prefix}{key}");
        match value {
            Value::Table(inner) => flatten(inner, &format!("{key}."), keys),
            value => _ = keys.insert(key, value.clone()),
        }
    }
}

fn config_error(file: &Path, problem: impl std::fmt::Display) -> TrainError {
    TrainError::Config { file: file.into(), problem: problem.to_string() }
}

/// What the TOML reader says, with the names of Rust's types in words.
fn in_words(error: &toml::de::Error) -> String {
    let mut text = error.to_string().trim_end().to_string();
    for (type_name, words) in
        [("usize", "a whole number"), ("u64", "a whole number"), ("u32", "a whole number"), ("f64", "a number")]
    {
        text = text.replace(&format!("expected {type_name}"), &format!("expected {words}"));
    }
    text
}

fn reject_unknown_keys(table: &Table, name: &str, file: &Path) -> Result<(), TrainError> {
    let section = sections().iter().find(|section| section.is(name));
    for (key, value) in table {
        // Without a section, the keys are names of the user's own.
        if let Some(section) = section.filter(|section| !section.keys.contains(&key.as_str())) {
            let place = if name.is_empty() { "at the top level".to_string() } else { format!("in [{name}]") };
            let hint = match nearest(key, section.keys.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known keys: {}", section.keys.join(", ")),
            };
            return Err(config_error(file, format!("unknown key `{key}` {place}; {hint}")));
        }
        if let Value::Table(inner) = value {
            let path = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
            reject_unknown_keys(inner, &path, file)?;
        }
    }
    Ok(())
}

/// The table with one `KEY=VALUE` put into it, and what it says now.
fn apply(table: &Table, word: &str) -> Result<(Table, Config), TrainError> {
    let problem = |problem: String| TrainError::Override { word: word.into(), problem };
    let (key, value) = word.split_once('=').ok_or_else(|| problem("an override is KEY=VALUE".into()))?;
    let (section, key) = locate(key.trim()).map_err(problem)?;
    let section = section.as_str();
    let text = Value::String(value.trim().to_string());
    // What the key wants is known to its type alone: `run.name=42` is text, `train_files=a.parquet` a list of one.
    let mut first_error = None;
    for value in [parse_value(value.trim()), text.clone(), Value::Array(vec![text])] {
        let changed = insert(table, section, key, value).map_err(problem)?;
        match Config::deserialize(changed.clone()) {
            Ok(config) => return Ok((changed, config)),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(problem(first_error.map_or_else(String::new, |e| in_words(&e).replace('\n', " "))))
}

fn insert(table: &Table, section: &str, key: &str, value: Value) -> Result<Table, String> {
    let mut table = table.clone();
    let mut place = &mut table;
    for part in section.split('.').filter(|part| !part.is_empty()) {
        place = place
            .entry(part)
            .or_insert_with(|| Value::Table(Table::new()))
            .as_table_mut()
            .ok_or_else(|| format!("`{part}` is not a section in the file"))?;
    }
    place.insert(key.to_string(), value);
    Ok(table)
}

/// The section and key that a dotted or bare word names.
fn locate(word: &str) -> Result<(String, &'static str), String> {
    // A word names a value, never a whole section, nor what has sections of any name.
    let is_section = |name: &str, key: &str| {
        let (whole, parent) = (format!("{name}.{key}"), format!("{name}.{key}.*"));
        sections().iter().any(|section| section.name == whole || section.name == parent)
    };
    let is_named = |name: &str| name.ends_with('*');
    let values = || {
        let all = sections().iter().flat_map(|s| s.keys.iter().map(move |key| (s.name, *key)));
        all.filter(|(name, key)| !name.is_empty() && !is_section(name, key))
    };
    let matches: Vec<_> = match word.rsplit_once('.') {
        Some((table, key)) => {
            let name = sections().iter().find(|section| section.is(table)).map(|section| section.name);
            values().filter(|(s, k)| Some(*s) == name && *k == key).collect()
        }
        None => values().filter(|(s, k)| *k == word && !is_named(s)).collect(),
    };
    match matches.as_slice() {
        [(section, key)] if is_named(section) => Ok((word[..word.len() - key.len() - 1].to_string(), key)),
        [(section, key)] => Ok((section.to_string(), key)),
        [] if sections().iter().any(|section| section.is(word)) => {
            Err(format!("`{word}` is a section; write `{word}.KEY=VALUE`"))
        }
        [] => {
            // Keys below the user's own names are compared with that name put in.
            let dotted = |(section, key): (&str, &str)| match (section.strip_suffix('*'), word.rsplit_once('.')) {
                (Some(parent), Some((table, _))) if table.starts_with(parent) => format!("{table}.{key}"),
                _ => format!("{section}.{key}"),
            };
            let known: Vec<String> = match word.contains('.') {
                true => values().map(dotted).collect(),
                false => values().filter(|(s, _)| !is_named(s)).map(|(_, k)| k.to_string()).collect(),
            };
            Err(match nearest(word, known.iter().map(String::as_str)) {
                Some(near) => format!("unknown key `{word}`; did you mean `{near}`?"),
                None => format!("unknown key `{word}`; keys look like `algorithm.loss_mode` or `loss_mode`"),
            })
        }
        several => {
            let full: Vec<String> = several.iter().map(|(s, k)| format!("`{s}.{k}`")).collect();
            Err(format!("`{word}` could be {}; write the one you mean", full.join(" or ")))
        }
    }
}

fn parse_value(text: &str) -> Value {
    let document: Result<Table, _> = toml::from_str(&format!("value = {text}"));
    match document.ok().and_then(|mut table| table.remove("value")) {
        Some(value) => value,
        None => Value::String(text.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = "[model]\npath = \"m\"\n[data]\ntrain_files = [\"t\"]\ntrain_batch_size = 16\n";

    fn load(text: &str, overrides: &[&str]) -> Result<Config, String> {
        let overrides: Vec<String> = overrides.iter().map(|s| s.to_string()).collect();
        Config::parse(text, Path::new("c.toml"), &overrides).map_err(|e| e.to_string())
    }

    #[test]
    fn bare_and_dotted_overrides_set_the_same_key() {
        let bare = load(MINIMAL, &["loss_mode=gspo"]).unwrap();
        assert_eq!(bare, load(MINIMAL, &["algorithm.loss_mode=\"gspo\""]).unwrap());
        assert_eq!(bare.algorithm.loss_mode, "gspo");
        assert_eq!(load(MINIMAL, &["run.seed = 7"]).unwrap().run.seed, 7);
    }

    #[test]
    fn a_list_of_files_can_be_overridden() {
        let config = load(MINIMAL, &["train_files=[\"a.parquet\", \"b.parquet\"]"]).unwrap();
        assert_eq!(config.data.train_files.len(), 2);
        let config = load(MINIMAL, &["train_files=a.parquet", "run.name=42"]).unwrap();
        assert_eq!((config.data.train_files[0].to_str(), config.run.name.as_str()), (Some("a.parquet"), "42"));
    }

    #[test]
    fn an_ambiguous_key_is_refused_with_its_full_names() {
        let error = load(MINIMAL, &["lr=1e-4"]).unwrap_err();
        assert!(error.contains("`sft.lr` or `critic.lr` or `optimizer.lr`"), "{error}");
    }

    #[test]
    fn a_misspelt_key_is_refused_with_the_nearest_one() {
        let error = load(&format!("{MINIMAL}[algorithm]\nloss_mod = \"gspo\"\n"), &[]).unwrap_err();
        assert!(error.contains("`loss_mod` in [algorithm]") && error.contains("`loss_mode`"), "{error}");
        let error = load(MINIMAL, &["los_mode=gspo"]).unwrap_err();
        assert!(error.contains("did you mean `loss_mode`"), "{error}");
        let error = load(&format!("{MINIMAL}[algoritm]\n"), &[]).unwrap_err();
        assert!(error.contains("did you mean `algorithm`"), "{error}");
    }

    #[test]
    fn keys_below_names_of_the_users_own_are_known_too() {
        let own = format!("{MINIMAL}[reward.components.judge]\ncommand = [\"a\", \"b\"]\n");
        let changed =
            load(&own, &["reward.components.judge.weight=2", "reward.components.other.url=http://h/"]).unwrap();
        assert_eq!(changed.reward.components["judge"].weight, 2.0);
        assert_eq!(changed.reward.components["other"].url.as_deref(), Some("http://h/"));
        assert_eq!(load(&changed.to_toml().unwrap(), &[]).unwrap(), changed);
        for (overrides, words) in [
            ("reward.components.judge.wieght=2", "did you mean `reward.components.judge.weight`"),
            ("reward.components.judge=2", "is a section"),
            ("reward.components=2", "unknown key"),
            ("weight=2", "unknown key `weight`"),
            ("reward.components.a.b.weight=2", "unknown key"),
            ("reward.components..weight=2", "unknown key"),
            ("reward.components.judge.timeout=soon", "expected a number"),
        ] {
            let error = load(&own, &[overrides]).unwrap_err();
            assert!(error.contains(words), "{overrides}: {error}");
        }
        let error = load(&own.replace("command", "comand"), &[]).unwrap_err();
        assert!(error.contains("`comand` in [reward.components.judge]; did you mean `command`"), "{error}");
        let twice = format!("{own}[reward.components.judge]\nurl = \"http://h/\"\n");
        assert!(load(&twice, &[]).unwrap_err().contains("judge"));
    }

    #[test]
    fn a_value_of_the_wrong_type_names_its_key() {
        let error = load(MINIMAL, &["rollout.n=many"]).unwrap_err();
        assert!(error.contains("rollout.n=many") && error.contains("expected a whole number"), "{error}");
    }

    #[test]
    fn a_file_contradicts_a_run_where_it_sets_another_value() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        let edited = format!("{MINIMAL}[run]\nname = \"other\"\n[optimizer]\nlr = 1e-4\n[trainer]\ntest_freq = 10\n");
        std::fs::write(&file, edited).unwrap();
        let run = |overrides: &[&str]| resolved(&load(MINIMAL, overrides).unwrap()).unwrap();
        let contradicted = |run: &Config, overrides: &[String]| run.contradicted_by(&file, overrides).unwrap();
        assert_eq!(contradicted(&run(&[]), &[]), ["optimizer.lr"]);
        // What only the run says, and what its defaults are, contradicts nothing.
        assert_eq!(contradicted(&run(&["optimizer.lr=0.0001", "loss_mode=gspo"]), &[]), [""; 0]);
        assert_eq!(contradicted(&run(&["test_freq=5", "optimizer.lr=1e-4"]), &[]), ["trainer.test_freq"]);
        assert_eq!(contradicted(&run(&["test_freq=5"]), &["optimizer.lr=1e-6".into()]), ["trainer.test_freq"]);
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        let config = load(MINIMAL, &["trainer.test_freq=5", "ppo_mini_batch_size=4"]).unwrap();
        assert_eq!(load(&toml::to_string(&config).unwrap(), &[]).unwrap(), config);
    }
}
