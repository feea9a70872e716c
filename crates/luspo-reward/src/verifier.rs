use std::sync::Arc;

use crate::{
    Arithmetic, BaseConversion, Countdown, Exact, Extraction, Gsm8k, LinearEquation, Math, MathDapo, MathReward,
    RewardError, Sorting, Specimen,
};

/// What a verifier says of one answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The verifier's own score: 1 for a right answer, and for a wrong one 0 or, by `math_dapo`, −1.
    pub score: f64,
    /// Whether the answer is right.
    pub correct: bool,
    /// What was taken for the answer, where one was found.
    pub extracted: Option<String>,
    /// The manner of the answer, where the verifier tells manners apart.
    pub style: Option<String>,
}

impl Verdict {
    /// The verdict of a verifier that gives 1 for right and 0 for wrong, and knows no styles.
    pub(crate) fn one_or_zero(correct: bool, extracted: Option<&str>) -> Self {
        Self { score: if correct { 1.0 } else { 0.0 }, correct, extracted: extracted.map(String::from), style: None }
    }
}

/// Why a verdict is what it is, in words.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// What was extracted by which rule, or why nothing was.
    pub extraction: String,
    /// How the answer was read, where there is one.
    pub prediction: Option<String>,
    /// How the gold answer was read, where it was.
    pub gold: Option<String>,
    /// Why they are the same, or are not.
    pub reason: String,
}

/// Judges answers against gold ones.
///
/// The built-in ones take time linear in the text and never panic, whatever the text is.
pub trait Verifier: Send + Sync {
    /// The name under which a configuration asks for it.
    fn name(&self) -> &str;
    /// The rule it judges by, in one sentence.
    fn rule(&self) -> &str {
        "a rule of its own"
    }
    /// Two texts to try it with, one that gives this gold answer and one that gives another. None for a verifier that does
    /// not say how an answer is written, or a gold answer to which it knows none.
    fn specimen(&self, _ground_truth: &str) -> Option<Specimen> {
        None
    }
    /// Judges the answer `text`, without the prompt and without the end-of-sequence token's text.
    fn verify(&self, text: &str, ground_truth: &str) -> Verdict;
    /// Why [`verify`](Self::verify) says what it says.
    fn explain(&self, text: &str, ground_truth: &str) -> Explanation {
        let verdict = self.verify(text, ground_truth);
        let extraction = match &verdict.extracted {
            Some(answer) => format!("`{answer}` was extracted"),
            None => "nothing was extracted".into(),
        };
        let outcome = if verdict.correct { "so it is" } else { "which is not so" };
        Explanation {
            extraction,
            prediction: verdict.extracted,
            gold: Some(ground_truth.into()),
            reason: format!("right is: {}; {outcome}", self.rule()),
        }
    }
}

/// The verifiers there are, with their settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Verifiers {
    /// Where `math` looks for the answer; the others have rules of their own.
    pub math_extraction: Vec<Extraction>,
}

impl Default for Verifiers {
    fn default() -> Self {
        Self { math_extraction: Extraction::STRICT.to_vec() }
    }
}

impl Verifiers {
    /// The verifier of that name: `exact`, `gsm8k`, `math`, `math_dapo`, `math_reward`, or the name of a built-in task.
    ///
    /// # Errors
    /// [`RewardError::UnknownVerifier`] for any other name; it lists those there are.
    pub fn named(&self, name: &str) -> Result<Arc<dyn Verifier>, RewardError> {
        self.all()
            .into_iter()
            .find(|verifier| verifier.name() == name)
            .ok_or_else(|| RewardError::UnknownVerifier { name: name.into(), known: known() })
    }

    /// The verifier that judges a data source, as verl 0.9.1 dispatches (`verl/utils/reward_score/__init__.py`), and
    /// `math` for sources of mathematics that verl does not know.
    ///
    /// | data_source | verifier |
    /// |---|---|
    /// | `openai/gsm8k` | `gsm8k` |
    /// | `DigitalLearningGmbH/MATH-lighteval`, `HuggingFaceH4/MATH-500`, `lighteval/MATH` | `math_reward` |
    /// | `math_dapo`, `math`, `math_dapo_reasoning`, anything that starts with `aime` | `math_dapo` |
    /// | `minerva_math`, `olympiad_bench`, anything that starts with `amc` | `math` |
    /// | `luspo/` and the name of a built-in task | that task's own |
    ///
    /// # Errors
    /// [`RewardError::VerifierNotBuilt`] for a source that verl judges with a verifier that does not exist here (such as
    /// code contests), [`RewardError::UnknownDataSource`] for one that verl does not know either.
    pub fn for_source(&self, data_source: &str) -> Result<Arc<dyn Verifier>, RewardError> {
        let name = match data_source {
            "openai/gsm8k" => "gsm8k",
            "DigitalLearningGmbH/MATH-lighteval" | "HuggingFaceH4/MATH-500" | "lighteval/MATH" => "math_reward",
            "math_dapo" | "math" | "math_dapo_reasoning" => "math_dapo",
            "luspo/arithmetic" => "arithmetic",
            "luspo/countdown" => "countdown",
            "luspo/linear_equation" => "linear_equation",
            "luspo/base_conversion" => "base_conversion",
            "luspo/sorting" => "sorting",
            "minerva_math" | "olympiad_bench" => "math",
            source if source.starts_with("aime") => "math_dapo",
            source if source.starts_with("amc") => "math",
            source => {
                return Err(match not_built(source) {
                    Some(wanted) => {
                        RewardError::VerifierNotBuilt { data_source: source.into(), wanted, known: known() }
                    }
                    None => RewardError::UnknownDataSource { data_source: source.into(), known: known() },
                });
            }
        };
        self.named(name)
    }

