use std::collections::BTreeMap;
use std::sync::Arc;

use luspo_core::{FinishReason, Prompt, Score, contain};

use crate::length::Length;
use crate::overlong::Overlong;
use crate::own::{Failure, FailureKind, Failures, Judged, OwnReward, Reply};
use crate::{
    Answer, Extraction, FormatCheck, OnFailure, Reward, RewardConfig, RewardError, Specimen, Verdict, Verifier,
    Verifiers, format_check,
};

/// Rewards that a program brings along, by the names of their components.
pub type CustomRewards = BTreeMap<String, Arc<dyn Reward>>;

/// Scores answers: a verifier for each data source, the shaping, and rewards of the user's own.
pub struct RewardPipeline {
    judge: Judge,
    accuracy_weight: f64,
    format: Option<(FormatCheck, f64)>,
    overlong: Option<Overlong>,
    length: Option<Length>,
    /// Without the one that judges.
    own: Vec<OwnReward>,
}

/// The scores of a batch of answers, and what could not be scored.
#[derive(Clone, Debug)]
pub struct Scored {
    /// In the order of the answers.
    pub scores: Vec<Score>,
    /// What went wrong.
    pub failures: Failures,
}

/// What a verifier says of two answers that were made up from a gold one.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// The verifier.
    pub verifier: String,
    /// The answers.
    pub specimen: Specimen,
    /// What it says of the one that is to be right.
    pub right: Verdict,
    /// What it says of the one that is to be wrong.
    pub wrong: Verdict,
}

/// Who says what is right.
enum Judge {
    Named(Arc<dyn Verifier>),
    BySource(BTreeMap<String, Arc<dyn Verifier>>),
    Own(OwnReward),
}

