//! What a run would read, where it is there: its prompts, its golds, and what validation shares with training.

use luspo_data::{LoadReport, PromptDataset, task};
use luspo_reward::CustomRewards;
use serde::Serialize;

use super::sources;
use crate::golds::GoldCheck;
use crate::inputs::{check_batch, check_dtype, refuse_adapters, take_task};
use crate::material::{Material, warnings};
use crate::objective::resolved;
use crate::{Config, TrainError};

/// What a run would read, and what its verifiers say of the gold answers in it.
#[derive(Clone, Debug, Serialize)]
pub struct DataPlan {
    /// The training prompts.
    pub train: Option<Prompts>,
    /// The validation prompts.
    pub validation: Option<Prompts>,
    /// Worked examples of the warm-up.
    pub examples: usize,
    /// What verifiers say of gold answers, by part and data source.
    pub golds: Vec<GoldCheck>,
    /// Validation prompts that are trained on.
    pub leaked: usize,
    /// What whoever starts the run should know.
    pub warnings: Vec<String>,
}

/// A set of prompts.
#[derive(Clone, Debug, Serialize)]
pub struct Prompts {
    /// How many.
    pub prompts: usize,
    /// How many different ones.
    pub distinct: usize,
    /// Tokens of the longest.
    pub longest_prompt: usize,
    /// What loading did to the rows.
    pub rows: LoadReport,
}

impl DataPlan {
    /// Reads what a run would read before its weights, and refuses what the run would refuse. None where a part of it is
    /// not there. A built-in task is made for the moment.
    ///
    /// # Errors
    /// As a run's start: whatever is malformed or does not fit together, by name.
    pub fn of(config: &Config) -> Result<Option<Self>, TrainError> {
        resolved(config)?;
        if let Ok(device) = config.run.backend.device() {
            check_dtype(config, &device)?;
        }
        if !sources::missing_to_read(config).is_empty() || sources::is_at_the_hub(config) {
            return Ok(None);
        }
        let mut config = config.clone();
        refuse_adapters(&config)?;
        // Removed at the end.
        let mut made = None;
        if let Some(task) = &config.data.task {
            let failed = |source| TrainError::Write { file: std::env::temp_dir(), source };
            let dir = made.insert(tempfile::tempdir().map_err(failed)?);
            let files = task::generate(task, &dir.path().join("data"), config.run.seed)?;
            take_task(&mut config, files);
        }
        let material = Material::read(&mut config, &CustomRewards::new(), &mut ())?;
        material.train.as_ref().map_or(Ok(()), |train| check_batch(&config, train))?;
        Ok(Some(Self {
            train: material.train.as_ref().map(Prompts::of),
            validation: material.validation.as_ref().map(Prompts::of),
            examples: material.sft.len(),
            warnings: warnings(&material.golds, material.leaked).collect(),
            golds: material.golds,
            leaked: material.leaked,
        }))
    }

    /// The same in sentences, warnings behind.
    pub fn sentences(&self) -> Vec<String> {
        let set = |name: &str, prompts: &Option<Prompts>| match prompts {
            None => format!("no {name} prompts"),
            Some(Prompts { prompts, distinct, longest_prompt, .. }) => {
                let different =
                    if distinct < prompts { format!(", {distinct} of them different,") } else { String::new() };
                format!("{prompts} {name} prompts{different} of up to {longest_prompt} tokens")
            }
        };
        let mut sentences = vec![format!(
            "data: {}, {}, {} worked examples",
            set("training", &self.train),
            set("validation", &self.validation),
            self.examples
        )];
        sentences.extend(self.golds.iter().filter(|check| check.is_clean()).map(GoldCheck::sentence));
        sentences.extend(self.warnings.iter().cloned());
        sentences
    }
}

impl Prompts {
    fn of(dataset: &PromptDataset) -> Self {
        Self {
            prompts: dataset.len(),
            distinct: dataset.distinct_len(),
            longest_prompt: dataset.longest_prompt(),
            rows: dataset.report(),
        }
    }
}
