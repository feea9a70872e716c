//! Format checks: whether an answer has the shape that the prompt asked for, right or wrong.

use crate::RewardError;
use crate::extract::last_boxed;

/// Says whether a text has the format.
pub type FormatCheck = fn(&str) -> bool;

const FORMATS: [(&str, FormatCheck); 4] =
    [("think_answer", think_answer), ("gsm8k", gsm8k), ("answer_line", answer_line), ("boxed", boxed)];

/// The format check of that name. Each reads the whole text.
///
/// | name | the shape |
/// |---|---|
/// | `think_answer` | `<think>…</think>`, white space, `<answer>…</answer>`, nothing before and nothing after, each tag once, and a closed `\boxed{…}` in the answer (the system prompt of arXiv 2602.05261, fig. 3) |
/// | `gsm8k` | one line that is `#### ` and a number (optional `-`, then digits, points and commas, a digit first), and no other `####` |
/// | `answer_line` | a line that begins with `Answer:` and goes on (the prompt of DAPO-Math-17k) |
/// | `boxed` | the last `\boxed{` is closed, braces balanced (the prompts of MATH) |
///
/// # Errors
/// [`RewardError::UnknownFormat`] for any other name.
pub fn format_check(name: &str) -> Result<FormatCheck, RewardError> {
    FORMATS.iter().find(|(known, _)| *known == name).map(|(_, check)| *check).ok_or_else(|| {
        RewardError::UnknownFormat {
            name: name.into(),
            known: FORMATS.map(|(known, _)| format!("`{known}`")).join(", "),
        }
    })
}

fn think_answer(text: &str) -> bool {
    let inside = text.strip_prefix("<think>").and_then(|rest| rest.strip_suffix("</answer>"));
    let thought_and_rest = inside.and_then(|inside| inside.split_once("</think>"));
    let Some((thought, rest)) = thought_and_rest else { return false };
    let Some(answer) = rest.trim_start().strip_prefix("<answer>") else { return false };
    let has_tag = |part: &str| ["<think>", "</think>", "<answer>", "</answer>"].iter().any(|tag| part.contains(tag));
    !has_tag(thought) && !has_tag(answer) && boxed(answer)
}

fn gsm8k(text: &str) -> bool {
    let is_number = |text: &str| {
        let digits = text.strip_prefix('-').unwrap_or(text);
        digits.starts_with(|c: char| c.is_ascii_digit())
            && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.' || byte == b',')
    };
    text.matches("####").count() == 1
        && text.lines().any(|line| line.trim_end().strip_prefix("#### ").is_some_and(is_number))
}

fn answer_line(text: &str) -> bool {
    text.lines().any(|line| line.strip_prefix("Answer:").is_some_and(|answer| !answer.trim().is_empty()))
}

fn boxed(text: &str) -> bool {
    last_boxed(text).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_format(name: &str, having: &[&str], lacking: &[&str]) {
        let check = format_check(name).unwrap();
        for text in having {
            assert!(check(text), "{name} should accept {text:?}");
        }
        for text in lacking {
            assert!(!check(text), "{name} should refuse {text:?}");
        }
    }

    #[test]
    fn think_answer_is_a_thought_and_a_boxed_answer_and_nothing_else() {
        assert_format(
            "think_answer",
            &[
                r"<think>1+1</think><answer>\boxed{2}</answer>",
                "<think>\n1+1\n</think>\n\n<answer>\nIt is $\\boxed{\\frac{4}{2}}$.\n</answer>",
            ],
            &[
                "",
                "<think></answer>",
                r"<answer>\boxed{2}</answer>",
                r" <think>1+1</think><answer>\boxed{2}</answer>",
                r"<think>1+1</think><answer>\boxed{2}</answer> done",
                r"<think>1+1</think> so <answer>\boxed{2}</answer>",
                r"<think>1+1</think><answer>2</answer>",
                r"<think>1+1 \boxed{2}</think><answer>2</answer>",
                r"<think>1+1</think><answer>\boxed{2</answer>",
                r"<think>1+1<answer>\boxed{2}</answer></think>",
                r"<think>1</think><answer>\boxed{2}</answer><answer>\boxed{3}</answer>",
                r"<think>1<think>2</think><answer>\boxed{2}</answer>",
            ],
        );
    }

    #[test]
    fn gsm8k_is_one_line_with_hashes_and_a_number() {
        assert_format(
            "gsm8k",
            &["#### 34", "so it is\n#### -1,234.5\n", "#### 3\r\nbye"],
            &[
                "",
                "####34",
                "#### $34",
                "it is #### 34",
                "#### 34\n#### 35",
                "#### 34\n####",
                "#### ",
                "#### 3 4",
                "#### -",
            ],
        );
    }

    #[test]
    fn answer_line_begins_a_line_and_is_not_empty() {
        assert_format(
            "answer_line",
            &["Answer: 34", "so\nAnswer: 34\nbye", "Answer:34"],
            &["", "Answer:", "Answer: \n34", "The Answer: 34", "answer: 34"],
        );
    }

    #[test]
    fn boxed_has_a_closed_box() {
        assert_format("boxed", &[r"\boxed{34}", r"\boxed{\frac{1}{2}}."], &["", r"\boxed{34", r"\boxed 34", "{34}"]);
    }

    #[test]
    fn an_unknown_format_is_told_which_there_are() {
        let error = format_check("xml").unwrap_err().to_string();
        assert!(
            error.contains("`xml`") && error.contains("`think_answer`, `gsm8k`, `answer_line`, `boxed`"),
            "{error}"
        );
    }
}
