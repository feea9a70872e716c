//! From a backend's name to a device: the only file that names a backend.

use std::fmt;
use std::str::FromStr;

use burn::tensor::{DType, Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::ModelError;
use crate::dtype::WeightDtype;

/// Where tensors live and who computes on them.
///
/// Written as `flex` (or `cpu`), `ndarray`, `wgpu`, `cuda` or `cuda:N`, in configurations as on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Backend {
    /// Burn's maintained CPU backend.
    #[default]
    Flex,
    /// Burn's older CPU backend, deprecated upstream: for small deterministic test models.
    NdArray,
    /// A GPU through WebGPU.
    Wgpu,
    /// The NVIDIA GPU with this index.
    Cuda(usize),
}

/// One backend, as this build and this machine have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackendInfo {
    /// Its name, as [`Backend`] reads it.
    pub name: String,
    /// Whether it is in this build.
    pub compiled: bool,
    /// Whether [`Backend::device`] succeeds here.
    pub usable: bool,
    /// One line about it; what is missing, where it is not usable.
    pub detail: String,
    /// The float types that it computes with, such as `f32` and `bf16`; empty where it is not usable.
    pub dtypes: Vec<String>,
}

impl Backend {
    /// The plain device (without autodiff; training calls `.autodiff()` on it).
    ///
    /// # Errors
    /// [`ModelError::BackendNotBuilt`] names the cargo feature, [`ModelError::BackendUnusable`] the missing library or
    /// adapter.
    pub fn device(&self) -> Result<Device, ModelError> {
        match self {
            Self::Flex => self.flex(),
            Self::NdArray => self.ndarray(),
            Self::Wgpu => self.wgpu(),
            Self::Cuda(index) => self.cuda(*index),
        }
    }

    /// The number type of parameters where nothing else is asked for: bf16 on CUDA, f32 on the others.
    pub fn default_dtype(&self) -> WeightDtype {
        match self {
            Self::Cuda(_) => WeightDtype::Bf16,
            Self::Flex | Self::NdArray | Self::Wgpu => WeightDtype::F32,
        }
    }

    /// Whether tensors are kept elsewhere than in this machine's main memory.
    pub fn has_own_memory(&self) -> bool {
        matches!(self, Self::Wgpu | Self::Cuda(_))
    }

    /// Bytes of memory that the device has, where it has its own and says how much.
    pub fn device_memory(&self) -> Option<u64> {
        match self {
            #[cfg(feature = "cuda")]
            Self::Cuda(index) => cuda_memory(*index),
            _ => None,
        }
    }

    /// All backends, those left out of this build included.
    pub fn available() -> Vec<BackendInfo> {
        [Self::Flex, Self::NdArray, Self::Wgpu, Self::Cuda(0)].iter().map(Self::info).collect()
    }

    fn info(&self) -> BackendInfo {
        let device = self.device();
        let compiled = !matches!(device, Err(ModelError::BackendNotBuilt { .. }));
        let about = match self {
            Self::Flex => "CPU, the default",
            Self::NdArray => "CPU, deprecated upstream; for small test models",
            Self::Wgpu => "GPU through WebGPU",
            Self::Cuda(_) => "NVIDIA GPU",
        };
        let (usable, detail, dtypes) = match device {
            Ok(device) => (true, about.to_string(), float_types(&device)),
            Err(error) => (false, error.to_string(), Vec::new()),
        };
        BackendInfo { name: self.to_string(), compiled, usable, detail, dtypes }
    }

    #[cfg(feature = "flex")]
    fn flex(&self) -> Result<Device, ModelError> {
        Ok(Device::flex())
    }

    #[cfg(not(feature = "flex"))]
    fn flex(&self) -> Result<Device, ModelError> {
        Err(self.not_built("flex"))
    }

    #[cfg(feature = "ndarray")]
    fn ndarray(&self) -> Result<Device, ModelError> {
        #[allow(deprecated)] // kept as the second opinion of the parity tests
        Ok(Device::ndarray())
    }

    #[cfg(not(feature = "ndarray"))]
    fn ndarray(&self) -> Result<Device, ModelError> {
        Err(self.not_built("ndarray"))
    }

