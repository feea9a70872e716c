//! Sampling with a cache of keys and values.
//!
//! The cache is allocated once, with room for a number of tokens, and shared out to sequences, each of which has a run of
//! places of its own. A sequence that was forked from another looks at that one's tokens too, where they are: the prompt
//! of a group is read once and kept once. Tokens are read by [`prefill`](Qwen2ForCausalLM::prefill), many at a time, or by
//! [`decode`](Qwen2ForCausalLM::decode), one of each sequence.

mod decode;
mod prefill;
mod room;

use std::fmt;
use std::ops::Range;

use burn::tensor::{Device, IndexingUpdateOp, Int, Tensor};

use crate::backend::is_host;
use crate::batch::index;
use crate::error::ModelError;
use crate::host::{self, Rotation};
use crate::memory::main_memory;
use crate::modeling::Qwen2ForCausalLM;
use crate::rope::Rope;
use crate::tape::Heads;
use room::Room;

/// Keys and values of the tokens so far, of any number of sequences.
#[derive(Debug)]
pub struct KvCache {
    /// By block.
    layers: Vec<KeysValues>,
    room: Room,
    /// By number; none where the number is free.
    sequences: Vec<Option<Held>>,
    heads: Heads,
    rotary: Rotary,
    theta: f64,
    device: Device,
}

/// A sequence in a [`KvCache`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sequence(usize);

/// What the cache knows of a sequence.
#[derive(Debug)]
struct Held {
    /// The one whose tokens go before its own.
    parent: Option<Sequence>,
    /// Its places.
    own: Range<usize>,
    /// How many of them hold a token.
    len: usize,
    /// Itself until it is ended, and its forks.
    users: usize,
    ended: bool,
}

/// Keys and values of one block, `[places, kv_heads · head_dim]`: where the device's memory is the host's, in the layout
/// that the host's loops want, and in f32 whatever the parameters' type.
#[derive(Debug)]
enum KeysValues {
    Host { keys: Vec<f32>, values: Vec<f32> },
    Device { keys: Box<Tensor<2>>, values: Box<Tensor<2>> },
}

/// The angles of the positions so far, and a few more.
#[derive(Debug)]
struct Rotary {
    angles: Angles,
    positions: usize,
}

enum Angles {
    Host(Rotation),
    Device(Box<Rope>),
}

impl fmt::Debug for Angles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host(_) => "Host",
            Self::Device(_) => "Device",
        })
    }
}

impl KvCache {
    /// An empty cache with room for `tokens` tokens of this model.
    ///
    /// # Errors
    /// [`ModelError::TooLarge`] where that is more than the main memory, if that is where it would be.
    pub fn new(model: &Qwen2ForCausalLM, tokens: usize) -> Result<Self, ModelError> {
        let norm = model.plain().model.norm.weight.val();
        let (device, dtype) = (norm.device(), norm.dtype());
        let layer = &model.model.layers[0].self_attn;
        let head_dim = model.model.head_dim();
        let heads = Heads { kv_heads: layer.kv_heads, group: layer.heads / layer.kv_heads, head_dim };
        let (width, blocks) = (heads.kv_heads * head_dim, model.model.layers.len());

        let host = is_host(&device);
        let number = if host { size_of::<f32>() } else { dtype.size() };
        let needed = 2.0 * tokens as f64 * (width * blocks * number) as f64;
        // Not what is free now: the allocator may hold what was freed a moment ago. That it fits beside the rest was checked
        // before the run.
        if let Some(available) = main_memory().filter(|all| host && needed > *all as f64) {
            let what = format!("a key-value cache of {tokens} tokens");
            let instead = "lower max_batch_size, max_tokens_in_cache or max_response_length";
            return Err(ModelError::TooLarge { what, needed, available, instead });
        }
        let layer = || match host {
            true => KeysValues::Host { keys: host::keys(tokens, heads), values: vec![0.0; tokens * width] },
            false => {
                let room = || Box::new(Tensor::zeros([tokens, width], (&device, dtype)));
                KeysValues::Device { keys: room(), values: room() }
            }
        };
        let layers = (0..blocks).map(|_| layer()).collect();
        let theta = model.model.rope_theta;
        let on = (!host::serves(&norm)).then_some(&device);
        let rotary = Rotary::new(64, head_dim, theta, on);
        Ok(Self { layers, room: Room::new(tokens), sequences: Vec::new(), heads, rotary, theta, device })
    }

    /// Tokens that it has room for.
    pub fn capacity(&self) -> usize {
        self.room.capacity()
    }

    /// Places that belong to sequences.
    pub fn taken(&self) -> usize {
        self.room.capacity() - self.room.free()
    }

    /// Places that hold a token.
    pub fn filled(&self) -> usize {
        self.sequences.iter().flatten().map(|held| held.len).sum()
    }

    /// A new sequence with room for `tokens` tokens; none where there is no such run of free places.
    pub fn begin(&mut self, tokens: usize) -> Option<Sequence> {
        let own = self.room.take(tokens)?;
        Some(self.hold(Held { parent: None, own, len: 0, users: 1, ended: false }))
    }

    /// A new sequence that goes on from another, whose tokens it shares, with room for `tokens` of its own; none where
    /// there is no such run of free places. The other must not be read any further once this one is.
    ///
    /// # Panics
    /// If the other was forked itself, or has been ended.
    pub fn fork(&mut self, of: Sequence, tokens: usize) -> Option<Sequence> {
        assert!(self.held(of).parent.is_none(), "a fork of a fork");
        assert!(!self.held(of).ended, "a fork of a sequence that was ended");
        let own = self.room.take(tokens)?;
        self.held_mut(of).users += 1;
        Some(self.hold(Held { parent: Some(of), own, len: 0, users: 1, ended: false }))
    }

