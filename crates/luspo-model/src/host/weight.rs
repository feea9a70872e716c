//! The types that a matrix may be held in. What is computed with it is f32.

use burn::tensor::Element;
use half::{bf16, f16};
use rayon::prelude::*;

use super::vectorised;

/// A number of a matrix.
pub(crate) trait Weight: Element + bytemuck::Pod {
    /// Writes the same numbers in f32, as many.
    fn widen(weights: &[Self], wide: &mut [f32]);

    /// The same numbers in f32, in `room` if they are not f32 already.
    fn widened<'a>(weights: &'a [Self], room: &'a mut Vec<f32>) -> &'a [f32] {
        room.resize(weights.len(), 0.0);
        Self::widen(weights, room);
        room
    }

    /// Two neighbours in a word, where they are bf16 and lie so that they can be read like that.
    fn pairs(_: &[Self]) -> Option<&[u32]> {
        None
    }
}

impl Weight for f32 {
    fn widen(weights: &[Self], wide: &mut [f32]) {
        wide.copy_from_slice(weights);
    }

    #[inline(always)]
    fn widened<'a>(weights: &'a [Self], _: &'a mut Vec<f32>) -> &'a [f32] {
        weights
    }
}

impl Weight for bf16 {
    fn widen(weights: &[Self], wide: &mut [f32]) {
        vectorised(|| {
            for (wide, weight) in wide.iter_mut().zip(weights) {
                *wide = f32::from_bits(u32::from(weight.to_bits()) << 16);
            }
        });
    }

    /// On processors whose words begin with their lowest bits.
    fn pairs(weights: &[Self]) -> Option<&[u32]> {
        bytemuck::try_cast_slice(weights).ok().filter(|_| cfg!(target_endian = "little"))
    }
}

impl Weight for f16 {
    /// In a form that compilers vectorise: the exponent is moved into its place and corrected by a product, which makes
    /// subnormal numbers normal.
    fn widen(weights: &[Self], wide: &mut [f32]) {
        const INFINITE: u32 = 0x7c00;
        const CORRECTION: f32 = f32::from_bits((127 + 127 - 15) << 23);
        vectorised(|| {
            for (wide, weight) in wide.iter_mut().zip(weights) {
                let bits = u32::from(weight.to_bits());
                let (sign, size) = ((bits & 0x8000) << 16, bits & 0x7fff);
                let finite = (f32::from_bits(size << 13) * CORRECTION).to_bits();
                let size = if size < INFINITE { finite } else { 0x7f80_0000 | size << 13 };
                *wide = f32::from_bits(sign | size);
            }
        });
    }
}

/// Numbers that are widened at a time for products with many rows: 8 MB in f32.
const PANEL: usize = 1 << 21;

/// Numbers that one thread widens at a time.
const PIECE: usize = 1 << 14;

/// Hands over a matrix `[rows, size]` in f32, some of its rows at a time with the place of the first. A matrix in f32 is
/// handed over at once, and as it is.
pub(super) fn in_panels<W: Weight>(matrix: &[W], size: usize, mut each: impl FnMut(usize, &[f32])) {
    let mut room = Vec::new();
    if W::dtype() == f32::dtype() {
        return each(0, W::widened(matrix, &mut room));
    }
    let rows = (PANEL / size).max(1);
    let mut room = vec![0f32; rows.min(matrix.len() / size) * size];
    for (index, panel) in matrix.chunks(rows * size).enumerate() {
        let room = &mut room[..panel.len()];
        room.par_chunks_mut(PIECE).zip(panel.par_chunks(PIECE)).for_each(|(room, panel)| W::widen(panel, room));
        each(index * rows, room);
    }
}
