//! The `[reward]` section of a configuration, and what can be wrong with it before any data is read.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::pipeline::NOT_BROUGHT;
use crate::{Extraction, RewardError, Verifiers, format_check, own, verifier};

/// The `[reward]` section of a configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RewardConfig {
    /// Who judges: `auto` by each prompt's data source (see [`Verifiers::for_source`]), or for every source the one of
    /// this name: `exact`, `gsm8k`, `math`, `math_dapo`, `math_reward`, a built-in task's, or a
    /// `[reward.components.NAME]`.
    pub verifier: String,
    /// Where `math` looks for the answer: the first of these rules that finds one decides. The default takes it only
    /// where the text says that it is one: `boxed`, `answer_tag`, `answer_line`, `hashes`. `phrase`, `whole`, `formula`
    /// and `number` find more, and give credit to answers that are not in the format asked for.
    pub math_extraction: Vec<Extraction>,
    /// Weight of the verifier's score.
    pub accuracy_weight: f64,
    /// A format check: `think_answer`, `gsm8k`, `answer_line` or `boxed` (see [`format_check`]). Without one there is no
    /// format component.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// What an answer in the format gets; the default is that of arXiv 2602.05261.
    pub format_weight: f64,
    /// L_buf: how many tokens before L_max the overlong penalty begins. 0: there is no overlong component.
    pub overlong_buffer: usize,
    /// What an answer of L_max tokens loses; at least 0. The default is that of arXiv 2602.05261, eq. 11; DAPO's is 1.
    pub overlong_penalty: f64,
    /// L_max, in tokens. Default: `data.max_response_length`, which no answer exceeds; with less than that, answers may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlong_max_length: Option<usize>,
    /// Whether an answer longer than L_max loses no more than one of L_max, as in TRL; otherwise the penalty goes on
    /// growing, as in verl.
    pub overlong_floor: bool,
    /// The length in tokens that answers should have. Absent: there is no length component.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length_target: Option<usize>,
    /// What an answer loses for each token that it is longer or shorter; at least 0. The default is that of
    /// arXiv 2503.04697.
    pub length_penalty: f64,
    /// Rewards of your own, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub components: BTreeMap<String, ComponentConfig>,
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
            overlong_max_length: None,
            overlong_floor: false,
            length_target: None,
            length_penalty: 3e-4,
            components: BTreeMap::new(),
        }
    }
}

/// `[reward.components.NAME]`: a reward of your own, asked about each answer: a program, an address, or a type that a
/// program with luspo as its library brings along. Exactly one of `command`, `url` and `custom` says which.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ComponentConfig {
    /// Weight of its score. The one that `reward.verifier` names has `reward.accuracy_weight` instead.
    pub weight: f64,
    /// A program and its arguments. It reads one JSON object a line and answers each with one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// An address that answers the same objects, one a POST. `https` needs a build with the feature `hub`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// A type that a program brings along (`luspo::trainer::train_with_custom`).
    pub custom: bool,
    /// Answers that are judged at once: as many processes, requests or threads.
    pub concurrency: usize,
    /// Seconds that the judgement of one answer may take, the start of a process included. A process that takes longer is
    /// killed, with all that it started.
    pub timeout: f64,
    /// MiB of address space of each process (`RLIMIT_AS`); Linux only. Absent: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<usize>,
    /// Bytes of the longest reply.
    pub output_limit: usize,
    /// What becomes of an answer that cannot be judged.
    pub on_failure: OnFailure,
}

impl Default for ComponentConfig {
    fn default() -> Self {
        Self {
            weight: 1.0,
            command: Vec::new(),
            url: None,
            custom: false,
            concurrency: 4,
            timeout: 30.0,
            memory_limit: None,
            output_limit: 1 << 16,
            on_failure: OnFailure::Mask,
        }
    }
}

/// What becomes of an answer that cannot be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// It is not learned from: it is in no mean, no comparison and no denominator.
    Mask,
    /// The component's score is 0; where it is the verifier, the answer is wrong.
    Zero,
    /// The run stops.
    Stop,
}

/// Names of metrics beside those of the components, and of what is built in.
const TAKEN: [&str; 8] = ["auto", "acc", "accuracy", "errors", "format", "length", "masked", "overlong"];

