//! Where in a text the answer stands: the rules that may be asked for, and what they find.

use std::sync::LazyLock;

use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::boxes::boxed;
use super::expression::Expr;
use super::parse::parse;

/// A rule that finds the answer in a text. Each reads the text after the last `</think>`, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Extraction {
    /// The content of the last `\boxed{…}` or `\fbox{…}`, braces balanced; several boxes with nothing but commas and
    /// the like between them are one list. A last box that is empty or never closed is no answer, and no other rule is
    /// asked.
    Boxed,
    /// What stands in the last `<answer>…</answer>`.
    AnswerTag,
    /// The rest of the line after the last `Answer:` (any case, emphasis and line ends allowed around the colon), or
    /// after an `A:` that begins the last line.
    AnswerLine,
    /// The rest of the line after the last `####`.
    Hashes,
    /// What follows the last "answer is" or "result is", as far as it is a formula. Not strict.
    Phrase,
    /// The whole text, where it is a short formula and nothing else. Not strict.
    Whole,
    /// The last formula between `$`, `\(…\)` or `\[…\]`. Not strict.
    Formula,
    /// The last number. Not strict.
    Number,
}

impl Extraction {
    /// The rules that take an answer only where the text says that it is one. The default.
    pub const STRICT: [Self; 4] = [Self::Boxed, Self::AnswerTag, Self::AnswerLine, Self::Hashes];

    /// All rules, in the order in which they are asked.
    pub const ALL: [Self; 8] = [
        Self::Boxed,
        Self::AnswerTag,
        Self::AnswerLine,
        Self::Hashes,
        Self::Phrase,
        Self::Whole,
        Self::Formula,
        Self::Number,
    ];

    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Boxed => "boxed",
            Self::AnswerTag => "answer_tag",
            Self::AnswerLine => "answer_line",
            Self::Hashes => "hashes",
            Self::Phrase => "phrase",
            Self::Whole => "whole",
            Self::Formula => "formula",
            Self::Number => "number",
        }
    }

    /// The rule of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.name() == name)
    }

    /// The rule in words.
    pub(super) fn described(self) -> &'static str {
        match self {
            Self::Boxed => "the last \\boxed{…}",
            Self::AnswerTag => "the last <answer>…</answer>",
            Self::AnswerLine => "the line after the last `Answer:`",
            Self::Hashes => "the line after the last `####`",
            Self::Phrase => "what follows the last \"answer is\"",
            Self::Whole => "the whole text",
            Self::Formula => "the last formula between dollar signs",
            Self::Number => "the last number",
        }
    }

    /// A text in which this rule finds the answer.
    pub(super) fn written(self, answer: &str) -> String {
        match self {
            Self::Boxed => format!(r"\boxed{{{answer}}}"),
            Self::AnswerTag => format!("<answer>{answer}</answer>"),
            Self::AnswerLine => format!("Answer: {answer}"),
            Self::Hashes => format!("#### {answer}"),
            Self::Phrase => format!("The answer is {answer}"),
            Self::Formula => format!("${answer}$"),
            Self::Whole | Self::Number => answer.into(),
        }
    }

    fn find(self, text: &str) -> Found {
        let found = match self {
            Self::Boxed => return boxed(text),
            Self::AnswerTag => last_tag(text),
            Self::AnswerLine => answer_line(text),
            Self::Hashes => text.rsplit_once("####").map(|(_, rest)| first_line(rest).to_string()),
            Self::Phrase => phrase(text),
            Self::Whole => whole(text),
            Self::Formula => last_formula(text),
            Self::Number => last_number(text),
        };
        found.map_or(Found::Nothing, Found::Answer)
    }
}

/// What a rule finds.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Found {
    Answer(String),
    Nothing,
    /// A box that is empty or never closed.
    Broken,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Missing {
    NothingFound,
    BrokenBox,
    UnfinishedThought,
}

/// The answer in a text by the first of the rules that finds one, and which that is.
pub(super) fn extract(text: &str, rules: &[Extraction]) -> Result<(String, Extraction), Missing> {
    let text = match text.rsplit_once("</think>") {
        Some((_, after)) => after,
        None if text.trim_start().starts_with("<think>") => return Err(Missing::UnfinishedThought),
        None => text,
    };
    for &rule in rules {
        match rule.find(text) {
            Found::Answer(answer) if !answer.trim().is_empty() => return Ok((answer.trim().to_string(), rule)),
            Found::Broken => return Err(Missing::BrokenBox),
            _ => {}
        }
    }
    Err(Missing::NothingFound)
}

