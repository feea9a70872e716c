//! The fast path of the CPU: training's element-wise work as fused passes over rows in host memory.
//!
//! On the CPU the matrix products take less than half of a training step if everything else is one tensor operation
//! after the other: most of those run on one thread, `exp` is scalar, and every intermediate result as large as the
//! logits or the attention scores is fetched from the system as fresh pages (profile in the notes of `benchmarks/`).
//! Here what lies between the products is done in place, once over the data, by all threads, in code that the compiler
//! vectorises for the processor at hand; and products go by the kernels that Burn uses, but into memory that is not
//! cleared first, or onto the gradients that are there.
//!
//! [`serves`] and [`multiplies`] alone decide. Everywhere else Burn's tensor operations do the same work; the tests hold
//! the two against each other. What these passes give does not depend on the number of threads: work is cut into pieces
//! of fixed size, and sums over pieces are taken in order.

mod attention;
mod decode;
mod distributions;
mod exp;
mod few;
mod linear;
mod norm;
mod product;
mod room;
mod rope;
pub mod row_weights;
mod swiglu;
mod view;
mod weight;
mod wide;

#[cfg(test)]
mod tests;

use burn::tensor::{DType, Device, Tensor, TensorData};

pub(crate) use attention::{HostAttention, QUERIES};
pub(crate) use decode::{attend_in_place, keys, read_keys, read_values, write_keys, write_values};
pub(crate) use distributions::HostDistributions;
pub(crate) use linear::{add_rows, by_transposed, outer, sum_of_rows, times};
pub(crate) use norm::{norm_backward, norm_forward};
pub(crate) use rope::Rotation;
pub(crate) use swiglu::{swiglu_backward, swiglu_forward};
pub(crate) use view::View;
use wide::vectorised;

use crate::backend;

/// Whether this module works on such tensors: plain ones in host memory, in f32.
pub(crate) fn serves<const D: usize>(tensor: &Tensor<D>) -> bool {
    backend::is_host(&tensor.device()) && tensor.dtype() == DType::F32 && !tensor.is_autodiff()
}

/// Whether this module makes products of such tensors: plain ones in host memory, in f32, bf16 or f16.
pub(crate) fn multiplies<const D: usize>(tensor: &Tensor<D>) -> bool {
    let held = matches!(tensor.dtype(), DType::F32 | DType::BF16 | DType::F16);
    backend::is_host(&tensor.device()) && held && !tensor.is_autodiff()
}

/// Rows that one piece of parallel work has; about as much as fits a core's own cache.
const ROWS: usize = 16;

/// A tensor's values, row-major, without a copy if nobody else holds the tensor.
struct Values {
    data: TensorData,
    device: Device,
}

impl Values {
    fn of<const D: usize>(tensor: Tensor<D>) -> Self {
        let device = tensor.device();
        Self { data: tensor.into_data(), device }
    }

    fn as_slice(&self) -> &[f32] {
        self.data.as_slice().expect("a tensor of f32")
    }

    fn as_mut_slice(&mut self) -> &mut [f32] {
        self.data.as_mut_slice().expect("a tensor of f32")
    }

    fn into_tensor<const D: usize>(self) -> Tensor<D> {
        Tensor::from_data(self.data, &self.device)
    }
}
