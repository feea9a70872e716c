//! Answers of small random policies, on both CPU backends.

use std::ops::ControlFlow;

use luspo_core::{FinishReason, Purpose, RandomKey, Rollout};
use luspo_model::{Backend, KvCache, PassOptions, Qwen2Config, Qwen2ForCausalLM, ResponseBatch};
use luspo_rollout::{
    BatchLimits, Engine, LogProbGap, Request, RolloutError, Sampling, Statistics, generate, generate_with,
};

const VOCAB: usize = 48;

/// The same policy on each CPU backend, with logits that spread as a trained model's.
fn policies() -> impl Iterator<Item = Qwen2ForCausalLM> {
    [Backend::Flex, Backend::NdArray].into_iter().map(|backend| policy(backend, 3.0))
}

/// Initial weights, those of the head multiplied by `spread`.
fn policy(backend: Backend, spread: f32) -> Qwen2ForCausalLM {
    let config = Qwen2Config::new(VOCAB, 32, 48, 2, 4, 2).with_tie_word_embeddings(false);
    let mut model = Qwen2ForCausalLM::init(&config, RandomKey::new(3, Purpose::Init), &backend.device().unwrap());
    model.lm_head = model.lm_head.map(|mut head| {
        head.weight = head.weight.map(|weight| weight.mul_scalar(spread));
        head
    });
    model
}

fn sampling() -> Sampling {
    Sampling {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        min_tokens: 0,
        max_response_length: 12,
        stop_token_ids: (0..6).collect(),
        stop: Vec::new(),
        vocab_limit: VOCAB,
    }
}

/// Groups of uneven prompts; the second and third differ in nothing but their id, the last two have the same length.
const REQUESTS: [Request; 6] = [
    Request { prompt_id: 10, prompt_ids: &[7, 8, 9], samples: 4 },
    Request { prompt_id: 11, prompt_ids: &[20, 21, 22, 23, 24, 25, 26], samples: 5 },
    Request { prompt_id: 12, prompt_ids: &[20, 21, 22, 23, 24, 25, 26], samples: 5 },
    Request { prompt_id: u64::MAX, prompt_ids: &[30], samples: 1 },
    Request { prompt_id: 13, prompt_ids: &[40, 41, 42, 43, 44, 45, 46, 47, 6, 7, 8], samples: 6 },
    Request { prompt_id: 14, prompt_ids: &[8, 7, 6, 47, 46, 45, 44, 43, 42, 41, 40], samples: 2 },
];
const ANSWERS: usize = 23;

fn key() -> RandomKey {
    RandomKey::new(5, Purpose::Rollout).at(1)
}

fn answers(model: &Qwen2ForCausalLM, sampling: &Sampling) -> Vec<Rollout> {
    generate(model, &REQUESTS, sampling, key(), 64).unwrap()
}

/// The trainer's log-probs of these answers.
fn gap(model: &Qwen2ForCausalLM, rollouts: &[Rollout], temperature: f64) -> LogProbGap {
    let rows: Vec<(&[u32], &[u32])> = rollouts.iter().map(|r| (&r.prompt_ids[..], &r.response_ids[..])).collect();
    let options = PassOptions { temperature, ..PassOptions::default() };
    let trainer = model.response_stats(&ResponseBatch::new(&rows), &options).log_probs;
    let [_, seq] = trainer.dims();
    let trainer = trainer.try_into_vec_as::<f32>().unwrap();
    LogProbGap::measure(rollouts.iter().zip(trainer.chunks(seq)).flat_map(|(rollout, row)| {
        assert_eq!(rollout.log_probs.len(), rollout.response_len());
        rollout.log_probs.iter().copied().zip(row.iter().copied())
    }))
}

#[test]
fn answers_stand_in_the_order_of_requests_then_samples() {
    for model in policies() {
        let order: Vec<_> = answers(&model, &sampling()).iter().map(|r| (r.prompt_id, r.sample)).collect();
        let expected: Vec<_> = REQUESTS.iter().flat_map(|r| (0..r.samples).map(|s| (r.prompt_id, s))).collect();
        assert_eq!(order, expected);
    }
}

