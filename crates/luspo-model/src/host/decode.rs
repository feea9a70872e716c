//! Attention of one query a row over a cache in host memory, and the ways into that cache and out of it.
//!
//! Values lie row by row, `[places, kv_heads · head_dim]`. Keys lie in blocks of 32 places, `[blocks, kv_heads, head_dim,
//! 32]`: the scores of 32 keys are then sums of whole vectors, none of which has to be added up across.

use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;

use super::View;
use super::exp::{LANES, exp, max, sum_of};
use super::wide::{Work, in_wide_code, multiply_add};
use crate::tape::Heads;

/// Query heads of a key head that are worked on together, so that keys and values are fetched once for all of them.
const TOGETHER: usize = 4;

/// Places of a block of keys. (The compiler makes vectors of loops of 32 steps, and takes those of 16 apart.)
const BLOCK: usize = 2 * LANES;

/// Room for the keys of so many places.
pub(crate) fn keys(places: usize, heads: Heads) -> Vec<f32> {
    vec![0.0; places.div_ceil(BLOCK) * BLOCK * heads.kv_heads * heads.head_dim]
}

/// Where the block of a place begins for a key head.
#[inline(always)]
fn block(place: usize, kv_head: usize, heads: Heads) -> usize {
    (place / BLOCK * heads.kv_heads + kv_head) * heads.head_dim * BLOCK
}

/// Writes keys, `[rows, kv_heads · head_dim]`, at these places of `all`.
pub(crate) fn write_keys(rows: &Tensor<2>, places: &[usize], heads: Heads, all: &mut [f32]) {
    let rows = View::in_f32(rows);
    for (row, place) in rows.as_slice().chunks_exact(heads.kv_heads * heads.head_dim).zip(places) {
        for (kv_head, key) in row.chunks_exact(heads.head_dim).enumerate() {
            let lanes = all[block(*place, kv_head, heads) + place % BLOCK..].iter_mut().step_by(BLOCK);
            key.iter().zip(lanes).for_each(|(key, lane)| *lane = *key);
        }
    }
}

/// Writes values, `[rows, kv_heads · head_dim]`, at these places of `all`.
pub(crate) fn write_values(rows: &Tensor<2>, places: &[usize], all: &mut [f32]) {
    let [_, width] = rows.dims();
    let rows = View::in_f32(rows);
    for (row, place) in rows.as_slice().chunks_exact(width).zip(places) {
        all[place * width..(place + 1) * width].copy_from_slice(row);
    }
}

