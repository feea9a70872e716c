//! The change of layout between projections and attention, as copies of heads.

use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use super::{Values, read, vectorised};
use crate::tape::{Heads, Places};

/// See [`Places::fold`].
pub(crate) fn fold(places: &Places, flat: &mut Tensor<2>, heads: Heads) -> Tensor<4> {
    let (device, count, head_dim, len) = (flat.device(), heads.count(), heads.head_dim, places.len);
    let mut out = vec![0f32; places.rows.len() * count * len * head_dim];
    read(flat, |source| {
        // One piece is one head of one row.
        out.par_chunks_mut(len * head_dim).enumerate().for_each(|(piece, out)| {
            let (row, head) = (piece / count, piece % count);
            let tokens = places.rows[row].iter().cloned().flatten();
            vectorised(|| {
                for (token, out) in tokens.zip(out.chunks_exact_mut(head_dim)) {
                    let from = (token * count + head) * head_dim;
                    out.copy_from_slice(&source[from..from + head_dim]);
                }
            });
        });
    });
    let shape = [places.rows.len(), heads.kv_heads, heads.group * len, head_dim];
    Tensor::from_data(TensorData::new(out, shape), &device)
}

/// See [`Places::unfold`].
pub(crate) fn unfold(places: &Places, folded: Tensor<4>, heads: Heads, into: &mut Tensor<2>) {
    let (count, head_dim, len) = (heads.count(), heads.head_dim, places.len);
    let folded = Values::of(folded);
    let source = folded.as_slice();
    into.inplace(|into| {
        let mut into = Values::of(into);
        let all = into.as_mut_slice();
        for (row, runs) in places.rows.iter().enumerate() {
            let mut place = 0;
            for run in runs {
                let run_of_all = &mut all[run.start * heads.width()..run.end * heads.width()];
                // One piece is some tokens of one row.
                let tokens = run_of_all.par_chunks_mut(heads.width()).with_min_len(32).enumerate();
                tokens.for_each(|(token, out)| {
                    vectorised(|| {
                        for (head, out) in out.chunks_exact_mut(head_dim).enumerate() {
                            let from = ((row * count + head) * len + place + token) * head_dim;
                            for (sum, value) in out.iter_mut().zip(&source[from..from + head_dim]) {
                                *sum += value;
                            }
                        }
                    });
                });
                place += run.len();
            }
        }
        into.into_tensor()
    });
}
