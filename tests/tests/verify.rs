//! `luspo verify`: judged answers, a line for a line.

use assert_cmd::Command;
use serde_json::{Value, json};

/// `luspo verify` of these lines on standard input.
fn verify(lines: &str, arguments: &[&str]) -> assert_cmd::assert::Assert {
    Command::new(env!("CARGO_BIN_EXE_luspo-under-test"))
        .args(["verify", "--input", "-"])
        .args(arguments)
        .write_stdin(lines)
        .assert()
}

fn verdicts(lines: &[Value], arguments: &[&str]) -> Vec<Value> {
    let lines: String = lines.iter().map(|line| format!("{line}\n\n")).collect();
    let output = verify(&lines, arguments).success();
    let text = String::from_utf8(output.get_output().stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn each_line_is_judged_by_its_data_source() {
    let lines = [
        json!({ "prediction": "16 - 7 = 9\n#### 9", "gold": "9", "data_source": "openai/gsm8k" }),
        json!({ "prediction": "#### 8", "gold": "9", "data_source": "openai/gsm8k" }),
        json!({ "prediction": "nothing", "gold": "9", "data_source": "openai/gsm8k" }),
        json!({ "prediction": "Answer: \\frac{1}{2}", "gold": "\\frac{1}{2}", "data_source": "math_dapo" }),
        json!({ "prediction": "Answer: 3", "gold": "4", "data_source": "aime2024" }),
    ];
    let expected = [
        json!({ "score": 1.0, "correct": true, "extracted": "9" }),
        json!({ "score": 0.0, "correct": false, "extracted": "8" }),
        json!({ "score": 0.0, "correct": false, "extracted": null }),
        json!({ "score": 1.0, "correct": true, "extracted": "\\frac{1}{2}" }),
        json!({ "score": -1.0, "correct": false, "extracted": "3" }),
    ];
    assert_eq!(verdicts(&lines, &[]), expected);
}

#[test]
fn a_named_verifier_judges_every_line() {
    let lines = [
        json!({ "prediction": "9", "gold": "9" }),
        json!({ "prediction": "#### 9", "gold": "9", "data_source": "openai/gsm8k" }),
        json!({ "prediction": "9", "gold": "9", "data_source": "of nobody", }),
    ];
    let correct = |name| {
        let found = verdicts(&lines, &["--verifier", name]);
        found.iter().map(|verdict| verdict["correct"].as_bool().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(correct("exact"), [true, false, true]);
    assert_eq!(correct("gsm8k"), [false, true, false]);
}

#[test]
fn what_cannot_be_judged_is_named_by_its_line() {
    let good = r#"{"prediction": "", "gold": "", "data_source": "math"}"#;
    for (bad, words) in [
        (r#"{"prediction": "9", "gold": "9"}"#, "--verifier"),
        (r#"{"prediction": "9", "gold": "9", "data_source": "of nobody"}"#, "of nobody"),
        (r#"{"prediction": "9", "gold": 9, "data_source": "math"}"#, "a string"),
        (r#"{"prediction": "9", "data_source": "math"}"#, "gold"),
        (r#"{"prediction": "9", "gold": "9", "source": "math"}"#, "source"),
        ("[]", "prediction"),
        ("{", "prediction"),
    ] {
        let output = verify(&format!("{good}\n\n{bad}\n"), &[]).code(1);
        let output = output.get_output();
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(message.contains("standard input: line 3") && message.contains(words), "{bad}: {message}");
        // What came before it was judged.
        assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 1);
    }
}

#[test]
fn a_verifier_that_does_not_exist_is_wrong_usage_and_a_missing_file_a_failure() {
    let output = verify("", &["--verifier", "gsm9k"]).code(2);
    let message = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
    assert!(message.contains("gsm9k") && message.contains("`gsm8k`"), "{message}");
    let missing = ["verify", "--input", "/nowhere/in.jsonl"];
    let output = Command::new(env!("CARGO_BIN_EXE_luspo-under-test")).args(missing).assert().code(1);
    assert!(String::from_utf8_lossy(&output.get_output().stderr).contains("/nowhere/in.jsonl"));
}
