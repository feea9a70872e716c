//! How often `math` agrees with people: labelled pairs of answers from the tests of other graders.

use std::path::Path;

use luspo_reward::{Extraction, Math, Verifier};
use serde_json::Value;

/// Outcomes against labels.
#[derive(Debug, Default)]
struct Confusion {
    right_accepted: usize,
    right_refused: usize,
    wrong_accepted: usize,
    wrong_refused: usize,
}

impl Confusion {
    fn pairs(&self) -> usize {
        self.right_accepted + self.right_refused + self.wrong_accepted + self.wrong_refused
    }

    fn agreement(&self) -> f64 {
        (self.right_accepted + self.wrong_refused) as f64 / self.pairs() as f64
    }

    /// Wrong answers that are accepted, among the wrong ones.
    fn false_positives(&self) -> f64 {
        self.wrong_accepted as f64 / (self.wrong_accepted + self.wrong_refused).max(1) as f64
    }
}

fn data(name: &str) -> Vec<Value> {
    let folder = std::env::var("LUSPO_TEST_DATA").expect("LUSPO_TEST_DATA names the folder with data/");
    let text = std::fs::read_to_string(Path::new(&folder).join("data").join(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
#[ignore = "needs LUSPO_TEST_DATA"]
fn labelled_pairs_are_judged_as_people_did() {
    // The pairs are bare answers and texts in every form, so every rule of extraction is on; but where a row says that
    // its grader looks for LaTeX alone, only formulas between dollar signs.
    let every = Math { extraction: Extraction::ALL.to_vec() };
    let latex = Math { extraction: [&Extraction::STRICT[..], &[Extraction::Formula]].concat() };
    let mut confusion = Confusion::default();
    for row in data("answer_equivalence.jsonl") {
        if ["dup_of", "suspect", "tags"].iter().any(|mark| !row[mark].is_null()) {
            continue;
        }
        let (pred, gold) = (row["pred"].as_str().unwrap(), row["gold"].as_str().unwrap());
        let expected = row["expected"].as_bool().unwrap();
        let math = if row["match_types"] == serde_json::json!(["latex"]) { &latex } else { &every };
        let verdict = math.verify(pred, gold);
        match (expected, verdict.correct) {
            (true, true) => confusion.right_accepted += 1,
            (true, false) => confusion.right_refused += 1,
            (false, true) => confusion.wrong_accepted += 1,
            (false, false) => confusion.wrong_refused += 1,
        }
        if expected != verdict.correct {
            let side = if expected { "refused" } else { "ACCEPTED" };
            println!("{side} {}: {:?} for {gold:?}: {:?}", row["id"], verdict.extracted, math.explain(pred, gold));
        }
    }
    println!(
        "{confusion:?}: agreement {:.4}, false positives {:.4}",
        confusion.agreement(),
        confusion.false_positives()
    );
    assert!(confusion.pairs() > 300);
    assert!(confusion.agreement() >= 0.95);
    assert!(confusion.false_positives() <= 0.01);
}