/// The longest timeout, a day, in seconds.
const LONGEST_TIMEOUT: f64 = 86_400.0;

/// The most answers that are judged at once.
const MOST_AT_ONCE: usize = 256;

impl RewardConfig {
    /// Whether the section makes sense, for answers of at most `max_response_length` tokens. Reads nothing and starts
    /// nothing.
    ///
    /// # Errors
    /// A verifier, format check or component that does not exist, a value out of its range, keys that do not go
    /// together.
    pub fn check(&self, max_response_length: usize) -> Result<(), RewardError> {
        if self.verifier != "auto" && !self.components.contains_key(&self.verifier) {
            verifier(&self.verifier)?;
        }
        if self.math_extraction.is_empty() {
            return Err(RewardError::NoExtraction);
        }
        if let Some(name) = &self.format {
            format_check(name)?;
        }
        finite("accuracy_weight", self.accuracy_weight)?;
        finite("format_weight", self.format_weight)?;
        at_least_zero("overlong_penalty", self.overlong_penalty)?;
        at_least_zero("length_penalty", self.length_penalty)?;
        self.check_lengths(max_response_length)?;
        self.check_unread()?;
        self.components.iter().try_for_each(|(name, component)| self.check_component(name, component))
    }

    /// The built-in verifiers as this section sets them.
    pub(crate) fn verifiers(&self) -> Verifiers {
        Verifiers { math_extraction: self.math_extraction.clone() }
    }

    /// L_max of the overlong penalty.
    pub(crate) fn overlong_max_length(&self, max_response_length: usize) -> usize {
        self.overlong_max_length.unwrap_or(max_response_length)
    }

    /// The name and the weight of every component, as an estimator wants it that compares components apart.
    pub fn component_weights(&self) -> Vec<(&str, f64)> {
        let own = self.components.iter().map(|(name, component)| (name.as_str(), component.weight));
        [("accuracy", self.accuracy_weight), ("format", self.format_weight)].into_iter().chain(own).collect()
    }

    /// Whether the programs that the rewards run are there. Starts nothing.
    ///
    /// # Errors
    /// [`RewardError::Component`] for the first that is not.
    pub fn check_programs(&self) -> Result<(), RewardError> {
        let missing = |(name, component): (&String, &ComponentConfig)| {
            own::missing(component).map(|problem| RewardError::Component { name: name.clone(), problem })
        };
        self.components.iter().find_map(missing).map_or(Ok(()), Err)
    }

    /// What the rewards need and is not there, a sentence each: programs, and what a configuration alone cannot bring.
    pub fn missing(&self) -> Vec<String> {
        let of = |(name, component): (&String, &ComponentConfig)| {
            let problem = if component.custom { Some(NOT_BROUGHT.to_string()) } else { own::missing(component) };
            problem.map(|problem| RewardError::Component { name: name.clone(), problem }.to_string())
        };
        self.components.iter().filter_map(of).collect()
    }

    fn check_lengths(&self, max_response_length: usize) -> Result<(), RewardError> {
        if let Some(length) = self.overlong_max_length
            && (length == 0 || length > max_response_length)
        {
            return Err(RewardError::OverlongMaxLength { length, max_response_length });
        }
        let max_response_length = self.overlong_max_length(max_response_length);
        if self.overlong_buffer > max_response_length {
            return Err(RewardError::OverlongBuffer { buffer: self.overlong_buffer, max_response_length });
        }
        match self.overlong_floor && self.overlong_max_length.is_none() {
            true => Err(RewardError::Unread {
                key: "overlong_floor",
                of: "overlong_max_length",
                hint: "no answer is longer than data.max_response_length; set a smaller maximum, or remove the key",
            }),
            false => Ok(()),
        }
    }