    #[cfg(feature = "wgpu")]
    fn wgpu(&self) -> Result<Device, ModelError> {
        use burn::tensor::{DeviceKind, Tensor};

        // Burn panics where there is no adapter, and only on the first use of the device.
        let probe = luspo_core::contain(|| {
            let device = Device::wgpu(DeviceKind::DefaultDevice);
            let sum = Tensor::<1>::ones([1], &device).into_data();
            (device, sum)
        });
        match probe {
            Ok((device, _)) => Ok(device),
            Err(_) => Err(self.unusable("no GPU adapter was found (on Linux: install a Vulkan driver)")),
        }
    }

    #[cfg(not(feature = "wgpu"))]
    fn wgpu(&self) -> Result<Device, ModelError> {
        Err(self.not_built("wgpu"))
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, index: usize) -> Result<Device, ModelError> {
        // Burn panics on the first use of a CUDA device without the driver.
        match cuda_device_count() {
            Ok(count) if index < count => Ok(Device::cuda(index)),
            Ok(count) => Err(self.unusable(&format!("there are {count} CUDA devices, counted from 0"))),
            Err(reason) => Err(self.unusable(&reason)),
        }
    }

    #[cfg(not(feature = "cuda"))]
    fn cuda(&self, _index: usize) -> Result<Device, ModelError> {
        Err(self.not_built("cuda"))
    }

    #[allow(dead_code)] // unused where every backend is in the build
    fn not_built(&self, feature: &'static str) -> ModelError {
        ModelError::BackendNotBuilt { name: self.to_string(), feature }
    }

    #[allow(dead_code)] // the CPU backends always work
    fn unusable(&self, reason: &str) -> ModelError {
        ModelError::BackendUnusable { name: self.to_string(), reason: reason.to_string() }
    }
}

/// The NVIDIA driver's library.
#[cfg(feature = "cuda")]
const CUDA_DRIVER: &str = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };

/// Asks the driver library itself how many devices there are.
#[cfg(feature = "cuda")]
fn cuda_device_count() -> Result<usize, String> {
    type Init = unsafe extern "C" fn(u32) -> i32;
    type Count = unsafe extern "C" fn(*mut i32) -> i32;

    // SAFETY: the driver's initialisers have no preconditions; the two symbols are declared as in cuda.h.
    unsafe {
        let library = libloading::Library::new(CUDA_DRIVER)
            .map_err(|error| format!("{CUDA_DRIVER}, the NVIDIA driver's library, cannot be loaded ({error})"))?;
        let init: libloading::Symbol<Init> = library.get(b"cuInit\0").map_err(|error| error.to_string())?;
        let count: libloading::Symbol<Count> = library.get(b"cuDeviceGetCount\0").map_err(|error| error.to_string())?;
        let status = init(0);
        if status != 0 {
            return Err(format!("the NVIDIA driver does not start (cuInit: error {status})"));
        }
        let mut devices = 0;
        let status = count(&mut devices);
        // The library stays loaded: unloading the driver under Burn's feet is undefined.
        std::mem::forget(library);
        if status == 0 { Ok(devices.max(0) as usize) } else { Err(format!("cuDeviceGetCount: error {status}")) }
    }
}

/// Asks the driver library itself how much memory a device has.
#[cfg(feature = "cuda")]
fn cuda_memory(index: usize) -> Option<u64> {
    type Get = unsafe extern "C" fn(*mut i32, i32) -> i32;
    type Memory = unsafe extern "C" fn(*mut usize, i32) -> i32;

    cuda_device_count().ok().filter(|count| index < *count)?;
    // SAFETY: the driver was initialised by the line before; the two symbols are declared as in cuda.h.
    unsafe {
        let library = libloading::Library::new(CUDA_DRIVER).ok()?;
        let get: libloading::Symbol<Get> = library.get(b"cuDeviceGet\0").ok()?;
        let memory: libloading::Symbol<Memory> = library.get(b"cuDeviceTotalMem_v2\0").ok()?;
        let (mut device, mut bytes) = (0, 0);
        let done = get(&mut device, i32::try_from(index).ok()?) == 0 && memory(&mut bytes, device) == 0;
        std::mem::forget(library);
        done.then_some(bytes as u64)
    }
}

