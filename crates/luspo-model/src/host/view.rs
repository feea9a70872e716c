//! A tensor's numbers where they lie, whoever else holds the tensor.

use burn::tensor::{DType, Tensor};

#[cfg(feature = "flex")]
type Primitive = <burn::backend::Flex as burn::backend::BackendTypes>::FloatTensorPrimitive;
#[cfg(not(feature = "flex"))]
type Primitive = std::convert::Infallible;

/// The f32 numbers of a tensor in host memory, row-major. Nothing is copied but a tensor that is itself a view of another
/// whose numbers do not lie side by side.
///
/// While it lives the tensor has one owner more, and is not changed in place by others.
pub(crate) struct View(Primitive);

impl View {
    /// # Panics
    /// On a tensor that is elsewhere, is tracked by autodiff, or is not f32.
    #[cfg(feature = "flex")]
    pub(crate) fn of<const D: usize>(tensor: &Tensor<D>) -> Self {
        assert_eq!(tensor.dtype(), DType::F32, "a view is of f32");
        let tensor = tensor.clone().try_into_primitive::<burn::backend::Flex>().expect("a plain tensor in host memory");
        Self(if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() })
    }

    /// No tensor is in host memory without the backend `flex`.
    #[cfg(not(feature = "flex"))]
    pub(crate) fn of<const D: usize>(tensor: &Tensor<D>) -> Self {
        unreachable!("a view of a tensor of {:?} in a build without the backend flex", tensor.dtype() as DType)
    }

    #[cfg(feature = "flex")]
    pub(crate) fn as_slice(&self) -> &[f32] {
        let layout = self.0.layout();
        &self.0.storage()[layout.start_offset()..][..layout.num_elements()]
    }

    #[cfg(not(feature = "flex"))]
    pub(crate) fn as_slice(&self) -> &[f32] {
        match self.0 {}
    }
}
