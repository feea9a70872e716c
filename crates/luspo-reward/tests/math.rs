//! What `math` takes for the same answer, and what it does not.

mod support;

use luspo_reward::{Extraction, Math, RewardConfig, RewardError, RewardPipeline, Verifier};
use support::Asked;

/// Whether the boxed answer is right; asked both ways round.
fn same(answer: &str, gold: &str) -> bool {
    let math = Math::default();
    let boxed = |text: &str| format!("so it is $\\boxed{{{text}}}$.");
    let there = math.verify(&boxed(answer), gold).correct;
    let back = math.verify(&boxed(gold), answer).correct;
    assert_eq!(there, back, "{answer} and {gold}: {:?}", math.explain(&boxed(answer), gold));
    there
}

fn assert_same(pairs: &[(&str, &str)]) {
    for (answer, gold) in pairs {
        assert!(same(answer, gold), "{answer} should be {gold}");
    }
}

fn assert_different(pairs: &[(&str, &str)]) {
    for (answer, gold) in pairs {
        assert!(!same(answer, gold), "{answer} should not be {gold}");
    }
}

#[test]
fn numbers_are_compared_exactly() {
    assert_same(&[
        ("34", "34.0"),
        (".5", "0.50"),
        ("-3", "−3"),
        ("+7", "7"),
        ("007", "7"),
        ("1,234,567", "1234567"),
        (r"1,\!234", "1234"),
        ("10{,}080", "10080"),
        (r"12\,345\,678", "12345678"),
        ("1 000", "1000"),
        ("1.5e3", r"1.5 \times 10^3"),
        ("3.3e-10", r"3.3 \times 10^{-10}"),
        ("2^{10}", "1024"),
        ("5!", "120"),
        (r"0.\overline{3}", r"\frac13"),
        ("99999999999999999999", "99,999,999,999,999,999,999"),
    ]);
    assert_different(&[
        ("34", "35"),
        ("3", "-3"),
        ("1,234", "1,235"),
        ("99999999999", "100000000000"),
        ("99999999999999999999", "99999999999999999998"),
        ("1.5e3", "1.5e4"),
        ("0.33", r"\frac13"),
        ("3.14", r"\pi"),
        ("1.41421", r"\sqrt{2}"),
        ("100", "1000"),
        ("12", "1,2"),
        ("34", ""),
    ]);
}

#[test]
fn fractions_and_mixed_numbers_have_values() {
    assert_same(&[
        (r"\frac{1}{2}", "0.5"),
        (r"\dfrac12", "1/2"),
        (r"\frac{2}{4}", r"\frac12"),
        (r"-\frac{3}{4}", r"\frac{-3}{4}"),
        (r"1\frac{4}{5}", "9/5"),
        ("137 1/2", "137.5"),
        (r"-1\frac12", "-1.5"),
        (r"\frac 59", "5/9"),
        ("½", "0.5"),
        ("0.0833333333333333", r"\frac{1}{12}"),
    ]);
    assert_different(&[
        (r"\frac12", r"\frac21"),
        (r"\frac{1}{23}", r"\frac{12}{3}"),
        (r"1\frac{4}{5}", "4/5"),
        ("1/0", "0"),
        ("3/4", "3"),
    ]);
}

#[test]
fn percentages_are_of_one_or_of_a_hundred_but_only_with_the_sign() {
    assert_same(&[
        (r"50\%", "0.5"),
        ("50%", "50"),
        ("33.5 percent", "0.335"),
        (r"50\%", r"\frac12"),
        ("50%", "50 percent"),
    ]);
    assert_different(&[("50", "0.5"), ("5%", "50%"), ("10%", "0.1%"), ("50%", r"50^\circ"), ("0.5%", "50")]);
}

