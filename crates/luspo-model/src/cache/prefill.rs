//! Reading many tokens of some sequences at once.

use std::ops::Range;

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::{Angles, KeysValues, KvCache, Sequence, indices};
use crate::attention::{MASKED, attend};
use crate::backend::is_host;
use crate::host;
use crate::modeling::{Qwen2DecoderLayer, Qwen2ForCausalLM};
use crate::tape::{Fed, Heads, SCORES};

/// Queries of a sequence whose attention scores exist at once.
const QUERIES: usize = 512;

/// Who reads what: the same in every block.
struct Reading {
    /// Where the new tokens go, and their positions.
    places: Vec<usize>,
    positions: Vec<usize>,
    /// The same as tensors, where tensor operations write and turn.
    at: Option<Tensor<2, Int>>,
    index: Option<Tensor<1, Int>>,
    /// Places of earlier tokens that new ones look at.
    earlier: Vec<usize>,
    parts: Vec<Part>,
    /// Where each new token's output is among the places of all parts, one after the other.
    outputs: Tensor<1, Int>,
}

/// Queries that go through attention together: some of each of several sequences, a row each. Keys are counted over the
/// earlier tokens, then the new ones.
struct Part {
    /// Which token each place of `[rows · queries]` has; any token in the padding.
    queries: Tensor<1, Int>,
    /// The same of `[rows · keys]`.
    keys: Tensor<1, Int>,
    rows: usize,
    /// What masks the keys that a query does not see, `[rows, 1, queries, keys]`.
    bias: Tensor<4>,
    /// The places that have a token, in the order of the tokens in `of`.
    places: Vec<usize>,
    of: Vec<usize>,
}

/// Some queries of one sequence.
struct Run {
    queries: Range<usize>,
    keys: [Range<usize>; 2],
    /// How many of these keys the first query sees.
    seen: usize,
}

impl Run {
    fn keys(&self) -> usize {
        self.keys.iter().map(Range::len).sum()
    }
}

impl Qwen2ForCausalLM {
    /// Reads further tokens of some sequences: the hidden state at the last new token of each, `[sequences, hidden]`.
    /// Works without a graph on either view.
    ///
    /// A long prompt may come in several parts; nothing is padded.
    ///
    /// # Panics
    /// On no sequence, no tokens of one, or more than it has room for.
    pub fn prefill(&self, chunks: &[(Sequence, &[u32])], cache: &mut KvCache) -> Tensor<2> {
        self.on_plain(|model| model.read(chunks, cache))
    }

    fn read(&self, chunks: &[(Sequence, &[u32])], cache: &mut KvCache) -> Tensor<2> {
        assert!(!chunks.is_empty(), "prefill needs a prompt");
        assert!(chunks.iter().all(|(_, tokens)| !tokens.is_empty()), "prefill needs at least one token a prompt");
        let device = self.device();
        let reading = Reading::new(chunks, cache);
        let ids = indices(chunks.iter().flat_map(|(_, tokens)| tokens.iter().map(|id| *id as usize)), &device);
        let ends = chunks.iter().scan(0, |end, (_, tokens)| {
            *end += tokens.len();
            Some(*end - 1)
        });
        let ends = indices(ends, &device);

        let mut x = self.model.embed(ids);
        for (index, layer) in self.model.layers.iter().enumerate() {
            x = reading.attend(layer, x, cache, index);
            if index + 1 == self.model.layers.len() {
                x = x.select(0, ends.clone()); // nobody looks at the others behind this
            }
            x = Fed::new(layer, x).output(layer);
        }
        self.model.norm.of_tokens(&x)
    }
}

impl Reading {
    fn new(chunks: &[(Sequence, &[u32])], cache: &mut KvCache) -> Self {
        let (mut places, mut positions, mut earlier) = (Vec::new(), Vec::new(), Vec::new());
        let mut rows = Vec::with_capacity(chunks.len());
        for (sequence, tokens) in chunks {
            let before = cache.runs(*sequence);
            let (now, position) = cache.extend(*sequence, tokens.len());
            let seen = earlier.len()..earlier.len() + position;
            earlier.extend(before.into_iter().flatten());
            let new = places.len()..places.len() + tokens.len();
            places.extend(now[1].end - tokens.len()..now[1].end);
            positions.extend(position..position + tokens.len());
            rows.push((seen, new));
        }
        let mut runs = Vec::new();
        for (seen, new) in rows {
            for from in new.clone().step_by(QUERIES) {
                let to = new.end.min(from + QUERIES);
                let keys = [seen.clone(), earlier.len() + new.start..earlier.len() + to];
                runs.push(Run { queries: from..to, keys, seen: seen.len() + from - new.start + 1 });
            }
        }
        let device = &cache.device;
        let at = matches!(cache.layers[0], KeysValues::Device { .. })
            .then(|| indices(places.iter().copied(), device).reshape([places.len(), 1]));
        let index =
            matches!(cache.rotary.angles, Angles::Device(_)).then(|| indices(positions.iter().copied(), device));
        let budget = SCORES[usize::from(!is_host(device))] / cache.heads.count();
        let parts: Vec<Part> = parts(runs, budget).iter().map(|runs| Part::new(runs, device)).collect();
        let (mut outputs, mut before) = (vec![0; places.len()], 0);
        for part in &parts {
            for (place, token) in part.places.iter().zip(&part.of) {
                outputs[*token] = before + place;
            }
            let [places] = part.queries.dims();
            before += places;
        }
        let outputs = indices(outputs, device);
        Self { places, positions, at, index, earlier, parts, outputs }
    }

