//! Attention of one query a row over a cache in host memory, and the ways into that cache and out of it.
//!
//! Values lie row by row, `[places, kv_heads · head_dim]`. Keys lie in blocks of 16 places, `[blocks, kv_heads, head_dim,
//! 16]`: the scores of 16 keys are then sums of whole vectors, none of which has to be added up across.

use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;

use super::exp::{LANES, exp, max, sum_of};
use super::{Values, vectorised};
use crate::tape::Heads;

/// Query heads of a key head that are worked on together, so that keys and values are fetched once for all of them.
const TOGETHER: usize = 4;

/// Room for the keys of so many places.
pub(crate) fn keys(places: usize, heads: Heads) -> Vec<f32> {
    vec![0.0; places.div_ceil(LANES) * LANES * heads.kv_heads * heads.head_dim]
}

/// Where the block of a place begins for a key head.
#[inline(always)]
fn block(place: usize, kv_head: usize, heads: Heads) -> usize {
    (place / LANES * heads.kv_heads + kv_head) * heads.head_dim * LANES
}

/// Writes keys, `[rows, kv_heads · head_dim]`, at these places of `all`.
pub(crate) fn write_keys(rows: &mut Tensor<2>, places: &[usize], heads: Heads, all: &mut [f32]) {
    read(rows, |rows| {
        for (row, place) in rows.chunks_exact(heads.kv_heads * heads.head_dim).zip(places) {
            for (kv_head, key) in row.chunks_exact(heads.head_dim).enumerate() {
                let lanes = all[block(*place, kv_head, heads) + place % LANES..].iter_mut().step_by(LANES);
                key.iter().zip(lanes).for_each(|(key, lane)| *lane = *key);
            }
        }
    });
}

/// Writes values, `[rows, kv_heads · head_dim]`, at these places of `all`.
pub(crate) fn write_values(rows: &mut Tensor<2>, places: &[usize], all: &mut [f32]) {
    let [_, width] = rows.dims();
    read(rows, |rows| {
        for (row, place) in rows.chunks_exact(width).zip(places) {
            all[place * width..(place + 1) * width].copy_from_slice(row);
        }
    });
}

/// The keys at these places, `[places, kv_heads · head_dim]`.
pub(crate) fn read_keys(all: &[f32], places: &[usize], heads: Heads, device: &Device) -> Tensor<2> {
    let width = heads.kv_heads * heads.head_dim;
    let mut rows: Vec<f32> = Vec::with_capacity(places.len() * width);
    for place in places {
        for kv_head in 0..heads.kv_heads {
            let lanes = all[block(*place, kv_head, heads) + place % LANES..].iter().step_by(LANES);
            rows.extend(lanes.take(heads.head_dim));
        }
    }
    Tensor::from_data(TensorData::new(rows, [places.len(), width]), device)
}

/// The values at these places, `[places, kv_heads · head_dim]`.
pub(crate) fn read_values(all: &[f32], places: &[usize], heads: Heads, device: &Device) -> Tensor<2> {
    let width = heads.kv_heads * heads.head_dim;
    let mut rows = Vec::with_capacity(places.len() * width);
    for place in places {
        rows.extend_from_slice(&all[place * width..(place + 1) * width]);
    }
    Tensor::from_data(TensorData::new(rows, [places.len(), width]), device)
}

/// Reads a tensor's numbers in place: they are copied only if somebody else holds the tensor too.
fn read(tensor: &mut Tensor<2>, f: impl FnOnce(&[f32])) {
    tensor.inplace(|tensor| {
        let values = Values::of(tensor);
        f(values.as_slice());
        values.into_tensor()
    });
}

/// `softmax(q kᵀ / √head_dim) v` of one query a row, `[rows, heads · head_dim]`. A row's keys and values are those at the
/// places of its runs. What a row gets does not depend on the others.
pub(crate) fn attend_in_place(
    queries: &mut Tensor<2>,
    keys: &[f32],
    values: &[f32],
    runs: &[[Range<usize>; 2]],
    heads: Heads,
) -> Tensor<2> {
    let (shape, device) = (queries.dims(), queries.device());
    let Heads { kv_heads, group, head_dim } = heads;
    let mut out = vec![0f32; shape[0] * shape[1]];
    read(queries, |queries| {
        // A piece is the query heads of one key head of one row.
        let pieces = out.par_chunks_mut(group * head_dim).zip(queries.par_chunks(group * head_dim)).enumerate();
        pieces.for_each_init(Vec::new, |weights, (piece, (out, queries))| {
            let (row, kv_head) = (piece / kv_heads, piece % kv_heads);
            let piece = Piece { keys, values, runs: &runs[row], heads, kv_head };
            for (queries, out) in
                queries.chunks(TOGETHER * head_dim).zip(out.chunks_mut(TOGETHER * head_dim))
            {
                match queries.len() / head_dim {
                    1 => vectorised(|| piece.attend::<1>(queries, weights, out)),
                    2 => vectorised(|| piece.attend::<2>(queries, weights, out)),
                    3 => vectorised(|| piece.attend::<3>(queries, weights, out)),
                    _ => vectorised(|| piece.attend::<TOGETHER>(queries, weights, out)),
                }
            }
        });
    });
    Tensor::from_data(TensorData::new(out, shape), &device)
}

