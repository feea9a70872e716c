//! The optimizer's moments on disk: safetensors with `{name}.exp_avg` and `{name}.exp_avg_sq` for every parameter of
//! that Hugging Face name, flat, f32, each in the order in which the parameter lies in memory.

use std::collections::HashMap;
use std::path::Path;

use burn::module::ParamId;
use burn::tensor::{Device, Tensor, TensorData};
use safetensors::tensor::{Dtype, SafeTensors, View};

use crate::config::OptimizerConfig;
use crate::optimizer::Moments;
use crate::{AdamW, TrainError};

const FIRST: &str = "exp_avg";
const SECOND: &str = "exp_avg_sq";

impl AdamW {
    /// Writes the moments of the parameters of these names. Equal states give equal bytes.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, file: &Path, names: Vec<(String, ParamId)>) -> Result<(), TrainError> {
        let mut tensors = Vec::new();
        for (name, id) in names {
            let Some(Moments { first, second }) = self.moments.get(&id) else { continue };
            tensors.push((format!("{name}.{FIRST}"), Flat::of(first)));
            tensors.push((format!("{name}.{SECOND}"), Flat::of(second)));
        }
        safetensors::serialize_to_file(tensors, None, file).map_err(|error| {
            TrainError::write(file)(match error {
                safetensors::SafeTensorError::IoError(source) => source,
                other => std::io::Error::other(other),
            })
        })
    }

    /// The optimizer as it was saved after `updates` updates, for the parameters of these names, on `device`.
    ///
    /// # Errors
    /// A file that cannot be read, or does not belong to this model.
    pub fn load(
        config: OptimizerConfig,
        updates: i32,
        file: &Path,
        names: Vec<(String, ParamId)>,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let bytes = std::fs::read(file).map_err(|source| TrainError::Read { file: file.into(), source })?;
        let mismatch = |problem: String| TrainError::Mismatch(format!("{}: {problem}", file.display()));
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| mismatch(e.to_string()))?;
        let ids: HashMap<String, ParamId> = names.into_iter().collect();
        let mut moments = HashMap::new();
        for (name, first) in tensors.iter().filter_map(|(name, view)| Some((name.strip_suffix(FIRST)?, view))) {
            let second = tensors.tensor(&format!("{name}{SECOND}")).map_err(|e| mismatch(e.to_string()))?;
            let parameter = name.trim_end_matches('.');
            let id = ids.get(parameter).ok_or_else(|| mismatch(format!("the model has no `{parameter}`")))?;
            let read = |view: safetensors::tensor::TensorView<'_>| {
                let values: Vec<f32> = view.data().as_chunks().0.iter().map(|bits| f32::from_le_bytes(*bits)).collect();
                let len = values.len();
                Tensor::from_data(TensorData::new(values, [len]), device)
            };
            moments.insert(*id, Moments { first: read(first), second: read(second) });
        }
        Ok(Self { config, updates, moments })
    }
}

/// A tensor that is brought to the host when its turn has come.
struct Flat {
    value: Tensor<1>,
    shape: [usize; 1],
}

impl Flat {
    fn of(value: &Tensor<1>) -> Self {
        Self { value: value.clone(), shape: value.dims() }
    }
}

impl View for Flat {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data_len(&self) -> usize {
        self.shape[0] * size_of::<f32>()
    }

    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        let values: Vec<f32> = self.value.to_data().iter::<f32>().collect();
        values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into()
    }
}
