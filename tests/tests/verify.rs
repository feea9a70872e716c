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

/// What `luspo` prints for one pair: its line, and its words on standard error.
fn pair(arguments: &[&str]) -> (Value, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_luspo-under-test")).arg("verify").args(arguments).assert().success();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let output = output.get_output();
    (serde_json::from_str(&text(&output.stdout)).unwrap(), text(&output.stderr))
}

#[test]
fn one_pair_from_the_command_line_is_judged_as_mathematics() {
    let (verdict, words) = pair(&["--prediction", r"so \boxed{\frac{1}{2}}", "--gold", "0.5"]);
    assert_eq!(verdict, json!({ "score": 1.0, "correct": true, "extracted": r"\frac{1}{2}" }));
    assert_eq!(words, "");
    let (verdict, _) = pair(&["--prediction", "Answer: -3", "--gold", "-3"]);
    assert_eq!(verdict["correct"], true);
    let (verdict, _) = pair(&["--prediction", "#### 9", "--gold", "9", "--verifier", "gsm8k"]);
    assert_eq!(verdict["correct"], true);
}

#[test]
fn an_explanation_says_what_was_extracted_how_it_was_read_and_why() {
    let arguments = ["--prediction", r"so \boxed{\frac{1}{2}}", "--gold", "0.25", "--explain"];
    let (verdict, words) = pair(&arguments);
    assert_eq!(verdict["verifier"], "math");
    let explanation = &verdict["explanation"];
    assert_eq!(explanation["extraction"], r"`\frac{1}{2}` is the last \boxed{…}");
    assert_eq!(explanation["prediction"], "an expression: 1/2");
    assert_eq!(explanation["gold"], "a number: 1/4");
    assert_eq!(explanation["reason"], "the exact values 1/2 and 1/4 differ");
    assert!(words.contains("read as: an expression: 1/2") && words.contains("wrong: the exact values"), "{words}");

    // In files too, and for every verifier.
    let lines = [json!({ "prediction": "#### 8", "gold": "9", "data_source": "openai/gsm8k" })];
    let verdict = &verdicts(&lines, &["--explain"])[0];
    assert_eq!(verdict["explanation"]["extraction"], "`8` was extracted");
    assert!(verdict["explanation"]["reason"].as_str().unwrap().contains("####"), "{verdict}");
}

#[test]
fn where_math_looks_for_the_answer_can_be_said() {
    let lines = [json!({ "prediction": "it is 1/2", "gold": "0.5" }), json!({ "prediction": "0.5", "gold": "1/2" })];
    let correct = |rules: &[&str]| {
        let found = verdicts(&lines, &[&["--verifier", "math"], rules].concat());
        found.iter().map(|verdict| verdict["correct"].as_bool().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(correct(&[]), [false, false]);
    assert_eq!(correct(&["--extraction", "whole"]), [false, true]);
    assert_eq!(correct(&["--extraction", "boxed,number"]), [true, true]);

    for arguments in [
        &["--verifier", "math", "--extraction", "middle"][..],
        &["--verifier", "gsm8k", "--extraction", "number"],
        &["--prediction", "5"],
        &["--prediction", "5", "--gold", "5"],
    ] {
        verify("", arguments).code(2);
    }
}

#[test]
fn the_lines_are_counted() {
    let lines = [
        r#"{"prediction": "\\boxed{9}", "gold": "9"}"#,
        r#"{"prediction": "\\boxed{8}", "gold": "9"}"#,
        r#"{"prediction": "9", "gold": "9"}"#,
    ];
    let output = verify(&lines.join("\n"), &["--verifier", "math"]).success();
    let words = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
    assert!(words.starts_with("3 answers: 1 right, 2 wrong, 1 of them with no answer found\n"), "{words}");
    assert!(words.contains("--extraction"), "{words}");
}
