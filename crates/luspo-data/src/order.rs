//! The order in which a run goes through its prompts: one epoch after the other, each shuffled anew.

use std::collections::HashSet;

use luspo_core::{Purpose, RandomKey};
use rand::seq::SliceRandom;

/// Batches of `batch_size` out of `len` prompts; a batch may span two epochs, and its prompts are distinct all the same.
#[derive(Clone, Copy)]
pub(crate) struct Order {
    pub(crate) len: usize,
    pub(crate) batch_size: usize,
    pub(crate) seed: u64,
}

impl Order {
    /// The numbers of the prompts of a step (from 1). A function of its arguments alone.
    pub(crate) fn batch(self, step: u64) -> Vec<usize> {
        let Self { len, batch_size, .. } = self;
        let start = (step - 1) * batch_size as u64;
        let (epoch, offset) = (start / len as u64, (start % len as u64) as usize);
        let order = self.of_epoch(epoch);
        let mut rows = order[offset..len.min(offset + batch_size)].to_vec();
        if rows.len() < batch_size {
            let next = self.after(&order, epoch + 1);
            rows.extend(&next[..batch_size - rows.len()]);
        }
        rows
    }

    /// The order of an epoch (from 0). It depends on the ones before it through the batches on their borders.
    fn of_epoch(self, epoch: u64) -> Vec<usize> {
        (1..=epoch).fold(self.shuffled(0), |order, epoch| self.after(&order, epoch))
    }

    /// The order of `epoch` after the one of the epoch before: a shuffle, in which prompts that the batch on the
    /// border already holds change places with later ones.
    fn after(self, before: &[usize], epoch: u64) -> Vec<usize> {
        let Self { len, batch_size, .. } = self;
        let mut order = self.shuffled(epoch);
        let held = (epoch as u128 * len as u128 % batch_size as u128) as usize;
        if held > 0 {
            let border: HashSet<usize> = before[len - held..].iter().copied().collect();
            let missing = batch_size - held;
            let mut later = missing;
            for place in 0..missing {
                if border.contains(&order[place]) {
                    // There are at least `missing` prompts outside the border batch, so the search ends.
                    while border.contains(&order[later]) {
                        later += 1;
                    }
                    order.swap(place, later);
                }
            }
        }
        order
    }

    fn shuffled(self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.len).collect();
        order.shuffle(&mut RandomKey::new(self.seed, Purpose::Shuffle).at(epoch).rng());
        order
    }
}
