//! What the optimizer remembers of a parameter, and where.

use std::borrow::Cow;

use burn::tensor::{DType, Device, Tensor, TensorData};

/// f32 numbers, one for each of a parameter, flat: `[elements]`.
#[derive(Clone, Debug)]
pub(super) enum Numbers {
    /// In host memory.
    Host(TensorData),
    /// On the parameter's device, where that has memory of its own.
    Device(Tensor<1>),
}

/// What the optimizer remembers of one parameter.
#[derive(Clone, Debug)]
pub(super) struct State {
    /// Running mean of the gradient.
    pub first: Numbers,
    /// Running mean of the gradient's square.
    pub second: Numbers,
    /// The parameter before it was rounded, where it is not f32.
    pub master: Option<Numbers>,
}

impl Numbers {
    pub fn zeros(len: usize) -> Self {
        Self::of(vec![0.0; len])
    }

    pub fn of(values: Vec<f32>) -> Self {
        let len = values.len();
        Self::Host(TensorData::new(values, [len]))
    }

    /// In host memory; copied if they are elsewhere.
    pub fn into_host(self) -> TensorData {
        match self {
            Self::Host(data) => data,
            Self::Device(tensor) => tensor.into_data(),
        }
    }

    /// On `device`; copied if they are elsewhere.
    pub fn into_device(self, device: &Device) -> Tensor<1> {
        match self {
            Self::Host(data) => Tensor::from_data(data, (device, DType::F32)),
            Self::Device(tensor) => tensor,
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Self::Host(data) => data.num_elements(),
            Self::Device(tensor) => tensor.dims()[0],
        }
    }

    /// As they stand in memory; copied if they are not the host's.
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Host(data) => data.as_bytes().into(),
            Self::Device(tensor) => tensor.to_data().as_bytes().to_vec().into(),
        }
    }
}