/// The gold answer in a gold text: the content of its marks, or all of it.
pub(super) fn gold_answer(text: &str) -> String {
    let marks = [Extraction::Boxed, Extraction::AnswerTag, Extraction::Hashes];
    if let Ok((answer, _)) = extract(text, &marks) {
        return answer;
    }
    // A gold answer is taken at its word, its box closed or not.
    match text.rsplit_once(r"\boxed{") {
        Some((_, rest)) => rest.trim().to_string(),
        None => text.trim().to_string(),
    }
}

/// The first line that is not blank.
fn first_line(text: &str) -> &str {
    text.trim_start().lines().next().unwrap_or_default().trim()
}

/// Without the marks of emphasis around it, and the point after it.
fn without_emphasis(text: &str) -> &str {
    text.trim_matches(|c: char| matches!(c, '*' | '_' | '`') || c.is_whitespace())
}

fn answer_line(text: &str) -> Option<String> {
    static LINE: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(?i)\banswer[*_\s]*:[*_\s]*([^\n]+)").expect("a valid regex"));
    if let Some(line) = LINE.captures_iter(text).last() {
        let line = without_emphasis(&line[1]);
        // "Final Answer: The final answer is $5$. I hope it is correct."
        let line = after_phrase(line).unwrap_or(line);
        return Some(value_of_sentence(first_sentence(line)).to_string());
    }
    let last = text.trim_end().lines().next_back()?.trim();
    last.strip_prefix("A:").map(|answer| answer.trim().to_string())
}

/// "The largest n is 34" as "34".
fn value_of_sentence(line: &str) -> &str {
    match line.rsplit_once(" is ") {
        Some((_, value)) if matches!(parse(line), Expr::Text(_)) => value.trim(),
        _ => line,
    }
}

/// What stands before a full stop and another sentence, or before a special token of a model.
fn first_sentence(line: &str) -> &str {
    let line = line.split("<|").next().unwrap_or(line).trim();
    let next = line.match_indices(". ").find(|(at, _)| {
        // `B. 12` is an option.
        *at > 1 && line[at + 2..].starts_with(|c: char| c.is_uppercase())
    });
    next.map_or(line, |(at, _)| &line[..at])
}

fn last_tag(text: &str) -> Option<String> {
    let (before, _) = text.rsplit_once("</answer>")?;
    let (_, answer) = before.rsplit_once("<answer>")?;
    Some(answer.trim().to_string())
}

/// The text of a formula between its first delimiters, if it begins with one.
fn delimited(text: &str) -> Option<&str> {
    for (open, close) in [("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")] {
        if let Some(rest) = text.strip_prefix(open) {
            return rest.split_once(close).map(|(formula, _)| formula);
        }
    }
    None
}

/// The rest of the line after the last "answer is".
fn after_phrase(text: &str) -> Option<&str> {
    static PHRASE: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?i)\b(?:answer|result)\s+(?:is|equals|=)\s*:?\s*([^\n]+)").expect("a valid regex")
    });
    let line = PHRASE.captures_iter(text).last()?.get(1)?.as_str();
    Some(without_emphasis(line).trim_start_matches(['"', '“']).trim_start_matches("\\\""))
}

fn phrase(text: &str) -> Option<String> {
    let line = after_phrase(text)?;
    // `$18` is money, where no second dollar sign closes a formula.
    let line = line
        .strip_prefix('$')
        .filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()) && !rest.contains('$'))
        .unwrap_or(line);
    if let Some(formula) = delimited(line) {
        return Some(formula.trim().to_string());
    }
    if let Some(number) = NUMBER.find(line).filter(|number| number.start() == 0) {
        return Some(number.as_str().to_string());
    }
    Some(first_sentence(line).trim_end_matches('.').to_string())
}

fn whole(text: &str) -> Option<String> {
    let text = text.trim();
    if text.len() > 300 || text.contains('\n') {
        return None;
    }
    // Words of the language: those of commands and those in `\text{…}` are not.
    let mut words = 0;
    let mut before = ' ';
    for word in text.split_inclusive(|c: char| !c.is_ascii_alphabetic()) {
        let letters = word.trim_end_matches(|c: char| !c.is_ascii_alphabetic());
        words += usize::from(letters.len() > 2 && !matches!(before, '\\' | '{'));
        before = word.chars().next_back().unwrap_or(' ');
    }
    let has_formula = text.contains('$') && !(text.starts_with('$') && text.ends_with('$')) || text.contains(r"\(");
    let is_formula = !matches!(parse(text), Expr::Text(_)) && words <= if has_formula { 1 } else { 2 };
    let is_word = words <= 2 && text.split_whitespace().count() <= 2;
    (is_formula || is_word).then(|| text.to_string())
}

