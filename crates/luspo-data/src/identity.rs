//! Which rows say the same: compared by 128-bit hashes, so that a dataset need not be in memory.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use luspo_core::Message;
use xxhash_rust::xxh3::Xxh3;

/// The hash of a list of texts.
pub(crate) fn hash<'a>(texts: impl IntoIterator<Item = &'a str>) -> u128 {
    let mut hasher = Xxh3::new();
    for text in texts {
        // The length first, so that two lists do not hash like one.
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    hasher.digest128()
}

/// The hash of a conversation.
pub(crate) fn hash_of(messages: &[Message]) -> u128 {
    hash(messages.iter().flat_map(|turn| [turn.role.as_str(), turn.content.as_str()]))
}

/// What a row is among those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Novelty {
    /// Its conversation is new.
    New,
    /// Its conversation is known; data source, gold answer or what else counts are others.
    Variant,
    /// Data source, conversation and gold answer are known.
    Duplicate,
}

/// The rows seen so far.
#[derive(Default)]
pub(crate) struct Repetitions {
    rows: HashSet<u128>,
    /// The first gold answer to each conversation, and whether another one followed.
    golds: HashMap<u128, (u128, bool)>,
    conflicting: usize,
}

impl Repetitions {
    /// Adds a row, by the hash of its conversation and, where it counts, by what else it says.
    pub(crate) fn add(
        &mut self,
        conversation: u128,
        data_source: &str,
        ground_truth: &str,
        extra_info: Option<&str>,
    ) -> Novelty {
        let gold = hash([ground_truth]);
        let known = match self.golds.entry(conversation) {
            Entry::Vacant(place) => {
                place.insert((gold, false));
                false
            }
            Entry::Occupied(mut place) => {
                let (first, conflicts) = place.get_mut();
                if *first != gold && !*conflicts {
                    *conflicts = true;
                    self.conflicting += 1;
                }
                true
            }
        };
        let row = hash([data_source, &format!("{conversation:x}"), ground_truth].into_iter().chain(extra_info));
        match (known, self.rows.insert(row)) {
            (false, _) => Novelty::New,
            (true, true) => Novelty::Variant,
            (true, false) => Novelty::Duplicate,
        }
    }

    /// Different conversations.
    pub(crate) fn conversations(&self) -> usize {
        self.golds.len()
    }

    /// Conversations with more than one gold answer.
    pub(crate) fn conflicting_golds(&self) -> usize {
        self.conflicting
    }

    /// Whether a conversation was among the rows.
    pub(crate) fn contains(&self, conversation: u128) -> bool {
        self.golds.contains_key(&conversation)
    }

    /// Whether a conversation has more than one gold answer.
    pub(crate) fn conflicts(&self, conversation: u128) -> bool {
        self.golds.get(&conversation).is_some_and(|(_, conflicts)| *conflicts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_texts_end_makes_a_difference() {
        assert_ne!(hash(["ab", "c"]), hash(["a", "bc"]));
        assert_eq!(hash(["ab", "c"]), hash(["ab", "c"]));
    }

    #[test]
    fn a_third_gold_makes_no_second_conflict() {
        let mut seen = Repetitions::default();
        let question = hash(["?"]);
        let novelties = ["1", "2", "1", "3"].map(|gold| seen.add(question, "x", gold, None));
        assert_eq!(novelties, [Novelty::New, Novelty::Variant, Novelty::Duplicate, Novelty::Variant]);
        assert_eq!(seen.add(question, "y", "1", None), Novelty::Variant);
        let with = ["{}", "{\"tests\":1}", "{}"].map(|extra| seen.add(question, "y", "1", Some(extra)));
        assert_eq!(with, [Novelty::Variant, Novelty::Variant, Novelty::Duplicate]);
        assert_eq!((seen.conversations(), seen.conflicting_golds()), (1, 1));
    }
}
