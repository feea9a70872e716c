//! Linear maps of a few rows, as in decoding: the time goes into reading the matrix, so each of its numbers is read once,
//! in the type that it is held in, and used for all rows. The kernels of `gemm` are made for many rows, and copy.
//!
//! A result is the same bits whatever other rows there are.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::weight::Weight;

/// Up to so many rows are faster here than by the kernels for many.
pub(crate) const FEW: usize = 16;

/// Rows of the matrix that one piece of parallel work reads.
const PIECE: usize = 32;

/// `x Mᵀ + b`: `[rows, in]` and `[out, in]` → `[rows, out]`, into `out`.
pub(crate) fn few_by_transposed<W: Weight>(
    out: &mut [f32],
    x: &[f32],
    matrix: &[W],
    bias: Option<&[f32]>,
    inputs: usize,
) {
    assert!(inputs > 0, "rows have at least one number");
    let (rows, outputs) = (x.len() / inputs, matrix.len() / inputs);
    assert!(x.len() == rows * inputs && matrix.len() == outputs * inputs && out.len() == rows * outputs);
    assert!(bias.is_none_or(|bias| bias.len() == outputs), "a bias has a number for each output");
    if rows == 0 {
        return;
    }
    // Column by column, so that each piece has its own part of the result.
    let mut columns = vec![0f32; rows * outputs];
    let pieces = columns.par_chunks_mut(PIECE * rows).zip(matrix.par_chunks(PIECE * inputs));
    pieces.for_each(|(columns, matrix)| Arch::new().dispatch(Piece { columns, x, matrix, rows, inputs }));
    for (row, out) in out.chunks_exact_mut(outputs).enumerate() {
        let values = columns[row..].iter().step_by(rows);
        match bias {
            None => out.iter_mut().zip(values).for_each(|(y, value)| *y = *value),
            Some(bias) => out.iter_mut().zip(values).zip(bias).for_each(|((y, value), b)| *y = value + b),
        }
    }
}

/// `x Mᵀ` for one piece of the matrix, column by column.
struct Piece<'a, W> {
    columns: &'a mut [f32],
    x: &'a [f32],
    matrix: &'a [W],
    rows: usize,
    inputs: usize,
}

/// Rows of the matrix whose numbers are widened at a time, where they are not f32.
const WIDENED: usize = 4;

impl<W: Weight> WithSimd for Piece<'_, W> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { columns, x, matrix, rows, inputs } = self;
        let mut widened = Vec::new();
        for (matrix, columns) in matrix.chunks(WIDENED * inputs).zip(columns.chunks_mut(WIDENED * rows)) {
            let matrix = W::widened(matrix, &mut widened);
            let mut row = 0;
            while row < rows {
                let (x, columns) = (&x[row * inputs..], &mut columns[row..]);
                row += match rows - row {
                    8.. => strip::<S, 8, 2>(simd, columns, x, matrix, rows, inputs),
                    4.. => strip::<S, 4, 4>(simd, columns, x, matrix, rows, inputs),
                    2.. => strip::<S, 2, 4>(simd, columns, x, matrix, rows, inputs),
                    _ => strip::<S, 1, 4>(simd, columns, x, matrix, rows, inputs),
                };
            }
        }
    }
}

/// `ROWS` rows by all rows of `matrix`, `WIDE` of these at a time; returns `ROWS`.
#[inline(always)]
fn strip<S: Simd, const ROWS: usize, const WIDE: usize>(
    simd: S,
    columns: &mut [f32],
    x: &[f32],
    matrix: &[f32],
    stride: usize,
    inputs: usize,
) -> usize {
    let outputs = matrix.len() / inputs;
    let mut output = 0;
    while output + WIDE <= outputs {
        let sums = tile::<S, ROWS, WIDE>(simd, x, &matrix[output * inputs..], inputs);
        for (index, sums) in sums.iter().enumerate() {
            columns[(output + index) * stride..][..ROWS].copy_from_slice(sums);
        }
        output += WIDE;
    }
    while output < outputs {
        let [sums] = tile::<S, ROWS, 1>(simd, x, &matrix[output * inputs..], inputs);
        columns[output * stride..][..ROWS].copy_from_slice(&sums);
        output += 1;
    }
    ROWS
}

/// The scalar products of `ROWS` rows with `WIDE` rows of the matrix.
#[inline(always)]
fn tile<S: Simd, const ROWS: usize, const WIDE: usize>(
    simd: S,
    x: &[f32],
    matrix: &[f32],
    inputs: usize,
) -> [[f32; ROWS]; WIDE] {
    let mut whole_x: [&[S::f32s]; ROWS] = [&[]; ROWS];
    let mut rest_x: [&[f32]; ROWS] = [&[]; ROWS];
    for row in 0..ROWS {
        (whole_x[row], rest_x[row]) = S::as_simd_f32s(&x[row * inputs..][..inputs]);
    }
    let mut whole: [&[S::f32s]; WIDE] = [&[]; WIDE];
    let mut rest: [&[f32]; WIDE] = [&[]; WIDE];
    for index in 0..WIDE {
        (whole[index], rest[index]) = S::as_simd_f32s(&matrix[index * inputs..][..inputs]);
    }
    let vectors = whole[0].len();
    // All of one length, which spares a check for each vector.
    whole_x.iter_mut().for_each(|x| *x = &x[..vectors]);
    whole.iter_mut().for_each(|weights| *weights = &weights[..vectors]);

    let mut sums = [[simd.splat_f32s(0.0); ROWS]; WIDE];
    for at in 0..vectors {
        let mut x = [simd.splat_f32s(0.0); ROWS];
        for row in 0..ROWS {
            x[row] = whole_x[row][at];
        }
        for index in 0..WIDE {
            let weights = whole[index][at];
            for row in 0..ROWS {
                sums[index][row] = simd.mul_add_f32s(weights, x[row], sums[index][row]);
            }
        }
    }
    let mut products = [[0f32; ROWS]; WIDE];
    for index in 0..WIDE {
        for row in 0..ROWS {
            let ends: f32 = rest[index].iter().zip(rest_x[row]).map(|(w, x)| w * x).sum();
            products[index][row] = simd.reduce_sum_f32s(sums[index][row]) + ends;
        }
    }
    products
}