    fn all(&self) -> [Arc<dyn Verifier>; 10] {
        [
            Arc::new(Exact),
            Arc::new(Gsm8k::default()),
            Arc::new(Math { extraction: self.math_extraction.clone() }),
            Arc::new(MathDapo::default()),
            Arc::new(MathReward),
            Arc::new(Arithmetic),
            Arc::new(Countdown),
            Arc::new(LinearEquation),
            Arc::new(BaseConversion),
            Arc::new(Sorting),
        ]
    }
}

/// The verifier of that name, with the default settings; see [`Verifiers::named`].
///
/// # Errors
/// As [`Verifiers::named`].
pub fn verifier(name: &str) -> Result<Arc<dyn Verifier>, RewardError> {
    Verifiers::default().named(name)
}

/// The verifier that judges a data source, with the default settings; see [`Verifiers::for_source`].
///
/// # Errors
/// As [`Verifiers::for_source`].
pub fn verifier_for(data_source: &str) -> Result<Arc<dyn Verifier>, RewardError> {
    Verifiers::default().for_source(data_source)
}

/// verl's verifier for a source that none of ours judges.
fn not_built(data_source: &str) -> Option<&'static str> {
    Some(match data_source {
        "numina_aops_forum"
        | "numina_synthetic_math"
        | "numina_amc_aime"
        | "numina_synthetic_amc"
        | "numina_cn_k12"
        | "numina_olympiads" => "prime_math",
        "codecontests" | "apps" | "codeforces" | "taco" => "prime_code",
        "hiyouga/geometry3k" => "geo3k",
        source if source.starts_with("searchR1_") => "search_r1_like_qa_em",
        _ => return None,
    })
}

fn known() -> String {
    Verifiers::default().all().map(|verifier| format!("`{}`", verifier.name())).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verifier_is_found_by_its_own_name() {
        for known in Verifiers::default().all() {
            assert_eq!(verifier(known.name()).unwrap().name(), known.name());
        }
        let error = verifier("gsm9k").err().unwrap().to_string();
        assert!(
            error.contains("`gsm9k`")
                && error.contains("`exact`, `gsm8k`, `math`, `math_dapo`, `math_reward`, `arithmetic`"),
            "{error}"
        );
    }

    #[test]
    fn a_data_source_is_judged_as_in_verl() {
        for (source, name) in [
            ("openai/gsm8k", "gsm8k"),
            ("DigitalLearningGmbH/MATH-lighteval", "math_reward"),
            ("HuggingFaceH4/MATH-500", "math_reward"),
            ("math_dapo", "math_dapo"),
            ("math", "math_dapo"),
            ("math_dapo_reasoning", "math_dapo"),
            ("aime2024", "math_dapo"),
            ("aime2025", "math_dapo"),
            ("amc23", "math"),
            ("minerva_math", "math"),
            ("olympiad_bench", "math"),
            ("luspo/arithmetic", "arithmetic"),
            ("luspo/countdown", "countdown"),
            ("luspo/linear_equation", "linear_equation"),
            ("luspo/base_conversion", "base_conversion"),
            ("luspo/sorting", "sorting"),
        ] {
            assert_eq!(verifier_for(source).unwrap().name(), name, "{source}");
        }
    }

    #[test]
    fn a_source_without_a_verifier_is_an_error_that_says_what_to_do() {
        for (source, wanted) in [
            ("codecontests", "prime_code"),
            ("numina_olympiads", "prime_math"),
            ("reasoning_gym/gcd", "no verifier is known"),
            ("", "no verifier is known"),
        ] {
            let error = verifier_for(source).err().unwrap().to_string();
            for part in [source, wanted, "`math_dapo`", "reward.verifier"] {
                assert!(error.contains(part), "{part:?} is missing in {error:?}");
            }
        }
    }
}
