use luspo_reward::{Extraction, Math, Verifier};
use std::io::BufRead;
fn main() {
    let strict = std::env::args().any(|a| a == "strict");
    for line in std::io::stdin().lock().lines() {
        let row: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
        let (p, g) = (row["pred"].as_str().unwrap(), row["gold"].as_str().unwrap());
        let latex = row["match_types"] == serde_json::json!(["latex"]);
        let math = if strict { Math::default() } else if latex { Math { extraction: [&Extraction::STRICT[..], &[Extraction::Formula]].concat() } } else { Math { extraction: Extraction::ALL.to_vec() } };
        let v = math.verify(p, g);
        let e = math.explain(p, g);
        println!("{}", serde_json::json!({"correct": v.correct, "extracted": v.extracted, "ex": e.extraction, "p": e.prediction, "g": e.gold, "why": e.reason}));
    }
}
