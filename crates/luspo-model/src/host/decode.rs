//! Attention of one query a row over a cache in host memory, and the ways into that cache and out of it.

use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;

use super::exp::{LANES, exp, max, sum_of};
use super::{read, vectorised};
use crate::tape::Heads;

/// Writes `[rows, width]` at these rows of `all`, `[.., width]`.
pub(crate) fn write_rows(rows: &mut Tensor<2>, places: &[usize], all: &mut [f32]) {
    let [_, width] = rows.dims();
    read(rows, |rows| {
        for (row, place) in rows.chunks_exact(width).zip(places) {
            all[place * width..(place + 1) * width].copy_from_slice(row);
        }
    });
}

/// These rows of `all`, `[.., width]`, as a tensor.
pub(crate) fn read_rows(all: &[f32], places: &[usize], width: usize, device: &Device) -> Tensor<2> {
    let mut rows = Vec::with_capacity(places.len() * width);
    for place in places {
        rows.extend_from_slice(&all[place * width..(place + 1) * width]);
    }
    Tensor::from_data(TensorData::new(rows, [places.len(), width]), device)
}

/// `softmax(q kᵀ / √head_dim) v` of one query a row, `[rows, heads · head_dim]`. A row's keys and values, rows of
/// `[.., kv_heads · head_dim]`, are those of its runs. What a row gets does not depend on the others.
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
            let (row, head) = (piece / kv_heads, piece % kv_heads);
            let of_head = |all| Strided { all, width: kv_heads * head_dim, from: head * head_dim, size: head_dim };
            vectorised(|| attend_group(queries, of_head(keys), of_head(values), &runs[row], weights, out));
        });
    });
    Tensor::from_data(TensorData::new(out, shape), &device)
}

/// One head's part of rows.
#[derive(Clone, Copy)]
struct Strided<'a> {
    all: &'a [f32],
    width: usize,
    from: usize,
    size: usize,
}

impl<'a> Strided<'a> {
    #[inline(always)]
    fn row(&self, place: usize) -> &'a [f32] {
        &self.all[place * self.width + self.from..][..self.size]
    }
}

/// The query heads that share a key head. `weights` is memory alone.
#[inline(always)]
fn attend_group(
    queries: &[f32],
    keys: Strided<'_>,
    values: Strided<'_>,
    runs: &[Range<usize>; 2],
    weights: &mut Vec<f32>,
    out: &mut [f32],
) {
    let size = keys.size;
    let places = || runs[0].clone().chain(runs[1].clone());
    let (group, tokens) = (queries.len() / size, runs[0].len() + runs[1].len());
    weights.resize(group * tokens, 0.0);
    for (token, place) in places().enumerate() {
        let key = keys.row(place);
        for (query, weights) in queries.chunks_exact(size).zip(weights.chunks_exact_mut(tokens)) {
            weights[token] = dot(query, key);
        }
    }
    let scale = (size as f32).sqrt().recip();
    for weights in weights.chunks_exact_mut(tokens) {
        let highest = max(weights);
        let total = sum_of(weights, |weight| {
            *weight = exp((*weight - highest) * scale);
            *weight
        });
        let share = (1.0 / total) as f32;
        weights.iter_mut().for_each(|weight| *weight *= share);
    }
    let mut token = 0;
    for run in runs {
        let mut place = run.start;
        // Four values at a time, so that a sum is fetched and stored a quarter as often.
        while place + 4 <= run.end {
            let rows = [0, 1, 2, 3].map(|i| values.row(place + i));
            for (out, weights) in out.chunks_exact_mut(size).zip(weights.chunks_exact(tokens)) {
                let [a, b, c, d] = [0, 1, 2, 3].map(|i| weights[token + i]);
                let [va, vb, vc, vd] = rows;
                for i in 0..size {
                    out[i] += (a * va[i] + b * vb[i]) + (c * vc[i] + d * vd[i]);
                }
            }
            (place, token) = (place + 4, token + 4);
        }
        while place < run.end {
            let row = values.row(place);
            for (out, weights) in out.chunks_exact_mut(size).zip(weights.chunks_exact(tokens)) {
                let weight = weights[token];
                for (out, value) in out.iter_mut().zip(row) {
                    *out += weight * value;
                }
            }
            (place, token) = (place + 1, token + 1);
        }
    }
}

/// Σ a·b; the lanes are added in a tree, which takes a third of the time that one after the other does.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let ((a, rest_a), (b, rest_b)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            lanes[i] += a[i] * b[i];
        }
    }
    for (lane, (a, b)) in lanes.iter_mut().zip(rest_a.iter().zip(rest_b)) {
        *lane += a * b;
    }
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}
