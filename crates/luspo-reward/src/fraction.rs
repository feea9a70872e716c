//! Exact fractions of integers; whatever does not fit is absent.

use std::cmp::Ordering;

/// `numerator / denominator` with a denominator above 0, not reduced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fraction {
    numerator: i128,
    denominator: i128,
}

impl Fraction {
    /// `None` for a denominator of 0.
    pub(crate) fn new(numerator: i128, denominator: i128) -> Option<Self> {
        match denominator.cmp(&0) {
            Ordering::Greater => Some(Self { numerator, denominator }),
            Ordering::Less => {
                Some(Self { numerator: numerator.checked_neg()?, denominator: denominator.checked_neg()? })
            }
            Ordering::Equal => None,
        }
    }

    /// An integer, or two with a `/` between them: ASCII digits, at most one minus in front of each.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let integer = |text: &str| -> Option<i128> {
            let digits = text.strip_prefix('-').unwrap_or(text);
            digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
        };
        match text.split_once('/') {
            None => Self::new(integer(text.trim())?, 1),
            Some((numerator, denominator)) => Self::new(integer(numerator.trim())?, integer(denominator.trim())?),
        }
    }

    /// `None` where a number becomes too large.
    pub(crate) fn equals(self, other: Self) -> Option<bool> {
        Some(self.numerator.checked_mul(other.denominator)? == other.numerator.checked_mul(self.denominator)?)
    }

    /// The result of `+`, `-`, `*` or `/`; `None` where it is none or too large.
    pub(crate) fn apply(self, operator: u8, other: Self) -> Option<Self> {
        let (a, b, c, d) = (self.numerator, self.denominator, other.numerator, other.denominator);
        match operator {
            b'+' => Self::new(a.checked_mul(d)?.checked_add(c.checked_mul(b)?)?, b.checked_mul(d)?),
            b'-' => Self::new(a.checked_mul(d)?.checked_sub(c.checked_mul(b)?)?, b.checked_mul(d)?),
            b'*' => Self::new(a.checked_mul(c)?, b.checked_mul(d)?),
            b'/' => Self::new(a.checked_mul(d)?, b.checked_mul(c)?),
            _ => None,
        }
    }
}
