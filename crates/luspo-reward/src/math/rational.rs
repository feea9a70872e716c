//! Exact rational numbers of bounded size.

use num_bigint::{BigInt, Sign};

/// Numerators and denominators have at most this many bits; what would need more is absent. It bounds the time and the
/// memory of a calculation that a hostile answer asks for, and is far beyond any answer that is written out.
const MOST_BITS: u64 = 1 << 12;

/// `numerator / denominator`, reduced, with a denominator above 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rational {
    numerator: BigInt,
    denominator: BigInt,
}

impl Rational {
    /// `None` for a denominator of 0, and for numbers that are too large.
    pub(super) fn new(numerator: BigInt, denominator: BigInt) -> Option<Self> {
        if denominator.sign() == Sign::NoSign || numerator.bits() > MOST_BITS || denominator.bits() > MOST_BITS {
            return None;
        }
        if denominator == BigInt::from(1) {
            return Some(Self { numerator, denominator });
        }
        let divisor = greatest_common_divisor(numerator.clone(), denominator.clone());
        let divisor = if denominator.sign() == Sign::Minus { -divisor } else { divisor };
        Some(Self { numerator: numerator / &divisor, denominator: denominator / divisor })
    }

    pub(super) fn integer(value: i64) -> Self {
        Self { numerator: value.into(), denominator: 1.into() }
    }

    /// `10^exponent`, which may be negative.
    pub(super) fn power_of_ten(exponent: i64) -> Option<Self> {
        Self::integer(10).power(exponent)
    }

    /// A whole number of decimal digits alone.
    pub(super) fn from_digits(digits: &str) -> Option<Self> {
        Self::new(BigInt::parse_bytes(digits.as_bytes(), 10)?, 1.into())
    }

    pub(super) fn add(&self, other: &Self) -> Option<Self> {
        let numerator = &self.numerator * &other.denominator + &other.numerator * &self.denominator;
        Self::new(numerator, &self.denominator * &other.denominator)
    }

    pub(super) fn negative(&self) -> Self {
        Self { numerator: -self.numerator.clone(), denominator: self.denominator.clone() }
    }

    pub(super) fn multiply(&self, other: &Self) -> Option<Self> {
        Self::new(&self.numerator * &other.numerator, &self.denominator * &other.denominator)
    }

    /// `None` for a divisor of 0.
    pub(super) fn divide(&self, other: &Self) -> Option<Self> {
        Self::new(&self.numerator * &other.denominator, &self.denominator * &other.numerator)
    }

    /// `None` for 0 to a power below 1, and for results that are too large.
    pub(super) fn power(&self, exponent: i64) -> Option<Self> {
        let size = u32::try_from(exponent.unsigned_abs()).ok()?;
        let bits = self.numerator.bits().max(self.denominator.bits());
        if bits.checked_mul(size.into())? > MOST_BITS {
            // 1 and 0 stay small whatever the exponent is.
            return None;
        }
        let (numerator, denominator) = (self.numerator.pow(size), self.denominator.pow(size));
        if self.is_zero() && exponent <= 0 {
            None
        } else if exponent < 0 {
            Self::new(denominator, numerator)
        } else {
            Self::new(numerator, denominator)
        }
    }

    pub(super) fn is_zero(&self) -> bool {
        self.numerator.sign() == Sign::NoSign
    }

    pub(super) fn is_negative(&self) -> bool {
        self.numerator.sign() == Sign::Minus
    }

    /// The number as a whole one, where it is.
    pub(super) fn as_integer(&self) -> Option<i64> {
        if self.denominator == BigInt::from(1) { i64::try_from(&self.numerator).ok() } else { None }
    }

    /// The nearest number of the machine; infinite where it is too large.
    pub(super) fn to_f64(&self) -> f64 {
        // Both are cut to 900 bits, so that neither is infinite on its own.
        let cut = |value: &BigInt| {
            let shift = value.bits().saturating_sub(900);
            ((value >> shift).to_string().parse::<f64>().unwrap_or(f64::NAN), shift as f64)
        };
        let (above, above_shift) = cut(&self.numerator);
        let (below, below_shift) = cut(&self.denominator);
        above / below * (above_shift - below_shift).exp2()
    }
}

impl std::fmt::Display for Rational {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.denominator == BigInt::from(1) {
            write!(f, "{}", self.numerator)
        } else {
            write!(f, "{}/{}", self.numerator, self.denominator)
        }
    }
}

/// At least 1.
fn greatest_common_divisor(a: BigInt, b: BigInt) -> BigInt {
    let zero = BigInt::from(0);
    let (mut a, mut b) = (BigInt::from(a.magnitude().clone()), BigInt::from(b.magnitude().clone()));
    while b != zero {
        (a, b) = (b.clone(), a % b);
    }
    if a == zero { 1.into() } else { a }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratio(numerator: i64, denominator: i64) -> Rational {
        Rational::new(numerator.into(), denominator.into()).unwrap()
    }

    #[test]
    fn numbers_are_reduced_and_exact() {
        assert_eq!(ratio(-4, -6), ratio(2, 3));
        assert_eq!(ratio(1, 3).add(&ratio(1, 6)).unwrap(), ratio(1, 2));
        assert_eq!(ratio(2, 3).divide(&ratio(-4, 3)).unwrap(), ratio(-1, 2));
        assert_eq!(ratio(2, 3).power(-2).unwrap(), ratio(9, 4));
        assert_eq!(ratio(1, 3).to_string(), "1/3");
        assert!(ratio(1, 3).divide(&ratio(0, 1)).is_none() && ratio(0, 1).power(0).is_none());
    }

    #[test]
    fn what_is_too_large_is_absent_at_once() {
        assert!(ratio(2, 1).power(1_000_000_000_000).is_none());
        assert!(ratio(2, 1).power(5_000).is_none());
        assert!(Rational::from_digits(&"9".repeat(10_000)).is_none());
        assert!((ratio(1, 3).to_f64() - 1.0 / 3.0).abs() < 1e-16);
        let large = ratio(10, 1).power(400).unwrap();
        assert_eq!(large.divide(&large.add(&ratio(1, 1)).unwrap()).unwrap().to_f64(), 1.0);
    }
}
