//! The sampler against a reference that sorts the whole vocabulary.

use luspo_core::{Purpose, RandomKey};
use proptest::prelude::*;

use super::*;

const ALL: Sampling = Sampling {
    temperature: 1.0,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
    repetition_penalty: 1.0,
    min_tokens: 0,
    max_response_length: 1,
    stop_token_ids: Vec::new(),
    stop: Vec::new(),
    vocab_limit: usize::MAX,
};
const NOTHING: Before<'_> = Before { prompt: &[], response: &[] };

fn argmax(values: &[f32]) -> usize {
    position(values, highest(values).unwrap())
}

/// Uneven logits with ties, the same for every run.
fn logits(vocab: usize, spread: f64) -> Vec<f32> {
    let key = RandomKey::new(7, Purpose::Generate);
    (0..vocab).map(|i| ((key.uniform(i as u64) * spread * 4.0).round() / 4.0) as f32).collect()
}

fn softmax(logits: &[f32], temperature: f64) -> Vec<f64> {
    let highest = logits.iter().fold(f64::NEG_INFINITY, |m, &l| m.max(l.into()));
    let weights: Vec<f64> = logits.iter().map(|&l| ((f64::from(l) - highest) / temperature).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|w| w / total).collect()
}

/// The distribution that the filters leave: sorted, cut by one filter after the other, renormalised each time.
fn reference(logits: &[f32], sampling: &Sampling) -> Vec<f64> {
    let allowed = &logits[..sampling.vocab_limit.min(logits.len())];
    let mut ranked: Vec<(usize, f64)> = softmax(allowed, sampling.temperature).into_iter().enumerate().collect();
    ranked.sort_by(|a, b| allowed[b.0].total_cmp(&allowed[a.0]).then(a.0.cmp(&b.0)));
    let renormalise = |ranked: &mut Vec<(usize, f64)>| {
        let total: f64 = ranked.iter().map(|(_, p)| p).sum();
        ranked.iter_mut().for_each(|(_, p)| *p /= total);
    };
    if sampling.top_k > 0 {
        ranked.truncate(sampling.top_k);
        renormalise(&mut ranked);
    }
    let mut before = 0.0;
    ranked.retain(|(_, p)| {
        before += p;
        before - p < sampling.top_p
    });
    renormalise(&mut ranked);
    let best = ranked[0].1;
    ranked.retain(|(_, p)| *p >= sampling.min_p * best);
    renormalise(&mut ranked);
    let mut probabilities = vec![0.0; logits.len()];
    ranked.into_iter().for_each(|(id, p)| probabilities[id] = p);
    probabilities
}

/// Which tokens the sampler keeps.
fn kept(logits: &[f32], sampling: &Sampling) -> Vec<usize> {
    let mut weights = Vec::new();
    exponentials(logits, logits[argmax(logits)], 1.0 / sampling.temperature, &mut weights);
    let last = Row { logits, weights: &weights }.last_kept(sampling, &mut Vec::new());
    drop_others(logits, &mut weights, last, sampling.min_p);
    (0..logits.len()).filter(|id| weights[*id] > 0.0).collect()
}

/// Draws many tokens and compares their frequencies with these probabilities.
fn assert_distributed(sampling: &Sampling, before: Before<'_>, logits: &[f32], probabilities: &[f64], key: RandomKey) {
    let draws = 100_000;
    let mut counts = vec![0_u32; logits.len()];
    let mut sampler = Sampler::default();
    for draw in 0..draws {
        let token = sampler.sample(logits, sampling, before, key.uniform(draw)).unwrap();
        counts[token.id as usize] += 1;
    }
    let (mut chi_square, mut cells) = (0.0, 0);
    for (&count, &p) in counts.iter().zip(probabilities) {
        if p == 0.0 {
            assert_eq!(count, 0, "a token that {sampling:?} excludes was sampled");
        } else {
            let expected = p * draws as f64;
            chi_square += (f64::from(count) - expected).powi(2) / expected;
            cells += 1;
        }
    }
    // Chi-square has mean f and variance 2f at f degrees of freedom; above four deviations it lies once in 10⁴.
    let freedom = f64::from(cells - 1);
    assert!(chi_square < freedom + 4.0 * (2.0 * freedom).sqrt(), "{chi_square} of {freedom}: {sampling:?}");
}