impl RewardPipeline {
    /// The rewards of a configuration, for answers of at most `max_response_length` tokens to prompts of the given data
    /// sources (repetitions allowed). Starts no program yet.
    ///
    /// # Errors
    /// As [`RewardConfig::check`]; a data source that no verifier is known for; a program that is not there; a component
    /// that a Rust program has to bring along, see [`with_custom`](Self::with_custom).
    pub fn new(
        config: &RewardConfig,
        max_response_length: usize,
        data_sources: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Self, RewardError> {
        Self::with_custom(config, max_response_length, data_sources, &CustomRewards::new())
    }

    /// As [`new`](Self::new), with a reward of the caller's for every component that the configuration calls `custom`.
    ///
    /// # Errors
    /// As [`new`](Self::new); a component without its reward, or a reward without its component.
    pub fn with_custom(
        config: &RewardConfig,
        max_response_length: usize,
        data_sources: impl IntoIterator<Item = impl AsRef<str>>,
        custom: &CustomRewards,
    ) -> Result<Self, RewardError> {
        config.check(max_response_length)?;
        check_custom(config, custom)?;
        let mut own = Vec::new();
        let mut judge = None;
        for (name, component) in &config.components {
            let reward = OwnReward::new(name, component, custom.get(name).cloned())?;
            match *name == config.verifier {
                true => judge = Some(Judge::Own(reward)),
                false => own.push(reward),
            }
        }
        let judge = match judge {
            Some(judge) => judge,
            None => Judge::built_in(&config.verifier, &config.verifiers(), data_sources)?,
        };
        if config.math_extraction != Extraction::STRICT && !judge.has("math") {
            return Err(RewardError::UnusedExtraction);
        }
        let format = match &config.format {
            Some(name) => Some((format_check(name)?, config.format_weight)),
            None => None,
        };
        let overlong = (config.overlong_buffer > 0).then_some(Overlong {
            max_length: config.overlong_max_length(max_response_length),
            buffer: config.overlong_buffer,
            penalty: config.overlong_penalty,
            floor: config.overlong_floor,
        });
        let length = config.length_target.map(|target| Length { target, penalty: config.length_penalty });
        Ok(Self { judge, accuracy_weight: config.accuracy_weight, format, overlong, length, own })
    }

    /// Scores answers; the scores come in their order, whoever is asked and in whatever order that replies.
    ///
    /// The components are `accuracy`, where configured `format`, `overlong` and `length`, and then those of the user's
    /// own, in the order of their names. An answer that could not be judged, and is to be left out, has a component and
    /// a total of NaN ([`Score::is_known`]).
    ///
    /// # Errors
    /// [`RewardError::Failed`] where a component is to stop at a failure.
    ///
    /// # Panics
    /// With `verifier = "auto"`, on a data source that was not given to [`new`](Self::new).
    pub fn score(&self, answers: &[Answer<'_>]) -> Result<Scored, RewardError> {
        let scored = self.score_quietly(answers)?;
        scored.failures.notes.iter().for_each(|note| log::warn!("{note}"));
        Ok(scored)
    }

    fn score_quietly(&self, answers: &[Answer<'_>]) -> Result<Scored, RewardError> {
        let mut failures = Failures::default();
        let mut scores = Vec::with_capacity(answers.len());
        let weight = self.accuracy_weight;
        let verdicts = match &self.judge {
            Judge::Own(own) => {
                let judged = self.judged_right(own, answers).weighed_by(weight);
                settle(&own.name, own.on_failure, judged, answers, &mut failures)
            }
            built_in => {
                let replies = answers.iter().map(|answer| built_in.verdict(answer)).collect();
                let judged = Judged { replies, restarts: 0 }.weighed_by(weight);
                settle("accuracy", OnFailure::Mask, judged, answers, &mut failures)
            }
        };
        for (answer, verdict) in answers.iter().zip(verdicts?) {
            let Reply { score, correct, extracted, style } = verdict;
            let mut components = vec![("accuracy".to_string(), self.accuracy_weight * score)];
            if let Some((has_format, weight)) = self.format {
                components.push(("format".into(), if has_format(answer.text) { weight } else { 0.0 }));
            }
            if let Some(overlong) = self.overlong {
                components.push(("overlong".into(), overlong.reward(answer.tokens)));
            }
            if let Some(length) = self.length {
                components.push(("length".into(), length.reward(answer.tokens)));
            }
            scores.push(Score { total: 0.0, components, correct: correct == Some(true), extracted, style });
        }
        for own in &self.own {
            let judged = own.judge(answers).weighed_by(own.weight);
            let replies = settle(&own.name, own.on_failure, judged, answers, &mut failures)?;
            for (score, reply) in scores.iter_mut().zip(replies) {
                score.components.push((own.name.clone(), own.weight * reply.score));
            }
        }
        for score in &mut scores {
            let total: f64 = score.components.iter().map(|(_, value)| value).sum();
            // One NaN, whatever the bits of those that it comes from.
            score.total = if total.is_nan() { f64::NAN } else { total };
        }
        Ok(Scored { scores, failures })
    }

    /// Tries the verifier of a prompt with two answers that are made up from the gold one. None where a program, an
    /// address or a type of the user's own judges, and for a gold answer that the verifier has no text for.
    ///
    /// # Panics
    /// As [`score`](Self::score).
    pub fn try_gold(&self, prompt: &Prompt) -> Option<Trial> {
        let judge = self.judge.verifier(prompt)?;
        let specimen = judge.specimen(&prompt.ground_truth)?;
        let verdict = |text: &str| judge.verify(text, &prompt.ground_truth);
        let (right, wrong) = (verdict(&specimen.right), verdict(&specimen.wrong));
        Some(Trial { verifier: judge.name().into(), specimen, right, wrong })
    }

    /// Whether a program, an address or a type of the user's own is asked.
    pub fn has_own(&self) -> bool {
        !self.own.is_empty() || matches!(self.judge, Judge::Own(_))
    }

    /// Asks the rewards of the user's own about one answer, the gold one, so that what cannot work is told of before
    /// anything is sampled.
    ///
    /// # Errors
    /// As [`score`](Self::score).
    pub fn rehearse(&self, prompt: &Prompt) -> Result<(), RewardError> {
        if !self.has_own() {
            return Ok(());
        }
        let answer = Answer { prompt, text: &prompt.ground_truth, tokens: 1, finish: FinishReason::Stop };
        for note in self.score_quietly(&[answer])?.failures.notes {
            log::warn!("asked about a gold answer before the run: {note}");
        }
        Ok(())
    }

    /// What the user's own verifier says; a reply that does not say what is right is none.
    fn judged_right(&self, own: &OwnReward, answers: &[Answer<'_>]) -> Judged {
        let mut judged = own.judge(answers);
        for reply in &mut judged.replies {
            if matches!(reply, Ok(Reply { correct: None, .. })) {
                let message = "there is no `correct` (what reward.verifier names says whether an answer is right)";
                *reply = Err(Failure::new(FailureKind::Missing, message));
            }
        }
        judged
    }
}

/// Replaces the failures by what their policy says, and counts them.
fn settle(
    name: &str,
    policy: OnFailure,
    judged: Judged,
    answers: &[Answer<'_>],
    failures: &mut Failures,
) -> Result<Vec<Reply>, RewardError> {
    if judged.restarts > 0 {
        *failures.restarts.entry(name.into()).or_default() += judged.restarts;
    }
    let mut first = None;
    let mut count = 0;
    let value = if policy == OnFailure::Zero { 0.0 } else { f64::NAN };
    let mut replies = Vec::with_capacity(judged.replies.len());
    for (answer, reply) in answers.iter().zip(judged.replies) {
        replies.push(reply.unwrap_or_else(|failure| {
            count += 1;
            *failures.counts.entry((name.to_string(), failure.kind)).or_default() += 1;
            first.get_or_insert((answer.prompt.id, failure));
            Reply { score: value, correct: None, extracted: None, style: None }
        }));
    }
    let Some((prompt_id, failure)) = first else { return Ok(replies) };
    let (component, all) = (name.to_string(), answers.len());
    let becomes = match policy {
        OnFailure::Stop => {
            return Err(RewardError::Failed { component, prompt_id, kind: failure.kind, problem: failure.message });
        }
        OnFailure::Mask => "are left out",
        OnFailure::Zero => "score 0",
    };
    failures.notes.push(format!(
        "reward `{component}`: {count} of {all} answers could not be judged and {becomes}; the first, to prompt \
         {prompt_id}: {failure}"
    ));
    Ok(replies)
}

impl Judge {
    fn built_in(
        name: &str,
        verifiers: &Verifiers,
        data_sources: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Self, RewardError> {
        if name != "auto" {
            return Ok(Self::Named(verifiers.named(name)?));
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

    /// Whether the built-in verifier of this name judges.
    fn has(&self, name: &str) -> bool {
        match self {
            Self::Named(judge) => judge.name() == name,
            Self::BySource(judges) => judges.values().any(|judge| judge.name() == name),
            Self::Own(_) => false,
        }
    }

    /// The built-in verifier of a prompt; none where something of the user's own judges.
    fn verifier(&self, prompt: &Prompt) -> Option<&dyn Verifier> {
        match self {
            Self::Named(judge) => Some(judge.as_ref()),
            Self::BySource(judges) => match judges.get(&prompt.data_source) {
                Some(judge) => Some(judge.as_ref()),
                None => {
                    let source = &prompt.data_source;
                    panic!("data_source `{source}` was not named when the rewards were set up")
                }
            },
            Self::Own(_) => None,
        }
    }

    /// What a built-in verifier says. None is known to panic; one that does fails on one answer and not on the run.
    fn verdict(&self, answer: &Answer<'_>) -> Result<Reply, Failure> {
        let Some(judge) = self.verifier(answer.prompt) else {
            unreachable!("what is of the user's own is asked about many answers at once")
        };
        contain(|| judge.verify(answer.text, &answer.prompt.ground_truth))
            .map_err(|panic| Failure::new(FailureKind::Panic, format!("`{}` panicked: {panic}", judge.name())))
            .and_then(Reply::of_verdict)
    }
}

/// Every component that is to be brought along is, and nothing else.
fn check_custom(config: &RewardConfig, custom: &CustomRewards) -> Result<(), RewardError> {
    let wanted = |name: &String| config.components.get(name).is_some_and(|component| component.custom);
    if let Some(name) = custom.keys().find(|name| !wanted(name)) {
        return Err(RewardError::Component {
            name: name.clone(),
            problem: "a program brought a reward of this name along; say `custom = true` there".into(),
        });
    }
    match config.components.iter().find(|(name, component)| component.custom && !custom.contains_key(*name)) {
        Some((name, _)) => Err(RewardError::Component { name: name.clone(), problem: NOT_BROUGHT.into() }),
        None => Ok(()),
    }
}

/// What is missing where only the configuration is there.
pub(crate) const NOT_BROUGHT: &str = "`custom` is for programs that bring the reward along \
    (luspo::trainer::train_with_custom); name a `command` or a `url`";
