//! Linear maps of a few rows, as in decoding: the time goes into reading the matrix, so each of its numbers is read once,
//! in the type that it is held in, and used for all rows. The kernels of `gemm` are made for many rows, and copy.
//!
//! A result is the same bits whatever other rows there are.

use bytemuck::Pod;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::weight::Weight;

/// Up to so many rows are faster here than by the kernels for many.
pub(crate) const FEW: usize = 32;

/// Numbers of the matrix, about, that one piece of parallel work reads. Pieces are handed out one by one: what a thread has
/// more of than the others, all wait for.
const PIECE: usize = 1 << 14;

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
    let piece = (PIECE / inputs).max(1).next_multiple_of(4); // rows of the matrix, in whole tiles
    // Column by column, so that each piece has its own part of the result.
    let mut columns = vec![0f32; rows * outputs];
    match W::pairs(matrix).filter(|_| inputs.is_multiple_of(2)) {
        Some(pairs) => {
            let x = Arch::new().dispatch(Arrange { x, inputs });
            let pieces = columns.par_chunks_mut(piece * rows).zip(pairs.par_chunks(piece * inputs / 2));
            pieces.with_max_len(1).for_each(|(columns, matrix)| {
                Arch::new().dispatch(Piece { columns, x: &x, matrix, rows, inputs });
            });
        }
        None => {
            let pieces = columns.par_chunks_mut(piece * rows).zip(matrix.par_chunks(piece * inputs));
            pieces.with_max_len(1).for_each_init(Vec::new, |room, (columns, matrix)| {
                for (columns, matrix) in columns.chunks_mut(WIDENED * rows).zip(matrix.chunks(WIDENED * inputs)) {
                    let matrix = W::widened(matrix, room);
                    Arch::new().dispatch(Piece { columns, x, matrix, rows, inputs });
                }
            });
        }
    }
    for (row, out) in out.chunks_exact_mut(outputs).enumerate() {
        let values = columns[row..].iter().step_by(rows);
        match bias {
            None => out.iter_mut().zip(values).for_each(|(y, value)| *y = *value),
            Some(bias) => out.iter_mut().zip(values).zip(bias).for_each(|((y, value), b)| *y = value + b),
        }
    }
}

/// What the kernel reads of a matrix at a time.
trait Held: Pod {
    /// Numbers in one.
    const PARTS: usize;

    /// A vector of them.
    type Vector<S: Simd>: Copy;

    /// As many whole vectors as there are, and the rest.
    fn vectors<S: Simd>(held: &[Self]) -> (&[Self::Vector<S>], &[Self]);

    /// The numbers of a vector, the first of each held first.
    fn parts<S: Simd>(simd: S, vector: Self::Vector<S>) -> [S::f32s; 2];

    /// The numbers of one.
    fn numbers(self) -> [f32; 2];
}

impl Held for f32 {
    const PARTS: usize = 1;

    type Vector<S: Simd> = S::f32s;

    #[inline(always)]
    fn vectors<S: Simd>(held: &[Self]) -> (&[S::f32s], &[Self]) {
        S::as_simd_f32s(held)
    }

    #[inline(always)]
    fn parts<S: Simd>(_: S, vector: S::f32s) -> [S::f32s; 2] {
        [vector; 2]
    }

    #[inline(always)]
    fn numbers(self) -> [f32; 2] {
        [self; 2]
    }
}

/// Two neighbours in bf16, the upper halves of f32: no more than a shift and a mask.
impl Held for u32 {
    const PARTS: usize = 2;

    type Vector<S: Simd> = S::u32s;

    #[inline(always)]
    fn vectors<S: Simd>(held: &[Self]) -> (&[S::u32s], &[Self]) {
        S::as_simd_u32s(held)
    }

    #[inline(always)]
    fn parts<S: Simd>(simd: S, vector: S::u32s) -> [S::f32s; 2] {
        let first = simd.wrapping_dyn_shl_u32s(vector, simd.splat_u32s(16));
        let second = simd.and_u32s(vector, simd.splat_u32s(0xffff_0000));
        [simd.transmute_f32s_u32s(first), simd.transmute_f32s_u32s(second)]
    }

    #[inline(always)]
    fn numbers(self) -> [f32; 2] {
        [f32::from_bits(self << 16), f32::from_bits(self & 0xffff_0000)]
    }
}

/// Rows `[rows, in]` in the order in which pairs are multiplied: of each two vectors' numbers the even ones, then the odd
/// ones; what fills no two vectors as it is.
struct Arrange<'a> {
    x: &'a [f32],
    inputs: usize,
}

impl WithSimd for Arrange<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Self::Output {
        let mut arranged = self.x.to_vec();
        for (to, from) in arranged.chunks_exact_mut(self.inputs).zip(self.x.chunks_exact(self.inputs)) {
            let blocks = to.chunks_exact_mut(2 * S::F32_LANES).zip(from.chunks_exact(2 * S::F32_LANES));
            for (to, from) in blocks {
                let (even, odd) = to.split_at_mut(S::F32_LANES);
                for (index, pair) in from.chunks_exact(2).enumerate() {
                    (even[index], odd[index]) = (pair[0], pair[1]);
                }
            }
        }
        arranged
    }
}

