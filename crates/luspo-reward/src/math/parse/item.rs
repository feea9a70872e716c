//! Lists, their items, relations, and quantities with units.

use super::super::expression::{Expr, Relation};
use super::super::tokens::Kind;
use super::super::unit;
use super::{List, Parser};

/// Words in front of a value that say nothing.
const NOISE: [&str; 19] = [
    "approximately",
    "about",
    "approx",
    "roughly",
    "exactly",
    "around",
    "is",
    "equals",
    "the",
    "answer",
    "final",
    "value",
    "so",
    "thus",
    "therefore",
    "hence",
    "result",
    "option",
    "choice",
];

/// Words with which `x = 5` does not say that it is 5.
const DENIALS: [&str; 6] = ["no", "not", "never", "except", "cannot", "unless"];

impl Parser<'_> {
    pub(super) fn list(&mut self, outermost: bool) -> Option<List> {
        let mut list = List::default();
        loop {
            while self.at_separator() {
                match self.peek() {
                    Some(Kind::Conjunction) => list.conjunctions += 1,
                    _ => list.separators += 1,
                }
                self.at += 1;
            }
            if self.at_close() {
                return Some(list);
            }
            let start = self.at;
            match self.item().filter(|_| self.at_end_of_item()) {
                Some(item) => list.items.push(item),
                None if outermost => {
                    self.at = start;
                    list.items.push(self.unreadable());
                }
                None => return None,
            }
        }
    }

    /// An item that does not fit the grammar: the value after its `=`, if there is one that does, else its text.
    pub(super) fn unreadable(&mut self) -> Expr {
        let start = self.at;
        let mut open = 0_usize;
        let mut equals = None;
        let mut is_no_name = false;
        while let Some(kind) = self.peek() {
            match kind {
                Kind::Sign('+' | '-') if equals.is_none() => is_no_name = true,
                Kind::Word(word) if DENIALS.contains(&word.to_lowercase().as_str()) => is_no_name = true,
                Kind::Sign('(' | '[' | '{') | Kind::OpenSet | Kind::Begin(_) => open += 1,
                Kind::Sign(')' | ']' | '}') | Kind::CloseSet | Kind::End(_) => open = open.saturating_sub(1),
                Kind::Relation(Relation::Equal) if open == 0 => equals = Some(self.at),
                Kind::Comma | Kind::Semicolon | Kind::Conjunction | Kind::NewLine if open == 0 => break,
                _ => {}
            }
            self.at += 1;
        }
        let end = self.at;
        // What is given a value is a name: no sum, and no "no solution for x".
        if let Some(equals) = equals.filter(|equals| *equals > start && !is_no_name) {
            self.at = equals + 1;
            self.bars = 0;
            let value = self.member();
            if self.at == end
                && let Some(value) = value
            {
                let name = Expr::Text(self.source(start, equals));
                return Expr::Relation(Box::new(name), vec![(Relation::Equal, value)]);
            }
        }
        self.at = end;
        self.bars = 0;
        Expr::Text(self.source(start, end))
    }

    pub(super) fn item(&mut self) -> Option<Expr> {
        let start = self.at;
        let mut all_noise = true;
        while let Some(Kind::Word(word)) = self.peek() {
            all_noise &= NOISE.contains(&word.to_lowercase().as_str());
            self.at += 1;
        }
        let name = || Expr::Text(self.source(start, self.at));
        if self.at > start {
            if self.at_end_of_item() {
                return Some(name());
            }
            match self.peek() {
                Some(Kind::Relation(Relation::Equal) | Kind::Sign(':')) => {
                    let name = name();
                    self.at += 1;
                    let value = self.member()?;
                    return Some(Expr::Relation(Box::new(name), vec![(Relation::Equal, value)]));
                }
                _ if all_noise => {}
                _ => return None,
            }
        }
        // `≈ 5`
        if self.at == start && matches!(self.peek(), Some(Kind::Relation(Relation::Equal | Relation::Approximately))) {
            self.at += 1;
        }
        let first = self.member()?;
        let mut rest = Vec::new();
        while let Some(Kind::Relation(relation)) = self.peek() {
            let relation = *relation;
            self.at += 1;
            let start = self.at;
            while matches!(self.peek(), Some(Kind::Word(_))) {
                self.at += 1;
            }
            // `x = \text{even}`
            let value = if self.at > start && self.at_end_of_item() {
                Expr::Text(self.source(start, self.at))
            } else {
                self.at = start;
                self.member()?
            };
            rest.push((relation, value));
        }
        Some(if rest.is_empty() { first } else { Expr::Relation(Box::new(first), rest) })
    }

    pub(super) fn member(&mut self) -> Option<Expr> {
        let first = self.quantity()?;
        match self.peek() {
            Some(Kind::Command(name)) if name == "cup" => {
                let mut items = vec![first];
                while self.is(&Kind::Command("cup".into())) {
                    self.at += 1;
                    items.push(self.quantity()?);
                }
                Some(Expr::Union(items))
            }
            Some(Kind::Command(name)) if matches!(name.as_str(), "cap" | "setminus" | "backslash" | "mid" | "nmid") => {
                let name = name.clone();
                self.at += 1;
                Some(Expr::Opaque(name, vec![first, self.quantity()?]))
            }
            Some(Kind::Sign(':')) => {
                let mut items = vec![first];
                while self.take_sign(':') {
                    items.push(self.quantity()?);
                }
                Some(Expr::Ratio(items))
            }
            _ => Some(first),
        }
    }

    pub(super) fn quantity(&mut self) -> Option<Expr> {
        let mut value = self.sum()?;
        while let Some(Kind::Word(word)) = self.peek() {
            if unit::is_percent(word) {
                value = Expr::Percent(Box::new(value));
            } else if let Some(scale) = unit::scale(word) {
                value = Expr::Product(vec![value, Expr::integer(scale)]);
            } else {
                return Some(Expr::Quantity(Box::new(value), self.unit()?));
            }
            self.at += 1;
        }
        if self.is(&Kind::Command("pmod".into())) {
            self.at += 1;
            let modulus = self.script_text()?;
            return Some(Expr::Quantity(Box::new(value), format!("mod {modulus}")));
        }
        Some(value)
    }

    /// Words up to the end of the item, with powers and `/` between them.
    pub(super) fn unit(&mut self) -> Option<String> {
        let mut words: Vec<String> = Vec::new();
        let mut power = "";
        while !self.at_end_of_item() && !matches!(self.peek(), Some(Kind::Relation(_))) {
            match self.peek()? {
                Kind::Word(word) if unit::changes_the_number(word) => return None,
                Kind::Word(word) if matches!(word.to_lowercase().as_str(), "square" | "sq") => power = "^2",
                Kind::Word(word) if matches!(word.to_lowercase().as_str(), "cubic" | "cu") => power = "^3",
                Kind::Word(word) => {
                    words.push(unit::canonical(word) + power);
                    power = "";
                }
                Kind::Letter(letter) => words.push(unit::canonical(letter)),
                Kind::Sign('/') => words.push("/".into()),
                Kind::Sign('*') => {}
                Kind::Sign('^') => {
                    self.at += 1;
                    let script = self.script_text()?;
                    if let Some(last) = words.last_mut() {
                        last.push('^');
                        last.push_str(&script);
                    }
                    continue;
                }
                _ => return None,
            }
            self.at += 1;
        }
        if power == "^2" && words.is_empty() {
            words.push("square".into());
        }
        Some(words.join(" "))
    }
}
