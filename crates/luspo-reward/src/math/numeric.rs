//! Values of formulas in floating point, with a bound on their error.

use std::f64::consts::{E, LN_10, PI};

use num_complex::Complex64;

use super::exact::exact;
use super::expression::{Constant, Expr, Function};

/// A complex number and how far it may be off.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value {
    pub(super) number: Complex64,
    pub(super) error: f64,
}

/// Where a formula is evaluated.
pub(super) struct Point<'a> {
    /// The value of a variable, by its name.
    pub(super) variable: &'a dyn Fn(&str) -> f64,
    /// Set where a value depended on the choice of a branch: a root or logarithm of a negative number.
    pub(super) branch: bool,
}

impl Value {
    fn new(number: Complex64, error: f64) -> Option<Self> {
        let error = error + f64::EPSILON * number.norm();
        (number.is_finite() && error.is_finite()).then_some(Self { number, error })
    }

    fn real(number: f64) -> Option<Self> {
        Self::new(number.into(), 0.0)
    }

    fn add(self, other: Self) -> Option<Self> {
        Self::new(self.number + other.number, self.error + other.error)
    }

    fn multiply(self, other: Self) -> Option<Self> {
        let error = self.number.norm() * other.error + other.number.norm() * self.error + self.error * other.error;
        Self::new(self.number * other.number, 2.0 * error)
    }

    fn divide(self, other: Self) -> Option<Self> {
        let size = other.number.norm();
        if size <= 8.0 * other.error || size == 0.0 {
            return None;
        }
        let number = self.number / other.number;
        Self::new(number, 2.0 * (self.error + number.norm() * other.error) / size)
    }

    /// A function of it, with the size of the function's derivative.
    fn map(self, result: Complex64, derivative: f64) -> Option<Self> {
        Self::new(result, 2.0 * derivative * self.error + f64::EPSILON * result.norm())
    }

    fn is_real(self) -> bool {
        self.number.im.abs() <= self.error.max(1e-14 * self.number.re.abs())
    }

    fn as_integer(self) -> Option<i64> {
        let nearest = self.number.re.round();
        let is = self.is_real() && (self.number.re - nearest).abs() <= self.error.max(1e-12) && nearest.abs() < 1e15;
        is.then_some(nearest as i64)
    }
}

