//! The counter-based generator: a random number is a function of its key and its position.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What random numbers are drawn for. Streams of different purposes never overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Purpose {
    /// Initial weights.
    Init = 1,
    /// Problems of a built-in task.
    Task = 2,
    /// Order of the training prompts.
    Shuffle = 3,
    /// Order of the warm-up's examples.
    Sft = 4,
    /// Tokens of training rollouts.
    Rollout = 5,
    /// Tokens of validation answers.
    Validation = 6,
    /// Tokens sampled on a user's request.
    Generate = 7,
    /// Tokens that an objective leaves out.
    TokenChoice = 8,
    /// Initial head of a value model.
    Critic = 9,
    /// Initial adapters.
    Lora = 10,
    /// Prompts whose gold answers are tried before a run.
    GoldSample = 11,
    /// Prompts of a bootstrap's resamples.
    Bootstrap = 12,
}

/// A key of the generator: seed, purpose and up to three coordinates.
///
/// Rollouts use (step, prompt, sample), and the position in the answer as the counter, so that a token's random number
/// depends on nothing else: not on the batch, its order, or whether the run was resumed.
///
/// ```
/// use luspo_core::{Purpose, RandomKey};
///
/// let key = RandomKey::new(42, Purpose::Rollout).at(3).at(17).at(0);
/// assert_eq!(key.uniform(5), key.uniform(5));
/// assert_ne!(key.uniform(5), key.uniform(6));
/// assert_ne!(key.uniform(5), RandomKey::new(42, Purpose::Rollout).at(3).at(17).at(1).uniform(5));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RandomKey {
    bytes: [u8; 32],
    coordinates: u8,
}

impl RandomKey {
    /// The key of a purpose in the run of `seed`.
    pub fn new(seed: u64, purpose: Purpose) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        bytes[8..12].copy_from_slice(&(purpose as u32).to_le_bytes());
        Self { bytes, coordinates: 0 }
    }

    /// The key with one more coordinate.
    ///
    /// The first two coordinates use all 64 bits; the third is a number below 2³².
    ///
    /// # Panics
    /// On a fourth coordinate, or a third of 2³² or more.
    pub fn at(mut self, coordinate: u64) -> Self {
        match self.coordinates {
            0 => self.bytes[16..24].copy_from_slice(&coordinate.to_le_bytes()),
            1 => self.bytes[24..32].copy_from_slice(&coordinate.to_le_bytes()),
            2 => {
                let last = u32::try_from(coordinate).expect("the third coordinate of a key is below 2^32");
                self.bytes[12..16].copy_from_slice(&last.to_le_bytes());
            }
            _ => panic!("a key has at most three coordinates"),
        }
        self.coordinates += 1;
        self
    }

    /// A generator that starts at the key's beginning, for use with the `rand` crate's traits.
    pub fn rng(&self) -> ChaCha8Rng {
        let mut seed = self.bytes;
        // How many coordinates were given tells (step 0) from (step 0, prompt 0).
        seed[11] = self.coordinates;
        ChaCha8Rng::from_seed(seed)
    }

    /// The uniform number in [0, 1) at `position` of the key's stream, with 53 random bits.
    pub fn uniform(&self, position: u64) -> f64 {
        let mut rng = self.rng();
        rng.set_word_pos(u128::from(position) * 2);
        (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_where_the_stream_arrives() {
        let key = RandomKey::new(1, Purpose::Rollout).at(2).at(3).at(4);
        let mut rng = key.rng();
        for position in 0..40 {
            let streamed = (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
            assert_eq!(key.uniform(position), streamed);
        }
    }

    #[test]
    fn keys_differ_in_every_coordinate_and_in_how_many_they_have() {
        let base = RandomKey::new(0, Purpose::Rollout);
        let keys = [
            base,
            base.at(0),
            base.at(0).at(0),
            base.at(0).at(0).at(0),
            base.at(1),
            base.at(0).at(1),
            base.at(0).at(0).at(1),
            RandomKey::new(1, Purpose::Rollout),
            RandomKey::new(0, Purpose::Validation),
        ];
        let first: std::collections::HashSet<u64> = keys.iter().map(|k| k.uniform(0).to_bits()).collect();
        assert_eq!(first.len(), keys.len());
    }

    #[test]
    fn numbers_are_uniform() {
        let n = 20_000;
        let mean = (0..n).map(|i| RandomKey::new(9, Purpose::Rollout).at(i).uniform(0)).sum::<f64>() / n as f64;
        // The standard error of the mean is 0.002.
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
    }

    #[test]
    fn the_stream_does_not_change_between_versions() {
        assert_eq!(RandomKey::new(42, Purpose::Init).rng().next_u64(), 9_672_674_645_702_868_097);
    }
}
