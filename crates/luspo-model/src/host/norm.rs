//! RMS norm over rows. The equations are those of [`norm`](crate::norm).

use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use super::exp::dot;
use super::room::written;
use super::{ROWS, Values, View, vectorised};
use crate::norm::RmsNorm;

/// `[rows, hidden]` → `[rows, hidden]`
pub(crate) fn norm_forward(norm: &RmsNorm, x: &Tensor<2>) -> Tensor<2> {
    let (shape, device) = (x.dims(), x.device());
    let (weight, x) = (View::of(&norm.weight.val()), View::of(x));
    let (weight, size) = (weight.as_slice(), shape[1]);
    assert_eq!(weight.len(), size, "a norm's scale has a number for each column");
    // SAFETY: every number of every row is written: x, room and scale have the sizes that were asserted.
    let out = unsafe {
        written(shape[0] * size, |out| {
            out.par_chunks_mut(ROWS * size).zip(x.as_slice().par_chunks(ROWS * size)).for_each(|(out, x)| {
                vectorised(|| {
                    for (out, x) in out.chunks_exact_mut(size).zip(x.chunks_exact(size)) {
                        let scale = inverse_rms(x, norm.epsilon);
                        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
                            out.write(x * scale * weight);
                        }
                    }
                });
            });
        })
    };
    Tensor::from_data(TensorData::new(out, shape), &device)
}

/// Adds ∂L/∂x to `sum` and returns it, and ∂L/∂w, `[hidden]`; `gradient` is ∂L/∂y.
pub(crate) fn norm_backward(
    norm: &RmsNorm,
    x: &Tensor<2>,
    gradient: &Tensor<2>,
    sum: Tensor<2>,
) -> (Tensor<2>, Tensor<1>) {
    let (device, [_, size]) = (x.device(), x.dims());
    let (weight, x, gradient) = (View::of(&norm.weight.val()), View::of(x), View::of(gradient));
    let weight = weight.as_slice();
    let mut sum = Values::of(sum);
    let pieces: Vec<Vec<f32>> = sum
        .as_mut_slice()
        .par_chunks_mut(ROWS * size)
        .zip(x.as_slice().par_chunks(ROWS * size))
        .zip(gradient.as_slice().par_chunks(ROWS * size))
        .map(|((sum, x), gradient)| {
            let mut d_weight = vec![0f32; size];
            let mut weighted = vec![0f32; size];
            vectorised(|| {
                let rows = sum.chunks_exact_mut(size).zip(x.chunks_exact(size));
                for ((sum, x), gradient) in rows.zip(gradient.chunks_exact(size)) {
                    let scale = inverse_rms(x, norm.epsilon);
                    for ((weighted, g), w) in weighted.iter_mut().zip(gradient).zip(weight) {
                        *weighted = g * w;
                    }
                    let along = dot(&weighted, x) / size as f32 * scale * scale;
                    for ((sum, wg), x) in sum.iter_mut().zip(&weighted).zip(x) {
                        *sum += scale * (wg - x * along);
                    }
                    for ((d_weight, g), x) in d_weight.iter_mut().zip(gradient).zip(x) {
                        *d_weight += g * x * scale;
                    }
                }
            });
            d_weight
        })
        .collect();
    let mut d_weight = vec![0f32; size];
    for piece in pieces {
        for (sum, part) in d_weight.iter_mut().zip(piece) {
            *sum += part;
        }
    }
    (sum.into_tensor(), Tensor::from_data(TensorData::new(d_weight, [size]), &device))
}

#[inline(always)]
fn inverse_rms(x: &[f32], epsilon: f64) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + epsilon as f32).sqrt()
}
