//! Answers that join and leave a batch while others are decoded.

use std::collections::HashMap;

use luspo_core::{Purpose, RandomKey};
use luspo_model::{Backend, Qwen2Config, Qwen2ForCausalLM};
use luspo_rollout::{BatchLimits, Engine, Event, Job, JobId, Request, RolloutError, Sampling, generate};

fn model() -> Qwen2ForCausalLM {
    let config = Qwen2Config::new(32, 16, 32, 2, 4, 2);
    Qwen2ForCausalLM::init(&config, RandomKey::new(0, Purpose::Init), &Backend::Flex.device().unwrap())
}

fn sampling(max_response_length: usize) -> Sampling {
    let stop_token_ids = vec![0];
    Sampling {
        temperature: 1.0,
        top_k: 0,
        top_p: 0.9,
        min_p: 0.0,
        repetition_penalty: 1.0,
        min_tokens: 0,
        max_response_length,
        stop_token_ids,
        stop: Vec::new(),
        vocab_limit: 32,
    }
}

fn job(prompt_id: u64, length: usize, samples: u32, max_response_length: usize) -> Job {
    let prompt_ids = (0..length as u32).map(|i| 1 + (i * 7 + prompt_id as u32) % 31).collect();
    let key = RandomKey::new(42, Purpose::Rollout).at(1);
    Job { prompt_id, prompt_ids, samples, sampling: sampling(max_response_length), key, top_log_probs: 0 }
}

fn limits(max_batch_size: usize, max_tokens_in_cache: usize) -> BatchLimits {
    BatchLimits { max_batch_size, max_tokens_in_cache: Some(max_tokens_in_cache), prefill_chunk: 16 }
}

type Answers = HashMap<(JobId, u32), Vec<Event>>;

/// Adds the events of a step to their answers.
fn step(batch: &mut Engine, model: &Qwen2ForCausalLM, answers: &mut Answers) {
    for event in batch.step(model, true).unwrap() {
        answers.entry((event.job, event.sample)).or_default().push(event);
    }
}

#[test]
fn an_answer_is_the_same_whatever_it_is_decoded_with() {
    let model = model();
    for limits in [limits(1, 100), limits(3, 150), limits(64, 100_000)] {
        let mut batch = Engine::new(limits).unwrap();
        let mut answers = Answers::new();
        let jobs: Vec<Job> = (0..9).map(|i| job(i, 1 + (5 * i as usize) % 23, 3, 4 + 6 * i as usize)).collect();
        let mut ids = Vec::new();
        for job in &jobs {
            // Each comes when those before it are some tokens ahead.
            ids.push(batch.submit(job.clone(), &model).unwrap());
            (0..3).for_each(|_| step(&mut batch, &model, &mut answers));
            assert!(batch.open() <= limits.max_batch_size);
        }
        while batch.open() + batch.waiting() > 0 {
            step(&mut batch, &model, &mut answers);
        }
        for (job, id) in jobs.iter().zip(ids) {
            let request = Request { prompt_id: job.prompt_id, prompt_ids: &job.prompt_ids, samples: 3 };
            for alone in generate(&model, &[request], &job.sampling, job.key, 64).unwrap() {
                let events = &answers[&(id, alone.sample)];
                let tokens: Vec<u32> = events.iter().map(|event| event.token).collect();
                assert_eq!(tokens, alone.response_ids);
                assert_eq!(events.last().unwrap().finish, Some(alone.finish));
                for (event, log_prob) in events.iter().zip(alone.log_probs) {
                    // The bound of the whole project for log-probs of other batches, in f32.
                    assert!((event.log_prob - log_prob).abs() <= 5e-5);
                }
            }
        }
    }
}

#[test]
fn what_is_cancelled_gives_its_place_to_the_next() {
    let model = model();
    let mut batch = Engine::new(limits(1, 1000)).unwrap();
    let mut answers = Answers::new();
    let never_ending = Job { sampling: Sampling { stop_token_ids: vec![], ..sampling(500) }, ..job(0, 3, 2, 500) };
    let first = batch.submit(never_ending, &model).unwrap();
    let second = batch.submit(job(1, 4, 1, 1), &model).unwrap();
    (0..5).for_each(|_| step(&mut batch, &model, &mut answers));
    assert_eq!((batch.open(), batch.waiting()), (1, 2));
    batch.cancel_sample(first, 0);
    step(&mut batch, &model, &mut answers);
    // Its first token comes of the prompt, which was read before; its second is decoded.
    assert_eq!(answers[&(first, 1)].len(), 2, "the other sample of the job goes on");
    batch.cancel(first);
    step(&mut batch, &model, &mut answers);
    assert_eq!(answers[&(second, 0)].len(), 1, "of one token, it has ended");
    assert_eq!((batch.open(), batch.waiting()), (0, 0));
}