    /// The first half of a block; its keys and values go into the cache.
    fn attend(&self, layer: &Qwen2DecoderLayer, x: Tensor<2>, cache: &mut KvCache, index: usize) -> Tensor<2> {
        let attention = &layer.self_attn;
        let (heads, rotary) = (cache.heads, &cache.rotary);
        let turn = |x| rotary.turn(x, &self.positions, self.index.as_ref(), heads.head_dim);
        let normed = layer.input_layernorm.of_tokens(&x);
        let queries = turn(attention.q_proj.forward(normed.clone()));
        let mut keys = turn(attention.k_proj.forward(normed.clone()));
        let mut values = attention.v_proj.forward(normed);

        let cached = &mut cache.layers[index];
        cached.write(&self.places, self.at.as_ref(), heads, [&keys, &values]);
        if !self.earlier.is_empty() {
            let dtype = keys.dtype();
            let earlier = cached.at(&self.earlier, heads, &cache.device);
            let [earlier_keys, earlier_values] = earlier.map(|earlier| earlier.cast(dtype));
            keys = Tensor::cat(vec![earlier_keys, keys], 0);
            values = Tensor::cat(vec![earlier_values, values], 0);
        }
        let attended = self.parts.iter().map(|part| part.attend(&queries, &keys, &values, heads)).collect();
        let output = Tensor::cat(attended, 0).select(0, self.outputs.clone());
        x + attention.o_proj.forward(output)
    }
}

impl Part {
    fn new(runs: &[Run], device: &Device) -> Self {
        let longest = |of: fn(&Run) -> usize| runs.iter().map(of).max().unwrap_or(0);
        let (len, keys) = (longest(|run| run.queries.len()), longest(Run::keys));
        let (mut query_tokens, mut key_tokens) = (Vec::new(), Vec::new());
        let (mut bias, mut places, mut of) = (Vec::with_capacity(runs.len() * len * keys), Vec::new(), Vec::new());
        for (row, run) in runs.iter().enumerate() {
            places.extend(row * len..row * len + run.queries.len());
            of.extend(run.queries.clone());
            query_tokens.extend(run.queries.clone());
            query_tokens.resize((row + 1) * len, run.queries.start);
            key_tokens.extend(run.keys.iter().cloned().flatten());
            key_tokens.resize((row + 1) * keys, run.queries.start);
            for query in 0..len {
                // In the padding of queries the rule would go on beyond the last key.
                let seen = (run.seen + query).min(run.keys());
                bias.extend((0..keys).map(|key| if key < seen { 0.0 } else { MASKED }));
            }
        }
        let bias = Tensor::<4>::from_data(TensorData::new(bias, [runs.len(), 1, len, keys]), device);
        let (queries, keys) = (indices(query_tokens, device), indices(key_tokens, device));
        Self { queries, keys, rows: runs.len(), bias, places, of }
    }

    /// `[rows · queries, heads · head_dim]`
    fn attend(&self, queries: &Tensor<2>, keys: &Tensor<2>, values: &Tensor<2>, heads: Heads) -> Tensor<2> {
        let (rows, Heads { kv_heads, group, head_dim }) = (self.rows, heads);
        let of_keys = |all: &Tensor<2>| {
            let [places] = self.keys.dims();
            let all = all.clone().select(0, self.keys.clone());
            all.reshape([rows, places / rows, kv_heads, head_dim]).swap_dims(1, 2)
        };
        let [places] = self.queries.dims();
        let len = places / rows;
        let queries = queries.clone().select(0, self.queries.clone());
        let queries = queries.reshape([rows, len, kv_heads, group, head_dim]).permute([0, 2, 3, 1, 4]);
        let queries = queries.reshape([rows, kv_heads, group * len, head_dim]);
        let attended = attend(queries, of_keys(keys), of_keys(values), Some(self.bias.clone().repeat_dim(2, group)));
        let attended = attended.reshape([rows, kv_heads, group, len, head_dim]).permute([0, 3, 1, 2, 4]);
        attended.reshape([places, heads.width()])
    }
}

/// Runs of about one length together, as many as have no more than `budget` scores of a head, padding included.
fn parts(mut runs: Vec<Run>, budget: usize) -> Vec<Vec<Run>> {
    runs.sort_by_key(|run| std::cmp::Reverse((run.keys(), run.queries.len())));
    let mut parts: Vec<Vec<Run>> = Vec::new();
    let mut longest = (0, 0);
    for run in runs {
        let with = (longest.0.max(run.queries.len()), longest.1.max(run.keys()));
        match parts.last_mut() {
            Some(part) if (part.len() + 1) * with.0 * with.1 <= budget && 2 * run.keys() >= with.1 => {
                longest = with;
                part.push(run);
            }
            _ => {
                longest = (run.queries.len(), run.keys());
                parts.push(vec![run]);
            }
        }
    }
    parts
}

impl KeysValues {
    /// Keys and values at these places, `[places, kv_heads · head_dim]` each.
    fn at(&self, places: &[usize], heads: Heads, device: &Device) -> [Tensor<2>; 2] {
        match self {
            Self::Host { keys, values } => {
                [host::read_keys(keys, places, heads, device), host::read_values(values, places, heads, device)]
            }
            Self::Device { keys, values } => {
                let index = indices(places.iter().copied(), device);
                [keys, values].map(|all| all.as_ref().clone().select(0, index.clone()))
            }
        }
    }
}
