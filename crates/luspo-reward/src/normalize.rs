//! The normal form of a short mathematical answer that `math_dapo` compares in.
//!
//! The rules come from Minerva (arXiv 2206.14858, appendix D.1); the lists, their order and their quirks are those of
//! verl 0.9.1, `verl/utils/reward_score/math_dapo.py`. They work on strings: nothing is parsed, `1/2` and `\frac{1}{2}`
//! stay different, and `a ` disappears also at the end of a word.

use std::sync::LazyLock;

use regex::Regex;

/// Replaced one after the other, everywhere.
const SUBSTITUTIONS: [(&str, &str); 10] = [
    ("an ", ""),
    ("a ", ""),
    (".$", "$"),
    (r"\$", ""),
    (r"\ ", ""),
    (" ", ""),
    ("mbox", "text"),
    (r",\text{and}", ","),
    (r"\text{and}", ","),
    (r"\text{m}", r"\text{}"),
];

/// Deleted one after the other, everywhere: units, empty texts and spacing.
#[rustfmt::skip]
const REMOVED_EXPRESSIONS: [&str; 41] = [
    "square", "ways", "integers", "dollars", "mph", "inches", "hours", "km", "units", r"\ldots", "sue", "points",
    "feet", "minutes", "digits", "cents", "degrees", "cm", "gm", "pounds", "meters", "meals", "edges", "students",
    "childrentickets", "multiples", r"\text{s}", r"\text{.}", "\\text{\ns}", r"\text{}^2", r"\text{}^3", "\\text{\n}",
    r"\text{}", r"\mathrm{th}", r"^\circ", r"^{\circ}", r"\;", r",\!", "{,}", "\"", r"\dots",
];

/// Rewritten one after the other, everywhere; no `.` matches a line end.
static REWRITES: LazyLock<[(Regex, &str); 7]> = LazyLock::new(|| {
    [
        // A line with two dollar signs becomes what stands between the first two.
        (r"(?:.*?)\$(.*?)\$(?:.*)", "$$${1}$$"),
        (r"\\text\{(.*?)\}", "${1}"),
        (r"\\textbf\{(.*?)\}", "${1}"),
        (r"\\overline\{(.*?)\}", "${1}"),
        (r"\\boxed\{(.*)\}", "${1}"),
        // \frac12 → \frac{1}{2}, \sqrt2 → \sqrt{2}
        (r"frac([^{])(.)", "frac{${1}}{${2}}"),
        (r"sqrt([^{])", "sqrt{${1}}"),
    ]
    .map(|(pattern, replacement)| (Regex::new(pattern).expect("a valid regex"), replacement))
});

/// What Python's `isdigit` calls digits: the decimal ones and those that only stand for a digit, as ² or ①.
static DIGITS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?x) ^ [
            \p{Nd} \x{B2} \x{B3} \x{B9} \x{1369}-\x{1371} \x{19DA} \x{2070} \x{2074}-\x{2079} \x{2080}-\x{2089}
            \x{2460}-\x{2468} \x{2474}-\x{247C} \x{2488}-\x{2490} \x{24EA} \x{24F5}-\x{24FD} \x{24FF}
            \x{2776}-\x{277E} \x{2780}-\x{2788} \x{278A}-\x{2792} \x{10A40}-\x{10A43} \x{10E60}-\x{10E68}
            \x{11052}-\x{1105A} \x{1F100}-\x{1F10A}
        ]+ $",
    )
    .expect("a valid regex")
});

/// The normal form in which [`MathDapo`](crate::MathDapo) compares an answer with the gold one; the rule of verl 0.9.1's
/// `math_dapo.normalize_final_answer`.
///
/// In this order: keep what follows the last `=`; drop the words `a` and `an`, all spaces, and a list of 41 units and
/// LaTeX spacings; keep what stands between the first two `$` of a line; unwrap `\text`, `\textbf`, `\overline` and
/// `\boxed`; write `\frac12` and `\sqrt2` with braces; drop `$`; drop the commas of a number that is otherwise digits;
/// trim.
///
/// ```
/// use luspo_reward::normalize_final_answer;
///
/// assert_eq!(normalize_final_answer("x = $1,234$ dollars."), "1234");
/// assert_eq!(normalize_final_answer(r"\boxed{\frac12}"), r"\frac{1}{2}");
/// ```
pub fn normalize_final_answer(answer: &str) -> String {
    let mut answer = answer.rsplit('=').next().unwrap_or_default().to_string();
    for (from, to) in SUBSTITUTIONS {
        answer = answer.replace(from, to);
    }
    for expression in REMOVED_EXPRESSIONS {
        answer = answer.replace(expression, "");
    }
    for (pattern, replacement) in REWRITES.iter() {
        answer = pattern.replace_all(&answer, *replacement).into_owned();
    }
    answer = answer.replace('$', "");

    let without_commas = answer.replace(',', "");
    if DIGITS.is_match(&without_commas) {
        answer = without_commas;
    }
    answer.trim_matches(is_python_space).to_string()
}

/// White space to Python: that of Unicode, and the four separators U+001C to U+001F.
fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\x1C'..='\x1F').contains(&c)
}
