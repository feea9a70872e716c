//! Sampling with a cache of keys and values.

use burn::tensor::{Device, Int, Tensor, TensorData, s};

use crate::attention::{MASKED, Projected, attend};
use crate::modeling::Qwen2ForCausalLM;
use crate::rope::Rope;

mod join;

/// Keys and values of the tokens so far.
///
/// Rows share one length: shorter prompts are padded on the left, so that the next token of every row has the same
/// place. Room for `capacity` tokens a row is taken at once and written in place.
#[derive(Clone, Debug)]
pub struct KvCache {
    /// By block.
    layers: Vec<KeysValues>,
    /// Padding on the left of each row, in tokens.
    padding: Vec<usize>,
    /// [`MASKED`] over the padding, 0 elsewhere, `[rows, 1, 1, capacity]`; absent where no row is padded.
    bias: Option<Tensor<4>>,
    /// The rotary table of positions `0..capacity`.
    rope: Rope,
    len: usize,
    capacity: usize,
}

/// Each `[rows, kv_heads, capacity, head_dim]`.
#[derive(Clone, Debug)]
struct KeysValues {
    keys: Tensor<4>,
    values: Tensor<4>,
}

impl KvCache {
    /// Tokens a row, padding included; the same for all rows.
    #[allow(clippy::len_without_is_empty)] // a cache starts with a prompt
    pub fn len(&self) -> usize {
        self.len
    }

    /// Tokens a row that it has room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.padding.len()
    }

    /// Keeps the given rows in the given order; a row may be dropped or repeated.
    ///
    /// # Panics
    /// On an empty selection or a row that is not there.
    pub fn select(&mut self, rows: &[usize]) {
        assert!(!rows.is_empty(), "a cache keeps at least one row");
        self.padding = rows.iter().map(|row| self.padding[*row]).collect();
        let index = indices(rows.iter().copied(), &self.device());
        for layer in &mut self.layers {
            layer.keys.inplace(|keys| keys.select(0, index.clone()));
            layer.values.inplace(|values| values.select(0, index.clone()));
        }
        self.bias = padding_bias(&self.padding, self.capacity, &self.device());
    }

    fn device(&self) -> Device {
        self.layers[0].keys.device()
    }

    /// What masks the padding among the first `len` keys, for `queries` rows of queries a key head.
    fn bias(&self, queries: usize) -> Option<Tensor<4>> {
        let bias = self.bias.as_ref()?;
        Some(bias.clone().slice(s![.., .., .., ..self.len]).expand([self.rows(), 1, queries, self.len]))
    }
}

impl KeysValues {
    /// Writes `[rows, kv_heads, n, head_dim]` at the tokens `from..from + n`.
    fn write(&mut self, from: usize, keys: Tensor<4>, values: Tensor<4>) {
        let [_, _, n, _] = keys.dims();
        // In place as long as nobody else holds the tensor.
        self.keys.inplace(|all| all.slice_assign(s![.., .., from..from + n, ..], keys));
        self.values.inplace(|all| all.slice_assign(s![.., .., from..from + n, ..], values));
    }

    fn until(&self, len: usize) -> (Tensor<4>, Tensor<4>) {
        let first = |all: &Tensor<4>| all.clone().slice(s![.., .., ..len, ..]);
        (first(&self.keys), first(&self.values))
    }
}

