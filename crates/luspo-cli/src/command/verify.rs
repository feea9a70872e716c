//! `luspo verify`: judges given answers.

use std::io::Write;

use anyhow::{Context, Result, bail};
use luspo::reward::{Explanation, Verifier, Verifiers};
use serde::Deserialize;
use serde_json::{Value, json};

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
    let verifiers = Verifiers { math_extraction: args.extraction };
    let named = |name: &str| {
        let judge = verifiers.named(name).map_err(|error| UsageError(error.to_string()))?;
        if name != "math" && verifiers != Verifiers::default() {
            return Err(UsageError(format!("--extraction is for the verifier math; {name} has a rule of its own")));
        }
        Ok(judge)
    };
    if let (Some(prediction), Some(gold)) = (&args.prediction, &args.gold) {
        let judge = named(if args.verifier == "auto" { "math" } else { &args.verifier })?;
        writeln!(std::io::stdout(), "{}", judged(&*judge, prediction, gold, args.explain))?;
        if args.explain {
            eprint!("{}", in_words(&judge.explain(prediction, gold), judge.verify(prediction, gold).correct));
        }
        return Ok(());
    }
    let Some(file) = &args.input else { bail!("--input FILE, or --prediction TEXT with --gold TEXT") };
    let named = if args.verifier == "auto" { None } else { Some(named(&args.verifier)?) };
    let mut input = InputLines::open(file)?;
    let mut out = std::io::stdout().lock();
    let (mut lines, mut right, mut without_answer, mut math) = (0_usize, 0, 0, false);
    while let Some((place, line)) = input.next::<Line>(EXPECTED)? {
        let judge = match (&named, &line.data_source) {
            (Some(judge), _) => judge.clone(),
            (None, Some(source)) => verifiers
                .for_source(source)
                .with_context(|| format!("{place}: --verifier NAME would judge every line alike"))?,
            (None, None) => bail!("{place}: has no `data_source` to choose a verifier by; give --verifier NAME"),
        };
        math |= judge.name() == "math";
        let verdict = judged(&*judge, &line.prediction, &line.gold, args.explain);
        lines += 1;
        right += usize::from(verdict["correct"] == true);
        without_answer += usize::from(verdict["extracted"].is_null());
        writeln!(out, "{verdict}")?;
    }
    if lines > 0 && !math && verifiers != Verifiers::default() {
        return Err(UsageError("--extraction is for the verifier math, which judges none of these lines".into()).into());
    }
    eprintln!("{lines} answers: {right} right, {} wrong, {without_answer} of them with no answer found", lines - right);
    if without_answer > 0 {
        eprintln!("(`--explain` says where the answer is looked for; for `math`, `--extraction` names other places)");
    }
    Ok(())
}

fn judged(judge: &dyn Verifier, prediction: &str, gold: &str, explain: bool) -> Value {
    let verdict = judge.verify(prediction, gold);
    let mut line = json!({
        "score": verdict.score,
        "correct": verdict.correct,
        "extracted": verdict.extracted,
    });
    if explain {
        let Explanation { extraction, prediction, gold, reason } = judge.explain(prediction, gold);
        line["verifier"] = judge.name().into();
        line["explanation"] =
            json!({ "extraction": extraction, "prediction": prediction, "gold": gold, "reason": reason });
    }
    line
}

fn in_words(explanation: &Explanation, correct: bool) -> String {
    let mut words = format!("answer: {}\n", explanation.extraction);
    for (side, read) in [("read as", &explanation.prediction), ("gold", &explanation.gold)] {
        if let Some(read) = read {
            words.push_str(&format!("{side}: {read}\n"));
        }
    }
    words + &format!("{}: {}\n", if correct { "right" } else { "wrong" }, explanation.reason)
}
