//! What formulas are made of: numbers, letters, brackets, matrices.

use super::super::expression::{Constant, Decimals, Expr, Function, Number};
use super::super::rational::Rational;
use super::super::tokens::Kind;
use super::Parser;

impl Parser<'_> {
    pub(super) fn primary(&mut self) -> Option<Expr> {
        let kind = self.peek()?.clone();
        self.at += 1;
        match kind {
            Kind::Number(text) => self.number(&text),
            Kind::Letter(letter) => self.letter(letter),
            Kind::Sign(open @ ('(' | '[')) => self.brackets(open),
            Kind::Sign('{') => {
                let list = self.deeper(|parser| parser.list(false))?;
                self.expect_sign('}')?;
                if list.items.len() > 1 { Some(Expr::Set(list.items)) } else { list.into_expr() }
            }
            Kind::OpenSet if self.at_condition() => {
                // `\{x | x > 2\}` is its condition.
                self.at += 2;
                let list = self.deeper(|parser| parser.list(false))?;
                self.is(&Kind::CloseSet).then(|| self.at += 1)?;
                list.into_expr()
            }
            Kind::OpenSet => {
                let list = self.deeper(|parser| parser.list(false))?;
                self.is(&Kind::CloseSet).then(|| self.at += 1)?;
                Some(Expr::Set(list.items))
            }
            Kind::Sign('<') => {
                let list = self.deeper(|parser| parser.list(false))?;
                self.expect_sign('>')?;
                Some(Expr::Tuple('<', '>', list.items))
            }
            Kind::Sign('|') => {
                self.bars += 1;
                let inner = self.deeper(Self::sum)?;
                self.bars -= 1;
                self.expect_sign('|')?;
                Some(Expr::Apply(Function::Abs, vec![inner]))
            }
            Kind::Begin(name) => self.environment(&name),
            Kind::Command(name) => self.command(&name),
            _ => None,
        }
    }

    /// Whether the set that has just been opened is given by a condition.
    pub(super) fn at_condition(&self) -> bool {
        let bar = match self.peek_at(1) {
            Some(Kind::Sign('|' | ':')) => true,
            Some(Kind::Command(name)) => name == "mid",
            _ => false,
        };
        bar && matches!(self.peek(), Some(Kind::Letter(_)))
    }

    pub(super) fn number(&mut self, text: &str) -> Option<Expr> {
        let (digits, exponent) = text.split_once('e').unwrap_or((text, "0"));
        let exponent: i64 = exponent.trim_start_matches('+').parse().ok()?;
        let (whole, places) = digits.split_once('.').unwrap_or((digits, ""));
        let all = format!("{whole}{places}");
        let last_place = exponent.checked_sub(i64::try_from(places.len()).ok()?)?;
        let mut value = if all.is_empty() { Rational::integer(0) } else { Rational::from_digits(&all)? };
        // A zero stays zero whatever its exponent; Rational refuses large powers.
        value = value.multiply(&Rational::power_of_ten(last_place)?)?;
        if self.is(&Kind::Command("overline".into())) && digits.contains('.') {
            return self.repeating(value, places.len());
        }
        let significant = all.trim_start_matches('0').len();
        let decimals = digits.contains('.').then_some(Decimals { significant, last_place });
        Some(Expr::Number(Number { value, decimals }))
    }

    /// `0.1\overline{6}`.
    pub(super) fn repeating(&mut self, value: Rational, places: usize) -> Option<Expr> {
        self.at += 1;
        let digits = self.script_text()?;
        let period = i64::try_from(digits.len()).ok()?;
        let nines = Rational::power_of_ten(period)?.add(&Rational::integer(-1))?;
        let tail = Rational::from_digits(&digits)?
            .divide(&nines)?
            .divide(&Rational::power_of_ten(i64::try_from(places).ok()?)?)?;
        Some(Expr::Number(Number { value: value.add(&tail)?, decimals: None }))
    }

    pub(super) fn letter(&mut self, letter: String) -> Option<Expr> {
        let mut name = letter;
        let mut plain = true;
        loop {
            if self.is_sign('_') {
                self.at += 1;
                name = format!("{name}_{{{}}}", self.script_text()?);
            } else if self.is_sign('\'') {
                self.at += 1;
                name.push('\'');
            } else if self.is_sign('^') && self.peek_at(1) == Some(&Kind::Sign('\'')) {
                self.at += 2;
                name.push('\'');
            } else if self.is_sign('^') && self.is_ahead(1, '{') && self.is_ahead(2, '\'') {
                self.at += 2;
                while self.take_sign('\'') {
                    name.push('\'');
                }
                self.expect_sign('}')?;
            } else {
                break;
            }
            plain = false;
            if name.len() > 200 {
                return None;
            }
        }
        match name.as_str() {
            "pi" if plain => return Some(Expr::Constant(Constant::Pi)),
            "e" if plain => return Some(Expr::Constant(Constant::E)),
            "i" if plain => return Some(Expr::Constant(Constant::I)),
            _ => {}
        }
        // A letter right before brackets: a function's value, or a product.
        if self.is_sign('(') && !self.tokens[self.at].spaced {
            let start = self.at;
            self.at += 1;
            let list = self.deeper(|parser| parser.list(false))?;
            if self.take_sign(')') && !list.items.is_empty() {
                return Some(Expr::Call(name, list.items));
            }
            self.at = start;
        }
        Some(Expr::Name(name))
    }

    pub(super) fn brackets(&mut self, open: char) -> Option<Expr> {
        let bars = std::mem::take(&mut self.bars);
        let list = self.deeper(|parser| parser.list(false))?;
        self.bars = bars;
        let close = match self.peek()? {
            Kind::Sign(close @ (')' | ']')) => *close,
            _ => return None,
        };
        self.at += 1;
        let matching = matches!((open, close), ('(', ')') | ('[', ']'));
        match list.items.len() {
            0 => None,
            1 if matching => list.into_expr(),
            1 => None,
            _ if list.conjunctions > 0 => list.into_expr(),
            _ => Some(Expr::Tuple(open, close, list.items)),
        }
    }

    pub(super) fn environment(&mut self, name: &str) -> Option<Expr> {
        if name == "cases" {
            let list = self.deeper(|parser| parser.list(false))?;
            matches!(self.peek()?, Kind::End(_)).then(|| self.at += 1)?;
            return list.into_expr();
        }
        if !(name.ends_with("matrix") || name == "array") {
            return None;
        }
        let mut rows = vec![Vec::new()];
        loop {
            match self.peek()? {
                Kind::Sign('&') => self.at += 1,
                Kind::NewLine => {
                    self.at += 1;
                    rows.push(Vec::new());
                }
                Kind::End(_) => {
                    self.at += 1;
                    break;
                }
                _ => {
                    let cell = self.deeper(Self::sum)?;
                    rows.last_mut()?.push(cell);
                    matches!(self.peek()?, Kind::Sign('&') | Kind::NewLine | Kind::End(_)).then_some(())?;
                }
            }
        }
        rows.retain(|row| !row.is_empty());
        let columns = rows.first()?.len();
        if rows.iter().any(|row| row.len() != columns) {
            return None;
        }
        let matrix = Expr::Matrix(rows);
        Some(if name == "vmatrix" { Expr::Apply(Function::Determinant, vec![matrix]) } else { matrix })
    }
}
