//! SHA-256 of what a run must find unchanged when it goes on: its data and its reference policy.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{FloatDType, Tensor, s};
use luspo_data::{DataError, PromptDataset, SftExample};
use luspo_model::WeightDtype;
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
/// whatever the number of threads and wherever the parameters are. `dtype` is what the model computes with, and what
/// numbers are made first: frozen ones may be held in another type.
pub(crate) fn sha256(model: &impl Module, dtype: WeightDtype) -> String {
    let mut visitor = Hash { hash: Sha256::new(), dtype: dtype.into() };
    model.visit(&mut visitor);
    hex(&visitor.hash.finalize())
}

struct Hash {
    hash: Sha256,
    dtype: FloatDType,
}

impl ModuleVisitor for Hash {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val().inner();
        let len = value.shape().num_elements();
        let value = value.reshape([len]);
        let digest = |bytes: &[u8]| Sha256::digest(bytes);
        let digests: Vec<_> = match luspo_model::is_host(&value.device()) {
            // The model holds the tensor too: taken out as a whole, it would be copied as a whole.
            true => {
                let pieces = (0..len.div_ceil(PIECE)).into_par_iter();
                let piece = |i: usize| {
                    value.clone().slice(s![i * PIECE..len.min((i + 1) * PIECE)]).cast(self.dtype).into_data()
                };
                pieces.map(|i| digest(piece(i).as_bytes())).collect()
            }
            false => {
                let data = value.cast(self.dtype).into_data();
                data.as_bytes().par_chunks(PIECE * data.dtype().size()).map(digest).collect()
            }
        };
        digests.iter().for_each(|digest| self.hash.update(digest));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use burn::tensor::Device;
    use luspo_core::{Purpose, RandomKey};
    use luspo_model::{ModelError, Pretrained, Qwen2Config, Qwen2ForCausalLM};

    use super::*;

    const F32: WeightDtype = WeightDtype::F32;

    /// An embedding of several pieces, the last of them not whole.
    fn model(device: &Device) -> Qwen2ForCausalLM {
        let config = Qwen2Config::new(PIECE / 16 * 3 - 5, 16, 16, 1, 2, 1);
        Qwen2ForCausalLM::init(&config, RandomKey::new(0, Purpose::Init), device)
    }

    #[test]
    #[allow(deprecated)] // the second opinion
    fn a_hash_depends_on_the_bits_alone() {
        let here = model(&Device::flex());
        let hash = sha256(&here, F32);
        assert_eq!(sha256(&here.clone().train(), F32), hash);
        assert_eq!(sha256(&model(&Device::ndarray()), F32), hash);
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(one.install(|| sha256(&here, F32)), hash);
        assert_ne!(sha256(&here.clone().cast(WeightDtype::Bf16), WeightDtype::Bf16), hash);
    }

    #[test]
    fn a_frozen_model_hashes_like_one_that_is_held_in_what_it_computes_with() {
        let config = Qwen2Config::new(61, 16, 24, 1, 2, 1);
        let key = RandomKey::new(0, Purpose::Init);
        let model = Qwen2ForCausalLM::init_as(&config, key, &Device::flex(), WeightDtype::Bf16);
        let dir = tempfile::tempdir().unwrap();
        Pretrained { model, config, eos_token_ids: vec![0] }.save(dir.path()).unwrap();
        let load = |load: fn(&Path, &Device, WeightDtype) -> Result<Pretrained, ModelError>| {
            load(dir.path(), &Device::flex(), WeightDtype::F32).unwrap().model
        };
        let (whole, frozen) = (load(Pretrained::load_as), load(Pretrained::load_frozen));
        assert_eq!((frozen.held_dtype(), whole.held_dtype()), (WeightDtype::Bf16, F32));
        assert_eq!(sha256(&frozen, F32), sha256(&whole, F32));
    }

    #[test]
    fn a_hash_sees_the_last_bit_of_any_piece() {
        let model = model(&Device::flex());
        let [rows, columns] = model.model.embed_tokens.weight.dims();
        let hash = sha256(&model, F32);
        for place in [0, PIECE, rows * columns - 1] {
            let mut other = model.clone();
            other.model.embed_tokens.weight = other.model.embed_tokens.weight.map(|weight| {
                let mut data = weight.to_data();
                let number = &mut data.as_mut_slice::<f32>().unwrap()[place];
                *number = f32::from_bits(number.to_bits() ^ 1);
                Tensor::from_data(data, &weight.device())
            });
            assert_ne!(sha256(&other, F32), hash, "{place}");
        }
    }
}
