//! The files of a task: which problems and which random numbers each has.

use luspo_core::{Purpose, RandomKey};
use rand::Rng;
use xxhash_rust::xxh3::xxh3_64;

/// One problem in this many is for validation only.
const HELD_OUT_OF: u64 = 16;

/// The most rows of a file: they are made in memory.
pub(super) const MOST_ROWS: usize = 1 << 20;

/// Streams of random numbers; those of one file do not depend on the size of another.
#[derive(Clone, Copy)]
pub(super) enum Split {
    Train,
    Val,
    Sft,
}

impl Split {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
            Self::Sft => "sft",
        }
    }

    pub(super) fn rng(self, seed: u64) -> impl Rng {
        RandomKey::new(seed, Purpose::Task).at(self as u64).rng()
    }

    /// Whether a problem may be in this file: its text alone decides whether it is held out, whatever the seed.
    pub(super) fn has(self, question: &str) -> bool {
        let held_out = xxh3_64(question.as_bytes()).is_multiple_of(HELD_OUT_OF);
        held_out == matches!(self, Self::Val)
    }
}
