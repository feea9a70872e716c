//! Rotary positions of packed tokens.

use burn::tensor::{Device, Tensor};

use crate::batch::index;
use crate::host;
use crate::rope::Rope;

/// The angles of each token's place.
pub(super) enum Rotation<'a> {
    Host(host::Rotation, &'a [usize]),
    Tensor(Box<Rope>),
}

impl<'a> Rotation<'a> {
    /// `on` is absent where the host's own loops do the work.
    pub(super) fn new(places: &'a [usize], head_dim: usize, base: f64, on: Option<&Device>) -> Self {
        let seq = places.iter().max().map_or(0, |place| place + 1);
        match on {
            None => Self::Host(host::Rotation::new(seq, head_dim, base), places),
            Some(device) => {
                let places = index(places.iter().map(|place| *place as i64).collect(), device);
                Self::Tensor(Box::new(Rope::new(seq, head_dim, base, device).at(places)))
            }
        }
    }

    /// `[tokens, heads · head_dim]`, each head turned to its token's place.
    pub(super) fn forward(&self, x: Tensor<2>, heads: usize) -> Tensor<2> {
        match self {
            Self::Host(rotation, places) => rotation.turn(x, places, false),
            Self::Tensor(rope) => turn(x, heads, |x| rope.rotate(x)),
        }
    }

    /// The gradient before the turn from that behind it: a rotation's transpose is the rotation back.
    pub(super) fn backward(&self, gradient: Tensor<2>, heads: usize) -> Tensor<2> {
        match self {
            Self::Host(rotation, places) => rotation.turn(gradient, places, true),
            Self::Tensor(rope) => turn(gradient, heads, |x| rope.rotate_back(x)),
        }
    }
}

fn turn(x: Tensor<2>, heads: usize, rotate: impl FnOnce(Tensor<4>) -> Tensor<4>) -> Tensor<2> {
    let [tokens, width] = x.dims();
    rotate(x.reshape([tokens, 1, heads, width / heads])).reshape([tokens, width])
}