impl Qwen2ForCausalLM {
    /// Reads the prompts: the hidden state at the last token of each, `[batch, hidden]`, and a cache with room for
    /// `capacity` tokens a row, the longest prompt included. Pads itself. Works without a graph on either view.
    ///
    /// # Panics
    /// On no prompts, an empty prompt, or one longer than `capacity`.
    pub fn prefill(&self, prompts: &[&[u32]], capacity: usize) -> (Tensor<2>, KvCache) {
        let len = prompts.iter().map(|prompt| prompt.len()).max().expect("prefill needs a prompt");
        assert!(prompts.iter().all(|prompt| !prompt.is_empty()), "prefill needs at least one token a prompt");
        assert!(len <= capacity, "a prompt of {len} tokens does not fit a cache of {capacity}");
        let model = self.plain();
        let device = model.device();
        let rows = prompts.len();

        // The trunk reads rows padded on the right; the cache keeps them padded on the left. Row r's token i moves
        // from place i to place i + padding. What lands in the padding is some other key, masked for ever.
        let mut ids = Vec::with_capacity(rows * len);
        let mut moved = Vec::with_capacity(rows * len);
        for (row, prompt) in prompts.iter().enumerate() {
            let padding = len - prompt.len();
            ids.extend(prompt.iter().map(|id| i64::from(*id)).chain(std::iter::repeat_n(0, padding)));
            moved.extend((0..len).map(|place| row * len + place.saturating_sub(padding)));
        }
        let ids = Tensor::from_data(TensorData::new(ids, [rows, len]), &device);
        let padding: Vec<usize> = prompts.iter().map(|prompt| len - prompt.len()).collect();
        let aligned = padding.iter().all(|padding| *padding == 0);
        let moved = indices(moved, &device);

        let mut layers = Vec::with_capacity(model.model.layers.len());
        let last = indices(prompts.iter().enumerate().map(|(row, prompt)| row * len + prompt.len() - 1), &device);
        let hidden = model.model.forward(ids, Some(last), |keys, values| {
            let [_, kv_heads, _, head_dim] = keys.dims();
            let room = || Tensor::zeros([rows, kv_heads, capacity, head_dim], (&device, keys.dtype()));
            let align = |x: &Tensor<4>| match aligned {
                true => x.clone(),
                false => {
                    let by_token = x.clone().swap_dims(1, 2).reshape([rows * len, kv_heads * head_dim]);
                    by_token.select(0, moved.clone()).reshape([rows, len, kv_heads, head_dim]).swap_dims(1, 2)
                }
            };
            let mut layer = KeysValues { keys: room(), values: room() };
            layer.write(0, align(keys), align(values));
            layers.push(layer);
        });

        let rope = Rope::new(capacity, model.model.head_dim(), model.model.rope_theta, &device);
        let bias = padding_bias(&padding, capacity, &device);
        (hidden, KvCache { layers, padding, bias, rope, len, capacity })
    }

    /// Reads one more token a row: its hidden state, `[batch, hidden]`. Works without a graph on either view.
    ///
    /// # Panics
    /// If the cache is full, or `tokens` are not as many as its rows.
    pub fn decode(&self, tokens: &[u32], cache: &mut KvCache) -> Tensor<2> {
        assert_eq!(tokens.len(), cache.rows(), "decode needs one token a row");
        assert!(cache.len < cache.capacity, "the cache is full at {} tokens", cache.capacity);
        let model = self.plain();
        let device = model.device();
        let rows = tokens.len();

        let place = cache.len;
        let rope = cache.rope.at(indices(cache.padding.iter().map(|padding| place - padding), &device));
        cache.len += 1;
        let attention = &model.model.layers[0].self_attn;
        let bias = cache.bias(attention.heads / attention.kv_heads);

        let ids = tokens.iter().map(|id| i64::from(*id)).collect::<Vec<_>>();
        let mut x = model.model.embed_tokens.forward(Tensor::from_data(TensorData::new(ids, [rows, 1]), &device));
        for (layer, cached) in model.model.layers.iter().zip(&mut cache.layers) {
            x = layer.forward(x, &rope, |Projected { queries, keys, values }| {
                cached.write(place, keys, values);
                let (keys, values) = cached.until(place + 1);
                attend(queries, keys, values, bias.clone())
            });
        }
        model.model.norm.forward(x).squeeze_dim(1)
    }
}

fn padding_bias(padding: &[usize], capacity: usize, device: &Device) -> Option<Tensor<4>> {
    if padding.iter().all(|padding| *padding == 0) {
        return None;
    }
    let mut bias = Vec::with_capacity(padding.len() * capacity);
    for padding in padding {
        bias.extend((0..capacity).map(|place| if place < *padding { MASKED } else { 0.0 }));
    }
    Some(Tensor::from_data(TensorData::new(bias, [padding.len(), 1, 1, capacity]), device))
}

fn indices(values: impl IntoIterator<Item = usize>, device: &Device) -> Tensor<1, Int> {
    let values: Vec<i64> = values.into_iter().map(|value| value as i64).collect();
    let size = values.len();
    Tensor::from_data(TensorData::new(values, [size]), device)
}