#[test]
fn a_unit_on_one_side_is_no_difference_and_two_that_differ_are() {
    assert_same(&[
        (r"5\text{ cm}", "5"),
        (r"5 \mbox{ cm}^2", r"5\text{ square centimeters}"),
        ("5 inches", r"5\text{ in}"),
        (r"45^\circ", "45"),
        (r"45^{\circ}", "45 degrees"),
        (r"30^\circ", r"\frac{\pi}{6}"),
        (r"\approx 5.5", "5.5"),
        ("four", "4"),
        (r"\$18.90", "18.90"),
        (r"864 \mbox{ inches}^2", "864"),
        ("5 hours", "5 hour"),
        ("3 million", "3000000"),
        ("1/2 cup", "0.5"),
    ]);
    assert_different(&[
        ("5 cm", "5 km"),
        (r"5\text{ cm}", r"5\text{ cm}^2"),
        ("5 cm", "6"),
        ("5 less than 9", "5"),
        ("not 5", "5"),
        ("at least 5", "5"),
        ("5 or 6", "5"),
        ("5m", "5"),
    ]);
}

#[test]
fn structures_are_compared_item_by_item() {
    assert_same(&[
        ("(1, 2)", r"\left( 1,2 \right)"),
        (r"(0.5, \sqrt{4})", r"(\frac12, 2)"),
        (r"\langle 1, 2 \rangle", "(1,2)"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix} 1 \\ 2 \end{bmatrix}"),
        (r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}", r"\begin{pmatrix}0.2\\-3.6\end{pmatrix}"),
        (r"\frac12\begin{pmatrix}2&4\\6&8\end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
        (r"\{1,2,3\}", r"\{3, 2, 1\}"),
        (r"(-\infty, 2) \cup (3, \infty)", r"(3,\infty)\cup(-\infty,2)"),
        ("[0, 1)", "[0,1)"),
        (r"1, \frac{1}{2}", "1, 0.5"),
        ("(1,2), (2,1)", "(2,1), (1,2)"),
        ("2, 3, and 4", r"2, 4, \text{ and } 3"),
        (r"3 \pm 2\sqrt{2}", r"3-2\sqrt2, 3+2\sqrt2"),
        ("3:4", "6:8"),
        ("100,200", "100, 200"),
        ("A(1, 2)", "(1,2)"),
        ("x = 1, y = 2", "(1, 2)"),
        (r"x = \pm 3", "3, -3"),
        (r"x = 2 \text{ or } x = 3", r"\{2, 3\}"),
        (r"x \in \{1, 2\}", "1, 2"),
        (r"\emptyset", r"\{\}"),
        (r"\mathbb{R}", r"(-\infty, \infty)"),
        (r"\{x \mid x > 2\}", r"(2, \infty)"),
        ("(−∞, −1] ∪ [3, ∞)", r"(-\infty,-1]\cup[3,\infty)"),
    ]);
    assert_different(&[
        ("(1,2)", "(2,1)"),
        ("(1,2)", "[1,2]"),
        ("(1,2)", "(1,2,3)"),
        ("[0,1)", "(0,1]"),
        ("(1,2)", "12"),
        (r"\{1,2\}", r"\{1,2,3\}"),
        ("1, 2", "1"),
        ("1, 2", "2, 1"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"),
        (r"\begin{pmatrix}1&2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        (r"(-\infty,2)", r"(-\infty,2]"),
        (r"\pm 2", "2"),
        ("3:4", "4:3"),
        ("12:30", "12:03"),
        ("y = 2, x = 1", "(1, 2)"),
        (r"\emptyset", "0"),
    ]);
}

#[test]
fn formulas_are_compared_by_their_values() {
    assert_same(&[
        ("x^2+2x+1", "(x+1)^2"),
        (r"\frac{x+2}{7}", r"\frac{x}{7}+\frac27"),
        (r"2\sqrt{2}", r"\sqrt{8}"),
        (r"\frac{1}{\sqrt3}", r"\frac{\sqrt{3}}{3}"),
        (r"\frac{\pi}{2}", "π/2"),
        (r"e^{-2x}", r"\frac{1}{e^{2x}}"),
        (r"\sin^2 x + \cos^2 x", "1"),
        (r"\ln 2 + i\frac{\pi}{3}", r"\frac{i\pi}{3} + \ln 2"),
        (r"\log_2 8", "3"),
        (r"\sqrt[3]{8}", "2"),
        (r"\binom{5}{2}", "10"),
        ("1+2i", "2i+1"),
        (r"x_{0}\cos(\omega t)", r"\cos(\omega t) x_0"),
        (r"\frac{n(n+1)}{2}", r"\frac{n^2+n}{2}"),
        ("2 pi", r"2\pi"),
        ("sqrt(2)/2", r"\frac{\sqrt2}{2}"),
    ]);
    assert_different(&[
        ("x+1", "x+2"),
        ("x", "y"),
        (r"\sqrt{x^2}", "x"),
        ("|x|", "x"),
        (r"\frac12 x", r"\frac12"),
        (r"\sqrt{2}", "2"),
        (r"\frac{1+\sqrt5}{2}", "2"),
        ("e^x", "e^{2x}"),
        (r"\sin x", r"\cos x"),
        ("1+2i", "1-2i"),
        ("x_1", "x_2"),
        ("4210_5", "4210_6"),
        ("4210_5", "4210"),
    ]);
}

#[test]
fn an_equation_with_a_name_is_its_value_and_others_are_compared_whole() {
    assert_same(&[
        ("x = 5", "5"),
        ("x=5", "x = 5.0"),
        ("f(x) = 2x+1", "2x+1"),
        ("y = 2x+1", "f(x)=1+2x"),
        (r"\angle ABC = 50^\circ", "50"),
        (r"\text{Area} = 12\pi", r"12\pi"),
        ("AB = 7", "7"),
        ("2 + 3 = 5", "5"),
        (r"\frac{\sqrt3}{3} \approx 0.577", r"\frac{\sqrt3}{3}"),
        ("5x - 7y = 0", "7y - 5x = 0"),
        ("(p,q) = (1,2)", "(1,2)"),
        ("x = 1, y = 2", "y = 2, x = 1"),
        ("x < 2", "2 > x"),
        (r"x \ge 5", "[5, \\infty)"),
        (r"-2 \le x \le 7", r"x \in [-2,7]"),
        (r"x < 2 \text{ or } x > 3", r"(-\infty,2)\cup(3,\infty)"),
        ("-x > -1", "x < 1"),
        (r"x \ne 3", "x != 3"),
    ]);
    assert_different(&[
        ("x = 5", "6"),
        ("x = 5", "y = 5"),
        ("2x + z = 1", "1"),
        ("x + y = 0", "0"),
        ("5x - 7y + 4 = 0", "x + y + 2 = 0"),
        ("x < 2", r"x \le 2"),
        ("x < 2", "x > 2"),
        ("x > -1", "x < 1"),
        (r"\sin x = \frac12", r"\cos x = \frac12"),
    ]);
}

#[test]
fn options_and_words_are_told_apart() {
    assert_same(&[
        (r"\text{(C)}", "C"),
        ("(C)", "C"),
        (r"\textbf{(C)}\ 12", "C"),
        (r"(C) 12", "12"),
        ("C. 12", "C"),
        (r"\text{even}", "even"),
        ("Yes", "yes"),
        (r"\text{Navin}", "Navin"),
        (r"\mbox{Saturday}", "saturday"),
    ]);
    assert_different(&[
        ("(C)", "D"),
        ("C", "c"),
        ("(B) 12", "C"),
        ("even", "odd"),
        (r"\text{Navin}", r"\text{Evelyn}"),
        ("yes", "no"),
    ]);
}

#[test]
fn the_looks_of_a_formula_say_nothing() {
    assert_same(&[
        (r"$\displaystyle\frac{1}{2}$", r"\tfrac12"),
        (r"\left\{1, 2\right\}", r"\{1,2\}"),
        (r"\mathbf{x}+1", "x+1"),
        (r"x\,y", "xy"),
        (r"2\cdot 3^{2}", "18"),
        (r"\boldsymbol{7}.", "7"),
        (r"\\frac{1}{2}", r"\frac{1}{2}"),
        (r"3 \times 4", "12"),
        ("x²", "x^2"),
        ("√2", r"\sqrt{2}"),
    ]);
}

#[test]
fn an_answer_without_a_mark_gets_nothing_unless_that_is_asked_for() {
    for text in ["34", "The answer is 34", "It is 34.", "$34$", "34 34 34"] {
        assert!(!Math::default().verify(text, "34").correct, "{text}");
        assert!(
            Math { extraction: Extraction::ALL.to_vec() }.verify(text, "34").correct || text == "34 34 34",
            "{text}"
        );
    }
    // One rule alone.
    let whole = Math { extraction: vec![Extraction::Whole] };
    assert!(whole.verify("1/2", "0.5").correct && !whole.verify(r"\boxed{1/2} I think", "0.5").correct);
    let nothing = Math { extraction: Vec::new() };
    assert_eq!(nothing.verify(r"\boxed{34}", "34").extracted, None);
}

#[test]
fn a_guess_at_several_answers_is_none_of_them() {
    for text in [
        r"\boxed{33} \boxed{34}",
        r"\boxed{33, 34}",
        r"\boxed{33 \text{ or } 34}",
        r"\boxed{34}, \boxed{35}",
        "Answer: 34 or 35",
        "Answer: the answer is 34 or 35",
        "Answer: no solution for x = 34",
        "#### 34 (or 35)",
    ] {
        assert!(!Math::default().verify(text, "34").correct, "{text}");
    }
}

#[test]
fn gold_answers_are_taken_from_their_marks() {
    for gold in ["34", r"so \boxed{34}.", "work\n#### 34", "$34$", "<answer>34</answer>"] {
        assert!(Math::default().verify(r"\boxed{34}", gold).correct, "{gold}");
    }
    assert!(!Math::default().verify(r"\boxed{}", "").correct && !Math::default().verify(r"\boxed{0}", "").correct);
}

#[test]
fn an_explanation_says_what_was_found_and_why() {
    let explained = Math::default().explain(r"so \boxed{\frac{1}{2}}", "0.25");
    assert!(explained.extraction.contains(r"\frac{1}{2}") && explained.extraction.contains("boxed"), "{explained:?}");
    assert_eq!(explained.prediction.as_deref(), Some("an expression: 1/2"));
    assert_eq!(explained.gold.as_deref(), Some("a number: 1/4"));
    assert_eq!(explained.reason, "the exact values 1/2 and 1/4 differ");
    let missing = Math::default().explain("34", "34");
    assert!(missing.extraction.contains("no answer") && missing.extraction.contains("`Answer:`"), "{missing:?}");
    assert!(Math::default().explain(r"\boxed{34", "34").extraction.contains("never closed"));
}

#[test]
fn a_configuration_says_where_the_answer_is_looked_for() {
    let config = |verifier: &str, rules: &[Extraction]| RewardConfig {
        verifier: verifier.into(),
        math_extraction: rules.to_vec(),
        ..Default::default()
    };
    let correct = |config: &RewardConfig| {
        let rewards = RewardPipeline::new(config, 100, ["amc23"]).unwrap();
        rewards.score(&[Asked::new("it is 34", "34", "amc23").answer()]).unwrap().scores[0].correct
    };
    assert!(!correct(&RewardConfig::default()));
    for verifier in ["auto", "math"] {
        assert!(correct(&config(verifier, &[Extraction::Boxed, Extraction::Number])));
    }
    let refused = |config: &RewardConfig, source: &str| RewardPipeline::new(config, 100, [source]).err();
    assert_eq!(refused(&config("math", &[]), "amc23"), Some(RewardError::NoExtraction));
    for (verifier, source) in [("auto", "openai/gsm8k"), ("gsm8k", "amc23")] {
        let config = config(verifier, &[Extraction::Number]);
        assert_eq!(refused(&config, source), Some(RewardError::UnusedExtraction));
    }
}