#[test]
fn answers_depend_neither_on_batch_size_nor_on_order() {
    for model in policies() {
        let together = answers(&model, &sampling());
        let compare = |others: &[Rollout]| {
            assert_eq!(others.len(), together.len());
            for other in others {
                let same =
                    together.iter().find(|r| (r.prompt_id, r.sample) == (other.prompt_id, other.sample)).unwrap();
                assert_eq!((&other.response_ids, other.finish), (&same.response_ids, same.finish));
                // Sums of other shapes are rounded otherwise: the design's bound for one token.
                let pairs = other.log_probs.iter().copied().zip(same.log_probs.iter().copied());
                assert!(LogProbGap::measure(pairs).max <= 5e-5);
            }
        };
        let mut orders = [REQUESTS; 3];
        orders[1].reverse();
        orders[2].rotate_left(2);
        orders[2].swap(0, 4);
        for order in orders {
            for max_batch_size in [1, 2, 3, 5, 8, 13, 23, 64] {
                compare(&generate(&model, &order, &sampling(), key(), max_batch_size).unwrap());
            }
        }
        // Nor on how much of the prompts is read at once, nor on how much cache there is.
        for (max_tokens_in_cache, prefill_chunk) in [(22, 1), (22, 4096), (60, 4), (61, 7), (100, 3)] {
            let limits =
                BatchLimits { max_batch_size: 7, max_tokens_in_cache: Some(max_tokens_in_cache), prefill_chunk };
            compare(&generate(&model, &REQUESTS, &sampling(), key(), limits).unwrap());
        }
    }
}

#[test]
fn the_same_batch_gives_the_same_bits() {
    for model in policies() {
        assert_eq!(answers(&model, &sampling()), answers(&model, &sampling()));
    }
}

#[test]
fn requests_of_the_same_tokens_are_answered_apart() {
    for model in policies() {
        let answers = answers(&model, &sampling());
        let of = |id| answers.iter().filter(|r| r.prompt_id == id).map(|r| &r.response_ids).collect::<Vec<_>>();
        assert_ne!(of(11), of(12));
    }
}

#[test]
fn the_step_changes_the_answers() {
    for model in policies() {
        let next_step = RandomKey::new(5, Purpose::Rollout).at(2);
        let next = generate(&model, &REQUESTS, &sampling(), next_step, 64).unwrap();
        assert_ne!(answers(&model, &sampling()), next);
    }
}

#[test]
fn log_probs_are_the_trainers() {
    for model in policies() {
        let settings = [
            sampling(),
            Sampling { temperature: 0.7, ..sampling() },
            Sampling { top_p: 0.7, ..sampling() },
            Sampling { temperature: 0.7, top_k: 20, top_p: 0.7, min_p: 0.05, vocab_limit: 30, ..sampling() },
            Sampling { temperature: 0.0, ..sampling() },
        ];
        for sampling in settings {
            let recorded_at = if sampling.temperature == 0.0 { 1.0 } else { sampling.temperature };
            let answers = answers(&model, &sampling);
            // The bounds of the design, for rounding in f32.
            let gap = gap(&model, &answers, recorded_at);
            assert!(gap.max <= 5e-5 && gap.mean <= 2e-6, "{gap:?} with {sampling:?}");
        }
    }
}

#[test]
fn an_answer_ends_with_its_first_stop_token_or_at_the_maximum() {
    for model in policies() {
        let endless = answers(&model, &Sampling { stop_token_ids: Vec::new(), ..sampling() });
        let stopped = answers(&model, &sampling());
        let mut lengths = Vec::new();
        for (endless, stopped) in endless.iter().zip(&stopped) {
            assert_eq!((endless.response_len(), endless.finish), (12, FinishReason::Length));
            let first_stop = endless.response_ids.iter().position(|id| sampling().stop_token_ids.contains(id));
            let (length, finish) = first_stop.map_or((12, FinishReason::Length), |at| (at + 1, FinishReason::Stop));
            assert_eq!(stopped.response_ids, endless.response_ids[..length]);
            assert_eq!(stopped.finish, finish);
            lengths.push(length);
        }
        // The test is about something: answers of one token, of many, and unfinished ones.
        assert!(
            lengths.contains(&1) && lengths.contains(&12) && lengths.iter().any(|n| (2..12).contains(n)),
            "{lengths:?}"
        );
    }
}

