//! What an answer is read as.

use super::rational::Rational;

/// A value, a formula, or a structure of them.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expr {
    Number(Number),
    /// A variable, with its subscript and primes: `x`, `x_{1}`, `f'`, `alpha`.
    Name(String),
    Constant(Constant),
    Sum(Vec<Expr>),
    Product(Vec<Expr>),
    Quotient(Box<Expr>, Box<Expr>),
    Power(Box<Expr>, Box<Expr>),
    Negative(Box<Expr>),
    /// ± (or, with `true`, ∓) of a value.
    PlusMinus(bool, Box<Expr>),
    /// A function that is known.
    Apply(Function, Vec<Expr>),
    /// A letter directly before brackets: `f(x)`, or a product.
    Call(String, Vec<Expr>),
    /// What is not known, by its name: `\dot{x}`, `\sum`, `\angle`.
    Opaque(String, Vec<Expr>),
    Percent(Box<Expr>),
    Degrees(Box<Expr>),
    /// Digits in a base: `1011_2`.
    Based(String, String),
    /// A value with its unit.
    Quantity(Box<Expr>, String),
    /// A point, a vector or an interval.
    Tuple(char, char, Vec<Expr>),
    Set(Vec<Expr>),
    /// Several answers. Ordered where they are numbers with commas between them.
    List {
        items: Vec<Expr>,
        ordered: bool,
    },
    Union(Vec<Expr>),
    Matrix(Vec<Vec<Expr>>),
    /// `a < x = b …`: the first member, and what follows.
    Relation(Box<Expr>, Vec<(Relation, Expr)>),
    /// `3:4`, or a time of day.
    Ratio(Vec<Expr>),
    Text(String),
}

/// A number as it was written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Number {
    pub(super) value: Rational,
    /// Of a number with a point: significant digits, and the power of ten of the last one.
    pub(super) decimals: Option<Decimals>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Decimals {
    pub(super) significant: usize,
    pub(super) last_place: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Constant {
    Pi,
    E,
    I,
    Infinity,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Sin,
    Cos,
    Tan,
    Cot,
    Sec,
    Csc,
    Arcsin,
    Arccos,
    Arctan,
    Sinh,
    Cosh,
    Tanh,
    Ln,
    /// Of a value, to a base; without one, to base 10.
    Log,
    Exp,
    Sqrt,
    /// Of a value, and which.
    Root,
    Abs,
    Floor,
    Ceiling,
    Factorial,
    /// n over k.
    Binomial,
    Modulo,
    Minimum,
    Maximum,
    Gcd,
    Lcm,
    Determinant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    Equal,
    Approximately,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Element,
    /// Any other, as `≡`.
    Other,
}

impl Relation {
    /// The relation with its sides exchanged.
    pub(super) fn mirrored(self) -> Self {
        match self {
            Self::Less => Self::Greater,
            Self::LessOrEqual => Self::GreaterOrEqual,
            Self::Greater => Self::Less,
            Self::GreaterOrEqual => Self::LessOrEqual,
            other => other,
        }
    }

    fn sign(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::Approximately => "≈",
            Self::NotEqual => "≠",
            Self::Less => "<",
            Self::LessOrEqual => "≤",
            Self::Greater => ">",
            Self::GreaterOrEqual => "≥",
            Self::Element => "∈",
            Self::Other => "~",
        }
    }
}

impl Expr {
    pub(super) fn integer(value: i64) -> Self {
        Self::Number(Number { value: Rational::integer(value), decimals: None })
    }

    /// The parts it is made of.
    pub(super) fn parts(&self) -> Vec<&Expr> {
        match self {
            Self::Number(_) | Self::Name(_) | Self::Constant(_) | Self::Based(..) | Self::Text(_) => Vec::new(),
            Self::Sum(items)
            | Self::Product(items)
            | Self::Apply(_, items)
            | Self::Call(_, items)
            | Self::Opaque(_, items)
            | Self::Tuple(_, _, items)
            | Self::Set(items)
            | Self::List { items, .. }
            | Self::Union(items)
            | Self::Ratio(items) => items.iter().collect(),
            Self::Quotient(a, b) | Self::Power(a, b) => vec![a, b],
            Self::Negative(a) | Self::PlusMinus(_, a) | Self::Percent(a) | Self::Degrees(a) | Self::Quantity(a, _) => {
                vec![a]
            }
            Self::Matrix(rows) => rows.iter().flatten().collect(),
            Self::Relation(first, rest) => {
                std::iter::once(first.as_ref()).chain(rest.iter().map(|(_, member)| member)).collect()
            }
        }
    }

    /// Whether it or a part of it is so.
    pub(super) fn any(&self, is: &mut dyn FnMut(&Expr) -> bool) -> bool {
        is(self) || self.parts().into_iter().any(|part| part.any(is))
    }