impl Point<'_> {
    /// The value of a formula here; `None` where it has none, or is no formula.
    pub(super) fn value(&mut self, expr: &Expr) -> Option<Value> {
        match expr {
            Expr::Number(number) => Value::real(number.value.to_f64()),
            Expr::Name(name) => Value::real((self.variable)(name)),
            Expr::Constant(Constant::Pi) => Value::real(PI),
            Expr::Constant(Constant::E) => Value::real(E),
            Expr::Constant(Constant::I) => Value::new(Complex64::i(), 0.0),
            Expr::Constant(Constant::Infinity) => None,
            Expr::Sum(items) => self.fold(items, 0.0, Value::add),
            Expr::Product(items) => self.fold(items, 1.0, Value::multiply),
            Expr::Quotient(a, b) => self.value(a)?.divide(self.value(b)?),
            Expr::Power(a, b) => self.power(a, b),
            Expr::Negative(a) => {
                let value = self.value(a)?;
                Value::new(-value.number, value.error)
            }
            Expr::Percent(a) => self.value(a)?.divide(Value::real(100.0)?),
            Expr::Degrees(a) => self.value(a)?.multiply(Value::real(PI / 180.0)?),
            Expr::Call(name, items) if items.len() == 1 && items[0].has_names() => {
                // Read as a product: `x(x+1)`; two functions' values are then equal where their arguments are. But
                // `I(0)` is not 0.
                Value::real((self.variable)(name))?.multiply(self.value(&items[0])?)
            }
            Expr::Call(name, items) | Expr::Opaque(name, items) => self.unknown(name, items),
            Expr::Apply(function, items) => self.apply(*function, items),
            _ => None,
        }
    }

    fn fold(&mut self, items: &[Expr], start: f64, join: fn(Value, Value) -> Option<Value>) -> Option<Value> {
        items.iter().try_fold(Value::real(start)?, |total, item| join(total, self.value(item)?))
    }

    /// A function that nobody knows: some smooth function of its arguments, another one for every name.
    fn unknown(&mut self, name: &str, items: &[Expr]) -> Option<Value> {
        let mut total = Value::real((self.variable)(&format!("\\{name}")))?;
        for (at, item) in items.iter().enumerate() {
            let slope = Value::real((self.variable)(&format!("\\{name} {at}")))?;
            let argument = match item {
                Expr::Text(text) => Value::real((self.variable)(&format!("\"{text}")))?,
                item => self.value(item)?,
            };
            let square = argument.multiply(argument)?;
            total = total.add(slope.multiply(argument.add(square)?)?)?;
        }
        Some(total)
    }

    fn power(&mut self, base: &Expr, exponent: &Expr) -> Option<Value> {
        let base = self.value(base)?;
        let exponent = self.value(exponent)?;
        let size = base.number.norm();
        if let Some(power) = exponent.as_integer().filter(|power| power.abs() <= 1_000_000) {
            let power = power as i32;
            if size == 0.0 && power <= 0 {
                return None;
            }
            let result = base.number.powi(power);
            let relative = f64::from(power.abs()) * (base.error / size.max(f64::MIN_POSITIVE) + 2.0 * f64::EPSILON);
            return Value::new(result, 2.0 * result.norm() * relative);
        }
        if size == 0.0 {
            return if exponent.is_real() && exponent.number.re > 0.0 { Value::real(0.0) } else { None };
        }
        if base.is_real() && base.number.re < 0.0 {
            self.branch = true;
        }
        let logarithm = base.number.ln();
        let result = (exponent.number * logarithm).exp();
        let relative = exponent.number.norm() * base.error / size
            + logarithm.norm() * exponent.error
            + 4.0 * f64::EPSILON * (1.0 + (exponent.number * logarithm).norm());
        Value::new(result, 2.0 * result.norm() * relative)
    }

    fn apply(&mut self, function: Function, items: &[Expr]) -> Option<Value> {
        match function {
            Function::Minimum | Function::Maximum => {
                let mut best: Option<Value> = None;
                for item in items {
                    let value = self.value(item)?;
                    let better =
                        best.is_none_or(|best| (value.number.re < best.number.re) == (function == Function::Minimum));
                    if better {
                        best = Some(value);
                    }
                }
                return best;
            }
            Function::Gcd | Function::Lcm | Function::Determinant => {
                let value = exact(&Expr::Apply(function, items.to_vec()))?;
                return Value::real(value.to_f64());
            }
            _ => {}
        }
        let x = self.value(items.first()?)?;
        let z = x.number;
        let size = z.norm();
        match function {
            Function::Sin => x.map(z.sin(), z.cos().norm()),
            Function::Cos => x.map(z.cos(), z.sin().norm()),
            Function::Tan => x.map(z.tan(), 1.0 + z.tan().norm_sqr()),
            Function::Cot => Value::real(1.0)?.divide(x.map(z.tan(), 1.0 + z.tan().norm_sqr())?),
            Function::Sec => Value::real(1.0)?.divide(x.map(z.cos(), z.sin().norm())?),
            Function::Csc => Value::real(1.0)?.divide(x.map(z.sin(), z.cos().norm())?),
            Function::Arcsin | Function::Arccos => {
                if x.is_real() && z.re.abs() > 1.0 {
                    self.branch = true;
                }
                let slope = 1.0 / (1.0 - z * z).sqrt().norm().max(1e-8);
                x.map(if function == Function::Arcsin { z.asin() } else { z.acos() }, slope)
            }
            Function::Arctan => x.map(z.atan(), 1.0 / (1.0 + z * z).norm().max(1e-8)),
            Function::Sinh => x.map(z.sinh(), z.cosh().norm()),
            Function::Cosh => x.map(z.cosh(), z.sinh().norm()),
            Function::Tanh => x.map(z.tanh(), 1.0 + z.tanh().norm_sqr()),
            Function::Exp => x.map(z.exp(), z.exp().norm()),
            Function::Ln => self.logarithm(x),
            Function::Log => {
                let base = match items.get(1) {
                    Some(base) => {
                        let base = self.value(base)?;
                        self.logarithm(base)?
                    }
                    None => Value::real(LN_10)?,
                };
                self.logarithm(x)?.divide(base)
            }
            Function::Sqrt => {
                if x.is_real() && z.re < 0.0 {
                    self.branch = true;
                }
                if size == 0.0 { Value::real(0.0) } else { x.map(z.sqrt(), 0.5 / size.sqrt()) }
            }
            Function::Root => {
                let which = self.value(items.get(1)?)?.as_integer().filter(|which| (2..=1000).contains(which))?;
                if size == 0.0 {
                    return Value::real(0.0);
                }
                let power = 1.0 / which as f64;
                let slope = power * size.powf(power - 1.0);
                if x.is_real() && z.re < 0.0 {
                    if which % 2 == 1 {
                        // The real root, as people mean it.
                        return x.map((-(-z.re).powf(power)).into(), slope);
                    }
                    self.branch = true;
                }
                x.map(z.powf(power), slope)
            }
            Function::Abs => x.map(size.into(), 1.0),
            Function::Floor | Function::Ceiling => {
                if !x.is_real() {
                    return None;
                }
                let nearest = z.re.round();
                let value = if (z.re - nearest).abs() <= x.error.max(1e-12 * size) {
                    nearest
                } else if function == Function::Floor {
                    z.re.floor()
                } else {
                    z.re.ceil()
                };
                Value::real(value)
            }
            Function::Factorial => {
                let n = x.as_integer().filter(|n| (0..=170).contains(n))?;
                Value::real((2..=n).map(|factor| factor as f64).product())
            }
            Function::Binomial => {
                let n = x.as_integer().filter(|n| (0..=1000).contains(n))?;
                let k = self.value(items.get(1)?)?.as_integer().filter(|k| (0..=n).contains(k))?;
                Value::real((1..=k).map(|i| (n - k + i) as f64 / i as f64).product())
            }
            Function::Modulo => {
                let (a, b) = (x.as_integer()?, self.value(items.get(1)?)?.as_integer()?);
                Value::real(a.checked_rem_euclid(b)? as f64)
            }
            Function::Minimum | Function::Maximum | Function::Gcd | Function::Lcm | Function::Determinant => None,
        }
    }

    fn logarithm(&mut self, x: Value) -> Option<Value> {
        let size = x.number.norm();
        if size <= 8.0 * x.error || size == 0.0 {
            return None;
        }
        if x.is_real() && x.number.re < 0.0 {
            self.branch = true;
        }
        x.map(x.number.ln(), 1.0 / size)
    }
}
