//! Rotary positions in place. The equation is that of [`rope`](crate::rope).

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::{ROWS, Values, vectorised};
use crate::rope::angles;

/// Cosines and sines of the positions `0..seq`, each `[seq, head_dim / 2]`.
pub(crate) struct Rotation {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
}

impl Rotation {
    pub(crate) fn new(seq: usize, head_dim: usize, base: f64) -> Self {
        let angles: Vec<f64> = angles(seq, head_dim, base).collect();
        let cos = angles.iter().map(|angle| angle.cos() as f32).collect();
        let sin = angles.iter().map(|angle| angle.sin() as f32).collect();
        Self { cos, sin, half: head_dim / 2 }
    }

    /// Turns the heads of `[tokens, heads · head_dim]` to the place of each token, or by the opposite angle.
    pub(crate) fn turn(&self, x: Tensor<2>, places: &[usize], back: bool) -> Tensor<2> {
        let [_, width] = x.dims();
        let sign = if back { -1.0 } else { 1.0 };
        let mut x = Values::of(x);
        let rows = x.as_mut_slice().par_chunks_mut(ROWS * width).zip(places.par_chunks(ROWS));
        rows.for_each(|(rows, places)| {
            vectorised(|| {
                for (row, place) in rows.chunks_exact_mut(width).zip(places) {
                    let at = place * self.half..(place + 1) * self.half;
                    let (cos, sin) = (&self.cos[at.clone()], &self.sin[at]);
                    for head in row.chunks_exact_mut(2 * self.half) {
                        let (first, second) = head.split_at_mut(self.half);
                        for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(cos.iter().zip(sin)) {
                            (*a, *b) = (*a * cos - *b * (sign * sin), *b * cos + *a * (sign * sin));
                        }
                    }
                }
            });
        });
        x.into_tensor()
    }
}
