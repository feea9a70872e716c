//! `luspo serve`: a policy behind the OpenAI API.

use std::io::Write;

use anyhow::Result;
use burn::module::Module;
use luspo::rollout::BatchLimits;
use luspo::rollout::serve::{ServeOptions, Served, serve};

use crate::args::{Global, ServeArgs, UsageError};
use crate::command::{check_cache, load_policy};
use crate::interrupt;
use crate::live_line::tell;

/// Tokens a row of the cache where nothing else is said.
const TOKENS_A_ROW: usize = 2048;

pub fn run(args: ServeArgs, global: &Global) -> Result<()> {
    let token = args.api_key_env.as_deref().map(token).transpose()?;
    if token.is_none() && !args.addr.ip().is_loopback() {
        let reason =
            "others can reach this address; name a variable with a token (--api-key-env), or listen on 127.0.0.1";
        return Err(UsageError(format!("--addr {}: {reason}", args.addr)).into());
    }
    let policy = load_policy(&args.model, &args.precision, global)?;
    let a_row = policy.max_length().min(TOKENS_A_ROW);
    let tokens = args.max_tokens_in_cache.unwrap_or(args.max_batch_size.saturating_mul(a_row));
    let limits = BatchLimits {
        max_batch_size: args.max_batch_size,
        max_tokens_in_cache: Some(tokens),
        prefill_chunk: args.prefill_chunk,
    };
    check_cache(&policy, tokens, global)?;
    let name = args.served_model_name.unwrap_or_else(|| args.model.display().to_string());
    let served = Served {
        name: name.clone(),
        model: policy.model.valid(),
        config: policy.config,
        tokenizer: policy.tokenizer,
        eos_token_ids: policy.eos_token_ids,
    };
    let seed = global.seed.unwrap_or(0);
    let options = ServeOptions { token, limits, max_waiting: args.max_waiting, seed };
    let stop = || {
        if let Err(error) = interrupt::wait() {
            log::error!("{error:#}");
        }
        tell("finishing open answers; interrupt again to stop at once");
    };
    let json = global.json;
    serve(served, options, args.addr, stop, |address| {
        let line = match json {
            true => serde_json::json!({ "address": address, "model": name }).to_string(),
            false => format!("serving {name} at http://{address}/v1"),
        };
        let mut out = std::io::stdout().lock();
        // Whoever started the server need not read what it says.
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    })?;
    Ok(())
}

/// The token in an environment variable.
fn token(variable: &str) -> Result<String> {
    match std::env::var(variable) {
        Ok(token) if !token.trim().is_empty() => Ok(token.trim().to_string()),
        _ => Err(UsageError(format!("--api-key-env {variable}: the variable is not set, or empty")).into()),
    }
}
