//! Every case of a golden file is accounted for: equal, a known difference with its rule, or left out with the reason.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::files::{fixtures, read, text};

/// What came of a case.
pub enum Verdict {
    /// The reference's values.
    Equal,
    /// Ours by a rule of the design, which the test has checked.
    Differs(&'static str),
    /// Reached elsewhere, by whom.
    Elsewhere(&'static str),
}

/// How the cases of a file went.
#[derive(Default)]
pub struct Account {
    pub equal: usize,
    pub differences: BTreeMap<&'static str, usize>,
    pub elsewhere: BTreeMap<&'static str, usize>,
}

/// Judges all cases of a file; `judge` says what is wrong with the others.
pub fn run(folder: &Path, file: &str, judge: impl Fn(&Value, &Value) -> Result<Verdict, String>) -> Account {
    let golden = read(folder, file);
    let mut account = Account::default();
    let mut failures = Vec::new();
    let cases = golden["cases"].as_array().expect("a list of cases");
    for case in cases {
        match judge(&golden, case) {
            Ok(Verdict::Equal) => account.equal += 1,
            Ok(Verdict::Differs(rule)) => *account.differences.entry(rule).or_default() += 1,
            Ok(Verdict::Elsewhere(place)) => *account.elsewhere.entry(place).or_default() += 1,
            Err(failure) => failures.push(format!("{}: {failure}", text(&case["id"]))),
        }
    }
    println!("{file}: {} cases: {} equal, {} failed", cases.len(), account.equal, failures.len());
    for (rule, count) in &account.differences {
        println!("    {count} known differences: {rule}");
    }
    for (place, count) in &account.elsewhere {
        println!("    {count} elsewhere: {place}");
    }
    assert!(failures.is_empty(), "{file}:\n{}", failures.join("\n"));
    account
}

/// The golden files that the repository carries.
pub fn own() -> PathBuf {
    fixtures()
}

/// Golden files of the same layout, which may hold other cases and other values.
pub fn data() -> PathBuf {
    PathBuf::from(std::env::var_os("LUSPO_TEST_DATA").expect("LUSPO_TEST_DATA names a folder")).join("golden")
}

/// A golden value against ours, both computed in f64. The references round some factors to f32 (6e-8 of their value)
/// and add 1e-8 to counts that they divide by.
pub fn close(got: f64, expected: f64) -> bool {
    got == expected || (got - expected).abs() <= 1e-7 + 3e-7 * expected.abs()
}