#[test]
fn frequencies_follow_the_filtered_distribution() {
    let logits = logits(60, 5.0);
    let settings = [
        ALL,
        Sampling { temperature: 0.7, ..ALL },
        Sampling { temperature: 2.5, ..ALL },
        Sampling { top_k: 9, ..ALL },
        Sampling { top_p: 0.7, ..ALL },
        Sampling { min_p: 0.2, ..ALL },
        Sampling { vocab_limit: 33, ..ALL },
        Sampling { temperature: 1.3, top_k: 30, top_p: 0.9, min_p: 0.05, vocab_limit: 50, ..ALL },
    ];
    for (i, sampling) in settings.into_iter().enumerate() {
        let key = RandomKey::new(1, Purpose::Generate).at(i as u64);
        assert_distributed(&sampling, NOTHING, &logits, &reference(&logits, &sampling), key);
    }
}

#[test]
fn what_was_said_before_becomes_less_likely_and_its_log_prob_stays() {
    // Positive logits are divided, negative ones multiplied: transformers, vLLM, and CTRL (arXiv 1909.05858).
    let logits: Vec<f32> = logits(40, 5.0).iter().map(|logit| logit - 2.0).collect();
    let (prompt, response) = ([3, 3, 17, 4_000], [5, 20]);
    let before = Before { prompt: &prompt, response: &response };
    for (i, sampling) in [
        Sampling { repetition_penalty: 1.5, ..ALL },
        Sampling { repetition_penalty: 0.8, temperature: 0.7, top_k: 12, ..ALL },
    ]
    .into_iter()
    .enumerate()
    {
        let mut penalised = logits.clone();
        for id in [3, 17, 5, 20] {
            let factor =
                if penalised[id] > 0.0 { 1.0 / sampling.repetition_penalty } else { sampling.repetition_penalty };
            penalised[id] = (f64::from(penalised[id]) * factor) as f32;
        }
        let key = RandomKey::new(2, Purpose::Generate).at(i as u64);
        assert_distributed(&sampling, before, &logits, &reference(&penalised, &sampling), key);
        for draw in 0..100 {
            let token = Sampler::default().sample(&logits, &sampling, before, key.uniform(draw)).unwrap();
            let expected = softmax(&logits, sampling.temperature)[token.id as usize].ln();
            assert!((f64::from(token.log_prob) - expected).abs() < 1e-6);
        }
    }
    let mut repeated = vec![0.0; 4];
    repeated[2] = 1.0;
    let greedy = Sampling { temperature: 0.0, repetition_penalty: 2.0, ..ALL };
    let after =
        |response| Sampler::default().sample(&repeated, &greedy, Before { prompt: &[], response }, 0.0).unwrap();
    assert_eq!(after(&[]).id, 2);
    repeated[1] = 0.75;
    let after =
        |response| Sampler::default().sample(&repeated, &greedy, Before { prompt: &[], response }, 0.0).unwrap();
    assert_eq!(after(&[2]).id, 1, "half of 1 is less than three quarters");
}

#[test]
fn an_answer_does_not_end_before_its_minimum() {
    let logits = logits(20, 5.0);
    let sampling = Sampling { min_tokens: 2, stop_token_ids: vec![1, 7, 4_000], ..ALL };
    let mut probabilities = softmax(&logits, 1.0);
    probabilities[1] = 0.0;
    probabilities[7] = 0.0;
    let total: f64 = probabilities.iter().sum();
    probabilities.iter_mut().for_each(|p| *p /= total);
    let key = RandomKey::new(3, Purpose::Generate);
    assert_distributed(&sampling, Before { prompt: &[7], response: &[2] }, &logits, &probabilities, key.at(0));
    let enough = Before { prompt: &[], response: &[2, 2] };
    assert_distributed(&sampling, enough, &logits, &softmax(&logits, 1.0), key.at(1));
    // The best token is a stop token.
    let sharp = [0.0, 9.0];
    let sampling = Sampling { temperature: 0.0, min_tokens: 1, stop_token_ids: vec![1], ..ALL };
    let first = Sampler::default().sample(&sharp, &sampling, NOTHING, 0.0).unwrap();
    assert_eq!(first.id, 0);
    assert!((f64::from(first.log_prob) - softmax(&sharp, 1.0)[0].ln()).abs() < 1e-6);
}