/// The keys at these places, `[places, kv_heads · head_dim]`.
pub(crate) fn read_keys(all: &[f32], places: &[usize], heads: Heads, device: &Device) -> Tensor<2> {
    let width = heads.kv_heads * heads.head_dim;
    let mut rows: Vec<f32> = Vec::with_capacity(places.len() * width);
    for place in places {
        for kv_head in 0..heads.kv_heads {
            let lanes = all[block(*place, kv_head, heads) + place % BLOCK..].iter().step_by(BLOCK);
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

/// `softmax(q kᵀ / √head_dim) v` of one query a row, `[rows, heads · head_dim]`. A row's keys and values are those at the
/// places of its runs. What a row gets does not depend on the others.
pub(crate) fn attend_in_place(
    queries: &Tensor<2>,
    keys: &[f32],
    values: &[f32],
    runs: &[[Range<usize>; 2]],
    heads: Heads,
) -> Tensor<2> {
    let (shape, device) = (queries.dims(), queries.device());
    let Heads { kv_heads, group, head_dim } = heads;
    let mut out = vec![0f32; shape[0] * shape[1]];
    let queries = View::in_f32(queries);
    let queries = queries.as_slice();
    // A piece is the query heads of one key head of one row.
    let pieces = out.par_chunks_mut(group * head_dim).zip(queries.par_chunks(group * head_dim)).enumerate();
    pieces.for_each_init(Vec::new, |weights, (piece, (out, queries))| {
        let (row, kv_head) = (piece / kv_heads, piece % kv_heads);
        let piece = Piece { keys, values, runs: &runs[row], heads, kv_head };
        for (queries, out) in queries.chunks(TOGETHER * head_dim).zip(out.chunks_mut(TOGETHER * head_dim)) {
            match queries.len() / head_dim {
                1 => in_wide_code(Attend::<1> { piece: &piece, queries, weights, out }),
                2 => in_wide_code(Attend::<2> { piece: &piece, queries, weights, out }),
                3 => in_wide_code(Attend::<3> { piece: &piece, queries, weights, out }),
                _ => in_wide_code(Attend::<TOGETHER> { piece: &piece, queries, weights, out }),
            }
        }
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

/// The attention of `N` query heads. `weights` is memory alone.
struct Attend<'a, const N: usize> {
    piece: &'a Piece<'a>,
    queries: &'a [f32],
    weights: &'a mut Vec<f32>,
    out: &'a mut [f32],
}

impl<const N: usize> Work for Attend<'_, N> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        self.piece.attend::<N, FUSED>(self.queries, self.weights, self.out);
    }
}

impl Piece<'_> {
    #[inline(always)]
    fn attend<const N: usize, const FUSED: bool>(&self, queries: &[f32], weights: &mut Vec<f32>, out: &mut [f32]) {
        let tokens = self.runs[0].len() + self.runs[1].len();
        weights.resize(N * tokens + N * BLOCK, 0.0);
        let (weights, scratch) = weights.split_at_mut(N * tokens);
        let mut before = 0;
        for run in self.runs {
            self.scores::<N, FUSED>(queries, run, weights, scratch, before);
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
        self.mix::<N, FUSED>(weights, tokens, out);
    }

    /// The scores of a run's keys, into the columns of `[N, tokens]` from `before` on. `scratch` is memory alone: sums that
    /// were cut to a run's part of a block would not stay in registers.
    #[inline(always)]
    fn scores<const N: usize, const FUSED: bool>(
        &self,
        queries: &[f32],
        run: &Range<usize>,
        scores: &mut [f32],
        scratch: &mut [f32],
        before: usize,
    ) {
        let tokens = scores.len() / N;
        let mut place = run.start;
        while place < run.end {
            let first = place / BLOCK * BLOCK;
            let sums = self.block_scores::<N, FUSED>(queries, place);
            for (scratch, sums) in scratch.as_chunks_mut::<BLOCK>().0.iter_mut().zip(&sums) {
                *scratch = *sums;
            }
            // The block may begin before the run and end behind it.
            let end = run.end.min(first + BLOCK);
            for (n, sums) in scratch.chunks_exact(BLOCK).enumerate() {
                let at = n * tokens + before + place - run.start;
                scores[at..at + end - place].copy_from_slice(&sums[place - first..end - first]);
            }
            place = end;
        }
    }

    /// The scores of all keys in the block of a place.
    #[inline(always)]
    fn block_scores<const N: usize, const FUSED: bool>(&self, queries: &[f32], place: usize) -> [[f32; BLOCK]; N] {
        let size = self.heads.head_dim;
        let block = &self.keys[block(place, self.kv_head, self.heads)..][..size * BLOCK];
        let mut sums = [[0f32; BLOCK]; N];
        for (along, keys) in block.as_chunks::<BLOCK>().0.iter().enumerate() {
            for (n, sums) in sums.iter_mut().enumerate() {
                let query = queries[n * size + along];
                for (sum, key) in sums.iter_mut().zip(keys) {
                    *sum = multiply_add::<FUSED>(query, *key, *sum);
                }
            }
        }
        sums
    }

    /// Σ weight · value, `[N, head_dim]`, two vectors of each value at a time.
    #[inline(always)]
    fn mix<const N: usize, const FUSED: bool>(&self, weights: &[f32], tokens: usize, out: &mut [f32]) {
        let head_dim = self.heads.head_dim;
        let mut from = 0;
        while from + 2 * LANES <= head_dim {
            let sums = self.weighted::<N, { 2 * LANES }, FUSED>(weights, tokens, from);
            for (n, sums) in sums.iter().enumerate() {
                out[n * head_dim + from..][..2 * LANES].copy_from_slice(sums);
            }
            from += 2 * LANES;
        }
        while from < head_dim {
            // What a narrow head has no numbers for counts as 0.
            let width = (head_dim - from).min(LANES);
            let sums = self.weighted::<N, LANES, FUSED>(weights, tokens, from);
            for (n, sums) in sums.iter().enumerate() {
                out[n * head_dim + from..][..width].copy_from_slice(&sums[..width]);
            }
            from += LANES;
        }
    }

    /// `W` columns of [`mix`](Self::mix).
    #[inline(always)]
    fn weighted<const N: usize, const W: usize, const FUSED: bool>(
        &self,
        weights: &[f32],
        tokens: usize,
        from: usize,
    ) -> [[f32; W]; N] {
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
                        *sum = multiply_add::<FUSED>(weight, *value, *sum);
                    }
                }
                token += 1;
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Backend;

    /// Numbers between −1 and 1.
    fn numbers(len: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    #[test]
    fn attention_over_the_cache_is_that_of_the_equation() {
        let device = Backend::Flex.device().unwrap();
        let places = 150;
        for (kv_heads, group, head_dim) in [(2, 4, 32), (1, 7, 64), (3, 1, 6), (2, 3, 24), (1, 2, 128), (2, 5, 40)] {
            let heads = Heads { kv_heads, group, head_dim };
            let (width, kv_width) = (heads.width(), kv_heads * head_dim);
            // Runs that begin and end anywhere in a block, and one that is empty.
            let runs = [[0..0, 3..4], [10..74, 75..75], [31..33, 64..150], [0..32, 40..41], [5..5, 0..150]];
            let [key_rows, value_rows] = [1, 2].map(|seed| numbers(places * kv_width, seed));
            let queries = numbers(runs.len() * width, 3);
            let tensor = |values: &[f32], size| {
                Tensor::<2>::from_data(TensorData::new(values.to_vec(), [values.len() / size, size]), &device)
            };
            let all: Vec<usize> = (0..places).collect();
            let (mut cached_keys, mut cached_values) = (keys(places, heads), vec![0.0; places * kv_width]);
            write_keys(&tensor(&key_rows, kv_width), &all, heads, &mut cached_keys);
            write_values(&tensor(&value_rows, kv_width), &all, &mut cached_values);
            let back = |tensor: Tensor<2>| tensor.into_data().try_to_vec::<f32>().unwrap();
            assert_eq!(back(read_keys(&cached_keys, &all, heads, &device)), key_rows);
            assert_eq!(back(read_values(&cached_values, &all, heads, &device)), value_rows);

            let found = attend_in_place(&tensor(&queries, width), &cached_keys, &cached_values, &runs, heads);
            let found = back(found);
            for (row, [first, second]) in runs.into_iter().enumerate() {
                let places: Vec<usize> = first.chain(second).collect();
                for head in 0..heads.count() {
                    let at = |rows: &[f32], place: usize, i: usize| {
                        f64::from(rows[place * kv_width + head / group * head_dim + i])
                    };
                    let of_head = row * width + head * head_dim;
                    let score = |place: &usize| -> f64 {
                        let dot: f64 =
                            (0..head_dim).map(|i| f64::from(queries[of_head + i]) * at(&key_rows, *place, i)).sum();
                        (dot / (head_dim as f64).sqrt()).exp()
                    };
                    let weights: Vec<f64> = places.iter().map(score).collect();
                    let total: f64 = weights.iter().sum();
                    for i in 0..head_dim {
                        let mixed = places.iter().zip(&weights).map(|(place, w)| w * at(&value_rows, *place, i));
                        let expected = mixed.sum::<f64>() / total;
                        // Sums of up to 150 numbers below 1 in f32.
                        let difference = (f64::from(found[of_head + i]) - expected).abs();
                        assert!(difference < 2e-6, "{heads:?}, row {row}, head {head}: {difference}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_gets_the_same_bits_beside_whatever_others() {
        let device = Backend::Flex.device().unwrap();
        let heads = Heads { kv_heads: 2, group: 3, head_dim: 16 };
        let (width, kv_width) = (heads.width(), 32);
        let (cached_keys, cached_values) = (numbers(keys(90, heads).len(), 4), numbers(90 * kv_width, 5));
        let queries = numbers(3 * width, 6);
        let attend = |rows: &[usize]| {
            let runs = [[0..5, 40..60], [7..7, 60..90], [33..34, 1..30]];
            let queries: Vec<f32> = rows.iter().flat_map(|row| &queries[row * width..][..width]).copied().collect();
            let queries = Tensor::from_data(TensorData::new(queries, [rows.len(), width]), &device);
            let runs: Vec<_> = rows.iter().map(|row| runs[*row].clone()).collect();
            let out = attend_in_place(&queries, &cached_keys, &cached_values, &runs, heads);
            out.into_data().try_to_vec::<f32>().unwrap()
        };
        let all = attend(&[0, 1, 2]);
        for row in 0..3 {
            assert_eq!(attend(&[row]), all[row * width..][..width]);
        }
        assert_eq!(attend(&[2, 0])[..width], all[2 * width..]);
    }
}
