use std::collections::BTreeMap;
use std::sync::Arc;

use luspo_core::Score;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::overlong::Overlong;
use crate::{Extraction, FormatCheck, RewardError, Verifier, Verifiers, format_check};

/// One answer to be scored.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// What the policy wrote, without the end-of-sequence token's text.
    pub text: &'a str,
    /// The gold answer.
    pub ground_truth: &'a str,
    /// Which dataset the prompt belongs to.
    pub data_source: &'a str,
    /// |y|, the number of response tokens, a sampled end-of-sequence token included.
    pub tokens: usize,
}

/// The `[reward]` section of a configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RewardConfig {
    /// Who judges: `auto` by each prompt's data source (see [`Verifiers::for_source`]), or for every source the one of
    /// this name: `exact`, `gsm8k`, `math`, `math_dapo`, `math_reward`, or a built-in task's.
    pub verifier: String,
    /// Where `math` looks for the answer: the first of these rules that finds one decides. The default takes it only
    /// where the text says that it is one: `boxed`, `answer_tag`, `answer_line`, `hashes`. `phrase`, `whole`, `formula`
    /// and `number` find more, and give credit to answers that are not in the format asked for.
    pub math_extraction: Vec<Extraction>,
    /// Weight of the verifier's score.
    pub accuracy_weight: f64,
    /// A format check: `think_answer`, `gsm8k`, `answer_line` or `boxed` (see [`format_check`]). Without one there is no
    /// format component.
    pub format: Option<String>,
    /// What an answer in the format gets; the default is that of arXiv 2602.05261.
    pub format_weight: f64,
    /// L_buf: how many tokens before `max_response_length` the overlong penalty begins. 0: there is no overlong
    /// component.
    pub overlong_buffer: usize,
    /// What an answer of `max_response_length` tokens loses; at least 0. The default is that of arXiv 2602.05261,
    /// eq. 11.
    pub overlong_penalty: f64,
}

impl Default for RewardConfig {
    fn default() -> Self {
        Self {
            verifier: "auto".into(),
            math_extraction: Extraction::STRICT.to_vec(),
            accuracy_weight: 1.0,
            format: None,
            format_weight: 0.5,
            overlong_buffer: 0,
            overlong_penalty: 0.3,
        }
    }
}

/// Scores answers: a verifier for each data source, and the shaping.
pub struct RewardPipeline {
    judges: Judges,
    accuracy_weight: f64,
    format: Option<(FormatCheck, f64)>,
    overlong: Option<Overlong>,
}

enum Judges {
    Named(Arc<dyn Verifier>),
    BySource(BTreeMap<String, Arc<dyn Verifier>>),
}

impl RewardPipeline {
    /// The rewards of a configuration, for answers of at most `max_response_length` tokens to prompts of the given data
    /// sources (repetitions allowed).
    ///
    /// # Errors
    /// A verifier, data source or format check that does not exist, a buffer longer than the response, a weight that is
    /// not finite, a negative penalty, rules of extraction that are none or that nothing uses.
    pub fn new(
        config: &RewardConfig,
        max_response_length: usize,
        data_sources: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Self, RewardError> {
        check_finite("accuracy_weight", config.accuracy_weight)?;
        check_finite("format_weight", config.format_weight)?;
        if !(config.overlong_penalty.is_finite() && config.overlong_penalty >= 0.0) {
            let (key, value) = ("overlong_penalty", config.overlong_penalty);
            return Err(RewardError::OutOfRange { key, value, range: "a finite number of at least 0" });
        }
        if config.overlong_buffer > max_response_length {
            return Err(RewardError::OverlongBuffer { buffer: config.overlong_buffer, max_response_length });
        }
        let format = match &config.format {
            Some(name) => Some((format_check(name)?, config.format_weight)),
            None => None,
        };
        let overlong = (config.overlong_buffer > 0).then_some(Overlong {
            max_response_length,
            buffer: config.overlong_buffer,
            penalty: config.overlong_penalty,
        });
        let judges = Judges::new(config, data_sources)?;
        if config.math_extraction.is_empty() {
            return Err(RewardError::NoExtraction);
        }
        if config.math_extraction != Extraction::STRICT && !judges.has("math") {
            return Err(RewardError::UnusedExtraction);
        }
        Ok(Self { judges, accuracy_weight: config.accuracy_weight, format, overlong })
    }

    /// The score of an answer: components `accuracy`, and where configured `format` and `overlong`, in this order.
    ///
    /// # Panics
    /// With `verifier = "auto"`, on a data source that was not given to [`new`](Self::new).
    pub fn score(&self, answer: &Answer<'_>) -> Score {
        let verdict = self.judges.of(answer.data_source).verify(answer.text, answer.ground_truth);
        let mut components = vec![("accuracy".to_string(), self.accuracy_weight * verdict.score)];
        if let Some((has_format, weight)) = self.format {
            components.push(("format".into(), if has_format(answer.text) { weight } else { 0.0 }));
        }
        if let Some(overlong) = self.overlong {
            components.push(("overlong".into(), overlong.reward(answer.tokens)));
        }
        Score {
            total: components.iter().map(|(_, value)| value).sum(),
            components,
            correct: verdict.correct,
            extracted: verdict.extracted,
            style: verdict.style,
        }
    }
}

impl Judges {
    fn new(
        config: &RewardConfig,
        data_sources: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Self, RewardError> {
        let verifiers = Verifiers { math_extraction: config.math_extraction.clone() };
        if config.verifier != "auto" {
            return Ok(Self::Named(verifiers.named(&config.verifier)?));
        }
        let mut by_source = BTreeMap::new();
        for source in data_sources {
            let source = source.as_ref();
            if !by_source.contains_key(source) {
                let judge = verifiers.for_source(source)?;
                log::debug!("data_source `{source}` is judged by `{}`", judge.name());
                by_source.insert(source.to_string(), judge);
            }
        }
        Ok(Self::BySource(by_source))
    }

    fn has(&self, name: &str) -> bool {
        match self {
            Self::Named(judge) => judge.name() == name,
            Self::BySource(judges) => judges.values().any(|judge| judge.name() == name),
        }
    }

    fn of(&self, data_source: &str) -> &dyn Verifier {
        match self {
            Self::Named(judge) => judge.as_ref(),
            Self::BySource(judges) => match judges.get(data_source) {
                Some(judge) => judge.as_ref(),
                None => panic!("data_source `{data_source}` was not named when the rewards were set up"),
            },
        }
    }
}

fn check_finite(key: &'static str, value: f64) -> Result<(), RewardError> {
    if value.is_finite() { Ok(()) } else { Err(RewardError::OutOfRange { key, value, range: "a finite number" }) }
}
