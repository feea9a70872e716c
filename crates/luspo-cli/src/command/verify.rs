//! `luspo verify`: judges given answers.

use std::io::Write;

use anyhow::{Context, Result, bail};
use luspo::reward::{verifier, verifier_for};
use serde::Deserialize;

use crate::args::{UsageError, VerifyArgs};
use crate::input_lines::InputLines;

/// One line of input.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    prediction: String,
    gold: String,
    data_source: Option<String>,
}

const EXPECTED: &str = r#"a line is {"prediction": "...", "gold": "...", "data_source": "..."}, the last optional"#;

pub fn run(args: VerifyArgs) -> Result<()> {
    let named = match args.verifier.as_str() {
        "auto" => None,
        name => Some(verifier(name).map_err(|error| UsageError(error.to_string()))?),
    };
    let mut input = InputLines::open(&args.input)?;
    let mut out = std::io::stdout().lock();
    while let Some((place, line)) = input.next::<Line>(EXPECTED)? {
        let judge = match (&named, &line.data_source) {
            (Some(judge), _) => judge.clone(),
            (None, Some(source)) => verifier_for(source)
                .with_context(|| format!("{place}: --verifier NAME would judge every line alike"))?,
            (None, None) => bail!("{place}: has no `data_source` to choose a verifier by; give --verifier NAME"),
        };
        let verdict = judge.verify(&line.prediction, &line.gold);
        let answer = serde_json::json!({
            "score": verdict.score,
            "correct": verdict.correct,
            "extracted": verdict.extracted,
        });
        writeln!(out, "{answer}")?;
    }
    Ok(())
}
