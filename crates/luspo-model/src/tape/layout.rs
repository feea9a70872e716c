//! The change of layout between projections and attention.
//!
//! Projections are packed, `[tokens, heads · head_dim]`. Attention works on a part's rows, padded to one length, with the
//! `group` query heads of a key head folded into rows: `[rows, kv_heads, group · len, head_dim]`. Keys and values are
//! groups of one.

use std::collections::HashMap;
use std::ops::Range;

use burn::tensor::{Bool, Device, IndexingUpdateOp, Int, Tensor, TensorData};

use crate::batch::index;

/// The heads of queries, or, with a group of 1, of keys and values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pub(crate) kv_heads: usize,
    pub(crate) group: usize,
    pub(crate) head_dim: usize,
}

impl Heads {
    pub(crate) fn count(&self) -> usize {
        self.kv_heads * self.group
    }

    pub(crate) fn width(&self) -> usize {
        self.count() * self.head_dim
    }
}

/// Where the tokens of a part's rows stand among all tokens.
pub(super) struct Places {
    rows: usize,
    /// Tokens of the longest row.
    pub(super) len: usize,
    /// The token at each place of `[rows · len]`; any token in the padding.
    tokens: Tensor<1, Int>,
    /// True where there is no token, `[rows · len, 1]`; absent where every place has one.
    padding: Option<Tensor<2, Bool>>,
    turns: Vec<Turn>,
}

/// Places whose tokens are all different. Such rows are added all at once; of rows that may be the same GPUs add one after
/// the other, and most of the device waits.
struct Turn {
    places: Tensor<1, Int>,
    /// The token of each, `[places, 1]`.
    tokens: Tensor<2, Int>,
}

impl Places {
    /// Of rows that each have two runs of tokens, one after the other.
    pub(super) fn new(rows: &[[Range<usize>; 2]], device: &Device) -> Self {
        let len = rows.iter().map(|runs| runs.iter().map(Range::len).sum()).max().unwrap_or(0);
        let (mut tokens, mut padding) = (vec![0; rows.len() * len], vec![true; rows.len() * len]);
        // A token's first place is in the first turn, its second in the second.
        let (mut turns, mut met) = (Vec::<(Vec<i64>, Vec<i64>)>::new(), HashMap::<usize, usize>::new());
        for (row, [first, second]) in rows.iter().enumerate() {
            for (place, token) in (row * len..).zip(first.clone().chain(second.clone())) {
                (tokens[place], padding[place]) = (token as i64, false);
                let turn = met.entry(token).or_default();
                if *turn == turns.len() {
                    turns.push((Vec::new(), Vec::new()));
                }
                turns[*turn].0.push(place as i64);
                turns[*turn].1.push(token as i64);
                *turn += 1;
            }
        }
        let shape = [padding.len(), 1];
        let padding =
            padding.contains(&true).then(|| Tensor::from_data(TensorData::new(padding.clone(), shape), device));
        let turns = turns.into_iter().map(|(places, tokens)| {
            let shape = [tokens.len(), 1];
            Turn { places: index(places, device), tokens: Tensor::from_data(TensorData::new(tokens, shape), device) }
        });
        Self { rows: rows.len(), len, tokens: index(tokens, device), padding, turns: turns.collect() }
    }

    /// `[tokens, heads · head_dim]` → `[rows, kv_heads, group · len, head_dim]`, 0 in the padding.
    pub(super) fn fold(&self, flat: &Tensor<2>, heads: Heads) -> Tensor<4> {
        let Heads { kv_heads, group, head_dim } = heads;
        let mut rows = flat.clone().select(0, self.tokens.clone());
        if let Some(padding) = &self.padding {
            rows = rows.mask_fill(padding.clone().expand([self.rows * self.len, heads.width()]), 0.0);
        }
        let rows = rows.reshape([self.rows, self.len, kv_heads, group, head_dim]).permute([0, 2, 3, 1, 4]);
        rows.reshape([self.rows, kv_heads, group * self.len, head_dim])
    }

    /// The way back: adds `[rows, kv_heads, group · len, head_dim]` to `[tokens, heads · head_dim]`, but for what stands
    /// in the padding.
    pub(super) fn unfold(&self, folded: Tensor<4>, heads: Heads, into: &mut Tensor<2>) {
        let Heads { kv_heads, group, head_dim } = heads;
        let rows = folded.reshape([self.rows, kv_heads, group, self.len, head_dim]).permute([0, 3, 1, 2, 4]);
        let rows = rows.reshape([self.rows * self.len, heads.width()]).cast(into.dtype());
        for Turn { places, tokens } in &self.turns {
            let rows = rows.clone().select(0, places.clone());
            into.inplace(|into| into.scatter_nd(tokens.clone(), rows, IndexingUpdateOp::Add));
        }
    }
}
