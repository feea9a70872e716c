//! The length of the gradient.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Tensor};
use rayon::prelude::*;

/// Numbers whose squares are summed by one thread. The sum does not depend on how many threads there are.
const PIECE: usize = 1 << 16;

/// Independent partial sums within a piece, for vectors of numbers.
const LANES: usize = 8;

/// ‖g‖₂ over all parameters. Where gradients are buffers in host memory their squares are summed in f64, elsewhere in
/// f32 within a parameter and in f64 over them.
pub fn global_norm(model: &impl Module, gradients: &mut GradientsParams) -> f64 {
    let mut visitor = SquaredNorm { gradients, sum: 0.0 };
    model.visit(&mut visitor);
    visitor.sum.sqrt()
}

struct SquaredNorm<'a> {
    gradients: &'a mut GradientsParams,
    sum: f64,
}

impl ModuleVisitor for SquaredNorm<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        // Taken out, so that it has one owner and need not be copied to be read.
        let Some(gradient) = self.gradients.remove::<D>(param.id) else { return };
        let device = gradient.device();
        let gradient = match luspo_model::is_host(&device) && gradient.dtype() == DType::F32 {
            false => {
                self.sum += f64::from(gradient.clone().square().sum().into_scalar::<f32>());
                gradient
            }
            true => {
                let data = gradient.into_data();
                self.sum += sum_of_squares(data.as_slice().expect("a tensor of f32"));
                Tensor::from_data(data, (&device, DType::F32))
            }
        };
        self.gradients.register::<D>(param.id, gradient);
    }
}

fn sum_of_squares(values: &[f32]) -> f64 {
    let pieces: Vec<f64> = values.par_chunks(PIECE).map(sum_of_piece).collect();
    pieces.iter().sum()
}

fn sum_of_piece(values: &[f32]) -> f64 {
    let square = |value: f32| f64::from(value) * f64::from(value);
    let mut lanes = [0.0; LANES];
    let (whole, rest) = values.as_chunks::<LANES>();
    for values in whole {
        for (lane, value) in lanes.iter_mut().zip(values) {
            *lane += square(*value);
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|value| square(*value)).sum::<f64>()
}
