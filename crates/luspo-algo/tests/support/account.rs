//! Every case of a golden file is accounted for: equal, a known difference with its rule, or wrong on purpose.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;
use serde_json::Value;

use super::{GoldenBatch, Outcome, Setting, devices, number, read, rows, text};

/// What is expected of a case.
pub enum Plan {
    /// Loss and gradient are the reference's.
    Equal(Setting),
    /// The reference chose otherwise; the rule says how. Where the choice does not show, the values may be equal.
    Differs(Setting, &'static str),
    /// Values that are wrong on purpose, and have a test of their own.
    Wrong,
}

/// How the cases of a file went on one backend.
#[derive(Default)]
pub struct Account {
    pub equal: usize,
    /// By rule: how many cases it is about, and in how many of them the values differ.
    pub differences: BTreeMap<&'static str, (usize, usize)>,
    pub wrong: usize,
    pub failures: Vec<String>,
}

/// Rule of the design: the references divide 0 by 0.
pub const EMPTY_UPDATE: &str = "an update without any response token has loss 0 and gradient 0";

/// Looks at what else a reference says of an equal case, and says what is wrong.
type Extra = fn(&Value, &GoldenBatch, &Outcome) -> Vec<String>;

/// For references that say nothing else.
pub fn no_metrics(_: &Value, _: &GoldenBatch, _: &Outcome) -> Vec<String> {
    Vec::new()
}

/// Runs all cases of a file on every backend.
pub fn run(folder: &Path, file: &str, plan: fn(&Value, &GoldenBatch) -> Plan, extra: Extra) -> Account {
    let golden = read(folder, file);
    let cases = golden["cases"].as_array().expect("a list of cases");
    let [flex, ndarray] = devices().map(|(backend, device)| {
        let mut account = Account::default();
        for case in cases {
            let batch = GoldenBatch(&golden["batches"][text(&case["batch"])]);
            account.enter(case, &batch, plan(case, &batch), &device, extra);
        }
        account.report(file, backend, cases.len());
        account
    });
    assert_eq!((flex.equal, flex.wrong), (ndarray.equal, ndarray.wrong));
    flex
}

impl Account {
    fn enter(&mut self, case: &Value, batch: &GoldenBatch, plan: Plan, device: &Device, extra: Extra) {
        let id = text(&case["id"]);
        let (loss, gradient) = match &plan {
            Plan::Wrong => {
                self.wrong += 1;
                return;
            }
            _ => (number(&case["out"]["loss"]), rows(&case["out"]["grad"])),
        };
        let nothing = batch.totals().tokens == 0;
        match plan {
            Plan::Equal(setting) if nothing && loss.is_nan() => {
                let outcome = setting.run(batch, device);
                self.note(EMPTY_UPDATE, true);
                if outcome.loss != 0.0 || outcome.gradient.concat().iter().any(|&gradient| gradient != 0.0) {
                    self.failures.push(format!("{id}: an empty update has loss {}", outcome.loss));
                }
            }
            Plan::Equal(setting) => {
                let outcome = setting.run(batch, device);
                let mut failures = extra(case, batch, &outcome);
                if !outcome.is(loss, &gradient) {
                    failures.push(format!("loss {} instead of {loss}, or gradient", outcome.loss));
                }
                match failures.is_empty() {
                    true => self.equal += 1,
                    false => self.failures.push(format!("{id}: {}", failures.join("; "))),
                }
            }
            Plan::Differs(setting, rule) => {
                let outcome = setting.run(batch, device);
                self.note(rule, !outcome.is(loss, &gradient));
                if !outcome.is_finite() {
                    self.failures.push(format!("{id}: not finite"));
                }
            }
            Plan::Wrong => unreachable!("returned above"),
        }
    }

    fn note(&mut self, rule: &'static str, differs: bool) {
        let (cases, differing) = self.differences.entry(rule).or_default();
        *cases += 1;
        *differing += usize::from(differs);
    }

    fn report(&self, file: &str, backend: &str, cases: usize) {
        let known: usize = self.differences.values().map(|(cases, _)| cases).sum();
        println!(
            "{file} on {backend}: {cases} cases: {} equal, {known} known differences, {} wrong on purpose, {} failed",
            self.equal,
            self.wrong,
            self.failures.len()
        );
        for (rule, (cases, differing)) in &self.differences {
            println!("    {cases} cases, {differing} with other values: {rule}");
        }
        assert!(self.failures.is_empty(), "{file} on {backend}:\n{}", self.failures.join("\n"));
        assert_eq!(self.equal + known + self.wrong, cases, "{file}: cases are missing from the account");
    }

    /// Whether the cases are chosen so that every rule matters to one of them; other files need not.
    pub fn assert_every_difference_shows(&self) {
        for (rule, (_, differing)) in &self.differences {
            assert!(*differing > 0, "no case shows the difference that \"{rule}\" makes");
        }
    }
}