fn last_formula(text: &str) -> Option<String> {
    // A formula within a line stays in its line.
    let last = |open: &str, close: &str, one_line: bool| {
        let end = text.rfind(close)?;
        let start = text[..end].rfind(open)?;
        let formula = &text[start + open.len()..end];
        (!(one_line && formula.contains('\n'))).then(|| (end, formula.trim().to_string()))
    };
    let dollars = || {
        let end = text.rfind('$')?;
        let inner_end = text[..end].trim_end_matches('$').len();
        let start = text[..inner_end].rfind('$')?;
        let formula = &text[start + 1..inner_end];
        (end > inner_end || !formula.contains('\n')).then(|| (end, formula.trim().to_string()))
    };
    [last(r"\(", r"\)", true), last(r"\[", r"\]", false), dollars()]
        .into_iter()
        .flatten()
        .filter(|(_, formula)| !formula.is_empty())
        .max_by_key(|(end, _)| *end)
        .map(|(_, formula)| formula)
}

static NUMBER: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"[-−+]?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?(?:\s*/\s*\d+)?(?:\s*\\?%)?",
    )
    .expect("a valid regex")
});

fn last_number(text: &str) -> Option<String> {
    let mut last = None;
    for number in NUMBER.find_iter(text) {
        // `A2` is a name.
        if !text[..number.start()].ends_with(|c: char| c.is_alphanumeric() && !c.is_ascii_digit()) {
            last = Some(number);
        }
    }
    let number = last?;
    // A sign after a digit or a letter is a minus between two values.
    let joined = text[..number.start()].ends_with(|c: char| c.is_alphanumeric() || c == ')');
    let text = number.as_str();
    Some(if joined { text.trim_start_matches(['-', '−', '+']).to_string() } else { text.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Option<(String, Extraction)> {
        extract(text, &Extraction::STRICT).ok()
    }

    fn answer(text: &str) -> Option<String> {
        found(text).map(|(answer, _)| answer)
    }

    #[test]
    fn strict_rules_take_what_is_marked_as_the_answer_and_nothing_else() {
        for (text, expected) in [
            (r"so \boxed{1} and then \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
            (r"\boxed{\boxed{5}}", r"\boxed{5}"),
            (r"\boxed{\{1,2\}}", r"\{1,2\}"),
            (r"\boxed{1} and \boxed{2}", "1 and 2"),
            (r"$\boxed{1}$, $\boxed{2}$", "1 and 2"),
            (r"\\boxed{7}", "7"),
            (r"\boxed 34$ x", "34"),
            ("so\nAnswer: 34", "34"),
            ("**Final Answer:** 34", "34"),
            ("Answer: 3\nAnswer: 4", "4"),
            ("#### 1,234\n", "1,234"),
            ("18 eggs\nA: 18", "18"),
            ("<answer>\n84\n</answer>", "84"),
            (r"<think>\boxed{1}</think> \boxed{2}", "2"),
        ] {
            assert_eq!(answer(text).as_deref(), Some(expected), "{text}");
        }
        for text in [
            "34",
            "It is 34",
            "The answer is 34",
            "$34$",
            "",
            r"\boxed{}",
            r"\boxed{1} and \boxed{2",
            "Answer:",
            r"<think>\boxed{34}</think> I think so",
            r"<think>\boxed{34}",
            "A: 18\nB: 20",
        ] {
            assert_eq!(answer(text), None, "{text}");
        }
    }

    #[test]
    fn a_box_that_is_empty_or_not_closed_ends_the_search() {
        assert_eq!(extract("Answer: 5\n\\boxed{6", &Extraction::ALL), Err(Missing::BrokenBox));
        assert_eq!(extract("Answer: 5\n\\boxed{ }", &Extraction::ALL), Err(Missing::BrokenBox));
        assert_eq!(answer(r"\boxed{ so \boxed{5}").as_deref(), Some("5"));
    }

    #[test]
    fn the_other_rules_are_asked_for() {
        let by = |text: &str, rule| extract(text, &[rule]).ok().map(|(answer, _)| answer);
        assert_eq!(by("The answer is $42$ because", Extraction::Phrase).as_deref(), Some("42"));
        assert_eq!(by("The answer is 42.", Extraction::Phrase).as_deref(), Some("42"));
        assert_eq!(by(r"\frac{1}{2}", Extraction::Whole).as_deref(), Some(r"\frac{1}{2}"));
        assert_eq!(by("I have no idea what that could possibly be", Extraction::Whole), None);
        assert_eq!(by(r"so $x=1$ and \(y = 2\).", Extraction::Formula).as_deref(), Some("y = 2"));
        assert_eq!(by("first 3, then 1,234.5.", Extraction::Number).as_deref(), Some("1,234.5"));
        assert_eq!(by("it was -3", Extraction::Number).as_deref(), Some("-3"));
        assert_eq!(by("10-3", Extraction::Number).as_deref(), Some("3"));
        assert_eq!(by("AZYUK2A", Extraction::Number), None);
    }
}