/// Whether this device's tensors are buffers in host memory, which can be read and written without a copy.
#[cfg(feature = "flex")]
pub fn is_host(device: &Device) -> bool {
    *device == Device::flex()
}

/// Whether this device's tensors are buffers in host memory, which can be read and written without a copy.
#[cfg(not(feature = "flex"))]
pub fn is_host(_device: &Device) -> bool {
    false
}

/// Gives back the memory that the allocator of a device keeps for later, and says how much it held, in bytes; none where
/// tensors are in host memory.
///
/// GPUs' allocators cut tensors from pages as large as the largest of them so far, and keep pages that are empty. Those of
/// one phase of a training step are of little use to the next, which needs other sizes.
pub fn release_memory(device: &Device) -> Option<u64> {
    let held = device.memory_pool_usage()?.bytes_reserved;
    device.memory_cleanup();
    Some(held)
}

/// A tensor of these values, in their number type, that lasts, as a parameter does. GPUs' allocators keep such tensors apart
/// from what comes and goes, in exactly their size, and one takes the place of another that is no more.
pub fn lasting<const D: usize>(data: TensorData, device: &Device) -> Tensor<D> {
    let dtype = data.dtype(); // left out, it would become the device's default type
    device.memory_persistent_allocations(data, |data| Tensor::from_data(data, (device, dtype)))
}

fn float_types(device: &Device) -> Vec<String> {
    [(DType::F32, "f32"), (DType::BF16, "bf16"), (DType::F16, "f16"), (DType::F64, "f64")]
        .into_iter()
        .filter(|(dtype, _)| device.supports_dtype(*dtype))
        .map(|(_, name)| name.to_string())
        .collect()
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flex => f.write_str("flex"),
            Self::NdArray => f.write_str("ndarray"),
            Self::Wgpu => f.write_str("wgpu"),
            Self::Cuda(0) => f.write_str("cuda"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl FromStr for Backend {
    type Err = ModelError;

    fn from_str(name: &str) -> Result<Self, ModelError> {
        let unknown = || ModelError::UnknownBackend { name: name.to_string() };
        match name {
            "flex" | "cpu" => Ok(Self::Flex),
            "ndarray" => Ok(Self::NdArray),
            "wgpu" => Ok(Self::Wgpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => {
                let index = name.strip_prefix("cuda:").ok_or_else(unknown)?;
                Ok(Self::Cuda(index.parse().map_err(|_| unknown())?))
            }
        }
    }
}

impl TryFrom<String> for Backend {
    type Error = ModelError;

    fn try_from(name: String) -> Result<Self, ModelError> {
        name.parse()
    }
}

impl From<Backend> for String {
    fn from(backend: Backend) -> Self {
        backend.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_written_as_it_is_read() {
        for name in ["flex", "ndarray", "wgpu", "cuda", "cuda:3"] {
            assert_eq!(name.parse::<Backend>().unwrap().to_string(), name);
            let quoted = format!("\"{name}\"");
            let backend: Backend = serde_json::from_str(&quoted).unwrap();
            assert_eq!(serde_json::to_string(&backend).unwrap(), quoted);
        }
        assert_eq!("cpu".parse::<Backend>().unwrap(), Backend::Flex);
        for name in ["gpu", "cuda:", "cuda:-1", "Flex", ""] {
            let error = name.parse::<Backend>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{name}`")), "{error}");
        }
    }

    #[test]
    fn a_backend_outside_the_build_names_its_feature() {
        for info in Backend::available() {
            assert_eq!(info.usable, !info.dtypes.is_empty());
            if !info.compiled {
                assert!(info.detail.contains("--features"), "{}", info.detail);
            }
        }
        let flex = &Backend::available()[0];
        assert!(flex.usable && flex.dtypes.contains(&"f32".to_string()));
    }

    #[test]
    fn devices_are_plain() {
        assert!(!Backend::Flex.device().unwrap().is_autodiff());
        assert!(!Backend::NdArray.device().unwrap().is_autodiff());
    }
}