#[test]
fn what_would_never_fit_is_refused_at_once() {
    let model = model();
    let mut batch = Engine::new(limits(4, 20)).unwrap();
    let refused = batch.submit(job(5, 10, 1, 12), &model);
    assert_eq!(refused, Err(RolloutError::CacheTooSmall { prompt_id: 5, needed: 21, max_tokens_in_cache: 20 }));
    assert!(batch.submit(job(5, 10, 1, 11), &model).is_ok(), "the last token of an answer is never read");
    assert_eq!(batch.submit(job(6, 0, 1, 1), &model), Err(RolloutError::EmptyPrompt { prompt_id: 6 }));
    assert_eq!(Engine::new(limits(0, 20)).err(), Some(RolloutError::MaxBatchSize));
}

#[test]
fn a_prompt_that_is_in_the_way_of_its_own_answers_is_read_again() {
    let model = model();
    let mut engine = Engine::new(limits(2, 20)).unwrap();
    let mut answers = Answers::new();
    let job = |id, length, samples, longest| Job {
        sampling: Sampling { stop_token_ids: vec![], ..sampling(longest) },
        ..job(id, length, samples, longest)
    };
    // The first takes places 0..10; the second's prompt comes behind it, with its first answer, and stays for the second
    // answer, which needs the places before and behind.
    let first = engine.submit(job(0, 5, 1, 6), &model).unwrap();
    let second = engine.submit(job(1, 5, 2, 6), &model).unwrap();
    let third = engine.submit(job(2, 4, 2, 17), &model).unwrap();
    for _ in 0..200 {
        step(&mut engine, &model, &mut answers);
    }
    assert_eq!((engine.open(), engine.waiting()), (0, 0), "everything comes to its end");
    for (id, samples, length) in [(first, 1, 6), (second, 2, 6), (third, 2, 17)] {
        assert!((0..samples).all(|sample| answers[&(id, sample)].len() == length));
    }
}

#[test]
fn open_answers_go_on_while_a_long_prompt_is_read() {
    let model = model();
    let mut engine = Engine::new(limits(4, 1000)).unwrap();
    engine.allocate(&model, 1000).unwrap();
    let endless = Sampling { stop_token_ids: vec![], ..sampling(40) };
    let open = engine.submit(Job { sampling: endless, ..job(0, 3, 1, 40) }, &model).unwrap();
    let mut answers = Answers::new();
    (0..3).for_each(|_| step(&mut engine, &model, &mut answers));
    let before = answers[&(open, 0)].len();
    // 160 tokens, 16 at a time: ten parts, and a token of the other answer after each.
    let long = engine.submit(job(1, 160, 1, 4), &model).unwrap();
    (0..19).for_each(|_| step(&mut engine, &model, &mut answers));
    assert_eq!(answers[&(long, 0)].len(), 1);
    assert_eq!(answers[&(open, 0)].len(), before + 9);
}

#[test]
fn the_likeliest_tokens_are_those_of_the_whole_distribution() {
    let model = model();
    let mut batch = Engine::new(limits(4, 100)).unwrap();
    batch.submit(Job { top_log_probs: 32, ..job(3, 5, 1, 1) }, &model).unwrap();
    let event = batch.step(&model, true).unwrap().remove(0);
    let total: f64 = event.top_log_probs.iter().map(|(_, log_prob)| f64::from(*log_prob).exp()).sum();
    // 32 log-probs of about 3.5, each rounded to f32.
    assert!((total - 1.0).abs() < 1e-5, "{total}");
    assert!(event.top_log_probs.is_sorted_by(|a, b| a.1 >= b.1));
    assert!(event.top_log_probs.contains(&(event.token, event.log_prob)));
}
