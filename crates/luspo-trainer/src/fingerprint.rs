//! SHA-256 of what a run must find unchanged when it goes on: its data and its reference policy.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use luspo_data::{PromptDataset, SftExample};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::checkpoint::hex;

/// SHA-256 of a run's data as the model reads it: token ids, gold answers and sources, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataHashes {
    /// The training prompts.
    pub train: Option<String>,
    /// The validation prompts.
    pub validation: Option<String>,
    /// The worked examples of the warm-up.
    pub sft: Option<String>,
}

impl DataHashes {
    /// Hashes what a run has loaded.
    pub(crate) fn of(train: Option<&PromptDataset>, validation: Option<&PromptDataset>, sft: &[SftExample]) -> Self {
        Self { train: train.map(prompts), validation: validation.map(prompts), sft: examples(sft) }
    }

    /// The name of the first part in which two runs' data differ.
    pub(crate) fn difference(&self, other: &Self) -> Option<&'static str> {
        let parts = [
            ("training prompts", &self.train, &other.train),
            ("validation prompts", &self.validation, &other.validation),
            ("worked examples", &self.sft, &other.sft),
        ];
        parts.into_iter().find(|(_, mine, theirs)| mine != theirs).map(|(name, ..)| name)
    }
}

fn prompts(dataset: &PromptDataset) -> String {
    let mut hash = Sha256::new();
    for prompt in dataset.prompts() {
        hash.update(prompt.id.to_le_bytes());
        ids(&mut hash, &prompt.token_ids);
        for text in [&prompt.data_source, &prompt.ground_truth] {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
    }
    hex(&hash.finalize())
}

fn examples(examples: &[SftExample]) -> Option<String> {
    let mut hash = Sha256::new();
    for example in examples {
        ids(&mut hash, &example.prompt_ids);
        ids(&mut hash, &example.response_ids);
    }
    (!examples.is_empty()).then(|| hex(&hash.finalize()))
}

/// With their number in front, so that two lists do not hash like one.
fn ids(hash: &mut Sha256, ids: &[u32]) {
    hash.update((ids.len() as u64).to_le_bytes());
    ids.iter().for_each(|id| hash.update(id.to_le_bytes()));
}

/// SHA-256 over the bits of every parameter of a model.
pub(crate) fn sha256(model: &impl Module) -> String {
    let mut visitor = Hash(Sha256::new());
    model.visit(&mut visitor);
    hex(&visitor.0.finalize())
}

struct Hash(Sha256);

impl ModuleVisitor for Hash {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.update(param.val().into_data().as_bytes());
    }
}
