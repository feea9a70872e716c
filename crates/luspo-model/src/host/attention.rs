//! Causal attention over packed tokens, a block of queries of one head at a time, whose scores stay in a core's own cache.
//! Nothing of the size of the scores is kept or moved; the backward pass computes the weights again. The equations are
//! those of [`attention`](crate::tape) and [`softmax`](crate::tape).

use std::mem::MaybeUninit;
use std::ops::Range;

use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use super::exp::{dot, exp, max, sum_of};
use super::product::{Matrix, Threads, product_into};
use super::room::{written, zeros};
use super::{ROWS, View, vectorised};
use crate::batch::Span;
use crate::tape::Heads;

/// Queries whose scores of one head exist at once on each thread.
pub(crate) const QUERIES: usize = 64;

/// Who looks at whom.
pub(crate) struct HostAttention {
    groups: Vec<Group>,
    heads: Heads,
    queries: usize,
}

/// Spans that look at nothing but each other: a row, or the rows that share a prompt.
struct Group {
    spans: Vec<Span>,
    tokens: Range<usize>,
}

/// One piece of parallel work: a key head of a group, and the query heads that look at it.
struct Piece<'a> {
    group: &'a Group,
    heads: Heads,
    /// Queries at a time.
    queries: usize,
    kv_head: usize,
}

/// Some queries of one span, and the keys that the last of them sees.
struct Block {
    queries: Range<usize>,
    keys: [Range<usize>; 2],
    /// How many keys the first query sees.
    seen: usize,
}

impl HostAttention {
    /// `chunk` is the most queries of a row whose scores may exist at once.
    pub(crate) fn new(spans: &[Span], heads: Heads, chunk: usize) -> Self {
        let mut groups: Vec<Group> = Vec::new();
        for span in spans {
            match groups.last_mut().filter(|_| !span.prefix.is_empty()) {
                Some(group) => {
                    group.tokens.end = span.own.end;
                    group.spans.push(span.clone());
                }
                None => groups.push(Group { spans: vec![span.clone()], tokens: span.own.clone() }),
            }
        }
        Self { groups, heads, queries: chunk.min(QUERIES) }
    }

    fn pieces(&self) -> impl IndexedParallelIterator<Item = Piece<'_>> {
        let kv_heads = self.heads.kv_heads;
        (0..self.groups.len() * kv_heads).into_par_iter().map(move |index| Piece {
            group: &self.groups[index / kv_heads],
            heads: self.heads,
            queries: self.queries,
            kv_head: index % kv_heads,
        })
    }

    /// The output, `[tokens, heads · head_dim]`, from queries of that shape, keys and values
    /// `[tokens, kv_heads · head_dim]`.
    pub(crate) fn forward(&self, [queries, keys, values]: [&Tensor<2>; 3]) -> Tensor<2> {
        let (shape, device) = (queries.dims(), queries.device());
        let [queries, keys, values] = [queries, keys, values].map(View::of);
        let inputs = [queries.as_slice(), keys.as_slice(), values.as_slice()];
        let pieces: Vec<Vec<f32>> = self.pieces().map(|piece| piece.forward(inputs)).collect();
        let output = self.gathered(&pieces, shape, self.heads.group * self.heads.head_dim);
        Tensor::from_data(TensorData::new(output, shape), &device)
    }

    /// The gradients of queries, keys and values from that of the output.
    pub(crate) fn backward(&self, inputs: [&Tensor<2>; 3], d_output: &Tensor<2>) -> [Tensor<2>; 3] {
        let (shapes, device) = (inputs.map(|input| input.dims()), d_output.device());
        let ([queries, keys, values], d_output) = (inputs.map(View::of), View::of(d_output));
        let inputs = [queries.as_slice(), keys.as_slice(), values.as_slice()];
        let pieces: Vec<[Vec<f32>; 3]> =
            self.pieces().map(|piece| piece.backward(inputs, d_output.as_slice())).collect();
        let mut gradients = [Vec::new(), Vec::new(), Vec::new()];
        for piece in pieces {
            gradients.iter_mut().zip(piece).for_each(|(all, one)| all.push(one));
        }
        let [d_queries, d_keys, d_values] = gradients;
        let head_dim = self.heads.head_dim;
        let widths = [self.heads.group * head_dim, head_dim, head_dim];
        let mut widths = widths.into_iter().zip(shapes);
        [d_queries, d_keys, d_values].map(|pieces| {
            let (width, shape) = widths.next().expect("three widths");
            Tensor::from_data(TensorData::new(self.gathered(&pieces, shape, width), shape), &device)
        })
    }

    /// All pieces' columns side by side, each `width` wide; tokens of no group have zeros.
    fn gathered(&self, pieces: &[Vec<f32>], [tokens, all]: [usize; 2], width: usize) -> Vec<f32> {
        let kv_heads = self.heads.kv_heads;
        let mut group_of = vec![usize::MAX; tokens];
        for (index, group) in self.groups.iter().enumerate() {
            group_of[group.tokens.clone()].fill(index);
        }
        let write = |out: &mut [MaybeUninit<f32>]| {
            out.par_chunks_mut(ROWS * all).enumerate().for_each(|(piece, rows)| {
                for (token, row) in (piece * ROWS..).zip(rows.chunks_exact_mut(all)) {
                    let Some(group) = self.groups.get(group_of[token]) else {
                        row.fill(MaybeUninit::new(0.0));
                        continue;
                    };
                    let at = (token - group.tokens.start) * width;
                    for (kv_head, part) in row.chunks_exact_mut(width).enumerate() {
                        part.write_copy_of_slice(&pieces[group_of[token] * kv_heads + kv_head][at..at + width]);
                    }
                }
            });
        };
        // SAFETY: a row is filled with zeros, or with the parts of all key heads, which make up its width.
        unsafe { written(tokens * all, write) }
    }
}

