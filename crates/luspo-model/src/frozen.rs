//! Models that are not trained, in the memory of their files.
//!
//! Checkpoints are published in bf16, and every number of bf16 is one of f32: to compute in f32 on the CPU, nothing has
//! to be held in f32. The host's products take matrices in any type and make each number f32 as it is read. Decoding,
//! whose time goes into reading them, then reads half as much.

use std::path::Path;

use burn::tensor::Device;

use crate::backend::is_host;
use crate::config::Qwen2Config;
use crate::dtype::WeightDtype;
use crate::save::Source;
use crate::weights::WeightFiles;
use crate::{Backend, ModelError, Pretrained};

impl Pretrained {
    /// As [`load_as`](Self::load_as), of a model that is not trained, or of which adapters alone are. `dtype` is what
    /// is computed with; where that is f32, on the CPU, matrices keep the file's type. Nothing is rounded: what is
    /// computed is what a model in f32 computes, but for the order of sums.
    ///
    /// # Errors
    /// As [`load_as`](Self::load_as).
    pub fn load_frozen(dir: &Path, device: &Device, dtype: WeightDtype) -> Result<Self, ModelError> {
        let as_stored = keeps_files_type(dtype, is_host(&device.clone().without_autodiff()));
        Self::read(dir, device, dtype, |stored| match stored.shape() {
            [_, _] if as_stored => stored.dtype(),
            _ => dtype,
        })
    }
}

/// Whether frozen matrices that are computed with in `dtype` are held in their files' type.
fn keeps_files_type(dtype: WeightDtype, on_host: bool) -> bool {
    on_host && dtype == WeightDtype::F32
}

/// The number type that [`Pretrained::load_frozen`] holds the matrices of the folder `dir` in; the widest, where there are
/// several. Reads the headers of the files where it depends on them.
///
/// # Errors
/// As [`Pretrained::load_as`], of what is known before weights are read.
pub fn frozen_dtype(dir: &Path, dtype: WeightDtype, backend: Backend) -> Result<WeightDtype, ModelError> {
    if !keeps_files_type(dtype, backend == Backend::Flex) {
        return Ok(dtype);
    }
    let (config, files) = (Qwen2Config::from_folder(dir)?, WeightFiles::open(dir)?);
    files.compare(config.parameters())?;
    let mut widest = None;
    for (name, shape) in config.parameters().filter(|(_, shape)| shape.len() == 2) {
        let stored = files.find(&name, &shape)?.dtype();
        widest = widest.into_iter().chain([stored]).max_by_key(|dtype| dtype.size());
    }
    Ok(widest.unwrap_or(dtype))
}
