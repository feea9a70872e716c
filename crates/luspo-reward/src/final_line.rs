//! Where the answers to the built-in problems stand: on the last line.

/// What the last line that is not blank says after `Answer:`, without the spaces around it; `None` if it does not begin
/// with that, or says nothing.
pub(crate) fn final_answer(text: &str) -> Option<&str> {
    let (_, line) = text.trim_end().rsplit_once('\n').unwrap_or(("", text));
    let answer = line.trim().strip_prefix("Answer:")?.trim();
    (!answer.is_empty()).then_some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_line_counts_and_only_whole() {
        assert_eq!(final_answer("Answer: 7"), Some("7"));
        assert_eq!(final_answer("3x = 21\nAnswer:  7 \n\n"), Some("7"));
        for text in ["7", "Answer:", "Answer: 7\nor so", "The Answer: 7", "answer: 7", "", "\n"] {
            assert_eq!(final_answer(text), None, "{text}");
        }
    }
}
