//! `luspo verify`: judges given answers.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};

use anyhow::{Context, Result, bail};
use luspo::reward::{verifier, verifier_for};
use serde::Deserialize;

use crate::args::{UsageError, VerifyArgs};

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
    let (name, input): (_, Box<dyn BufRead>) = if args.input.as_os_str() == "-" {
        ("standard input".to_string(), Box::new(std::io::stdin().lock()))
    } else {
        let name = args.input.display().to_string();
        let file = File::open(&args.input).with_context(|| format!("{name}: cannot be opened"))?;
        (name, Box::new(BufReader::new(file)))
    };
    let mut out = std::io::stdout().lock();
    for (number, line) in input.lines().enumerate() {
        let place = || format!("{name}: line {}", number + 1);
        let line = line.with_context(place)?;
        if line.trim().is_empty() {
            continue;
        }
        let line: Line = serde_json::from_str(&line).with_context(|| format!("{}: {EXPECTED}", place()))?;
        let judge = match (&named, &line.data_source) {
            (Some(judge), _) => judge.clone(),
            (None, Some(source)) => verifier_for(source)
                .with_context(|| format!("{}: --verifier NAME would judge every line alike", place()))?,
            (None, None) => bail!("{}: has no `data_source` to choose a verifier by; give --verifier NAME", place()),
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
