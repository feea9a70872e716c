//! A tensor's numbers where they lie, whoever else holds the tensor.

use std::marker::PhantomData;

use burn::tensor::{Element, FloatDType, Tensor};

#[cfg(feature = "flex")]
type Primitive = <burn::backend::Flex as burn::backend::BackendTypes>::FloatTensorPrimitive;
#[cfg(not(feature = "flex"))]
type Primitive = std::convert::Infallible;

/// The numbers of a tensor in host memory, row-major. Nothing is copied but a tensor that is itself a view of another whose
/// numbers do not lie side by side.
///
/// While it lives the tensor has one owner more, and is not changed in place by others.
pub(crate) struct View<E = f32> {
    tensor: Primitive,
    numbers: PhantomData<E>,
}

impl View {
    /// Of a tensor in f32. Panics as [`held`](Self::held).
    pub(crate) fn of<const D: usize>(tensor: &Tensor<D>) -> Self {
        Self::held(tensor)
    }

    /// The numbers in f32; those of another type are copied.
    pub(crate) fn in_f32<const D: usize>(tensor: &Tensor<D>) -> Self {
        match tensor.dtype() == f32::dtype() {
            true => Self::of(tensor),
            false => Self::of(&tensor.clone().cast(FloatDType::F32)),
        }
    }
}

impl<E: Element + bytemuck::Pod> View<E> {
    /// # Panics
    /// On a tensor that is elsewhere, is tracked by autodiff, or has numbers of another type.
    #[cfg(feature = "flex")]
    pub(crate) fn held<const D: usize>(tensor: &Tensor<D>) -> Self {
        assert_eq!(tensor.dtype(), E::dtype(), "the type of a view's numbers");
        let tensor = tensor.clone().try_into_primitive::<burn::backend::Flex>().expect("a plain tensor in host memory");
        let tensor = if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() };
        Self { tensor, numbers: PhantomData }
    }

    /// No tensor is in host memory without the backend `flex`.
    #[cfg(not(feature = "flex"))]
    pub(crate) fn held<const D: usize>(tensor: &Tensor<D>) -> Self {
        unreachable!("a view of a tensor of {:?} in a build without the backend flex", tensor.dtype())
    }

    #[cfg(feature = "flex")]
    pub(crate) fn as_slice(&self) -> &[E] {
        let layout = self.tensor.layout();
        &self.tensor.storage()[layout.start_offset()..][..layout.num_elements()]
    }

    #[cfg(not(feature = "flex"))]
    pub(crate) fn as_slice(&self) -> &[E] {
        match self.tensor {}
    }
}