/// `x Mᵀ` for one piece of the matrix, column by column.
struct Piece<'a, H> {
    columns: &'a mut [f32],
    x: &'a [f32],
    matrix: &'a [H],
    rows: usize,
    inputs: usize,
}

/// Rows of the matrix that are made f32 at a time, where they are neither that nor pairs.
const WIDENED: usize = 4;

impl<H: Held> WithSimd for Piece<'_, H> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { columns, x, matrix, rows, inputs } = self;
        // A strip of x stays near while the piece of the matrix goes by.
        let mut row = 0;
        while row < rows {
            let (x, columns) = (&x[row * inputs..], &mut columns[row..]);
            row += match rows - row {
                8.. => strip::<S, H, 8, 2>(simd, columns, x, matrix, rows, inputs),
                4.. => strip::<S, H, 4, 4>(simd, columns, x, matrix, rows, inputs),
                2.. => strip::<S, H, 2, 4>(simd, columns, x, matrix, rows, inputs),
                _ => strip::<S, H, 1, 2>(simd, columns, x, matrix, rows, inputs),
            };
        }
    }
}

/// `ROWS` rows by all rows of `matrix`, `WIDE` of these at a time; returns `ROWS`.
#[inline(always)]
fn strip<S: Simd, H: Held, const ROWS: usize, const WIDE: usize>(
    simd: S,
    columns: &mut [f32],
    x: &[f32],
    matrix: &[H],
    stride: usize,
    inputs: usize,
) -> usize {
    let size = inputs / H::PARTS;
    let outputs = matrix.len() / size;
    let mut output = 0;
    while output + WIDE <= outputs {
        let sums = tile::<S, H, ROWS, WIDE>(simd, x, &matrix[output * size..], inputs);
        for (index, sums) in sums.iter().enumerate() {
            columns[(output + index) * stride..][..ROWS].copy_from_slice(sums);
        }
        output += WIDE;
    }
    while output < outputs {
        let [sums] = tile::<S, H, ROWS, 1>(simd, x, &matrix[output * size..], inputs);
        columns[output * stride..][..ROWS].copy_from_slice(&sums);
        output += 1;
    }
    ROWS
}

/// Vectors of the matrix, for each of the rows that go by at a time, between what is computed with and what is asked for.
const AHEAD: usize = 256;

/// Asks for what lies there, if anything does, to come into the core's second cache. What a processor asks for by itself
/// comes too late where several rows are multiplied: eight rows took half as long again without this. (Asking for the
/// first cache gained a third as much.)
#[inline(always)]
fn prefetch<T>(place: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which reads nothing and may name any address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(place.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// The scalar products of `ROWS` rows with `WIDE` rows of the matrix.
#[inline(always)]
fn tile<S: Simd, H: Held, const ROWS: usize, const WIDE: usize>(
    simd: S,
    x: &[f32],
    matrix: &[H],
    inputs: usize,
) -> [[f32; ROWS]; WIDE] {
    let size = inputs / H::PARTS;
    let mut whole: [&[H::Vector<S>]; WIDE] = [&[]; WIDE];
    let mut rest: [&[H]; WIDE] = [&[]; WIDE];
    for index in 0..WIDE {
        (whole[index], rest[index]) = H::vectors::<S>(&matrix[index * size..][..size]);
    }
    let vectors = whole[0].len();
    let mut whole_x: [&[S::f32s]; ROWS] = [&[]; ROWS];
    let mut rest_x: [&[f32]; ROWS] = [&[]; ROWS];
    for row in 0..ROWS {
        let x = &x[row * inputs..][..inputs];
        let (vectorised, others) = x.split_at(vectors * H::PARTS * S::F32_LANES);
        // All of one length, which spares a check for each vector.
        (whole_x[row], rest_x[row]) = (&S::as_simd_f32s(vectorised).0[..vectors * H::PARTS], others);
    }
    whole.iter_mut().for_each(|weights| *weights = &weights[..vectors]);

    let mut sums = [[simd.splat_f32s(0.0); ROWS]; WIDE];
    for at in 0..vectors {
        let mut weights = [[simd.splat_f32s(0.0); 2]; WIDE];
        for index in 0..WIDE {
            weights[index] = H::parts(simd, whole[index][at]);
            prefetch(whole[index].as_ptr().wrapping_add(at + WIDE * AHEAD));
        }
        for part in 0..H::PARTS {
            let mut x = [simd.splat_f32s(0.0); ROWS];
            for row in 0..ROWS {
                x[row] = whole_x[row][at * H::PARTS + part];
            }
            for index in 0..WIDE {
                for row in 0..ROWS {
                    sums[index][row] = simd.mul_add_f32s(weights[index][part], x[row], sums[index][row]);
                }
            }
        }
    }
    let mut products = [[0f32; ROWS]; WIDE];
    for index in 0..WIDE {
        for row in 0..ROWS {
            let mut ends = 0.0;
            for (held, x) in rest[index].iter().zip(rest_x[row].chunks_exact(H::PARTS)) {
                let numbers = held.numbers();
                x.iter().zip(numbers).for_each(|(x, number)| ends += x * number);
            }
            products[index][row] = simd.reduce_sum_f32s(sums[index][row]) + ends;
        }
    }
    products
}
