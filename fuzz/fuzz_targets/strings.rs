//! Every verifier on any two texts: no panic, and a score that the verifier has.
#![no_main]

use libfuzzer_sys::fuzz_target;
use luspo_reward::{format_check, verifier};

fuzz_target!(|input: (&str, &str)| {
    let (text, gold) = input;
    for name in ["exact", "gsm8k", "math", "math_dapo", "math_reward", "countdown", "linear_equation", "sorting"] {
        let verdict = verifier(name).unwrap().verify(text, gold);
        let wrong = if name == "math_dapo" { -1.0 } else { 0.0 };
        assert_eq!(verdict.score, if verdict.correct { 1.0 } else { wrong });
    }
    for name in ["think_answer", "gsm8k", "answer_line", "boxed"] {
        format_check(name).unwrap()(text);
    }
});