#[test]
fn a_stop_token_at_the_maximum_length_is_a_stop() {
    for model in policies() {
        let endless = answers(&model, &Sampling { stop_token_ids: Vec::new(), ..sampling() });
        let last = endless.iter().find(|r| !r.response_ids[..11].contains(&r.response_ids[11])).unwrap();
        let stopped = answers(&model, &Sampling { stop_token_ids: vec![last.response_ids[11]], ..sampling() });
        let same = stopped.iter().find(|r| (r.prompt_id, r.sample) == (last.prompt_id, last.sample)).unwrap();
        assert_eq!((same.response_len(), same.finish), (12, FinishReason::Stop));
    }
}

#[test]
fn an_answer_may_have_one_token() {
    for model in policies() {
        let longer = answers(&model, &sampling());
        let answers = answers(&model, &Sampling { max_response_length: 1, ..sampling() });
        for (short, long) in answers.iter().zip(longer) {
            assert_eq!(short.response_ids, long.response_ids[..1]);
        }
    }
}

/// Logits of the token after these, without a cache of earlier tokens.
fn next_logits(model: &Qwen2ForCausalLM, prompt: &[u32], response: &[u32]) -> Vec<f32> {
    let so_far = [prompt, response].concat();
    let mut cache = KvCache::new(model, so_far.len()).unwrap();
    let sequence = cache.begin(so_far.len()).unwrap();
    let hidden = model.prefill(&[(sequence, &so_far)], &mut cache);
    model.logits(hidden).try_into_vec_as::<f32>().unwrap()
}

#[test]
fn a_token_is_where_its_own_random_number_falls() {
    for model in policies() {
        for answer in answers(&model, &sampling()) {
            let key = key().at(answer.prompt_id).at(answer.sample.into());
            for (position, &token) in answer.response_ids.iter().enumerate() {
                let logits = next_logits(&model, &answer.prompt_ids, &answer.response_ids[..position]);
                let weights: Vec<f64> = logits.iter().map(|&logit| f64::from(logit).exp()).collect();
                let share = |ids: &[f64]| ids.iter().sum::<f64>() / weights.iter().sum::<f64>();
                let uniform = key.uniform(position as u64);
                // Within the rounding of f32 logits that a cache makes.
                assert!(share(&weights[..token as usize]) <= uniform + 1e-5);
                assert!(share(&weights[..=token as usize]) >= uniform - 1e-5);
            }
        }
    }
}

#[test]
fn greedy_takes_the_most_likely_token_each_time() {
    for model in policies() {
        let greedy = Sampling { temperature: 0.0, ..sampling() };
        for answer in answers(&model, &greedy) {
            for (position, &token) in answer.response_ids.iter().enumerate() {
                let logits = next_logits(&model, &answer.prompt_ids, &answer.response_ids[..position]);
                // Within the rounding of f32 logits that a cache makes.
                assert!(logits.iter().all(|&logit| logit <= logits[token as usize] + 1e-5));
            }
        }
    }
}

#[test]
fn ids_beyond_the_tokenizer_are_never_sampled() {
    for model in policies() {
        let answers = answers(&model, &Sampling { vocab_limit: 30, ..sampling() });
        assert!(answers.iter().flat_map(|r| &r.response_ids).all(|&id| id < 30));
    }
}

