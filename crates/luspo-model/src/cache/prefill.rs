//! Reading many tokens of some sequences at once.

use std::ops::Range;

use burn::tensor::activation::silu;
use burn::tensor::{Device, Int, Tensor};

use super::{KeysValues, KvCache, Sequence, indices};
use crate::backend::is_host;
use crate::host;
use crate::modeling::{Qwen2DecoderLayer, Qwen2ForCausalLM};
use crate::tape::{Heads, Places, SCORES, Seen};

/// Queries of a sequence whose attention scores exist at once.
const QUERIES: usize = 512;

/// Who reads what: the same in every block.
struct Reading {
    /// Where the new tokens go, and their positions.
    places: Vec<usize>,
    positions: Vec<usize>,
    /// The same as tensors, on a device.
    on_device: Option<(Tensor<2, Int>, Tensor<1, Int>)>,
    /// Places of earlier tokens that new ones look at.
    earlier: Vec<usize>,
    parts: Vec<Part>,
}

/// Queries that go through attention together. Keys are counted over the earlier tokens, then the new ones.
struct Part {
    queries: Places,
    keys: Places,
    seen: Seen,
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
    /// On no sequence, no tokens of one, more than it has room for, or a sequence that comes twice.
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

        let mut x = self.model.embed_tokens.weight.val().select(0, ids);
        for (index, layer) in self.model.layers.iter().enumerate() {
            x = reading.attend(layer, x, cache, index);
            if index + 1 == self.model.layers.len() {
                x = x.select(0, ends.clone()); // nobody looks at the others behind this
            }
            x = feed_forward(layer, x);
        }
        self.model.norm.of_tokens(&mut x)
    }
}

/// The second half of a block.
pub(super) fn feed_forward(layer: &Qwen2DecoderLayer, mut x: Tensor<2>) -> Tensor<2> {
    let normed = layer.post_attention_layernorm.of_tokens(&mut x);
    let (mut gate, mut up) = (layer.mlp.gate_proj.forward(normed.clone()), layer.mlp.up_proj.forward(normed));
    let gated = match host::serves(&gate) {
        true => host::swiglu_forward(&mut gate, &mut up),
        false => silu(gate) * up,
    };
    x + layer.mlp.down_proj.forward(gated)
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
        let on_host = matches!(cache.layers[0], KeysValues::Host { .. });
        let on = (!on_host).then_some(&cache.device);
        let on_device = on.map(|device| {
            let at = indices(places.iter().copied(), device).reshape([places.len(), 1]);
            (at, indices(positions.iter().copied(), device))
        });
        let budget = SCORES[usize::from(!is_host(&cache.device))] / cache.heads.count();
        let parts = parts(runs, budget).into_iter().map(|runs| Part::new(runs, on)).collect();
        Self { places, positions, on_device, earlier, parts }
    }

    /// The first half of a block; its keys and values go into the cache.
    fn attend(&self, layer: &Qwen2DecoderLayer, mut x: Tensor<2>, cache: &mut KvCache, index: usize) -> Tensor<2> {
        let attention = &layer.self_attn;
        let (heads, rotary) = (cache.heads, &cache.rotary);
        let of_keys = Heads { group: 1, ..heads };
        let (at, positions) = match &self.on_device {
            Some((at, positions)) => (Some(at), Some(positions)),
            None => (None, None),
        };
        let turn = |x| rotary.turn(x, &self.positions, positions, heads.head_dim);
        let normed = layer.input_layernorm.of_tokens(&mut x);
        let mut queries = turn(attention.q_proj.forward(normed.clone()));
        let mut keys = turn(attention.k_proj.forward(normed.clone()));
        let mut values = attention.v_proj.forward(normed);

        let cached = &mut cache.layers[index];
        cached.write(&self.places, at, &mut keys, &mut values);
        if !self.earlier.is_empty() {
            let [earlier_keys, earlier_values] = cached.at(&self.earlier, of_keys.width(), &cache.device);
            keys = Tensor::cat(vec![earlier_keys, keys], 0);
            values = Tensor::cat(vec![earlier_values, values], 0);
        }
        let mut output = queries.zeros_like();
        let scale = (heads.head_dim as f32).sqrt().recip();
        for part in &self.parts {
            let part_keys = part.keys.fold(&mut keys, of_keys);
            let scores = part.queries.fold(&mut queries, heads).matmul(part_keys.swap_dims(2, 3));
            let part_values = part.keys.fold(&mut values, of_keys);
            let weights = part.seen.softmax(scores, scale).cast(part_values.dtype());
            part.queries.unfold(weights.matmul(part_values), heads, &mut output);
        }
        x + attention.o_proj.forward(output)
    }
}

impl Part {
    fn new(runs: Vec<Run>, on: Option<&Device>) -> Self {
        let seen = runs.iter().map(|run| run.seen).collect();
        let queries = Places::new(runs.iter().map(|run| [run.queries.clone(), 0..0]).collect(), on);
        let keys = Places::new(runs.into_iter().map(|run| run.keys).collect(), on);
        let seen = Seen::new(seen, queries.len, on);
        Self { queries, keys, seen }
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
    fn at(&self, places: &[usize], width: usize, device: &Device) -> [Tensor<2>; 2] {
        match self {
            Self::Host { keys, values } => [keys, values].map(|all| host::read_rows(all, places, width, device)),
            Self::Device { keys, values } => {
                let index = indices(places.iter().copied(), device);
                [keys, values].map(|all| all.clone().select(0, index.clone()))
            }
        }
    }
}
