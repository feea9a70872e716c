//! The products of linear maps, and the sums that go with them.

use burn::tensor::{DType, Device, Tensor, TensorData};
use half::{bf16, f16};
use rayon::prelude::*;

use super::few::{FEW, few_by_transposed};
use super::product::{Matrix, Threads, product, product_into};
use super::room::zeros;
use super::weight::{Weight, in_panels};
use super::{ROWS, Values, View, vectorised};

/// `x Mᵀ + b`, of `[tokens, in]`, `[out, in]` and `[out]`: computed in f32 from whatever these are held in, and given in the
/// type of `x`.
pub(crate) fn by_transposed(x: &Tensor<2>, matrix: &Tensor<2>, bias: Option<&Tensor<1>>) -> Tensor<2> {
    let ([tokens, _], shape) = (x.dims(), matrix.dims());
    let (values, bias) = (View::in_f32(x), bias.map(View::in_f32));
    let (values, bias) = (values.as_slice(), bias.as_ref().map(View::as_slice));
    let out = match matrix.dtype() {
        DType::BF16 => of_rows::<bf16>(values, &View::held(matrix), bias, shape),
        DType::F16 => of_rows::<f16>(values, &View::held(matrix), bias, shape),
        _ => of_rows::<f32>(values, &View::held(matrix), bias, shape),
    };
    tensor(out, [tokens, shape[0]], x)
}

fn of_rows<W: Weight>(x: &[f32], matrix: &View<W>, bias: Option<&[f32]>, shape: [usize; 2]) -> Vec<f32> {
    let [outputs, inputs] = shape;
    let (tokens, matrix) = (x.len() / inputs, matrix.as_slice());
    if tokens <= FEW {
        let mut out = zeros(tokens * outputs);
        few_by_transposed(&mut out, x, matrix, bias, inputs);
        return out;
    }
    let left = Matrix::new(x, [tokens, inputs]);
    let mut out = Vec::new();
    in_panels(matrix, inputs, |first, panel| {
        let rows = panel.len() / inputs;
        let right = Matrix::new(panel, [rows, inputs]).t();
        if rows == outputs {
            out = product(left, right, Threads::All);
        } else {
            out.resize(tokens * outputs, 0.0);
            product_into(&mut out[first..], outputs, false, left, right, Threads::All);
        }
    });
    if let Some(bias) = bias {
        out.par_chunks_mut(ROWS * outputs).for_each(|rows| {
            vectorised(|| {
                for row in rows.chunks_exact_mut(outputs) {
                    row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
                }
            });
        });
    }
    out
}

/// `x M`, of `[tokens, out]` and `[out, in]`, added to `sum` if there is one; types as in [`by_transposed`].
pub(crate) fn times(x: &Tensor<2>, matrix: &Tensor<2>, sum: Option<Tensor<2>>) -> Tensor<2> {
    let ([tokens, _], shape, values) = (x.dims(), matrix.dims(), View::in_f32(x));
    let out = match matrix.dtype() {
        DType::BF16 => of_columns::<bf16>(values.as_slice(), &View::held(matrix), shape),
        DType::F16 => of_columns::<f16>(values.as_slice(), &View::held(matrix), shape),
        DType::F32 if x.dtype() == DType::F32 => {
            let matrix = View::of(matrix);
            let left = Matrix::new(values.as_slice(), [tokens, shape[0]]);
            return added(left, Matrix::new(matrix.as_slice(), shape), sum, &x.device());
        }
        _ => of_columns::<f32>(values.as_slice(), &View::held(matrix), shape),
    };
    let product = tensor(out, [tokens, shape[1]], x);
    match sum {
        Some(sum) => sum + product,
        None => product,
    }
}

fn of_columns<W: Weight>(x: &[f32], matrix: &View<W>, [outputs, inputs]: [usize; 2]) -> Vec<f32> {
    let tokens = x.len() / outputs;
    let mut out = zeros(tokens * inputs);
    in_panels(matrix.as_slice(), inputs, |first, panel| {
        let rows = panel.len() / inputs;
        let left = Matrix::columns(&x[first..], [tokens, rows], outputs);
        product_into(&mut out, inputs, true, left, Matrix::new(panel, [rows, inputs]), Threads::All);
    });
    out
}

/// On the device and of the type of `like`.
fn tensor(values: Vec<f32>, shape: [usize; 2], like: &Tensor<2>) -> Tensor<2> {
    let wide = Tensor::<2>::from_data(TensorData::new(values, shape), (&like.device(), DType::F32));
    wide.cast(like.dtype())
}

/// `gᵀ x` in f32, of `[tokens, out]` and `[tokens, in]`, added to `sum` if there is one.
pub(crate) fn outer(gradient: &Tensor<2>, x: &Tensor<2>, sum: Option<Tensor<2>>) -> Tensor<2> {
    let ([tokens, outputs], [_, inputs]) = (gradient.dims(), x.dims());
    let (device, gradient, x) = (x.device(), View::in_f32(gradient), View::in_f32(x));
    let left = Matrix::new(gradient.as_slice(), [tokens, outputs]).t();
    added(left, Matrix::new(x.as_slice(), [tokens, inputs]), sum, &device)
}

fn added(left: Matrix, right: Matrix, sum: Option<Tensor<2>>, device: &Device) -> Tensor<2> {
    let shape = [left.rows(), right.t().rows()];
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

/// The sum over rows in f32, `[rows, size]` → `[size]`.
pub(crate) fn sum_of_rows(x: &Tensor<2>) -> Tensor<1> {
    let (device, [_, size]) = (x.device(), x.dims());
    let x = View::in_f32(x);
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
