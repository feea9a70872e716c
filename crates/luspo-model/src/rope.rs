//! Rotary positions, the variant that rotates the two halves of a head against each other.
//!
//! ```text
//! x' = x · cos(p θᵢ) + rotate_half(x) · sin(p θᵢ),   θᵢ = base^(−2i/d),   rotate_half([a, b]) = [−b, a]
//! ```

use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData, s};

/// p θᵢ for each position p in `0..seq` and each i in `0..head_dim / 2`.
pub(crate) fn angles(seq: usize, head_dim: usize, base: f64) -> impl Iterator<Item = f64> {
    let frequencies: Vec<f64> = (0..head_dim / 2).map(|i| base.powf(-2.0 * i as f64 / head_dim as f64)).collect();
    (0..seq).flat_map(move |position| frequencies.clone().into_iter().map(move |frequency| position as f64 * frequency))
}

/// Cosines and sines by position; each `[1 or batch, seq, 1, head_dim]`, to be broadcast over heads.
#[derive(Clone, Debug)]
pub(crate) struct Rope {
    cos: Tensor<4>,
    /// The sign of `rotate_half` is in the table: the first half is negated.
    sin: Tensor<4>,
}

impl Rope {
    /// The table of positions `0..seq`, computed on the host in f64 and stored in f32.
    pub(crate) fn new(seq: usize, head_dim: usize, base: f64, device: &Device) -> Self {
        let angles: Vec<f64> = angles(seq, head_dim, base).collect();
        let mut cos = Vec::with_capacity(seq * head_dim);
        let mut sin = Vec::with_capacity(seq * head_dim);
        for angles in angles.chunks(head_dim / 2) {
            let angles = || angles.iter();
            cos.extend(angles().chain(angles()).map(|angle| angle.cos() as f32));
            sin.extend(angles().map(|angle| -angle.sin() as f32).chain(angles().map(|angle| angle.sin() as f32)));
        }
        let table = |values| Tensor::from_data(TensorData::new(values, [1, seq, 1, head_dim]), device);
        Self { cos: table(cos), sin: table(sin) }
    }

    /// The rows of the given positions, one a row of the batch: `[batch, 1, 1, head_dim]`.
    pub(crate) fn at(&self, positions: Tensor<1, Int>) -> Self {
        let rows = |table: &Tensor<4>| table.clone().select(1, positions.clone()).swap_dims(0, 1);
        Self { cos: rows(&self.cos), sin: rows(&self.sin) }
    }

    /// Rotates queries or keys, `[batch, seq, heads, head_dim]`, in f32.
    pub(crate) fn rotate(&self, x: Tensor<4>) -> Tensor<4> {
        turn(x, self.cos.clone(), self.sin.clone())
    }

    /// Rotates by the opposite angles.
    pub(crate) fn rotate_back(&self, x: Tensor<4>) -> Tensor<4> {
        turn(x, self.cos.clone(), self.sin.clone().neg())
    }
}

fn turn(x: Tensor<4>, cos: Tensor<4>, sin: Tensor<4>) -> Tensor<4> {
    let dtype = x.dtype();
    let x = x.cast(FloatDType::F32);
    let [.., head_dim] = x.dims();
    let (first, second) =
        (x.clone().slice(s![.., .., .., ..head_dim / 2]), x.clone().slice(s![.., .., .., head_dim / 2..]));
    let swapped = Tensor::cat(vec![second, first], 3);
    (x * cos + swapped * sin).cast(dtype)
}