    /// Refuses settings of components that are off.
    fn check_unread(&self) -> Result<(), RewardError> {
        let default = Self::default();
        let (no_format, no_buffer, no_target) =
            (self.format.is_none(), self.overlong_buffer == 0, self.length_target.is_none());
        let buffer = "set a buffer, or remove the key";
        for (unread, key, of, hint) in [
            (
                no_format && self.format_weight != default.format_weight,
                "format_weight",
                "format",
                "name a format, or remove the key",
            ),
            (
                no_buffer && self.overlong_penalty != default.overlong_penalty,
                "overlong_penalty",
                "overlong_buffer",
                buffer,
            ),
            (no_buffer && self.overlong_max_length.is_some(), "overlong_max_length", "overlong_buffer", buffer),
            (
                no_target && self.length_penalty != default.length_penalty,
                "length_penalty",
                "length_target",
                "set a target, or remove the key",
            ),
        ] {
            if unread {
                return Err(RewardError::Unread { key, of, hint });
            }
        }
        Ok(())
    }

    fn check_component(&self, name: &str, component: &ComponentConfig) -> Result<(), RewardError> {
        let wrong = |problem: String| Err(RewardError::Component { name: name.into(), problem });
        if TAKEN.contains(&name) || verifier(name).is_ok() {
            return wrong("the name is that of something built in; take another".into());
        }
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')) {
            return wrong("a name is made of letters, digits, `_` and `-`".into());
        }
        let (command, url) = (!component.command.is_empty(), component.url.is_some());
        if [command, url, component.custom].into_iter().filter(|given| *given).count() != 1 {
            return wrong(
                "it needs one of `command` (a program), `url` (an address) and `custom` (a type of a program \
                          with luspo as its library)"
                    .into(),
            );
        }
        if component.command.first().is_some_and(String::is_empty) {
            return wrong("`command` begins with an empty word; name a program".into());
        }
        if let Some(url) = &component.url {
            check_url(url).or_else(wrong)?;
        }
        if name == self.verifier && component.weight != ComponentConfig::default().weight {
            return wrong("it is reward.verifier, whose weight is reward.accuracy_weight; remove `weight`".into());
        }
        if !component.weight.is_finite() {
            return wrong(format!("weight = {}; it must be a finite number", component.weight));
        }
        if !(component.timeout > 0.0 && component.timeout <= LONGEST_TIMEOUT) {
            let timeout = component.timeout;
            return wrong(format!("timeout = {timeout}; it must be above 0 and at most {LONGEST_TIMEOUT} seconds"));
        }
        if !(1..=MOST_AT_ONCE).contains(&component.concurrency) {
            return wrong(format!("concurrency = {}; it must be from 1 to {MOST_AT_ONCE}", component.concurrency));
        }
        if !(16..=1 << 30).contains(&component.output_limit) {
            return wrong(format!("output_limit = {}; it must be from 16 bytes to a GiB", component.output_limit));
        }
        if component.output_limit != ComponentConfig::default().output_limit && component.custom {
            return wrong("output_limit is of `command` and `url`; remove the key".into());
        }
        match component.memory_limit {
            None => Ok(()),
            Some(_) if !command => wrong("memory_limit is of `command`; remove the key".into()),
            Some(_) if !cfg!(target_os = "linux") => wrong("memory_limit works on Linux only; remove the key".into()),
            Some(limit) if !(1..=1 << 40).contains(&limit) => {
                wrong(format!("memory_limit = {limit}; it must be at least 1 MiB"))
            }
            Some(_) => Ok(()),
        }
    }
}

fn check_url(url: &str) -> Result<(), String> {
    let parsed: Result<ureq::http::Uri, _> = url.parse();
    let scheme = parsed.as_ref().ok().filter(|url| url.host().is_some()).and_then(|url| url.scheme_str());
    match scheme {
        Some("http") => Ok(()),
        Some("https") if cfg!(feature = "https") => Ok(()),
        Some("https") => Err(format!(
            "url = \"{url}\": this build has no TLS; build luspo with the feature `hub`, or give an http:// address"
        )),
        _ => Err(format!("url = \"{url}\" is no address; it looks like http://127.0.0.1:8000/score")),
    }
}

fn finite(key: &'static str, value: f64) -> Result<(), RewardError> {
    if value.is_finite() { Ok(()) } else { Err(RewardError::OutOfRange { key, value, range: "a finite number" }) }
}

fn at_least_zero(key: &'static str, value: f64) -> Result<(), RewardError> {
    match value.is_finite() && value >= 0.0 {
        true => Ok(()),
        false => Err(RewardError::OutOfRange { key, value, range: "a finite number of at least 0" }),
    }
}
