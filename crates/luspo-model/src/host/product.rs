//! Matrix products over host memory, by the kernels of the crate `gemm`, which Burn's CPU backend uses too. Here a result
//! goes into room that is not cleared first, or is added to what is there.

use std::mem::MaybeUninit;

use super::room::written;

/// A matrix of f32 in host memory: rows or columns lie side by side.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    values: &'a [f32],
    shape: [usize; 2],
    strides: [usize; 2],
}

impl<'a> Matrix<'a> {
    /// All of `values`, row by row.
    pub(crate) fn new(values: &'a [f32], shape: [usize; 2]) -> Self {
        assert_eq!(values.len(), shape[0] * shape[1], "a matrix of {shape:?}");
        Self { values, shape, strides: [shape[1], 1] }
    }

    /// The first columns of rows that are `stride` apart.
    pub(crate) fn columns(values: &'a [f32], shape: [usize; 2], stride: usize) -> Self {
        assert!(end(shape, stride) <= values.len(), "{shape:?} with rows {stride} apart in {} numbers", values.len());
        Self { values, shape, strides: [stride, 1] }
    }

    pub(crate) fn rows(&self) -> usize {
        self.shape[0]
    }

    /// The transpose.
    pub(crate) fn t(self) -> Self {
        let ([rows, columns], [down, along]) = (self.shape, self.strides);
        Self { shape: [columns, rows], strides: [along, down], ..self }
    }
}

/// Where the last of some columns of rows that are `stride` apart ends.
fn end([rows, columns]: [usize; 2], stride: usize) -> usize {
    assert!(columns <= stride, "{columns} columns in rows of {stride}");
    if rows == 0 || columns == 0 { 0 } else { (rows - 1) * stride + columns }
}

/// Who does the work.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    /// All threads, where there is enough to do.
    All,
    /// The caller's.
    One,
}

/// `left · right`, row by row.
pub(crate) fn product(left: Matrix, right: Matrix, threads: Threads) -> Vec<f32> {
    let shape = [left.shape[0], right.shape[1]];
    let write = |out: &mut [MaybeUninit<f32>]| match left.shape[1] {
        0 => out.fill(MaybeUninit::new(0.0)),
        // SAFETY: the room has the result's size.
        _ => unsafe { multiply(out.as_mut_ptr().cast(), shape[1], false, left, right, threads) },
    };
    // SAFETY: all of a product is written; where there is nothing to sum it is 0.
    unsafe { written(shape[0] * shape[1], write) }
}

/// `out = left · right` (or `out += …` if `add`), where the rows of `out` are `stride` apart.
pub(crate) fn product_into(out: &mut [f32], stride: usize, add: bool, left: Matrix, right: Matrix, threads: Threads) {
    assert!(end([left.shape[0], right.shape[1]], stride) <= out.len(), "the result does not fit");
    // SAFETY: the result fits, as was asserted.
    unsafe { multiply(out.as_mut_ptr(), stride, add, left, right, threads) }
}

/// # Safety
/// `out` must have room for the result. What stands there is read only if `add` is set.
unsafe fn multiply(out: *mut f32, stride: usize, add: bool, left: Matrix, right: Matrix, threads: Threads) {
    /// Multiplications from which all threads are worth waking.
    const MANY: usize = 192 * 192 * 192;

    let ([rows, inner], [_, columns]) = (left.shape, right.shape);
    assert_eq!(inner, right.shape[0], "{:?} · {:?}", left.shape, right.shape);
    let all = threads == Threads::All && rows * inner * columns >= MANY;
    let parallelism = if all { gemm::Parallelism::Rayon(0) } else { gemm::Parallelism::None };
    let [down, along] = left.strides.map(|stride| stride as isize);
    let [right_down, right_along] = right.strides.map(|stride| stride as isize);
    let (alpha, beta) = (1.0, 1.0);
    // SAFETY: both matrices lie within their slices, as their constructors assert; `out` is the caller's promise.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            inner,
            out,
            1,
            stride as isize,
            add,
            left.values.as_ptr(),
            along,
            down,
            right.values.as_ptr(),
            right_along,
            right_down,
            alpha,
            beta,
            false,
            false,
            false,
            parallelism,
        );
    }
}
