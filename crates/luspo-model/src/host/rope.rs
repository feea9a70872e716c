//! Rotary positions of one head's values. The equation is that of [`rope`](crate::rope).

use crate::rope::angles;

/// Cosines and sines of the positions `0..seq`, each `[seq, head_dim / 2]`.
pub(super) struct Rotation {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
}

impl Rotation {
    pub(super) fn new(seq: usize, head_dim: usize, base: f64) -> Self {
        let angles: Vec<f64> = angles(seq, head_dim, base).collect();
        let cos = angles.iter().map(|angle| angle.cos() as f32).collect();
        let sin = angles.iter().map(|angle| angle.sin() as f32).collect();
        Self { cos, sin, half: head_dim / 2 }
    }

    /// Rotates to a position and scales.
    #[inline(always)]
    pub(super) fn forward(&self, position: usize, scale: f32, x: &[f32], out: &mut [f32]) {
        self.turn(position, scale, scale, x, out);
    }

    /// The backward of [`forward`](Self::forward): rotates back and scales.
    #[inline(always)]
    pub(super) fn backward(&self, position: usize, scale: f32, x: &[f32], out: &mut [f32]) {
        self.turn(position, scale, -scale, x, out);
    }

    #[inline(always)]
    fn turn(&self, position: usize, cos_scale: f32, sin_scale: f32, x: &[f32], out: &mut [f32]) {
        let at = position * self.half..(position + 1) * self.half;
        let angles = self.cos[at.clone()].iter().zip(&self.sin[at]);
        let ((first, second), (out_first, out_second)) = (x.split_at(self.half), out.split_at_mut(self.half));
        let outs = out_first.iter_mut().zip(out_second);
        for ((outs, x), (cos, sin)) in outs.zip(first.iter().zip(second)).zip(angles) {
            let (cos, sin) = (cos * cos_scale, sin * sin_scale);
            *outs.0 = x.0 * cos - x.1 * sin;
            *outs.1 = x.1 * cos + x.0 * sin;
        }
    }
}