#[test]
fn ties_go_to_the_lower_id() {
    let logits = [0.0, 2.0, 2.0, -0.0, 2.0];
    assert_eq!(kept(&logits, &Sampling { top_k: 2, ..ALL }), [1, 2]);
    assert_eq!(kept(&logits, &Sampling { top_k: 4, ..ALL }), [0, 1, 2, 4], "0 and −0 are equal");
    assert_eq!(kept(&logits, &Sampling { top_p: 0.5, ..ALL }), [1, 2]);
    let greedy = Sampler::default().sample(&logits, &Sampling { temperature: 0.0, ..ALL }, NOTHING, 0.9).unwrap();
    assert_eq!(greedy.id, 1);
}

#[test]
fn top_p_keeps_the_token_that_crosses_it() {
    let logits = [0.0; 4]; // a quarter each, exactly
    assert_eq!(kept(&logits, &Sampling { top_p: 0.5, ..ALL }), [0, 1]);
    assert_eq!(kept(&logits, &Sampling { top_p: 0.51, ..ALL }), [0, 1, 2]);
    assert_eq!(kept(&logits, &Sampling { top_p: 1e-9, ..ALL }), [0]);
    assert_eq!(kept(&logits, &Sampling { top_k: 2, top_p: 0.5, ..ALL }), [0], "top-p acts on what top-k left");
}

#[test]
fn min_p_keeps_what_is_exactly_that_likely() {
    let logits = [2.0, 1.0, 2.0];
    assert_eq!(kept(&logits, &Sampling { min_p: 1.0, ..ALL }), [0, 2]);
    // Within the rounding of exp.
    assert_eq!(kept(&logits, &Sampling { min_p: (-1.0_f64).exp() - 1e-15, ..ALL }), [0, 1, 2]);
    assert_eq!(kept(&logits, &Sampling { min_p: (-1.0_f64).exp() + 1e-15, ..ALL }), [0, 2]);
}

#[test]
fn a_token_owns_the_lower_end_of_its_interval() {
    let mut sampler = Sampler::default();
    let highest = 1.0 - f64::EPSILON / 2.0; // the highest number that a key gives
    let mut draw = |logits: &[f32], uniform| sampler.sample(logits, &ALL, NOTHING, uniform).unwrap().id;
    assert_eq!([0.0, 0.25, 0.5, 0.75, highest].map(|uniform| draw(&[0.0; 4], uniform)), [0, 1, 2, 3, 3]);
    // Rounding does not carry past the end, whatever the total.
    for vocab in 1..200 {
        assert_eq!(draw(&logits(vocab, 5.0), highest), vocab as u32 - 1);
    }
    // A token without weight is not sampled at either end.
    assert_eq!([0.0, highest].map(|uniform| draw(&[-1e4, 0.0, -1e4], uniform)), [1, 1]);
}

#[test]
fn a_greedy_log_prob_is_of_temperature_one() {
    let logits = logits(60, 5.0);
    let greedy = Sampler::default().sample(&logits, &Sampling { temperature: 0.0, ..ALL }, NOTHING, 0.3).unwrap();
    let expected = softmax(&logits, 1.0)[greedy.id as usize].ln();
    assert!((f64::from(greedy.log_prob) - expected).abs() < 1e-6); // one f32 rounding of a number near 3
}

#[test]
fn tokens_beyond_the_limit_stay_in_the_softmax_however_likely() {
    let sampling = Sampling { temperature: 0.01, vocab_limit: 2, ..ALL };
    let token = Sampler::default().sample(&[1.0, 0.0, 21.0], &sampling, NOTHING, 0.5).unwrap();
    assert_eq!(token, Token { id: 0, log_prob: -2000.0 });
}