#[test]
fn a_stream_brings_the_answers_token_by_token() {
    for model in policies() {
        for max_batch_size in [4, 64] {
            let mut streamed = vec![Vec::new(); ANSWERS];
            let on_token = |row: usize, token| {
                streamed[row].push(token);
                ControlFlow::Continue(())
            };
            let answers = generate_with(&model, &REQUESTS, &sampling(), key(), max_batch_size, on_token).unwrap();
            let whole: Vec<_> = answers.into_iter().map(|r| r.response_ids).collect();
            assert_eq!(streamed, whole);
        }
    }
}

#[test]
fn who_watches_the_stream_may_end_an_answer() {
    for model in policies() {
        let whole = answers(&model, &sampling());
        for max_batch_size in [3, 64] {
            let mut lengths = [0; ANSWERS];
            let on_token = |row: usize, _| {
                lengths[row] += 1;
                if lengths[row] == 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let cut = generate_with(&model, &REQUESTS, &sampling(), key(), max_batch_size, on_token).unwrap();
            for (cut, whole) in cut.iter().zip(&whole) {
                assert_eq!(cut.response_ids, whole.response_ids[..whole.response_len().min(4)]);
                assert_eq!(cut.log_probs.len(), cut.response_len());
                assert_eq!(cut.finish, FinishReason::Stop);
            }
        }
    }
}

/// Answers of one engine, and what it says of them.
fn measured(model: &Qwen2ForCausalLM, limits: BatchLimits, sampling: &Sampling) -> (Vec<Rollout>, Statistics) {
    let mut engine = Engine::new(limits).unwrap();
    let none = |_, _| ControlFlow::Continue(());
    let rollouts = engine.generate(model, &REQUESTS, sampling, key(), none, |_, _| {}).unwrap();
    let statistics = engine.take_statistics();
    assert_eq!(engine.take_statistics(), Statistics::default());
    (rollouts, statistics)
}

#[test]
fn a_prompt_is_read_once_however_few_of_its_answers_fit() {
    let prompts: usize = REQUESTS.iter().map(|request| request.prompt_ids.len()).sum();
    for model in policies() {
        for max_batch_size in [1, 3, 64] {
            for prefill_chunk in [5, 4096] {
                let limits = BatchLimits { max_batch_size, max_tokens_in_cache: None, prefill_chunk };
                let (rollouts, statistics) = measured(&model, limits, &sampling());
                assert_eq!(statistics.prefill_tokens, prompts);
                // The first token of an answer comes of its prompt, and the last is not read.
                let decoded: usize = rollouts.iter().map(|rollout| rollout.response_len() - 1).sum();
                assert_eq!(statistics.decode_tokens, decoded);
            }
        }
    }
}

#[test]
fn an_answer_that_ends_makes_room_at_once() {
    let model = policy(Backend::Flex, 3.0);
    let limits = BatchLimits { max_batch_size: 4, max_tokens_in_cache: None, prefill_chunk: 4096 };
    let (rollouts, statistics) = measured(&model, limits, &sampling());
    let longest = rollouts.iter().map(Rollout::response_len).max().unwrap();
    // All places are taken until the last answers run out.
    assert!(statistics.decode_steps <= statistics.decode_tokens.div_ceil(4) + longest, "{statistics:?}");
    assert_eq!(statistics.decode_rows, 4 * statistics.decode_steps);
    let occupancy = statistics.batch_occupancy().unwrap();
    assert!(occupancy > 0.8 && occupancy <= 1.0, "{statistics:?}");
    let cache_use = statistics.cache_use().unwrap();
    assert!(cache_use > 0.3 && cache_use < 1.0, "{statistics:?}");
    assert!(statistics.most_taken <= 4 * (11 + 11));
    assert!(
        statistics.prefill_tokens_per_second().unwrap() > 0.0 && statistics.decode_tokens_per_second().unwrap() > 0.0
    );
}

#[test]
fn a_minimum_length_puts_stop_tokens_off() {
    for model in policies() {
        let free = answers(&model, &sampling());
        let forced = answers(&model, &Sampling { min_tokens: 5, ..sampling() });
        assert!(free.iter().any(|answer| answer.response_len() < 5));
        for answer in &forced {
            assert!(answer.response_len() >= 5);
            // The fifth token is the first that may end it.
            assert!(answer.response_ids[..4].iter().all(|id| !sampling().stop_token_ids.contains(id)));
        }
        // The bounds of the design: what was not allowed stays in the distribution.
        let gap = gap(&model, &forced, 1.0);
        assert!(gap.max <= 5e-5 && gap.mean <= 2e-6, "{gap:?}");
    }
}

#[test]
fn a_penalty_changes_the_answers_and_not_what_log_probs_are_of() {
    for model in policies() {
        let penalised = answers(&model, &Sampling { repetition_penalty: 1.8, ..sampling() });
        assert_ne!(penalised, answers(&model, &sampling()));
        let gap = gap(&model, &penalised, 1.0);
        assert!(gap.max <= 5e-5 && gap.mean <= 2e-6, "{gap:?}");
    }
}

#[test]
fn nothing_requested_is_nothing_answered() {
    let model = policy(Backend::Flex, 1.0);
    assert_eq!(generate(&model, &[], &sampling(), key(), 64), Ok(Vec::new()));
}

#[test]
fn what_cannot_be_answered_is_refused() {
    let model = policy(Backend::Flex, 1.0);
    let refused = |prompt_ids: &[u32], samples, sampling: Sampling, max_batch_size| {
        let request = Request { prompt_id: 9, prompt_ids, samples };
        generate(&model, &[request], &sampling, key(), max_batch_size).unwrap_err()
    };
    assert_eq!(refused(&[], 1, sampling(), 1), RolloutError::EmptyPrompt { prompt_id: 9 });
    assert_eq!(refused(&[1], 0, sampling(), 1), RolloutError::NoSamples { prompt_id: 9 });
    assert_eq!(refused(&[1], 1, sampling(), 0), RolloutError::MaxBatchSize);
    assert_eq!(refused(&[1], 1, Sampling { top_p: 0.0, ..sampling() }, 1), RolloutError::TopP(0.0));
    assert_eq!(refused(&[1], 1, Sampling { stop: vec!["x".into()], ..sampling() }, 1), RolloutError::StopWithoutText);
    let limits =
        |tokens, chunk| BatchLimits { max_batch_size: 1, max_tokens_in_cache: Some(tokens), prefill_chunk: chunk };
    let request = Request { prompt_id: 9, prompt_ids: &[1; 10], samples: 1 };
    let too_small = RolloutError::CacheTooSmall { prompt_id: 9, needed: 21, max_tokens_in_cache: 20 };
    assert_eq!(generate(&model, &[request], &sampling(), key(), limits(20, 1)), Err(too_small));
    assert_eq!(generate(&model, &[request], &sampling(), key(), limits(21, 0)), Err(RolloutError::PrefillChunk));
    let unknown = RolloutError::PromptToken { prompt_id: 9, token: 48, vocab_size: VOCAB };
    assert_eq!(refused(&[1, 48], 1, sampling(), 1), unknown);
}

#[test]
fn prompt_and_answer_fit_into_the_positions_or_are_refused() {
    let request = Request { prompt_id: 9, prompt_ids: &[1; 28], samples: 1 };
    assert_eq!(request.check_length(&sampling(), 40), Ok(()));
    let error = request.check_length(&sampling(), 39).unwrap_err().to_string();
    assert!(error.contains("prompt 9: 28 prompt tokens and up to 12 response tokens"), "{error}");
    assert!(error.contains("max_position_embeddings of 39"), "{error}");
}

#[test]
fn a_diverged_policy_is_named_with_the_prompt() {
    for backend in [Backend::Flex, Backend::NdArray] {
        let error = generate(&policy(backend, f32::NAN), &REQUESTS, &sampling(), key(), 64).unwrap_err();
        assert_eq!(error, RolloutError::Diverged { prompt_id: 10, sample: 0, position: 0 });
        assert!(error.to_string().contains("the policy diverged"), "{error}");
    }
}
