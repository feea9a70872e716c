//! Reading one token of each of some sequences.

use std::ops::Range;

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::{Angles, KeysValues, KvCache, Sequence, indices};
use crate::attention::{MASKED, attend};
use crate::host;
use crate::modeling::Qwen2ForCausalLM;
use crate::tape::{Fed, Heads};

/// Where each row's tokens are, the new one included: the same in every block.
struct Rows {
    runs: Vec<[Range<usize>; 2]>,
    /// Where the new tokens go, and their positions.
    places: Vec<usize>,
    positions: Vec<usize>,
    /// The positions as a tensor, where tensor operations turn.
    index: Option<Tensor<1, Int>>,
    on_device: Option<OnDevice>,
}

/// The same as tensors.
struct OnDevice {
    /// `[rows, 1]`
    places: Tensor<2, Int>,
    /// Every token of every row, padded to the longest, `[rows · longest]`.
    tokens: Tensor<1, Int>,
    longest: usize,
    /// What masks the padding, `[rows, 1, group, longest]`.
    bias: Option<Tensor<4>>,
}

impl Qwen2ForCausalLM {
    /// Reads one more token of each sequence: its hidden state, `[sequences, hidden]`. Works without a graph on either
    /// view.
    ///
    /// Where the cache is in host memory, attention reads the filled places and nothing else, where they are.
    ///
    /// # Panics
    /// On no sequence, or one without room.
    pub fn decode(&self, tokens: &[(Sequence, u32)], cache: &mut KvCache) -> Tensor<2> {
        assert!(!tokens.is_empty(), "decode needs a sequence");
        self.on_plain(|model| model.read_one(tokens, cache))
    }

    fn read_one(&self, tokens: &[(Sequence, u32)], cache: &mut KvCache) -> Tensor<2> {
        let rows = Rows::new(tokens, cache);
        let (heads, rotary) = (cache.heads, &cache.rotary);
        let at = rows.on_device.as_ref().map(|on_device| &on_device.places);
        let ids = indices(tokens.iter().map(|(_, id)| *id as usize), &cache.device);
        let mut x = self.model.embed(ids);
        for (layer, cached) in self.model.layers.iter().zip(&mut cache.layers) {
            let attention = &layer.self_attn;
            let turn = |x| rotary.turn(x, &rows.positions, rows.index.as_ref(), heads.head_dim);
            let normed = layer.input_layernorm.of_tokens(&x);
            let queries = turn(attention.q_proj.forward(normed.clone()));
            let keys = turn(attention.k_proj.forward(normed.clone()));
            let values = attention.v_proj.forward(normed);
            cached.write(&rows.places, at, heads, [&keys, &values]);
            x = x + attention.o_proj.forward(rows.attend(cached, queries, heads));
            x = Fed::new(layer, x).output(layer);
        }
        self.model.norm.of_tokens(&x)
    }
}

impl Rows {
    fn new(tokens: &[(Sequence, u32)], cache: &mut KvCache) -> Self {
        let (mut runs, mut places, mut positions) = (Vec::new(), Vec::new(), Vec::new());
        for (sequence, _) in tokens {
            let (now, position) = cache.extend(*sequence, 1);
            places.push(now[1].end - 1);
            positions.push(position);
            runs.push(now);
        }
        let turned_on_device = matches!(cache.rotary.angles, Angles::Device(_));
        let index = turned_on_device.then(|| indices(positions.iter().copied(), &cache.device));
        let on_device = match cache.layers[0] {
            KeysValues::Host { .. } => None,
            KeysValues::Device { .. } => Some(OnDevice::new(&runs, &places, &positions, cache)),
        };
        Self { runs, places, positions, index, on_device }
    }

    /// `[rows, heads · head_dim]`, of queries of the same shape.
    fn attend(&self, cached: &KeysValues, queries: Tensor<2>, heads: Heads) -> Tensor<2> {
        match (cached, &self.on_device) {
            (KeysValues::Host { keys, values }, _) => {
                let dtype = queries.dtype();
                host::attend_in_place(&queries, keys, values, &self.runs, heads).cast(dtype)
            }
            (KeysValues::Device { keys, values }, Some(on_device)) => on_device.attend(keys, values, queries, heads),
            (KeysValues::Device { .. }, None) => unreachable!("a device is handed the rows as tensors"),
        }
    }
}

impl OnDevice {
    fn new(runs: &[[Range<usize>; 2]], places: &[usize], positions: &[usize], cache: &KvCache) -> Self {
        let device: &Device = &cache.device;
        let lengths = || positions.iter().map(|position| position + 1);
        let longest = lengths().max().unwrap_or(0);
        let mut tokens = Vec::with_capacity(runs.len() * longest);
        for (row, [shared, own]) in runs.iter().enumerate() {
            tokens.extend(shared.clone().chain(own.clone()));
            // Some place that holds a number; masked.
            tokens.resize((row + 1) * longest, own.start);
        }
        let bias = lengths().any(|len| len < longest).then(|| {
            let row = |len| (0..longest).map(move |place| if place < len { 0.0 } else { MASKED });
            let bias: Vec<f32> = lengths().flat_map(row).collect();
            let bias = Tensor::<4>::from_data(TensorData::new(bias, [runs.len(), 1, 1, longest]), device);
            bias.expand([runs.len(), 1, cache.heads.group, longest])
        });
        Self {
            places: indices(places.iter().copied(), device).reshape([places.len(), 1]),
            tokens: indices(tokens, device),
            longest,
            bias,
        }
    }

    fn attend(&self, keys: &Tensor<2>, values: &Tensor<2>, queries: Tensor<2>, heads: Heads) -> Tensor<2> {
        let [rows, _] = queries.dims();
        let Heads { kv_heads, group, head_dim } = heads;
        let of_rows = |all: &Tensor<2>| {
            let all = all.clone().select(0, self.tokens.clone());
            all.reshape([rows, self.longest, kv_heads, head_dim]).swap_dims(1, 2)
        };
        let queries = queries.reshape([rows, kv_heads, group, head_dim]);
        attend(queries, of_rows(keys), of_rows(values), self.bias.clone()).reshape([rows, heads.width()])
    }
}