#[test]
fn logits_that_are_not_finite_give_no_token() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for sampling in [ALL, Sampling { temperature: 0.0, ..ALL }, Sampling { vocab_limit: 2, ..ALL }] {
            assert_eq!(Sampler::default().sample(&[0.0, 1.0, bad], &sampling, NOTHING, 0.5), None);
        }
    }
}

prop_compose! {
    fn settings()(
        temperature in 0.2..3.0, top_k in 0..40_usize, top_p in 0.01..1.2, min_p in -0.3..0.9, vocab_limit in 1..50_usize,
    ) -> Sampling {
        Sampling { temperature, top_k, top_p: f64::min(top_p, 1.0), min_p: f64::max(min_p, 0.0), vocab_limit, ..ALL }
    }
}

proptest! {
    #[test]
    fn the_token_is_where_the_uniform_number_falls(
        logits in prop::collection::vec((-20..20_i8).prop_map(|l| f32::from(l) / 4.0), 1..50),
        sampling in settings(),
        uniform in 0.0..1.0,
    ) {
        let token = Sampler::default().sample(&logits, &sampling, NOTHING, uniform).unwrap();
        let probabilities = reference(&logits, &sampling);
        let before: f64 = probabilities[..token.id as usize].iter().sum();
        prop_assert!(probabilities[token.id as usize] > 0.0);
        // The reference adds in another order: f64 rounding over 50 terms.
        prop_assert!(before - 1e-12 <= uniform && uniform <= before + probabilities[token.id as usize] + 1e-12);
    }

    #[test]
    fn the_log_prob_does_not_know_the_filters(
        logits in prop::collection::vec(-30.0..30.0_f32, 1..50),
        sampling in settings(),
        uniform in 0.0..1.0,
    ) {
        let token = Sampler::default().sample(&logits, &sampling, NOTHING, uniform).unwrap();
        let expected = softmax(&logits, sampling.temperature)[token.id as usize].ln();
        // One f32 rounding, of a number of at most 60 / 0.2.
        prop_assert!((f64::from(token.log_prob) - expected).abs() <= 1.6e-5, "{} {expected}", token.log_prob);
    }

    #[test]
    fn filters_keep_a_prefix_and_top_p_the_shortest(
        logits in prop::collection::vec((-20..20_i8).prop_map(|l| f32::from(l) / 4.0), 1..200),
        top_k in 0..220_usize,
        top_p in 0.01..1.0,
    ) {
        let sampling = Sampling { top_k, top_p, ..ALL };
        let in_pool = kept(&logits, &Sampling { top_k, ..ALL });
        let kept = kept(&logits, &sampling);
        let probabilities = softmax(&logits, 1.0);
        let share = |ids: &[usize]| ids.iter().map(|&id| probabilities[id]).sum::<f64>();
        let preference = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
        prop_assert_eq!(in_pool.len(), if top_k == 0 { logits.len() } else { top_k.min(logits.len()) });
        let last = *kept.iter().max_by(|a, b| preference(a, b)).unwrap();
        prop_assert_eq!(kept.len(), (0..logits.len()).filter(|id| preference(id, &last).is_le()).count());
        // f64 rounding, as sums are taken in another order.
        let reached = share(&kept) / share(&in_pool);
        prop_assert!(reached >= top_p - 1e-12);
        prop_assert!(reached - probabilities[last] / share(&in_pool) < top_p + 1e-12);
    }

    #[test]
    fn the_best_token_is_always_kept(
        logits in prop::collection::vec(-30.0..30.0_f32, 1..50),
        sampling in settings(),
    ) {
        let limit = sampling.vocab_limit.min(logits.len());
        prop_assert!(kept(&logits[..limit], &sampling).contains(&argmax(&logits[..limit])));
        let only = Sampling { top_k: 1, ..sampling };
        let token = Sampler::default().sample(&logits, &only, NOTHING, 0.99).unwrap();
        prop_assert_eq!(token.id as usize, argmax(&logits[..limit]));
    }
}
