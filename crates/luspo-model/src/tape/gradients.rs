//! Where a backward pass leaves the gradients of parameters.

use burn::module::Param;
use burn::optim::GradientsParams;
use burn::tensor::{DType, FloatDType, IndexingUpdateOp, Tensor};

use crate::batch::index;
use crate::host;

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

    /// Adds `gᵀ x`, the gradient of a matrix of the base, of `[tokens, out]` and `[tokens, in]`.
    pub(crate) fn add_outer(&mut self, parameter: &Param<Tensor<2>>, gradient: &Tensor<2>, x: &Tensor<2>) {
        if self.adapters_alone {
            return;
        }
        if host::multiplies(gradient) && host::multiplies(x) {
            let sum = self.sums.remove::<2>(parameter.id);
            self.sums.register(parameter.id, host::outer(gradient, x, sum));
        } else {
            self.sum(parameter, gradient.clone().transpose().matmul(x.clone()));
        }
    }

    /// Adds the sum of the rows of `[tokens, out]`, the gradient of a bias of the base.
    pub(crate) fn add_rows_of(&mut self, parameter: &Param<Tensor<1>>, gradient: &Tensor<2>) {
        self.add(parameter, || match host::multiplies(gradient) {
            true => host::sum_of_rows(gradient),
            false => gradient.clone().cast(FloatDType::F32).sum_dim(0).squeeze_dim(0),
        });
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

    /// Adds to the rows of a matrix of the base that `places` names; a row may be named more than once.
    pub(crate) fn add_rows(&mut self, parameter: &Param<Tensor<2>>, places: &[i64], gradient: Tensor<2>) {
        if self.adapters_alone {
            return;
        }
        let sum = self.sums.remove::<2>(parameter.id);
        let device = gradient.device();
        let sum = sum.unwrap_or_else(|| Tensor::zeros(parameter.dims(), (&device, DType::F32)));
        let gradient = gradient.cast(FloatDType::F32);
        let sum = match host::serves(&gradient) {
            true => host::add_rows(sum, places, &gradient),
            false => {
                let places = index(places.to_vec(), &device);
                sum.select_assign(0, places, gradient, IndexingUpdateOp::Add)
            }
        };
        self.sums.register(parameter.id, sum);
    }
}
