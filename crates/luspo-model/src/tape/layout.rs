//! The change of layout between projections and attention.
//!
//! Projections are packed, `[tokens, heads · head_dim]`. Attention works on a part's rows, padded to one length, with the
//! `group` query heads of a key head folded into rows: `[rows, kv_heads, group · len, head_dim]`. Keys and values are
//! groups of one.

use std::ops::Range;

use burn::tensor::{Bool, Device, IndexingUpdateOp, Int, Tensor, TensorData};

use crate::batch::index;
use crate::host;

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
pub(crate) struct Places {
    /// Each row's runs of tokens, one after the other.
    pub(crate) rows: Vec<[Range<usize>; 2]>,
    /// Tokens of the longest row.
    pub(crate) len: usize,
    indices: Option<Indices>,
}

/// The same as tensors, for backends whose memory is not the host's.
struct Indices {
    /// The token at each place of `[rows · len]`; any token in the padding.
    tokens: Tensor<1, Int>,
    padding: Option<Padding>,
}

struct Padding {
    /// True where there is no token, `[rows · len, 1]`.
    mask: Tensor<2, Bool>,
    /// The places with a token, and the token of each.
    filled: Tensor<1, Int>,
    tokens: Tensor<1, Int>,
}

impl Places {
    /// `on` is absent where the host's own loops do the work.
    pub(crate) fn new(rows: Vec<[Range<usize>; 2]>, on: Option<&Device>) -> Self {
        let len = rows.iter().map(|runs| runs.iter().map(Range::len).sum()).max().unwrap_or(0);
        let indices = on.map(|device| Indices::new(&rows, len, device));
        Self { rows, len, indices }
    }

    /// `[tokens, heads · head_dim]` → `[rows, kv_heads, group · len, head_dim]`, 0 in the padding.
    pub(crate) fn fold(&self, flat: &mut Tensor<2>, heads: Heads) -> Tensor<4> {
        let Some(indices) = &self.indices else { return host::fold(self, flat, heads) };
        let Heads { kv_heads, group, head_dim } = heads;
        let mut rows = flat.clone().select(0, indices.tokens.clone());
        if let Some(Padding { mask, .. }) = &indices.padding {
            rows = rows.mask_fill(mask.clone().expand([self.rows.len() * self.len, heads.width()]), 0.0);
        }
        let rows = rows.reshape([self.rows.len(), self.len, kv_heads, group, head_dim]).permute([0, 2, 3, 1, 4]);
        rows.reshape([self.rows.len(), kv_heads, group * self.len, head_dim])
    }

    /// The way back: adds `[rows, kv_heads, group · len, head_dim]` to `[tokens, heads · head_dim]`, but for what stands
    /// in the padding.
    pub(crate) fn unfold(&self, folded: Tensor<4>, heads: Heads, into: &mut Tensor<2>) {
        let Some(indices) = &self.indices else { return host::unfold(self, folded, heads, into) };
        let Heads { kv_heads, group, head_dim } = heads;
        let rows = folded.reshape([self.rows.len(), kv_heads, group, self.len, head_dim]).permute([0, 3, 1, 2, 4]);
        let rows = rows.reshape([self.rows.len() * self.len, heads.width()]).cast(into.dtype());
        let (rows, tokens) = match &indices.padding {
            None => (rows, indices.tokens.clone()),
            Some(Padding { filled, tokens, .. }) => (rows.select(0, filled.clone()), tokens.clone()),
        };
        into.inplace(|into| into.select_assign(0, tokens, rows, IndexingUpdateOp::Add));
    }
}

impl Indices {
    fn new(rows: &[[Range<usize>; 2]], len: usize, device: &Device) -> Self {
        let (mut tokens, mut filled) = (vec![0; rows.len() * len], Vec::new());
        for (row, [first, second]) in rows.iter().enumerate() {
            for (place, token) in (row * len..).zip(first.clone().chain(second.clone())) {
                tokens[place] = token as i64;
                filled.push(place);
            }
        }
        let padding = (filled.len() < tokens.len()).then(|| {
            let mut mask = vec![true; tokens.len()];
            filled.iter().for_each(|place| mask[*place] = false);
            Padding {
                mask: Tensor::from_data(TensorData::new(mask, [tokens.len(), 1]), device),
                tokens: index(filled.iter().map(|place| tokens[*place]).collect(), device),
                filled: index(filled.iter().map(|place| *place as i64).collect(), device),
            }
        });
        Self { tokens: index(tokens, device), padding }
    }
}
