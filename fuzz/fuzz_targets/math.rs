//! `math` on any two texts: no panic, an answer is its own gold answer, and equality is symmetric.
#![no_main]

use libfuzzer_sys::fuzz_target;
use luspo_reward::{Extraction, Math, Verifier};

fuzz_target!(|input: (&str, &str)| {
    let (text, other) = input;
    let every = Math { extraction: Extraction::ALL.to_vec() };
    let verdict = every.verify(text, text);
    assert_eq!(verdict.correct, verdict.extracted.is_some());
    every.explain(text, other);

    let (a, b) = (format!("\\boxed{{{text}}}"), format!("\\boxed{{{other}}}"));
    let strict = Math::default();
    let (there, back) = (strict.verify(&a, &b), strict.verify(&b, &a));
    if there.extracted.is_some() && back.extracted.is_some() {
        assert_eq!(there.correct, back.correct);
    }
});