impl Piece<'_> {
    fn scale(&self) -> f32 {
        (self.heads.head_dim as f32).sqrt().recip()
    }

    fn blocks(&self) -> impl Iterator<Item = Block> + '_ {
        let most = self.queries;
        self.group.spans.iter().flat_map(move |Span { prefix, own }| {
            own.clone().step_by(most).map(move |start| {
                let end = own.end.min(start + most);
                let seen = prefix.len() + start - own.start + 1;
                Block { queries: start..end, keys: [prefix.clone(), own.start..end], seen }
            })
        })
    }

    /// Room for the scores of the longest block.
    fn scores(&self) -> Vec<f32> {
        zeros(self.blocks().map(|block| block.queries.len() * block.keys()).max().unwrap_or(0))
    }

    /// Some tokens of the query head `head` of this group, of the queries or of the output.
    fn of_queries<'m>(&self, all: &'m [f32], tokens: &Range<usize>, head: usize) -> Matrix<'m> {
        let (width, head_dim) = (self.heads.width(), self.heads.head_dim);
        let column = (self.kv_head * self.heads.group + head) * head_dim;
        Matrix::columns(&all[tokens.start * width + column..], [tokens.len(), head_dim], width)
    }

    /// Some tokens of this key head, of the keys or of the values.
    fn of_keys<'m>(&self, all: &'m [f32], tokens: &Range<usize>) -> Matrix<'m> {
        let Heads { kv_heads, head_dim, .. } = self.heads;
        let from = (tokens.start * kv_heads + self.kv_head) * head_dim;
        Matrix::columns(&all[from..], [tokens.len(), head_dim], kv_heads * head_dim)
    }

    /// The runs of a block's keys, and the first column of each among its scores.
    fn runs<'b>(&self, block: &'b Block) -> impl Iterator<Item = (&'b Range<usize>, usize)> {
        let [first, second] = &block.keys;
        [(first, 0), (second, first.len())].into_iter().filter(|(run, _)| !run.is_empty())
    }

    /// `left · keysᵀ` into `scores`, `[queries, keys]`.
    fn against_keys(&self, scores: &mut [f32], block: &Block, left: Matrix, keys: &[f32]) {
        for (run, column) in self.runs(block) {
            let right = self.of_keys(keys, run).t();
            product_into(&mut scores[column..], block.keys(), false, left, right, Threads::One);
        }
    }

    /// `scores · keys`, in rows that are `stride` apart.
    fn times_keys(&self, out: &mut [f32], stride: usize, block: &Block, scores: &[f32], keys: &[f32]) {
        for (index, (run, column)) in self.runs(block).enumerate() {
            let left = Matrix::columns(&scores[column..], [block.queries.len(), run.len()], block.keys());
            product_into(out, stride, index > 0, left, self.of_keys(keys, run), Threads::One);
        }
    }

    /// Adds `scoresᵀ · right` to the block's keys in `sum`, `[tokens of the group, head_dim]`.
    fn add_to_keys(&self, sum: &mut [f32], block: &Block, scores: &[f32], right: Matrix) {
        let head_dim = self.heads.head_dim;
        for (run, column) in self.runs(block) {
            let left = Matrix::columns(&scores[column..], [block.queries.len(), run.len()], block.keys()).t();
            let at = (run.start - self.group.tokens.start) * head_dim;
            product_into(&mut sum[at..], head_dim, true, left, right, Threads::One);
        }
    }

    /// The weights of a block for one query head.
    fn weights(&self, weights: &mut [f32], block: &Block, head: usize, queries: &[f32], keys: &[f32]) {
        self.against_keys(weights, block, self.of_queries(queries, &block.queries, head), keys);
        softmax(weights, block, self.scale());
    }

    /// `[tokens of the group, group · head_dim]`
    fn forward(&self, [queries, keys, values]: [&[f32]; 3]) -> Vec<f32> {
        let Heads { group, head_dim, .. } = self.heads;
        let stride = group * head_dim;
        let mut out = zeros(self.group.tokens.len() * stride);
        let mut weights = self.scores();
        for block in self.blocks() {
            let weights = &mut weights[..block.queries.len() * block.keys()];
            for head in 0..group {
                self.weights(weights, &block, head, queries, keys);
                let at = (block.queries.start - self.group.tokens.start) * stride + head * head_dim;
                self.times_keys(&mut out[at..], stride, &block, weights, values);
            }
        }
        out
    }

    /// The gradients of queries, `[tokens of the group, group · head_dim]`, keys and values,
    /// `[tokens of the group, head_dim]`.
    fn backward(&self, [queries, keys, values]: [&[f32]; 3], d_output: &[f32]) -> [Vec<f32>; 3] {
        let Heads { group, head_dim, .. } = self.heads;
        let (tokens, stride) = (self.group.tokens.len(), group * head_dim);
        let mut d_queries = zeros(tokens * stride);
        let (mut d_keys, mut d_values) = (zeros(tokens * head_dim), zeros(tokens * head_dim));
        let (mut weights, mut d_scores) = (self.scores(), self.scores());
        for block in self.blocks() {
            let len = block.queries.len() * block.keys();
            let (weights, d_scores) = (&mut weights[..len], &mut d_scores[..len]);
            for head in 0..group {
                let of_head = |all| self.of_queries(all, &block.queries, head);
                self.weights(weights, &block, head, queries, keys);
                self.add_to_keys(&mut d_values, &block, weights, of_head(d_output));

                self.against_keys(d_scores, &block, of_head(d_output), values); // of the weights
                softmax_backward(d_scores, weights, &block, self.scale());
                self.add_to_keys(&mut d_keys, &block, d_scores, of_head(queries));
                let at = (block.queries.start - self.group.tokens.start) * stride + head * head_dim;
                self.times_keys(&mut d_queries[at..], stride, &block, d_scores, keys);
            }
        }
        [d_queries, d_keys, d_values]
    }
}

