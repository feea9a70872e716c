//! Where in a text the answer stands. Lengths are counted in characters (Unicode scalar values), as Python does.

/// The last `count` characters of a text; all of it if it has fewer.
pub(crate) fn last_chars(text: &str, count: usize) -> &str {
    match text.char_indices().rev().take(count).last() {
        Some((start, _)) => &text[start..],
        None => "",
    }
}

/// What stands in the last `\boxed{…}`, braces balanced; `None` if there is none or its brace is never closed.
pub(crate) fn last_boxed(text: &str) -> Option<&str> {
    let (_, content) = text.rsplit_once(r"\boxed{")?;
    until_closed(content)
}

/// What stands before the brace that closes one opened before `content`; `None` if it is never closed.
pub(crate) fn until_closed(content: &str) -> Option<&str> {
    let mut open = 1_usize;
    for (at, byte) in content.bytes().enumerate() {
        match byte {
            b'{' => open += 1,
            b'}' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Some(&content[..at]);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_text_is_counted_in_characters() {
        assert_eq!(last_chars("aé😀b", 3), "é😀b");
        assert_eq!(last_chars("aé", 2), "aé");
        assert_eq!(last_chars("aé", 300), "aé");
        assert_eq!(last_chars("aé", 0), "");
        assert_eq!(last_chars("", 3), "");
    }

    #[test]
    fn the_last_box_is_read_to_its_own_closing_brace() {
        assert_eq!(last_boxed(r"\boxed{1} and \boxed{\frac{1}{2}} so"), Some(r"\frac{1}{2}"));
        assert_eq!(last_boxed(r"\boxed{é}"), Some("é"));
        assert_eq!(last_boxed(r"\boxed{}"), Some(""));
        assert_eq!(last_boxed(r"\boxed{1} and \boxed{2"), None);
        assert_eq!(last_boxed(r"\boxed 1"), None);
    }
}
