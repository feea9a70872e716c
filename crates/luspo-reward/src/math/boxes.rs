//! The boxes of a text: `\boxed{…}`.

use std::sync::LazyLock;

use regex::Regex;

use super::extract::Found;

/// A box: where its command, its content and its end are, in bytes.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: usize,
    content: usize,
    end: usize,
}

/// Finds all boxes in one walk over the text.
pub(super) fn boxed(text: &str) -> Found {
    let bytes = text.as_bytes();
    // Open boxes with the depth of their braces, and the closed ones that are in no other.
    let mut open: Vec<(usize, usize, usize)> = Vec::new();
    let mut closed: Vec<Span> = Vec::new();
    let mut depth = 0_usize;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => {
                let rest = &text[at..];
                let command = [r"\boxed", r"\fbox", r"\beginboxed"].into_iter().find(|name| rest.starts_with(name));
                if let Some(command) = command {
                    let after = &bytes[at + command.len()..];
                    let spaces = after.iter().take_while(|byte| **byte == b' ').count();
                    if after.get(spaces) == Some(&b'{') {
                        let content = at + command.len() + spaces + 1;
                        open.push((at, content, depth));
                        depth += 1;
                        at = content;
                        continue;
                    }
                }
                // The next character belongs to the backslash, unless it begins a box: `\\boxed` of escaped texts.
                let escaped_box = rest.starts_with(r"\\boxed") || rest.starts_with(r"\\fbox");
                let next_is_ascii = bytes.get(at + 1).is_some_and(u8::is_ascii);
                at += if !escaped_box && next_is_ascii { 2 } else { 1 };
                continue;
            }
            b'{' => depth += 1,
            b'}' => {
                depth = depth.saturating_sub(1);
                if let Some(&(start, content, at_depth)) = open.last()
                    && at_depth == depth
                {
                    open.pop();
                    while closed.last().is_some_and(|inner| inner.start > start) {
                        closed.pop();
                    }
                    closed.push(Span { start, content, end: at });
                }
            }
            _ => {}
        }
        at += 1;
    }
    let Some(last) = closed.last().copied() else {
        return if open.is_empty() { bare_box(text) } else { Found::Broken };
    };
    if open.last().is_some_and(|(start, ..)| *start > last.start) {
        return Found::Broken;
    }
    // Boxes side by side are one answer.
    let mut first = closed.len() - 1;
    while first > 0
        && closed.len() - first < 64
        && is_between_items(&text[closed[first - 1].end + 1..closed[first].start])
    {
        first -= 1;
    }
    let contents: Vec<&str> = closed[first..].iter().map(|span| text[span.content..span.end].trim()).collect();
    if contents.iter().all(|content| content.is_empty()) {
        return Found::Broken;
    }
    Found::Answer(contents.join(" and "))
}

/// Whether only commas, `and`, dollar signs and spaces stand here.
fn is_between_items(text: &str) -> bool {
    static BETWEEN: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?i)^(?:[\s,;$&.~]|\\quad|\\qquad|\\[,;:!\\ ()\[\]]|\\text\{[^{}]*\b(?:and|or)\s*\}|and|or|[a-z](?:_\{?\w+\}?)?\s*=)*$").expect("a valid regex")
    });
    text.len() <= 60 && BETWEEN.is_match(text)
}

/// `\boxed 34`, where there is no box with braces: up to a dollar sign or the end of the line.
fn bare_box(text: &str) -> Found {
    let Some((_, rest)) = text.rsplit_once(r"\boxed ") else { return Found::Nothing };
    let content = rest.split(['$', '\n']).next().unwrap_or_default().trim();
    if content.is_empty() { Found::Nothing } else { Found::Answer(content.trim_end_matches('.').to_string()) }
}
