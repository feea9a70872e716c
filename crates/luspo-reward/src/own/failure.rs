//! Why an answer could not be judged, and how often.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::AddAssign;

/// Why an answer could not be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureKind {
    /// The reward itself said so.
    Error,
    /// The program ended before it answered, or closed its output.
    Exited,
    /// More was said than the output limit allows.
    Flood,
    /// What was said is not a JSON object, or something in it has the wrong type.
    Garbage,
    /// The address cannot be reached, or answers with a status other than 2xx.
    Http,
    /// There is no score, or, of a verifier, no word on whether the answer is right.
    Missing,
    /// The score is NaN or infinite.
    NotFinite,
    /// A reward that is a Rust type panicked.
    Panic,
    /// The program cannot be started.
    Start,
    /// It took longer than the timeout.
    Timeout,
    /// What was said is about another answer: a reply was left out, or there was one too many.
    WrongCount,
}

impl FailureKind {
    /// The name in metrics, `reward/errors/{component}/{name}`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Exited => "exited",
            Self::Flood => "flood",
            Self::Garbage => "garbage",
            Self::Http => "http",
            Self::Missing => "missing",
            Self::NotFinite => "not_finite",
            Self::Panic => "panic",
            Self::Start => "start",
            Self::Timeout => "timeout",
            Self::WrongCount => "wrong_count",
        }
    }

    /// Whether a process that failed like this may be out of step, so that its next reply cannot be trusted.
    pub(super) fn breaks_process(self) -> bool {
        !matches!(self, Self::Error | Self::Missing | Self::NotFinite)
    }
}

/// One answer that could not be judged.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Failure {
    pub kind: FailureKind,
    /// One sentence, with what the program wrote to its standard error.
    pub message: String,
}

impl Failure {
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// What went wrong while a batch of answers was scored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// Answers that could not be judged, by component and kind.
    pub counts: BTreeMap<(String, FailureKind), usize>,
    /// How often a process failed on an answer and a fresh one was asked again, by component. It may depend on which
    /// process was given which answer.
    pub restarts: BTreeMap<String, usize>,
    /// A sentence for each component that failed: how often, what became of the answers, and why the first of them could
    /// not be judged.
    pub notes: Vec<String>,
}

impl Failures {
    /// The counts under their metrics' names: `reward/errors/{component}/{kind}`, and `…/restart` for processes that
    /// were replaced.
    pub fn metrics(&self) -> impl Iterator<Item = (String, f64)> {
        let counts = self.counts.iter().map(|((name, kind), count)| (format!("{name}/{}", kind.name()), count));
        let restarts = self.restarts.iter().map(|(name, count)| (format!("{name}/restart"), count));
        counts.chain(restarts).map(|(name, count)| (format!("reward/errors/{name}"), *count as f64))
    }
}

impl AddAssign for Failures {
    fn add_assign(&mut self, other: Self) {
        for (kind, count) in other.counts {
            *self.counts.entry(kind).or_default() += count;
        }
        for (name, count) in other.restarts {
            *self.restarts.entry(name).or_default() += count;
        }
        self.notes.extend(other.notes);
    }
}

/// Other people's text as a part of one sentence: one line, not long, its end rather than its beginning.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 300;
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect();
    let line = words.join(" ");
    match line.char_indices().rev().nth(LONGEST - 1) {
        Some((start, _)) if start > 0 => format!("…{}", &line[start..]),
        _ => line,
    }
}
