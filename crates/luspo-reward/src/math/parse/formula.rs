//! Sums, products, and what stands behind a factor.

use super::super::expression::{Expr, Function};
use super::super::tokens::{Kind, Token};
use super::super::unit;
use super::{DEEPEST, Parser};

impl Parser<'_> {
    pub(super) fn sum(&mut self) -> Option<Expr> {
        let mut terms = Vec::new();
        loop {
            let mut negative = false;
            let mut plus_minus = None;
            let mut signs = 0;
            loop {
                match self.peek() {
                    Some(Kind::Sign('+')) => {}
                    Some(Kind::Sign('-')) => negative = !negative,
                    Some(Kind::PlusMinus) => plus_minus = Some(false),
                    Some(Kind::MinusPlus) => plus_minus = Some(true),
                    _ => break,
                }
                signs += 1;
                self.at += 1;
            }
            if signs == 0 && !terms.is_empty() {
                break;
            }
            let mut term = self.product()?;
            if negative {
                term = Expr::Negative(Box::new(term));
            }
            if let Some(flipped) = plus_minus {
                term = Expr::PlusMinus(flipped, Box::new(term));
            }
            terms.push(term);
        }
        if terms.len() == 1 { terms.pop() } else { Some(Expr::Sum(terms)) }
    }

    pub(super) fn product(&mut self) -> Option<Expr> {
        let mut factors = vec![self.factor()?];
        let finish = |mut factors: Vec<Expr>| {
            if factors.len() == 1 { factors.pop() } else { Some(Expr::Product(factors)) }
        };
        loop {
            match self.peek() {
                Some(Kind::Sign('*')) => {
                    self.at += 1;
                    let factor = self.signed_factor()?;
                    factors.push(factor);
                }
                Some(Kind::Sign('/')) => {
                    self.at += 1;
                    let divisor = self.signed_factor()?;
                    let value = finish(std::mem::take(&mut factors))?;
                    // The nesting grows on the left with every division.
                    self.depth_of_chain(&value)?;
                    factors.push(Expr::Quotient(Box::new(value), Box::new(divisor)));
                }
                Some(Kind::Command(name)) if name == "bmod" || name == "mod" => {
                    self.at += 1;
                    let divisor = self.signed_factor()?;
                    let value = finish(std::mem::take(&mut factors))?;
                    self.depth_of_chain(&value)?;
                    factors.push(Expr::Apply(Function::Modulo, vec![value, divisor]));
                }
                _ if factors.len() == 1 && self.at_fraction_of_mixed_number(&factors[0]) => {
                    let whole = factors.pop()?;
                    let fraction = if matches!(self.peek(), Some(Kind::Number(_))) {
                        let above = self.factor()?;
                        self.expect_sign('/')?;
                        Expr::Quotient(Box::new(above), Box::new(self.factor()?))
                    } else {
                        self.factor()?
                    };
                    factors.push(Expr::Sum(vec![whole, fraction]));
                }
                // `2^6 3^5`
                Some(Kind::Number(_)) if matches!(factors.last(), Some(Expr::Power(..))) => {
                    let factor = self.factor()?;
                    factors.push(factor);
                }
                Some(kind) if self.starts_factor(kind) => {
                    let factor = self.factor()?;
                    factors.push(factor);
                }
                _ => return finish(factors),
            }
        }
    }

    /// Refuses chains such as `1/2/3/…` that are too long for what walks over them.
    pub(super) fn depth_of_chain(&self, value: &Expr) -> Option<()> {
        let mut depth = 0;
        let mut value = value;
        while let Expr::Quotient(inner, _) | Expr::Negative(inner) | Expr::Power(inner, _) = value {
            value = inner;
            depth += 1;
        }
        (depth < DEEPEST).then_some(())
    }

    /// Whether what follows this whole number makes it a mixed one: `1\frac{1}{2}`, `1 1/2`.
    pub(super) fn at_fraction_of_mixed_number(&self, whole: &Expr) -> bool {
        let is_whole = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if !matches!(whole, Expr::Number(number) if number.decimals.is_none() && number.value.as_integer().is_some())
            || !matches!(self.tokens.get(self.at.wrapping_sub(1)), Some(Token { kind: Kind::Number(text), .. }) if is_whole(text))
        {
            return false;
        }
        let number = |ahead| matches!(self.peek_at(ahead), Some(Kind::Number(text)) if is_whole(text));
        let sign = |ahead, sign| self.peek_at(ahead) == Some(&Kind::Sign(sign));
        match self.peek() {
            Some(Kind::Number(_)) => number(0) && sign(1, '/') && number(2),
            Some(Kind::Command(name)) if name == "frac" => {
                let braced = sign(1, '{') && number(2) && sign(3, '}');
                let after = if braced { 4 } else { 2 };
                let first = braced || number(1);
                let two_digits = matches!(self.peek_at(1), Some(Kind::Number(text)) if text.len() == 2);
                let second = sign(after, '{') && number(after + 1) && sign(after + 2, '}') || number(after);
                first && (second || two_digits)
            }
            _ => false,
        }
    }

    pub(super) fn starts_factor(&self, kind: &Kind) -> bool {
        match kind {
            Kind::Letter(_) | Kind::Begin(_) | Kind::Sign('(' | '{') => true,
            Kind::Sign('|') => self.bars == 0,
            Kind::Sign('<') => false,
            Kind::Command(name) => !matches!(
                name.as_str(),
                "cup"
                    | "cap"
                    | "setminus"
                    | "backslash"
                    | "mid"
                    | "nmid"
                    | "mod"
                    | "bmod"
                    | "pmod"
                    | "rfloor"
                    | "rceil"
            ),
            // `x2`, but not `3 4`.
            Kind::Number(_) => !matches!(
                self.tokens.get(self.at.wrapping_sub(1)),
                Some(Token { kind: Kind::Number(_) | Kind::Sign('/'), .. })
            ),
            _ => false,
        }
    }

    pub(super) fn signed_factor(&mut self) -> Option<Expr> {
        let mut negative = false;
        while matches!(self.peek(), Some(Kind::Sign('-' | '+'))) {
            negative ^= self.is_sign('-');
            self.at += 1;
        }
        let factor = self.factor()?;
        Some(if negative { Expr::Negative(Box::new(factor)) } else { factor })
    }

    pub(super) fn factor(&mut self) -> Option<Expr> {
        self.deeper(|parser| {
            let primary = parser.primary()?;
            parser.postfixes(primary)
        })
    }

    pub(super) fn postfixes(&mut self, mut value: Expr) -> Option<Expr> {
        for _ in 0..DEEPEST {
            value = match self.peek() {
                Some(Kind::Sign('!')) => {
                    self.at += 1;
                    Expr::Apply(Function::Factorial, vec![value])
                }
                Some(Kind::Sign('%')) => {
                    self.at += 1;
                    Expr::Percent(Box::new(value))
                }
                Some(Kind::Degree) => {
                    self.at += 1;
                    self.degrees(value)?
                }
                Some(Kind::Sign('_')) => {
                    self.at += 1;
                    let script = self.script_text()?;
                    match value {
                        Expr::Number(number) => Expr::Based(number.value.to_string(), script),
                        other => Expr::Opaque(format!("_{script}"), vec![other]),
                    }
                }
                Some(Kind::Sign('^')) => {
                    self.at += 1;
                    if self.is(&Kind::Degree) {
                        self.at += 1;
                        self.degrees(value)?
                    } else if self.is_sign('{') && self.peek_at(1) == Some(&Kind::Degree) {
                        self.at += 2;
                        self.expect_sign('}')?;
                        self.degrees(value)?
                    } else if self.is_sign('{') && matches!(self.peek_at(1), Some(Kind::Word(_))) {
                        self.script_text()?; // `17^{th}`
                        value
                    } else {
                        Expr::Power(Box::new(value), Box::new(self.exponent()?))
                    }
                }
                _ => return Some(value),
            };
        }
        None
    }

    /// A degree sign, and the scale after it.
    pub(super) fn degrees(&mut self, value: Expr) -> Option<Expr> {
        if matches!(self.peek(), Some(Kind::Letter(letter) | Kind::Word(letter)) if matches!(letter.as_str(), "C" | "F"))
        {
            let scale = self.script_text()?;
            return Some(Expr::Quantity(Box::new(value), format!("degree {}", unit::canonical(&scale))));
        }
        Some(Expr::Degrees(Box::new(value)))
    }

    pub(super) fn exponent(&mut self) -> Option<Expr> {
        self.deeper(|parser| {
            let script = if parser.take_sign('-') {
                Expr::Negative(Box::new(parser.primary()?))
            } else {
                parser.take_sign('+');
                parser.primary()?
            };
            if parser.take_sign('^') {
                return Some(Expr::Power(Box::new(script), Box::new(parser.exponent()?)));
            }
            Some(script)
        })
    }
}
