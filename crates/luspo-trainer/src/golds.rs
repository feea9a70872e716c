//! Whether verifiers know their gold answers: each is given, for some prompts of every data source, an answer that says
//! what the gold answer says, and one that says something else.

use std::collections::BTreeMap;

use luspo_core::{Prompt, Purpose, RandomKey};
use luspo_data::PromptDataset;
use luspo_reward::{RewardPipeline, Trial};
use rand::Rng;
use serde::Serialize;

use crate::TrainError;

/// Prompts of a data source whose golds are tried, at most.
const TRIED: usize = 256;

/// Golds that are shown, at most.
const SHOWN: usize = 3;

/// How the verifier of a data source took to gold answers of its prompts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GoldCheck {
    /// Which prompts: `training` or `validation`.
    pub part: &'static str,
    /// The data source.
    pub source: String,
    /// The verifier.
    pub verifier: String,
    /// Golds that were tried.
    pub tried: usize,
    /// Answers that say what the gold says and are not right to the verifier.
    pub refused: usize,
    /// Answers that say something else and are right to the verifier.
    pub accepted: usize,
    /// The first of both.
    pub examples: Vec<GoldExample>,
}

/// An answer that was judged as it should not be.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GoldExample {
    /// The prompt's row, from 0, counted over all files of its part.
    pub row: u64,
    /// Its gold answer.
    pub gold: String,
    /// The answer that was judged.
    pub answer: String,
    /// What the verifier took for the answer in it.
    pub extracted: Option<String>,
    /// What it said.
    pub right: bool,
}

/// Tries the golds of up to 256 prompts of each data source: the same ones every time, from all over the files.
///
/// # Errors
/// A verifier that takes none of its golds for right, or every other answer: nothing could be learnt from it, or measured.
pub(crate) fn check_golds(
    part: &'static str,
    prompts: Option<&PromptDataset>,
    rewards: &RewardPipeline,
) -> Result<Vec<GoldCheck>, TrainError> {
    let Some(prompts) = prompts else { return Ok(Vec::new()) };
    let mut checks = Vec::new();
    for (source, prompts) in sample(prompts)? {
        let trials: Vec<(&Prompt, Trial)> =
            prompts.iter().filter_map(|prompt| Some((prompt, rewards.try_gold(prompt)?))).collect();
        if let Some(check) = GoldCheck::of(part, source, &trials) {
            check.verdict()?;
            checks.push(check);
        }
    }
    Ok(checks)
}

/// Of each data source the prompts with the smallest random numbers, in the order of their rows.
fn sample(prompts: &PromptDataset) -> Result<BTreeMap<String, Vec<Prompt>>, TrainError> {
    let mut samples: BTreeMap<String, BTreeMap<(u64, u64), Prompt>> = BTreeMap::new();
    for prompt in prompts.iter() {
        let prompt = prompt?;
        let number = RandomKey::new(0, Purpose::GoldSample).at(prompt.id).rng().next_u64();
        let sample = match samples.get_mut(&prompt.data_source) {
            Some(sample) => sample,
            None => samples.entry(prompt.data_source.clone()).or_default(),
        };
        sample.insert((number, prompt.id), prompt);
        if sample.len() > TRIED {
            sample.pop_last();
        }
    }
    let in_order = |sample: BTreeMap<_, Prompt>| {
        let mut prompts: Vec<Prompt> = sample.into_values().collect();
        prompts.sort_by_key(|prompt| prompt.id);
        prompts
    };
    Ok(samples.into_iter().map(|(source, sample)| (source, in_order(sample))).collect())
}

impl GoldCheck {
    /// None where nothing could be tried.
    fn of(part: &'static str, source: String, trials: &[(&Prompt, Trial)]) -> Option<Self> {
        let verifier = trials.first()?.1.verifier.clone();
        let refused = || trials.iter().filter(|(_, trial)| !trial.right.correct);
        let accepted = || trials.iter().filter(|(_, trial)| trial.wrong.correct);
        let refused_examples = refused().map(|(prompt, trial)| (prompt, &trial.specimen.right, &trial.right));
        let accepted_examples = accepted().map(|(prompt, trial)| (prompt, &trial.specimen.wrong, &trial.wrong));
        let examples = refused_examples.take(SHOWN).chain(accepted_examples.take(SHOWN));
        let examples = examples.map(|(prompt, answer, verdict)| GoldExample {
            row: prompt.id,
            gold: prompt.ground_truth.clone(),
            answer: answer.clone(),
            extracted: verdict.extracted.clone(),
            right: verdict.correct,
        });
        Some(Self {
            part,
            source,
            verifier,
            tried: trials.len(),
            refused: refused().count(),
            accepted: accepted().count(),
            examples: examples.collect(),
        })
    }

    /// Whether every answer was judged as it should be.
    pub fn is_clean(&self) -> bool {
        self.refused + self.accepted == 0
    }

    /// What was found, in one sentence.
    pub fn sentence(&self) -> String {
        let Self { part, source, verifier, tried, refused, accepted, examples } = self;
        let right = tried - refused;
        let mut sentence = format!(
            "{part} golds of {source}: {right} of {tried} are right to `{verifier}`, and so {} of {tried} other answers",
            match accepted {
                0 => "is none".to_string(),
                accepted => format!("are {accepted}"),
            }
        );
        for (number, example) in examples.iter().enumerate() {
            sentence += if number == 0 { ": " } else { "; " };
            sentence += &example.words();
        }
        sentence
    }

    fn verdict(&self) -> Result<(), TrainError> {
        let Self { part, source, verifier, tried, .. } = self;
        let what = match (self.refused == *tried, self.accepted == *tried) {
            (false, false) => return Ok(()),
            (true, _) => format!("takes none of {tried} gold answers for right"),
            (false, true) => format!("takes wrong answers to all of {tried} prompts for right"),
        };
        let example = self.examples.first().map(GoldExample::words).unwrap_or_default();
        Err(TrainError::Mismatch(format!(
            "{part} prompts of data_source `{source}`: the verifier `{verifier}` {what} ({example}); choose the verifier \
             that the golds are written for (reward.verifier), or correct the golds"
        )))
    }
}

impl GoldExample {
    fn words(&self) -> String {
        let Self { row, gold, answer, extracted, right } = self;
        let extracted = match extracted {
            Some(extracted) => format!("`{}` was read", shortened(extracted)),
            None => "no answer was found".into(),
        };
        let verdict = if *right { "right" } else { "wrong" };
        format!("row {row}, gold `{}`: in `{}` {extracted}, which is {verdict}", shortened(gold), shortened(answer))
    }
}

/// One line that is not long.
fn shortened(text: &str) -> String {
    const LONGEST: usize = 60;
    let line = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let line = line.collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}
