//! From tokens to what they mean.
//!
//! A descent over the grammar
//!
//! ```text
//! list     = item {(, | ; | and | or | new line) item}
//! item     = [words] member {(= | < | ∈ | …) member}
//! member   = quantity {∪ quantity} | quantity {: quantity}
//! quantity = sum [unit]
//! sum      = [±] product {(+ | - | ±) product}
//! product  = factor {[* | /] factor}
//! factor   = primary {^ script | _ script | ! | % | ° | '}
//! ```
//!
//! An item that does not fit becomes a text, so every answer is read as something. Depth and steps are bounded.

mod command;
mod formula;
mod item;
mod primary;

use super::expression::Expr;
use super::tokens::{Kind, Token, tokens};

/// Brackets, scripts and arguments within each other; formulas that people write have ten at most.
const DEEPEST: usize = 40;

/// Reads an answer; what is no formula is a text.
pub(in crate::math) fn parse(text: &str) -> Expr {
    parse_with(text, true)
}

/// The same with every plain comma as a separator: `100,200` as two numbers.
pub(in crate::math) fn parse_separated(text: &str) -> Expr {
    parse_with(text, false)
}

fn parse_with(text: &str, grouping: bool) -> Expr {
    let whole = Expr::Text(text.trim().to_string());
    let tokens = tokens(text, grouping);
    if tokens.is_empty() {
        return whole;
    }
    let mut parser = Parser { text, tokens, at: 0, depth: 0, bars: 0 };
    match parser.list(true) {
        Some(list) if parser.at == parser.tokens.len() => list.into_expr().unwrap_or(whole),
        _ => whole,
    }
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    /// Open `|`.
    bars: usize,
}

/// Items and what stood between them.
#[derive(Default)]
struct List {
    items: Vec<Expr>,
    separators: usize,
    conjunctions: usize,
}

impl List {
    /// Several items as one answer.
    fn into_expr(mut self) -> Option<Expr> {
        if self.items.len() < 2 {
            return self.items.pop();
        }
        // A list of numbers is in an order; solutions, points and words are not.
        let plain = self
            .items
            .iter()
            .all(|item| item.is_scalar() && !item.any(&mut |part| matches!(part, Expr::PlusMinus(..))));
        let ordered = plain && self.conjunctions == 0;
        Some(Expr::List { items: self.items, ordered })
    }
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Kind> {
        self.tokens.get(self.at).map(|token| &token.kind)
    }

    fn peek_at(&self, ahead: usize) -> Option<&Kind> {
        self.tokens.get(self.at + ahead).map(|token| &token.kind)
    }

    fn is(&self, kind: &Kind) -> bool {
        self.peek() == Some(kind)
    }

    fn is_sign(&self, sign: char) -> bool {
        self.peek() == Some(&Kind::Sign(sign))
    }

    fn is_ahead(&self, ahead: usize, sign: char) -> bool {
        self.peek_at(ahead) == Some(&Kind::Sign(sign))
    }

    fn take_sign(&mut self, sign: char) -> bool {
        let is = self.is_sign(sign);
        self.at += usize::from(is);
        is
    }

    fn expect_sign(&mut self, sign: char) -> Option<()> {
        self.take_sign(sign).then_some(())
    }

    /// Whether an item ends here.
    fn at_end_of_item(&self) -> bool {
        self.at_separator() || self.at_close()
    }

    fn at_separator(&self) -> bool {
        matches!(self.peek(), Some(Kind::Comma | Kind::Semicolon | Kind::Conjunction | Kind::NewLine))
    }

    fn at_close(&self) -> bool {
        match self.peek() {
            None | Some(Kind::Sign(')' | ']' | '}' | '>' | '&') | Kind::CloseSet | Kind::End(_)) => true,
            Some(Kind::Sign('|')) => self.bars > 0,
            _ => false,
        }
    }

    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        if self.depth >= DEEPEST {
            return None;
        }
        self.depth += 1;
        let result = read(self);
        self.depth -= 1;
        result
    }

    /// The text of these tokens.
    fn source(&self, start: usize, end: usize) -> String {
        match (self.tokens.get(start), self.tokens[start..end].last()) {
            (Some(first), Some(last)) => self.text[first.start..last.end].trim().to_string(),
            _ => String::new(),
        }
    }

    /// The text of a script: what stands in its braces, or the one token.
    fn script_text(&mut self) -> Option<String> {
        let start = self.at;
        if self.take_sign('{') {
            let mut open = 1_usize;
            while open > 0 {
                match self.peek()? {
                    Kind::Sign('{') => open += 1,
                    Kind::Sign('}') => open -= 1,
                    _ => {}
                }
                self.at += 1;
            }
        } else {
            self.peek()?;
            self.at += 1;
        }
        let text = self.source(start, self.at);
        Some(text.chars().filter(|c| !matches!(c, '{' | '}') && !c.is_whitespace()).collect())
    }
}