/// What some queries of one row look at.
struct Piece<'a> {
    keys: &'a [f32],
    values: &'a [f32],
    runs: &'a [Range<usize>; 2],
    heads: Heads,
    kv_head: usize,
}

impl Piece<'_> {
    /// `N` query heads. `weights` is memory alone.
    #[inline(always)]
    fn attend<const N: usize>(&self, queries: &[f32], weights: &mut Vec<f32>, out: &mut [f32]) {
        let tokens = self.runs[0].len() + self.runs[1].len();
        weights.resize(N * tokens, 0.0);
        let mut before = 0;
        for run in self.runs {
            self.scores::<N>(queries, run, weights, tokens, before);
            before += run.len();
        }
        let scale = (self.heads.head_dim as f32).sqrt().recip();
        for weights in weights.chunks_exact_mut(tokens) {
            let highest = max(weights);
            let total = sum_of(weights, |weight| {
                *weight = exp((*weight - highest) * scale);
                *weight
            });
            let share = (1.0 / total) as f32;
            weights.iter_mut().for_each(|weight| *weight *= share);
        }
        self.mix::<N>(weights, tokens, out);
    }

    /// The scores of a run's keys, into the columns of `[N, tokens]` from `before` on.
    #[inline(always)]
    fn scores<const N: usize>(
        &self,
        queries: &[f32],
        run: &Range<usize>,
        scores: &mut [f32],
        tokens: usize,
        before: usize,
    ) {
        let size = self.heads.head_dim;
        let mut place = run.start;
        while place < run.end {
            let first = place / LANES * LANES;
            let block = &self.keys[block(place, self.kv_head, self.heads)..][..size * LANES];
            let mut sums = [[0f32; LANES]; N];
            for (along, keys) in block.as_chunks::<LANES>().0.iter().enumerate() {
                for (n, sums) in sums.iter_mut().enumerate() {
                    let query = queries[n * size + along];
                    for (sum, key) in sums.iter_mut().zip(keys) {
                        *sum += query * key;
                    }
                }
            }
            // The block may begin before the run and end behind it.
            let end = run.end.min(first + LANES);
            for (n, sums) in sums.iter().enumerate() {
                let at = n * tokens + before + place - run.start;
                scores[at..at + end - place].copy_from_slice(&sums[place - first..end - first]);
            }
            place = end;
        }
    }

    /// Σ weight · value, `[N, head_dim]`, two vectors of each value at a time.
    #[inline(always)]
    fn mix<const N: usize>(&self, weights: &[f32], tokens: usize, out: &mut [f32]) {
        let head_dim = self.heads.head_dim;
        let mut from = 0;
        while from + 2 * LANES <= head_dim {
            let sums = self.weighted::<N, { 2 * LANES }>(weights, tokens, from);
            for (n, sums) in sums.iter().enumerate() {
                out[n * head_dim + from..][..2 * LANES].copy_from_slice(sums);
            }
            from += 2 * LANES;
        }
        while from < head_dim {
            // What a narrow head has no numbers for counts as 0.
            let width = (head_dim - from).min(LANES);
            let sums = self.weighted::<N, LANES>(weights, tokens, from);
            for (n, sums) in sums.iter().enumerate() {
                out[n * head_dim + from..][..width].copy_from_slice(&sums[..width]);
            }
            from += LANES;
        }
    }

    /// `W` columns of [`mix`](Self::mix).
    #[inline(always)]
    fn weighted<const N: usize, const W: usize>(&self, weights: &[f32], tokens: usize, from: usize) -> [[f32; W]; N] {
        let Heads { kv_heads, head_dim, .. } = self.heads;
        let mut sums = [[0f32; W]; N];
        let mut token = 0;
        for run in self.runs {
            for place in run.clone() {
                let values = &self.values[(place * kv_heads + self.kv_head) * head_dim..][..head_dim][from..];
                let mut narrow = [0f32; W];
                let values = match values.first_chunk::<W>() {
                    Some(values) => values,
                    None => {
                        narrow[..values.len()].copy_from_slice(values);
                        &narrow
                    }
                };
                for (n, sums) in sums.iter_mut().enumerate() {
                    let weight = weights[n * tokens + token];
                    for (sum, value) in sums.iter_mut().zip(values) {
                        *sum += weight * value;
                    }
                }
                token += 1;
            }
        }
        sums
    }
}
