//! What words, commands and letters are called.

/// Names of functions that are words in plain text.
pub(super) const FUNCTIONS: [&str; 38] = [
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "asin", "acos", "atan", "sinh", "cosh",
    "tanh", "ln", "log", "lg", "exp", "sqrt", "cbrt", "abs", "floor", "ceil", "min", "max", "gcd", "lcm", "det",
    "binom", "frac", "mod", "bmod", "lim", "sum", "prod", "int", "infty",
];

/// Short words that are units or answers, not products of variables.
#[rustfmt::skip]
pub(super) const SHORT_WORDS: [&str; 53] = [
    "cm", "mm", "km", "dm", "nm", "kg", "mg", "ml", "mL", "kL", "ft", "in", "yd", "mi", "oz", "lb", "lbs", "hr",
    "hrs", "min", "mins", "sec", "ms", "mph", "kph", "kmh", "Hz", "kHz", "GHz", "eV", "keV", "MeV", "rad", "deg", "pct",
    "sq", "cu", "th", "st", "nd", "rd", "cup", "day", "way", "egg", "car", "pen", "bag", "box", "boy", "ton", "man", "men",
];
pub(super) const SHORT_ANSWERS: [&str; 10] = ["yes", "no", "odd", "all", "not", "is", "the", "are", "per", "for"];

pub(super) const GREEK: [&str; 34] = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "varepsilon",
    "zeta",
    "eta",
    "theta",
    "vartheta",
    "iota",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "xi",
    "rho",
    "sigma",
    "tau",
    "upsilon",
    "phi",
    "varphi",
    "chi",
    "psi",
    "omega",
    "Gamma",
    "Delta",
    "Theta",
    "Lambda",
    "Sigma",
    "Phi",
    "Psi",
    "Omega",
    "ell",
];

/// Commands whose argument is words.
pub(super) const TEXTS: [&str; 12] = [
    "text",
    "textbf",
    "textit",
    "textrm",
    "textsf",
    "texttt",
    "mbox",
    "hbox",
    "mathrm",
    "operatorname",
    "emph",
    "textnormal",
];

/// Commands that only concern looks; their argument, if they have one, stays.
#[rustfmt::skip]
pub(super) const LOOKS: [&str; 41] = [
    "left", "right", "big", "Big", "bigg", "Bigg", "bigl", "bigr", "Bigl", "Bigr", "biggl", "biggr", "middle",
    "displaystyle", "textstyle", "scriptstyle", "limits", "nolimits", "rm", "bf", "it", "mathbf", "boldsymbol",
    "mathit", "mathsf", "bm", "boxed", "fbox", "beginboxed", "mathstrut", "strut", "phantom", "quad", "qquad",
    "thinspace", "enspace", "space", "hfill", "nobreak", "allowbreak", "require",
];

pub(super) fn superscript(c: char) -> Option<char> {
    Some(match c {
        '⁰' => '0',
        '¹' => '1',
        '²' => '2',
        '³' => '3',
        '⁴'..='⁹' => char::from(b'4' + (u32::from(c) - u32::from('⁴')) as u8),
        '⁻' => '-',
        _ => return None,
    })
}

pub(super) fn greek(c: char) -> Option<&'static str> {
    Some(match c {
        'α' => "alpha",
        'β' => "beta",
        'γ' => "gamma",
        'δ' => "delta",
        'ε' => "epsilon",
        'θ' => "theta",
        'λ' => "lambda",
        'μ' | 'µ' => "mu",
        'ρ' => "rho",
        'σ' => "sigma",
        'τ' => "tau",
        'φ' | 'ϕ' => "phi",
        'ω' => "omega",
        'Δ' => "Delta",
        'Ω' => "Omega",
        _ => return None,
    })
}
