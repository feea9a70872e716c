//! SHA-256 of what a run must find unchanged when it goes on: its data and its reference policy.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Tensor, s};
use luspo_data::{DataError, PromptDataset, SftExample};
use rayon::prelude::*;
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
    pub(crate) fn of(
        train: Option<&PromptDataset>,
        validation: Option<&PromptDataset>,
        sft: &[SftExample],
    ) -> Result<Self, DataError> {
        let hash = |dataset: Option<&PromptDataset>| dataset.map(prompts).transpose();
        Ok(Self { train: hash(train)?, validation: hash(validation)?, sft: examples(sft) })
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

fn prompts(dataset: &PromptDataset) -> Result<String, DataError> {
    let mut hash = Sha256::new();
    for prompt in dataset.iter() {
        let prompt = prompt?;
        hash.update(prompt.id.to_le_bytes());
        ids(&mut hash, &prompt.token_ids);
        for text in [&prompt.data_source, &prompt.ground_truth] {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
    }
    Ok(hex(&hash.finalize()))
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

/// Numbers that one thread hashes at a time.
const PIECE: usize = 1 << 18;

/// SHA-256 over the SHA-256 of every piece of every parameter of a model, in order: equal for models of the same bits,
/// whatever the number of threads and wherever the parameters are.
pub(crate) fn sha256(model: &impl Module) -> String {
    let mut visitor = Hash(Sha256::new());
    model.visit(&mut visitor);
    hex(&visitor.0.finalize())
}

struct Hash(Sha256);

impl ModuleVisitor for Hash {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val().inner();
        let (len, bytes) = (value.shape().num_elements(), value.dtype().size());
        let digest = |bytes: &[u8]| Sha256::digest(bytes);
        let digests: Vec<_> = match luspo_model::is_host(&value.device()) {
            // The model holds the tensor too: taken out as a whole, it would be copied as a whole.
            true => {
                let (value, pieces) = (value.reshape([len]), (0..len.div_ceil(PIECE)).into_par_iter());
                let piece = |i: usize| value.clone().slice(s![i * PIECE..len.min((i + 1) * PIECE)]).into_data();
                pieces.map(|i| digest(piece(i).as_bytes())).collect()
            }
            false => value.into_data().as_bytes().par_chunks(PIECE * bytes).map(digest).collect(),
        };
        digests.iter().for_each(|digest| self.0.update(digest));
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use luspo_core::{Purpose, RandomKey};
    use luspo_model::{Qwen2Config, Qwen2ForCausalLM, WeightDtype};

    use super::*;

    /// An embedding of several pieces, the last of them not whole.
    fn model(device: &Device) -> Qwen2ForCausalLM {
        let config = Qwen2Config::new(PIECE / 16 * 3 - 5, 16, 16, 1, 2, 1);
        Qwen2ForCausalLM::init(&config, RandomKey::new(0, Purpose::Init), device)
    }

    #[test]
    #[allow(deprecated)] // the second opinion
    fn a_hash_depends_on_the_bits_alone() {
        let here = model(&Device::flex());
        let hash = sha256(&here);
        assert_eq!(sha256(&here.clone().train()), hash);
        assert_eq!(sha256(&model(&Device::ndarray())), hash);
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(one.install(|| sha256(&here)), hash);
        assert_ne!(sha256(&here.clone().cast(WeightDtype::Bf16)), hash);
    }

    #[test]
    fn a_hash_sees_the_last_bit_of_any_piece() {
        let model = model(&Device::flex());
        let [rows, columns] = model.model.embed_tokens.weight.dims();
        let hash = sha256(&model);
        for place in [0, PIECE, rows * columns - 1] {
            let mut other = model.clone();
            other.model.embed_tokens.weight = other.model.embed_tokens.weight.map(|weight| {
                let mut data = weight.to_data();
                let number = &mut data.as_mut_slice::<f32>().unwrap()[place];
                *number = f32::from_bits(number.to_bits() ^ 1);
                Tensor::from_data(data, &weight.device())
            });
            assert_ne!(sha256(&other), hash, "{place}");
        }
    }
}
