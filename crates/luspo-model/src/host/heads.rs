//! The change of layout between projections and attention.
//!
//! Projections are `[batch · seq, heads · head_dim]`; attention folds the `group` query heads of a key head into rows,
//! `[batch, kv_heads, group · seq, head_dim]`. Keys and values are groups of one.

use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use super::{Values, vectorised};

/// The sizes of both layouts.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    pub batch: usize,
    pub seq: usize,
    pub kv_heads: usize,
    pub group: usize,
    pub head_dim: usize,
}

impl Heads {
    /// Projection → attention. `head` is handed a position, one head's values there, and where they go.
    pub(super) fn fold(&self, flat: Tensor<2>, head: impl Fn(usize, &[f32], &mut [f32]) + Sync) -> Tensor<4> {
        let Self { batch, seq, kv_heads, group, head_dim } = *self;
        let flat = Values::of(flat);
        let source = flat.as_slice();
        let heads = kv_heads * group;
        let mut out = vec![0f32; source.len()];
        // One piece is one head of one row of the batch.
        out.par_chunks_mut(seq * head_dim).enumerate().for_each(|(piece, out)| {
            let (row, of_row) = (piece / heads, piece % heads);
            vectorised(|| {
                for (position, out) in out.chunks_exact_mut(head_dim).enumerate() {
                    let from = ((row * seq + position) * heads + of_row) * head_dim;
                    head(position, &source[from..from + head_dim], out);
                }
            });
        });
        Tensor::from_data(TensorData::new(out, [batch, kv_heads, group * seq, head_dim]), &flat.device)
    }

    /// Attention → projection.
    pub(super) fn unfold(&self, folded: Tensor<4>, head: impl Fn(usize, &[f32], &mut [f32]) + Sync) -> Tensor<2> {
        let Self { batch, seq, kv_heads, group, head_dim } = *self;
        let folded = Values::of(folded);
        let source = folded.as_slice();
        let heads = kv_heads * group;
        let mut out = vec![0f32; source.len()];
        // One piece is some tokens of one row of the batch.
        out.par_chunks_mut(heads * head_dim).with_min_len(32).enumerate().for_each(|(token, out)| {
            let (row, position) = (token / seq, token % seq);
            vectorised(|| {
                for (of_row, out) in out.chunks_exact_mut(head_dim).enumerate() {
                    let from = ((row * heads + of_row) * seq + position) * head_dim;
                    head(position, &source[from..from + head_dim], out);
                }
            });
        });
        Tensor::from_data(TensorData::new(out, [batch * seq, heads * head_dim]), &folded.device)
    }
}

/// For [`Heads::fold`] and [`Heads::unfold`]: moves values as they are.
#[inline(always)]
pub(super) fn copy(_position: usize, from: &[f32], to: &mut [f32]) {
    to.copy_from_slice(from);
}