    /// Whether it stands for a number that depends on something: it has a variable, or what is not known.
    pub(super) fn has_names(&self) -> bool {
        self.any(&mut |part| matches!(part, Self::Name(_) | Self::Call(..) | Self::Opaque(..) | Self::Text(_)))
    }

    /// Whether it is a number or a formula for one, and no structure.
    pub(super) fn is_scalar(&self) -> bool {
        !self.any(&mut |part| {
            matches!(
                part,
                Self::Tuple(..)
                    | Self::Set(_)
                    | Self::List { .. }
                    | Self::Union(_)
                    | Self::Relation(..)
                    | Self::Ratio(_)
                    | Self::Text(_)
                    | Self::Based(..)
                    | Self::Quantity(..)
            )
        }) && !self.any(&mut |part| matches!(part, Self::Matrix(_)) && !matches!(self, Self::Apply(..)))
    }

    /// The formula in one line. `sorted`: what may be exchanged is in one order, so that `a + b` and `b + a` are the
    /// same.
    pub(super) fn written(&self, sorted: bool) -> String {
        let list = |items: &[Expr], between: &str, any_order: bool| {
            let mut items: Vec<String> = items.iter().map(|item| item.written(sorted)).collect();
            if sorted && any_order {
                items.sort_unstable();
            }
            items.join(between)
        };
        let one = |item: &Expr| match item {
            Self::Sum(_) | Self::Product(_) | Self::Quotient(..) | Self::Negative(_) | Self::Power(..) => {
                format!("({})", item.written(sorted))
            }
            _ => item.written(sorted),
        };
        match self {
            Self::Number(number) => number.value.to_string(),
            Self::Name(name) => name.clone(),
            Self::Constant(Constant::Pi) => "π".into(),
            Self::Constant(Constant::E) => "e".into(),
            Self::Constant(Constant::I) => "i".into(),
            Self::Constant(Constant::Infinity) => "∞".into(),
            Self::Sum(items) => list(items, " + ", true),
            Self::Product(items) => {
                let mut items: Vec<String> = items.iter().map(one).collect();
                if sorted {
                    items.sort_unstable();
                }
                items.join("·")
            }
            Self::Quotient(a, b) => format!("{}/{}", one(a), one(b)),
            Self::Power(a, b) => format!("{}^{}", one(a), one(b)),
            Self::Negative(a) => format!("-{}", one(a)),
            Self::PlusMinus(flipped, a) => format!("{}{}", if *flipped { "∓" } else { "±" }, one(a)),
            Self::Apply(function, items) => format!("{function:?}({})", list(items, ", ", false)).to_lowercase(),
            Self::Call(name, items) => format!("{name}({})", list(items, ", ", false)),
            Self::Opaque(name, items) if items.is_empty() => format!("\\{name}"),
            Self::Opaque(name, items) => format!("\\{name}({})", list(items, ", ", false)),
            Self::Percent(a) => format!("{}%", one(a)),
            Self::Degrees(a) => format!("{}°", one(a)),
            Self::Based(digits, base) => format!("{digits} in base {base}"),
            Self::Quantity(a, unit) => format!("{} {unit}", a.written(sorted)),
            Self::Tuple(open, close, items) => format!("{open}{}{close}", list(items, ", ", false)),
            Self::Set(items) => format!("{{{}}}", list(items, ", ", true)),
            Self::List { items, ordered } => list(items, ", ", !ordered),
            Self::Union(items) => list(items, " ∪ ", true),
            Self::Matrix(rows) => {
                let rows: Vec<String> = rows.iter().map(|row| format!("[{}]", list(row, ", ", false))).collect();
                format!("[{}]", rows.join(", "))
            }
            Self::Relation(first, rest) => {
                let mut out = first.written(sorted);
                for (relation, member) in rest {
                    out.push_str(&format!(" {} {}", relation.sign(), member.written(sorted)));
                }
                out
            }
            Self::Ratio(items) => list(items, ":", false),
            Self::Text(text) => text.clone(),
        }
    }

    /// What it is, in two words.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Number(_) => "a number",
            Self::Tuple('(', ')', _) => "a tuple or open interval",
            Self::Tuple(..) => "an interval or vector",
            Self::Set(_) => "a set",
            Self::List { ordered: true, .. } => "a list",
            Self::List { .. } => "a list in any order",
            Self::Union(_) => "a union",
            Self::Matrix(_) => "a matrix",
            Self::Relation(..) => "a relation",
            Self::Ratio(_) => "a ratio",
            Self::Text(_) => "a text",
            Self::Quantity(..) | Self::Degrees(_) => "a value with a unit",
            Self::Percent(_) => "a percentage",
            Self::Based(..) => "digits in a base",
            _ => "an expression",
        }
    }
}
