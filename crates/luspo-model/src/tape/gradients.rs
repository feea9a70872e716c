//! Where a backward pass leaves the gradients of parameters.

use burn::module::Param;
use burn::optim::GradientsParams;
use burn::tensor::{DType, FloatDType, IndexingUpdateOp, Int, Tensor};

/// Sums gradients by parameter, in f32 whatever the parameters' type. What is added is added at once, so that a backward
/// pass holds the gradients of all parameters once, and those of one layer twice.
pub(crate) struct Gradients<'a> {
    sums: &'a mut GradientsParams,
    /// Whether only adapters are trained: no gradient of anything else is then computed.
    adapters_alone: bool,
}

impl<'a> Gradients<'a> {
    pub(crate) fn into(sums: &'a mut GradientsParams) -> Self {
        Self { sums, adapters_alone: false }
    }

    /// The same, of a model whose base is frozen.
    pub(crate) fn of_adapters_alone(self, adapters_alone: bool) -> Self {
        Self { adapters_alone, ..self }
    }

    /// Adds the gradient of a parameter of the base.
    pub(crate) fn add<const D: usize>(&mut self, parameter: &Param<Tensor<D>>, gradient: impl FnOnce() -> Tensor<D>) {
        if !self.adapters_alone {
            self.sum(parameter, gradient());
        }
    }

    /// Adds the gradient of a matrix of an adapter.
    pub(crate) fn add_adapter(&mut self, parameter: &Param<Tensor<2>>, gradient: Tensor<2>) {
        self.sum(parameter, gradient);
    }

    fn sum<const D: usize>(&mut self, parameter: &Param<Tensor<D>>, gradient: Tensor<D>) {
        let gradient = gradient.cast(FloatDType::F32);
        let sum = match self.sums.remove::<D>(parameter.id) {
            Some(sum) => sum + gradient,
            None => gradient,
        };
        self.sums.register(parameter.id, sum);
    }

    /// Adds to some rows of a matrix of the base; a row may be named more than once.
    pub(crate) fn add_rows(&mut self, parameter: &Param<Tensor<2>>, rows: Tensor<1, Int>, gradient: Tensor<2>) {
        if self.adapters_alone {
            return;
        }
        let sum = self.sums.remove::<2>(parameter.id);
        let sum = sum.unwrap_or_else(|| Tensor::zeros(parameter.dims(), (&gradient.device(), DType::F32)));
        let sum = sum.select_assign(0, rows, gradient.cast(FloatDType::F32), IndexingUpdateOp::Add);
        self.sums.register(parameter.id, sum);
    }
}
