//! Commands of LaTeX and functions, with their arguments.

use super::super::expression::{Constant, Expr, Function};
use super::super::tokens::Kind;
use super::Parser;

impl Parser<'_> {
    /// An argument of a command: what stands in braces, or one token. TeX would take the first digit of a number;
    /// who writes `\sqrt61` means 61.
    pub(super) fn argument(&mut self) -> Option<Expr> {
        self.deeper(Self::primary)
    }

    /// The two arguments of a fraction. `\frac12` is a half, and what `\frac123` is, nobody knows.
    pub(super) fn two_arguments(&mut self) -> Option<(Expr, Expr)> {
        if let Some(Kind::Number(text)) = self.peek()
            && text.len() > 1
        {
            if text.len() > 2 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            let (above, below) = (text[..1].to_string(), text[1..].to_string());
            self.at += 1;
            return Some((self.number(&above)?, self.number(&below)?));
        }
        let above = self.argument()?;
        if matches!(self.peek(), Some(Kind::Number(text)) if text.len() > 1) {
            return None;
        }
        Some((above, self.argument()?))
    }

    pub(super) fn command(&mut self, name: &str) -> Option<Expr> {
        match name {
            "frac" => {
                let (above, below) = self.two_arguments()?;
                Some(Expr::Quotient(Box::new(above), Box::new(below)))
            }
            "binom" => {
                let (above, below) = self.two_arguments()?;
                Some(Expr::Apply(Function::Binomial, vec![above, below]))
            }
            "sqrt" => {
                if self.take_sign('[') {
                    let which = self.deeper(Self::sum)?;
                    self.expect_sign(']')?;
                    let inner = self.argument()?;
                    return Some(Expr::Apply(Function::Root, vec![inner, which]));
                }
                Some(Expr::Apply(Function::Sqrt, vec![self.argument()?]))
            }
            "cbrt" => Some(Expr::Apply(Function::Root, vec![self.argument()?, Expr::integer(3)])),
            "infty" => Some(Expr::Constant(Constant::Infinity)),
            "emptyset" | "varnothing" => Some(Expr::Set(Vec::new())),
            "lfloor" | "lceil" => {
                let inner = self.deeper(Self::sum)?;
                let close = if name == "lfloor" { "rfloor" } else { "rceil" };
                self.is(&Kind::Command(close.into())).then(|| self.at += 1)?;
                let function = if name == "lfloor" { Function::Floor } else { Function::Ceiling };
                Some(Expr::Apply(function, vec![inner]))
            }
            "sum" | "prod" | "int" | "lim" | "iint" | "oint" => self.with_limits(name),
            "cup" | "cap" | "setminus" | "backslash" | "pmod" | "begin" | "rfloor" | "rceil" | "frown" => None,
            _ => match named(name) {
                Some(function) => self.application(function),
                None if self.is_sign('{') => {
                    let start = self.at;
                    let argument = self.argument();
                    // An argument that is no formula, as in `\overline{AB}`, is taken as its text.
                    let argument = argument.or_else(|| {
                        self.at = start;
                        self.script_text().map(Expr::Text)
                    })?;
                    Some(Expr::Opaque(name.into(), vec![argument]))
                }
                None => Some(Expr::Opaque(name.into(), Vec::new())),
            },
        }
    }

    pub(super) fn with_limits(&mut self, name: &str) -> Option<Expr> {
        let mut parts = Vec::new();
        for _ in 0..2 {
            if self.take_sign('_') {
                parts.push(Expr::Text(format!("_{}", self.script_text()?)));
            } else if self.take_sign('^') {
                parts.push(Expr::Text(format!("^{}", self.script_text()?)));
            }
        }
        parts.push(self.deeper(Self::product)?);
        Some(Expr::Opaque(name.into(), parts))
    }

    pub(super) fn application(&mut self, mut function: Function) -> Option<Expr> {
        let mut base = None;
        let mut power = None;
        for _ in 0..2 {
            if self.take_sign('_') {
                base = Some(self.argument()?);
            } else if self.take_sign('^') {
                power = Some(self.exponent()?);
            }
        }
        let mut arguments = self.arguments(function)?;
        let is_minus_one = |power: &Expr| matches!(power, Expr::Negative(one) if **one == Expr::integer(1));
        if power.as_ref().is_some_and(is_minus_one)
            && let Some(inverse) = inverse(function)
        {
            function = inverse;
            power = None;
        }
        if let (Function::Log, Some(base)) = (function, base) {
            arguments.truncate(1);
            arguments.push(base);
        }
        let value = Expr::Apply(function, arguments);
        Some(match power {
            Some(power) => Expr::Power(Box::new(value), Box::new(power)),
            None => value,
        })
    }

    pub(super) fn arguments(&mut self, function: Function) -> Option<Vec<Expr>> {
        if matches!(self.peek(), Some(Kind::Sign('('))) {
            self.at += 1;
            let bars = std::mem::take(&mut self.bars);
            let list = self.deeper(|parser| parser.list(false))?;
            self.bars = bars;
            self.expect_sign(')')?;
            let many = matches!(
                function,
                Function::Minimum
                    | Function::Maximum
                    | Function::Gcd
                    | Function::Lcm
                    | Function::Modulo
                    | Function::Binomial
            );
            return (list.items.len() == 1 || many && !list.items.is_empty()).then_some(list.items);
        }
        if self.is_sign('{') {
            return Some(vec![self.argument()?]);
        }
        // `\sin 2x`: the factors up to a sign or the next function.
        self.deeper(|parser| {
            let mut factors = Vec::new();
            loop {
                match parser.peek() {
                    Some(Kind::Command(name)) if named(name).is_some() && !factors.is_empty() => break,
                    Some(Kind::Sign('(')) if !factors.is_empty() => break,
                    Some(kind) if factors.is_empty() || parser.starts_factor(kind) => {
                        let factor = parser.factor()?;
                        factors.push(factor);
                    }
                    _ => break,
                }
            }
            Some(vec![if factors.len() == 1 { factors.pop()? } else { Expr::Product(factors) }])
        })
    }
}

fn named(name: &str) -> Option<Function> {
    Some(match name {
        "sin" => Function::Sin,
        "cos" => Function::Cos,
        "tan" | "tg" => Function::Tan,
        "cot" | "ctg" => Function::Cot,
        "sec" => Function::Sec,
        "csc" => Function::Csc,
        "arcsin" | "asin" => Function::Arcsin,
        "arccos" | "acos" => Function::Arccos,
        "arctan" | "atan" => Function::Arctan,
        "sinh" => Function::Sinh,
        "cosh" => Function::Cosh,
        "tanh" => Function::Tanh,
        "ln" => Function::Ln,
        "log" | "lg" => Function::Log,
        "exp" => Function::Exp,
        "abs" => Function::Abs,
        "floor" => Function::Floor,
        "ceil" => Function::Ceiling,
        "min" => Function::Minimum,
        "max" => Function::Maximum,
        "gcd" => Function::Gcd,
        "lcm" => Function::Lcm,
        "det" => Function::Determinant,
        _ => return None,
    })
}

fn inverse(function: Function) -> Option<Function> {
    Some(match function {
        Function::Sin => Function::Arcsin,
        Function::Cos => Function::Arccos,
        Function::Tan => Function::Arctan,
        _ => return None,
    })
}
