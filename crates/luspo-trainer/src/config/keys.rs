//! The keys that a configuration may have, read off its types.

use std::sync::OnceLock;

use luspo_data::task::{Arithmetic, Procedural, Styles};
use luspo_reward::ComponentConfig;
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::forward_to_deserialize_any;

use super::*;

/// A dotted table name with the keys that may stand in it. The last part of a name that the user gives is `*`.
pub struct Section {
    pub name: &'static str,
    pub keys: Vec<&'static str>,
}

impl Section {
    /// Whether a table of this name is the section, or one of them.
    pub fn is(&self, name: &str) -> bool {
        match self.name.strip_suffix('*') {
            Some(parent) => name.strip_prefix(parent).is_some_and(|own| !own.is_empty() && !own.contains('.')),
            None => self.name == name,
        }
    }
}

/// Every table of a configuration; the first is the root.
pub fn sections() -> &'static [Section] {
    static SECTIONS: OnceLock<Vec<Section>> = OnceLock::new();
    SECTIONS.get_or_init(|| {
        vec![
            Section { name: "", keys: fields::<Config>() },
            Section { name: "run", keys: fields::<RunConfig>() },
            Section { name: "model", keys: fields::<ModelConfig>() },
            Section { name: "model.init", keys: fields::<InitConfig>() },
            Section { name: "model.lora", keys: fields::<LoraConfig>() },
            Section { name: "data", keys: fields::<DataConfig>() },
            Section { name: "data.task", keys: task_keys() },
            Section { name: "data.task.styles", keys: fields::<Styles>() },
            Section { name: "sft", keys: fields::<SftConfig>() },
            Section { name: "rollout", keys: fields::<RolloutConfig>() },
            Section { name: "rollout.openai", keys: fields::<OpenAiConfig>() },
            Section { name: "reward", keys: fields::<RewardConfig>() },
            Section { name: "reward.components.*", keys: fields::<ComponentConfig>() },
            Section { name: "algorithm", keys: fields::<AlgorithmConfig>() },
            Section { name: "algorithm.policy_loss", keys: fields::<PolicyLossConfig>() },
            Section { name: "algorithm.kl_ctrl", keys: fields::<KlControlConfig>() },
            Section { name: "algorithm.entropy_ctrl", keys: fields::<EntropyControlConfig>() },
            Section { name: "algorithm.rollout_correction", keys: fields::<RolloutCorrectionConfig>() },
            Section { name: "algorithm.filter_groups", keys: fields::<FilterGroupsConfig>() },
            Section { name: "critic", keys: fields::<CriticConfig>() },
            Section { name: "optimizer", keys: fields::<OptimizerConfig>() },
            Section { name: "trainer", keys: fields::<TrainerConfig>() },
            Section { name: "eval", keys: fields::<EvalConfig>() },
            Section { name: "logging", keys: fields::<LoggingConfig>() },
        ]
    })
}

/// `name` chooses the task; the other keys are its own, and some tasks share theirs.
fn task_keys() -> Vec<&'static str> {
    let mut keys = [vec!["name"], fields::<Arithmetic>()].concat();
    keys.extend(fields::<Procedural>().into_iter().filter(|key| !fields::<Arithmetic>().contains(key)));
    keys
}

/// The field names that a struct's derived `Deserialize` asks for.
fn fields<T: for<'de> Deserialize<'de>>() -> Vec<&'static str> {
    let mut names: &'static [&'static str] = &[];
    // The deserializer always answers with an error; what it was asked is all that is wanted.
    let _ = T::deserialize(FieldNames(&mut names));
    names.to_vec()
}

struct FieldNames<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for FieldNames<'_> {
    type Error = de::value::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        Err(de::Error::custom("only the field names are wanted"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Self::Error> {
        Err(de::Error::custom("not a struct"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// The known key nearest to a misspelt one, if any is near.
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|key| (strsim::jaro_winkler(word, key), key))
        .filter(|(similarity, _)| *similarity > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, key)| key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_has_keys() {
        for section in sections() {
            assert!(!section.keys.is_empty(), "[{}]", section.name);
        }
        assert!(sections()[0].keys.contains(&"algorithm"));
    }

    #[test]
    fn every_table_of_the_root_is_listed() {
        for key in &sections()[0].keys {
            assert!(sections().iter().any(|s| s.name == *key), "[{key}] is missing from the list of sections");
        }
    }
}
