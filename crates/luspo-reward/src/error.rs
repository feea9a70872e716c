use crate::FailureKind;

/// What can be wrong with a reward's configuration or a dataset's source.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RewardError {
    /// No verifier has this name.
    #[error(
        "reward.verifier: there is no verifier `{name}`; there are {known} (`auto`: by data_source; or the name of one of \
         reward.components)"
    )]
    UnknownVerifier {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// verl judges this data source with a verifier that does not exist here.
    #[error(
        "data_source `{data_source}` is judged by `{wanted}`, which is not built yet; \
         there are {known}: one of them can judge every source (reward.verifier, --verifier)"
    )]
    VerifierNotBuilt {
        /// The prompt's data source.
        data_source: String,
        /// verl's verifier for it.
        wanted: &'static str,
        /// The verifiers there are.
        known: String,
    },
    /// Nobody has said how this data source is judged.
    #[error(
        "no verifier is known for data_source `{data_source}`; \
         there are {known}: one of them can judge every source (reward.verifier, --verifier)"
    )]
    UnknownDataSource {
        /// The prompt's data source.
        data_source: String,
        /// The verifiers there are.
        known: String,
    },
    /// No format check has this name.
    #[error("reward.format: there is no format check `{name}`; there are {known}")]
    UnknownFormat {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// The verifier `math` is told to look for the answer nowhere.
    #[error("reward.math_extraction is empty, so no answer would ever be found; name a rule, or remove the key")]
    NoExtraction,
    /// Rules for the verifier `math`, where it judges nothing.
    #[error(
        "reward.math_extraction is of the verifier `math`, and nothing here is judged by it; \
         set reward.verifier = \"math\", or remove the key"
    )]
    UnusedExtraction,
    /// The buffer of the overlong penalty is larger than the response it is the end of.
    #[error(
        "reward.overlong_buffer = {buffer} is more than L_max = {max_response_length} tokens \
         (reward.overlong_max_length, else data.max_response_length); the penalty starts that many tokens before it"
    )]
    OverlongBuffer {
        /// `reward.overlong_buffer`, in tokens.
        buffer: usize,
        /// `data.max_response_length`, in tokens.
        max_response_length: usize,
    },
    /// A weight or a penalty is out of its range.
    #[error("reward.{key} = {value}: it must be {range}")]
    OutOfRange {
        /// The key in the `[reward]` section.
        key: &'static str,
        /// Its value.
        value: f64,
        /// What it may be, in words.
        range: &'static str,
    },
    /// L_max of the overlong penalty is no length of an answer.
    #[error(
        "reward.overlong_max_length = {length}: it must be at least 1 and at most data.max_response_length = \
         {max_response_length}"
    )]
    OverlongMaxLength {
        /// `reward.overlong_max_length`, in tokens.
        length: usize,
        /// `data.max_response_length`, in tokens.
        max_response_length: usize,
    },
    /// A setting that nothing reads.
    #[error("reward.{key} is of reward.{of}; {hint}")]
    Unread {
        /// The key in the `[reward]` section.
        key: &'static str,
        /// The key that it belongs to.
        of: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// A reward of the user's own is not described rightly, or is not there.
    #[error("[reward.components.{name}]: {problem}")]
    Component {
        /// The component.
        name: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// An answer could not be judged, and that is to stop the run (`on_failure = "stop"`).
    #[error("reward `{component}` failed on an answer to prompt {prompt_id} ({kind}): {problem}", kind = kind.name())]
    Failed {
        /// The component.
        component: String,
        /// The prompt's row in its data.
        prompt_id: u64,
        /// Why.
        kind: FailureKind,
        /// Why, in a sentence.
        problem: String,
    },
}
