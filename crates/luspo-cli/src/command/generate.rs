//! `luspo generate`: text, as it is sampled.

use std::io::Write;

use anyhow::Result;
use burn::module::Module;
use luspo::core::{Message, Purpose, RandomKey};
use luspo::data::PromptText;
use luspo::rollout::{Request, generate_with};

use crate::args::{GenerateArgs, Global, UsageError};
use crate::command::{check_cache, load_policy, room_for_answer};

pub fn run(args: GenerateArgs, global: &Global) -> Result<()> {
    let prompt = match (args.text.prompt, args.text.chat) {
        (Some(text), _) => PromptText::Text(text),
        (None, Some(text)) => PromptText::Messages(vec![Message::new("user", text)]),
        (None, None) => return Err(UsageError("give --prompt TEXT or --chat TEXT".into()).into()),
    };
    let policy = load_policy(&args.model, &args.precision, global)?;
    let prompt_ids = policy.tokenizer.encode_prompt(&prompt)?;
    let room = room_for_answer(&policy, prompt_ids.len());
    let mut sampling = policy.sampling(args.max_response_length.unwrap_or(room));
    sampling.temperature = args.temperature;
    sampling.top_p = args.top_p;
    sampling.top_k = args.top_k;
    sampling.min_p = args.min_p;

    let request = Request { prompt_id: 0, prompt_ids: &prompt_ids, samples: 1 };
    request.check_length(&sampling, policy.max_length())?;
    check_cache(&policy, 1, prompt_ids.len() + sampling.max_response_length, global)?;
    let key = RandomKey::new(global.seed.unwrap_or(0), Purpose::Generate).at(0);
    let (mut sampled, mut printed) = (Vec::new(), 0);
    let rollouts = generate_with(&policy.model.valid(), &[request], &sampling, key, 1, |_, token| {
        sampled.push(token);
        // An id that cannot be decoded is reported below, with the whole answer.
        if !global.json
            && let Ok(text) = policy.tokenizer.decode(&sampled)
        {
            printed = print_new(&text, printed);
        }
    })?;

    let mut out = std::io::stdout().lock();
    let answer = &rollouts[0];
    let text = policy.text(answer)?;
    if global.json {
        let line = serde_json::json!({
            "text": text,
            "token_ids": answer.response_ids,
            "log_probs": answer.log_probs,
            "finish": answer.finish,
        });
        writeln!(out, "{line}")?;
    } else {
        writeln!(out, "{}", text.get(printed..).unwrap_or_default())?;
    }
    Ok(())
}

/// Prints what of `text` lies beyond the first `printed` bytes, and returns how many are printed now. A character whose
/// bytes have not all been sampled yet shows as U+FFFD at the end and waits.
fn print_new(text: &str, printed: usize) -> usize {
    let complete = text.trim_end_matches('\u{fffd}');
    let Some(new) = complete.get(printed..).filter(|new| !new.is_empty()) else { return printed };
    let mut out = std::io::stdout().lock();
    // A reader that went away is found out by the final line.
    let _ = out.write_all(new.as_bytes()).and_then(|()| out.flush());
    complete.len()
}