    /// Gives back the room of a sequence; what its forks share stays until they are ended too.
    ///
    /// # Panics
    /// If it has been ended before.
    pub fn end(&mut self, sequence: Sequence) {
        let held = self.held_mut(sequence);
        assert!(!held.ended, "a sequence is ended once");
        held.ended = true;
        self.leave(sequence);
    }

    /// Ends all sequences.
    pub fn clear(&mut self) {
        self.sequences.clear();
        self.room = Room::new(self.room.capacity());
    }

    /// Tokens of a sequence, those that it shares included.
    pub fn len(&self, sequence: Sequence) -> usize {
        self.runs(sequence).iter().map(Range::len).sum()
    }

    /// Whether no sequence has a place.
    pub fn is_empty(&self) -> bool {
        self.taken() == 0
    }

    fn hold(&mut self, held: Held) -> Sequence {
        match self.sequences.iter().position(Option::is_none) {
            Some(free) => {
                self.sequences[free] = Some(held);
                Sequence(free)
            }
            None => {
                self.sequences.push(Some(held));
                Sequence(self.sequences.len() - 1)
            }
        }
    }

    fn leave(&mut self, sequence: Sequence) {
        let held = self.held_mut(sequence);
        held.users -= 1;
        if held.users > 0 {
            return;
        }
        if let Some(Held { parent, own, .. }) = self.sequences[sequence.0].take() {
            self.room.give(own);
            if let Some(parent) = parent {
                self.leave(parent);
            }
        }
    }

    fn held(&self, sequence: Sequence) -> &Held {
        self.sequences[sequence.0].as_ref().expect("a sequence of this cache")
    }

    fn held_mut(&mut self, sequence: Sequence) -> &mut Held {
        self.sequences[sequence.0].as_mut().expect("a sequence of this cache")
    }

    /// Where the tokens of a sequence are, first those that it shares.
    fn runs(&self, sequence: Sequence) -> [Range<usize>; 2] {
        let run = |held: &Held| held.own.start..held.own.start + held.len;
        let held = self.held(sequence);
        [held.parent.map_or(0..0, |parent| run(self.held(parent))), run(held)]
    }

    /// Appends places for `tokens` tokens to a sequence: where its tokens are now, and the position of the first new one.
    ///
    /// # Panics
    /// If it has no room for them.
    fn extend(&mut self, sequence: Sequence, tokens: usize) -> ([Range<usize>; 2], usize) {
        let position = self.len(sequence);
        let held = self.held_mut(sequence);
        let room = held.own.len();
        assert!(held.len + tokens <= room, "a sequence with room for {room} tokens is full");
        held.len += tokens;
        self.rotary.reach(position + tokens, self.heads.head_dim, self.theta, &self.device);
        (self.runs(sequence), position)
    }
}

impl KeysValues {
    /// Writes `[tokens, kv_heads · head_dim]` at these places. `index` has them as a tensor, on a device.
    fn write(
        &mut self,
        places: &[usize],
        index: Option<&Tensor<2, Int>>,
        heads: Heads,
        [keys, values]: [&Tensor<2>; 2],
    ) {
        match (self, index) {
            (Self::Host { keys: all_keys, values: all_values }, _) => {
                host::write_keys(keys, places, heads, all_keys);
                host::write_values(values, places, all_values);
            }
            (Self::Device { keys: all_keys, values: all_values }, Some(index)) => {
                // In place as long as nobody else holds the tensor.
                let assign = |all: Tensor<2>, rows: &Tensor<2>| {
                    all.scatter_nd(index.clone(), rows.clone(), IndexingUpdateOp::Assign)
                };
                all_keys.inplace(|all| assign(all, keys));
                all_values.inplace(|all| assign(all, values));
            }
            (Self::Device { .. }, None) => unreachable!("a device is handed the places as a tensor"),
        }
    }
}

impl Rotary {
    fn new(positions: usize, head_dim: usize, theta: f64, on: Option<&Device>) -> Self {
        let angles = match on {
            None => Angles::Host(Rotation::new(positions, head_dim, theta)),
            Some(device) => Angles::Device(Box::new(Rope::new(positions, head_dim, theta, device))),
        };
        Self { angles, positions }
    }

    /// Makes the table long enough for `positions`.
    fn reach(&mut self, positions: usize, head_dim: usize, theta: f64, device: &Device) {
        if positions > self.positions {
            let on = matches!(self.angles, Angles::Device(_)).then_some(device);
            *self = Self::new(positions.next_power_of_two(), head_dim, theta, on);
        }
    }

    /// Turns `[tokens, heads · head_dim]` to each token's position. `index` has the positions as a tensor, on a device.
    fn turn(&self, x: Tensor<2>, positions: &[usize], index: Option<&Tensor<1, Int>>, head_dim: usize) -> Tensor<2> {
        match (&self.angles, index) {
            (Angles::Host(rotation), _) => rotation.turn(x, positions, false),
            (Angles::Device(rope), Some(index)) => {
                let [tokens, width] = x.dims();
                let heads = x.reshape([tokens, 1, width / head_dim, head_dim]);
                rope.at(index.clone()).rotate(heads).reshape([tokens, width])
            }
            (Angles::Device(_), None) => unreachable!("a device is handed the positions as a tensor"),
        }
    }
}

impl Qwen2ForCausalLM {
    /// Runs `f` on the view without autodiff.
    fn on_plain<R>(&self, f: impl FnOnce(&Self) -> R) -> R {
        match self.device().is_autodiff() {
            true => f(&self.plain()),
            false => f(self),
        }
    }
}

fn indices(values: impl IntoIterator<Item = usize>, device: &Device) -> Tensor<1, Int> {
    index(values.into_iter().map(|value| value as i64).collect(), device)
}
