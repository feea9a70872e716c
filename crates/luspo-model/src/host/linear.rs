//! The products of linear maps, and the sums that go with them.

use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use super::product::{Matrix, Threads, product, product_into};
use super::{ROWS, Values, View, vectorised};

/// `x Mᵀ + b`, of `[tokens, in]`, `[out, in]` and `[out]`.
pub(crate) fn by_transposed(x: &Tensor<2>, matrix: &Tensor<2>, bias: Option<&Tensor<1>>) -> Tensor<2> {
    let (device, [tokens, inputs], shape) = (x.device(), x.dims(), matrix.dims());
    let (x, matrix) = (View::of(x), View::of(matrix));
    let (left, right) = (Matrix::new(x.as_slice(), [tokens, inputs]), Matrix::new(matrix.as_slice(), shape).t());
    let mut out = product(left, right, Threads::All);
    if let Some(bias) = bias {
        let bias = View::of(bias);
        out.par_chunks_mut(ROWS * shape[0]).for_each(|rows| {
            vectorised(|| {
                for row in rows.chunks_exact_mut(shape[0]) {
                    row.iter_mut().zip(bias.as_slice()).for_each(|(y, b)| *y += b);
                }
            });
        });
    }
    Tensor::from_data(TensorData::new(out, [tokens, shape[0]]), &device)
}

/// `x M`, of `[tokens, out]` and `[out, in]`, added to `sum` if there is one.
pub(crate) fn times(x: &Tensor<2>, matrix: &Tensor<2>, sum: Option<Tensor<2>>) -> Tensor<2> {
    let (x_shape, shape) = (x.dims(), matrix.dims());
    let (device, x, matrix) = (x.device(), View::of(x), View::of(matrix));
    let (left, right) = (Matrix::new(x.as_slice(), x_shape), Matrix::new(matrix.as_slice(), shape));
    added(left, right, [x_shape[0], shape[1]], sum, &device)
}

/// `gᵀ x`, of `[tokens, out]` and `[tokens, in]`, added to `sum` if there is one.
pub(crate) fn outer(gradient: &Tensor<2>, x: &Tensor<2>, sum: Option<Tensor<2>>) -> Tensor<2> {
    let ([tokens, outputs], [_, inputs]) = (gradient.dims(), x.dims());
    let (device, gradient, x) = (x.device(), View::of(gradient), View::of(x));
    let left = Matrix::new(gradient.as_slice(), [tokens, outputs]).t();
    added(left, Matrix::new(x.as_slice(), [tokens, inputs]), [outputs, inputs], sum, &device)
}

fn added(
    left: Matrix,
    right: Matrix,
    shape: [usize; 2],
    sum: Option<Tensor<2>>,
    device: &burn::tensor::Device,
) -> Tensor<2> {
    match sum {
        None => Tensor::from_data(TensorData::new(product(left, right, Threads::All), shape), device),
        Some(sum) => {
            assert_eq!(sum.dims(), shape, "what is added to has the shape of what is added");
            let mut sum = Values::of(sum);
            product_into(sum.as_mut_slice(), shape[1], true, left, right, Threads::All);
            sum.into_tensor()
        }
    }
}

/// The sum over rows, `[rows, size]` → `[size]`.
pub(crate) fn sum_of_rows(x: &Tensor<2>) -> Tensor<1> {
    let (device, [_, size]) = (x.device(), x.dims());
    let x = View::of(x);
    let pieces = x.as_slice().par_chunks(ROWS * size).map(|rows| {
        let mut sum = vec![0f32; size];
        vectorised(|| {
            for row in rows.chunks_exact(size) {
                sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            }
        });
        sum
    });
    let pieces: Vec<Vec<f32>> = pieces.collect();
    let mut sum = vec![0f32; size];
    for piece in pieces {
        sum.iter_mut().zip(piece).for_each(|(sum, x)| *sum += x);
    }
    Tensor::from_data(TensorData::new(sum, [size]), &device)
}

/// Adds each row of `rows`, `[n, size]`, to the row of `sum` that `places` has for it; a place may be named more than once.
pub(crate) fn add_rows(sum: Tensor<2>, places: &[i64], rows: &Tensor<2>) -> Tensor<2> {
    let ([_, size], rows) = (sum.dims(), View::of(rows));
    let mut sum = Values::of(sum);
    let all = sum.as_mut_slice();
    for (place, row) in places.iter().zip(rows.as_slice().chunks_exact(size)) {
        let at = *place as usize * size;
        all[at..at + size].iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
    }
    sum.into_tensor()
}
