//! `luspo generate`: text, as it is sampled.

use std::io::{Stdout, Write};

use anyhow::Result;
use burn::module::Module;
use luspo::core::{FinishReason, Message, Purpose, RandomKey};
use luspo::data::{PromptText, Tokenizer};
use luspo::rollout::{BatchLimits, Engine, Event, Job, Sampling, TextStream};

use crate::args::{GenerateArgs, Global};
use crate::command::{check_cache, load_policy, room_for_answer};

pub fn run(args: GenerateArgs, global: &Global) -> Result<()> {
    let texts = args.text.prompt.into_iter().map(PromptText::Text);
    let chats = args.text.chat.into_iter().map(|text| PromptText::Messages(vec![Message::new("user", text)]));
    let policy = load_policy(&args.model, &args.precision, global)?;
    let encoded = texts.chain(chats).map(|prompt| policy.tokenizer.encode_prompt(&prompt));
    let prompts: Vec<Vec<u32>> = encoded.collect::<Result<_, _>>()?;
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let sampling = Sampling {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        repetition_penalty: args.repetition_penalty,
        min_tokens: args.min_tokens,
        ..policy.sampling(args.max_response_length.unwrap_or_else(|| room_for_answer(&policy, longest)))
    };
    let key = RandomKey::new(global.seed.unwrap_or(0), Purpose::Generate).at(0);
    let job = |(prompt_id, prompt_ids)| {
        let job = Job { prompt_id, prompt_ids, samples: args.n, sampling: sampling.clone(), key, top_log_probs: 0 };
        job.request().check_length(&sampling, policy.max_length()).map(|()| job)
    };
    let jobs: Vec<Job> = (0..).zip(prompts).map(job).collect::<Result<_, _>>()?;
    let max_tokens_in_cache = args.max_tokens_in_cache;
    let limits = BatchLimits { max_tokens_in_cache, ..BatchLimits::from(args.max_batch_size) };
    let tokens = limits.tokens_for(jobs.len(), args.n as usize, longest, sampling.max_response_length);
    check_cache(&policy, tokens, global)?;

    let (model, mut engine) = (policy.model.valid(), Engine::new(limits)?);
    let (mut ids, mut answers) = (Vec::new(), Vec::new());
    for job in jobs {
        let stream = || TextStream::new(args.stop.clone()).not_before(args.min_tokens);
        answers.extend((0..args.n).map(|sample| Answer::new(job.prompt_id, sample, stream())));
        ids.push(engine.submit(job, &model)?);
    }
    let mut printer = Printer {
        out: std::io::stdout(),
        tokenizer: &policy.tokenizer,
        json: global.json,
        log_probs: args.log_probs,
        headed: answers.len() > 1,
        turn: 0,
        printed: None,
    };
    while engine.open() + engine.waiting() > 0 {
        for event in engine.step(&model, true)? {
            let prompt = ids.iter().position(|job| *job == event.job).expect("the engine answers what it was asked");
            let answer = &mut answers[prompt * args.n as usize + event.sample as usize];
            let (job, sample, ended) = (event.job, event.sample, event.finish.is_some());
            answer.push(event, &policy.tokenizer)?;
            if answer.finish.is_some() && !ended {
                engine.cancel_sample(job, sample);
            }
        }
        printer.print(&answers)?;
    }
    Ok(())
}

/// An answer as far as it has come.
struct Answer {
    prompt: u64,
    sample: u32,
    stream: TextStream,
    /// Without a stop string.
    text: String,
    token_ids: Vec<u32>,
    log_probs: Vec<f32>,
    finish: Option<FinishReason>,
}

impl Answer {
    fn new(prompt: u64, sample: u32, stream: TextStream) -> Self {
        let (token_ids, log_probs) = (Vec::new(), Vec::new());
        Self { prompt, sample, stream, text: String::new(), token_ids, log_probs, finish: None }
    }

    fn push(&mut self, event: Event, tokenizer: &Tokenizer) -> Result<()> {
        self.text += &self.stream.push(tokenizer, event.token, event.finish.is_some())?;
        self.token_ids.push(event.token);
        self.log_probs.push(event.log_prob);
        self.finish = if self.stream.stopped() { Some(FinishReason::Stop) } else { event.finish };
        Ok(())
    }
}

/// Prints answers in their order; all are sampled at the same time, and the one whose turn it is as it comes.
struct Printer<'a> {
    out: Stdout,
    tokenizer: &'a Tokenizer,
    json: bool,
    log_probs: bool,
    /// Whether each answer has a line that says whose it is.
    headed: bool,
    turn: usize,
    /// Bytes of the text of the answer whose turn it is that are printed; none before its first.
    printed: Option<usize>,
}

impl Printer<'_> {
    fn print(&mut self, answers: &[Answer]) -> Result<()> {
        while let Some(answer) = answers.get(self.turn) {
            if !self.json {
                self.text(answer)?;
            }
            if answer.finish.is_none() {
                break;
            }
            match self.json {
                true => self.line(answer)?,
                false => self.end(answer)?,
            }
            self.turn += 1;
            self.printed = None;
        }
        Ok(self.out.flush()?)
    }

    fn text(&mut self, answer: &Answer) -> Result<()> {
        if self.printed.is_none() && self.headed {
            let between = if self.turn == 0 { "" } else { "\n" };
            writeln!(self.out, "{between}[prompt {}, answer {}]", answer.prompt + 1, answer.sample + 1)?;
        }
        let from = self.printed.unwrap_or(0);
        write!(self.out, "{}", &answer.text[from..])?;
        self.printed = Some(answer.text.len());
        Ok(())
    }

    fn end(&mut self, answer: &Answer) -> Result<()> {
        writeln!(self.out)?;
        if self.log_probs {
            for (id, log_prob) in answer.token_ids.iter().zip(&answer.log_probs) {
                let text = self.tokenizer.decode_with_special_tokens(&[*id])?;
                writeln!(self.out, "{id:>8} {log_prob:>10.5} {text:?}")?;
            }
        }
        Ok(())
    }

    fn line(&mut self, answer: &Answer) -> Result<()> {
        let line = serde_json::json!({
            "prompt": answer.prompt,
            "sample": answer.sample,
            "text": answer.text,
            "token_ids": answer.token_ids,
            "log_probs": answer.log_probs,
            "finish": answer.finish,
        });
        Ok(writeln!(self.out, "{line}")?)
    }
}