impl Block {
    fn keys(&self) -> usize {
        self.keys.iter().map(Range::len).sum()
    }
}

/// Scores become weights.
fn softmax(scores: &mut [f32], block: &Block, scale: f32) {
    vectorised(|| {
        for (query, scores) in scores.chunks_exact_mut(block.keys()).enumerate() {
            let (seen, unseen) = scores.split_at_mut(block.seen + query);
            let highest = max(seen);
            let total = sum_of(seen, |score| {
                *score = exp((*score - highest) * scale);
                *score
            });
            let share = (1.0 / total) as f32;
            seen.iter_mut().for_each(|weight| *weight *= share);
            unseen.fill(0.0);
        }
    });
}

/// The weights' gradient becomes that of the scores before they are scaled.
fn softmax_backward(gradient: &mut [f32], weights: &[f32], block: &Block, scale: f32) {
    vectorised(|| {
        let rows = gradient.chunks_exact_mut(block.keys()).zip(weights.chunks_exact(block.keys()));
        for (query, (gradient, weights)) in rows.enumerate() {
            let (seen, unseen) = gradient.split_at_mut(block.seen + query);
            let along = dot(seen, &weights[..seen.len()]);
            for (gradient, weight) in seen.iter_mut().zip(weights) {
                *gradient = weight * (*gradient - along) * scale;
            }
            unseen.fill(0.0);
        }
    });
}
