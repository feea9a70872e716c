//! The optimizer's state on disk: safetensors with `{name}.exp_avg`, `{name}.exp_avg_sq` and, where the parameter is not
//! f32, `{name}.master`, for every parameter of that Hugging Face name, flat, f32, each in the order in which the
//! parameter lies in memory. Where the state is kept while a run goes on leaves no trace in the file.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::{DType, Device, Tensor};
use memmap2::{Mmap, MmapOptions};
use safetensors::tensor::{Dtype, Metadata, SafeTensorError, SafeTensors, TensorInfo, View};

use super::state::{Numbers, State};
use crate::config::OptimizerConfig;
use crate::{AdamW, TrainError};

const FIRST: &str = "exp_avg";
const SECOND: &str = "exp_avg_sq";
const MASTER: &str = "master";

impl AdamW {
    /// Writes the state of the parameters of these names, one tensor at a time. Equal states give equal bytes.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, file: &Path, names: Vec<(String, ParamId)>) -> Result<(), TrainError> {
        let mut tensors = Vec::new();
        for (name, id) in names {
            let Some(State { first, second, master }) = self.states.get(&id) else { continue };
            let parts = [(FIRST, Some(first)), (SECOND, Some(second)), (MASTER, master.as_ref())];
            tensors.extend(parts.into_iter().filter_map(|(part, numbers)| {
                let numbers = numbers?;
                Some((format!("{name}.{part}"), Stored { numbers, shape: [numbers.len()] }))
            }));
        }
        safetensors::serialize_to_file(tensors, None, file).map_err(|error| {
            TrainError::write(file)(match error {
                SafeTensorError::IoError(source) => source,
                other => std::io::Error::other(other),
            })
        })
    }

    /// The optimizer as it was saved after `updates` updates, for the parameters of `model`, which have these names. The
    /// file is read one tensor at a time.
    ///
    /// # Errors
    /// A file that cannot be read, or does not belong to this model.
    pub fn load(
        config: OptimizerConfig,
        updates: i32,
        file: &Path,
        names: Vec<(String, ParamId)>,
        model: &impl Module,
    ) -> Result<Self, TrainError> {
        let saved = Saved::open(file)?;
        let names: HashMap<ParamId, String> = names.into_iter().map(|(name, id)| (id, name)).collect();
        let mut restore =
            Restore { saved: &saved, names, offload: config.offload, states: Ok(HashMap::new()), read: 0 };
        model.visit(&mut restore);
        let (read, states) = (restore.read, restore.states?);
        let stored = saved.metadata.tensors();
        if read < stored.len() {
            return Err(saved.mismatch(format!("it has {} tensors, of which {read} are this model's", stored.len())));
        }
        Ok(Self { config, updates, states })
    }
}

/// Numbers that are brought to the host when their turn has come.
struct Stored<'a> {
    numbers: &'a Numbers,
    shape: [usize; 1],
}

impl View for Stored<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data_len(&self) -> usize {
        self.shape[0] * size_of::<f32>()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.numbers.bytes()
    }
}

/// A file of states whose header was read.
struct Saved<'a> {
    path: &'a Path,
    file: File,
    /// Where the tensors' bytes begin.
    start: u64,
    metadata: Metadata,
}

impl<'a> Saved<'a> {
    fn open(path: &'a Path) -> Result<Self, TrainError> {
        let failed = |source| TrainError::Read { file: path.into(), source };
        let file = luspo_core::open_file(path).map_err(failed)?;
        let map = map(&file, None).map_err(failed)?;
        let (header, metadata) = SafeTensors::read_metadata(&map)
            .map_err(|error| TrainError::Mismatch(format!("{}: {error}", path.display())))?;
        Ok(Self { path, file, start: (size_of::<u64>() + header) as u64, metadata })
    }

    fn mismatch(&self, problem: String) -> TrainError {
        TrainError::Mismatch(format!("{}: {problem}", self.path.display()))
    }

    /// A tensor of `len` numbers. Its part of the file is mapped only as long as it is read.
    fn read(&self, name: &str, len: usize) -> Result<Vec<f32>, TrainError> {
        let Some(TensorInfo { dtype, shape, data_offsets: (from, to) }) = self.metadata.info(name) else {
            return Err(self.mismatch(format!("there is no `{name}`")));
        };
        if (*dtype, shape.as_slice()) != (Dtype::F32, &[len]) {
            let wanted = format!("the model needs {len} numbers of f32");
            return Err(self.mismatch(format!("`{name}` has shape {shape:?} and type {dtype:?}, but {wanted}")));
        }
        let part = (self.start + *from as u64, to - from);
        let map = map(&self.file, Some(part)).map_err(|source| TrainError::Read { file: self.path.into(), source })?;
        Ok(map.as_chunks().0.iter().map(|bits| f32::from_le_bytes(*bits)).collect())
    }
}

/// The file, or so many bytes from there on.
fn map(file: &File, part: Option<(u64, usize)>) -> std::io::Result<Mmap> {
    let mut options = MmapOptions::new();
    if let Some((start, len)) = part {
        options.offset(start).len(len);
    }
    // SAFETY: a checkpoint is renamed into its place when it is whole, and not written to again.
    unsafe { options.map(file) }
}

/// Reads the state of every parameter that has one.
struct Restore<'a> {
    saved: &'a Saved<'a>,
    names: HashMap<ParamId, String>,
    offload: bool,
    states: Result<HashMap<ParamId, State>, TrainError>,
    /// Tensors of the file that belong to a parameter.
    read: usize,
}

impl Restore<'_> {
    /// The state of a parameter of this name, size, type and device, if it has one.
    fn state(&mut self, name: &str, len: usize, dtype: DType, device: &Device) -> Result<Option<State>, TrainError> {
        if self.saved.metadata.info(&format!("{name}.{FIRST}")).is_none() {
            return Ok(None);
        }
        let offload = self.offload || luspo_model::is_host(device);
        let mut part = |part: &str| {
            self.read += 1;
            let numbers = Numbers::of(self.saved.read(&format!("{name}.{part}"), len)?);
            Ok::<_, TrainError>(if offload { numbers } else { Numbers::Device(numbers.into_device(device)) })
        };
        let (first, second) = (part(FIRST)?, part(SECOND)?);
        let master = if dtype == DType::F32 { None } else { Some(part(MASTER)?) };
        Ok(Some(State { first, second, master }))
    }
}

impl ModuleVisitor for Restore<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(name) = self.names.remove(&param.id) else { return };
        let (len, dtype, device) = (param.dims().iter().product(), param.dtype(), param.device());
        let state = self.state(&name, len, dtype, &device.inner());
        match (state, &mut self.states) {
            (Ok(Some(state)), Ok(states)) => _ = states.insert(param.id, state),
            (Err(error), states @ Ok(_)) => *states = Err(error),
            _ => {}
        }
    }
}
