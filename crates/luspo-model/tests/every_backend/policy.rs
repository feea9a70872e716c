//! What holds for every model: chunks, caches and views change nothing, and gradients are those of the loss.

use crate::reference::{decoded, devices, host, max_difference, prefilled, relative_difference};
use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::activation::log_softmax;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use luspo_core::{Purpose, RandomKey};
use luspo_model::{
    Backend, KvCache, MemoryOptions, PassOptions, Qwen2Config, Qwen2ForCausalLM, ResponseBatch, TokenStats, WeightDtype,
};

const MEMORY: MemoryOptions =
    MemoryOptions { log_prob_chunk: 512, attention_chunk: 512, activation_checkpointing: false };
const OPTIONS: PassOptions = PassOptions { temperature: 0.7, entropy: true, sum_pi_squared: true, memory: MEMORY };

/// Two query heads a key head and an odd vocabulary, so that no two sizes are equal by accident.
fn config(tied: bool) -> Qwen2Config {
    Qwen2Config::new(37, 24, 40, 2, 4, 2).with_tie_word_embeddings(tied)
}

fn model(tied: bool, device: &Device) -> Qwen2ForCausalLM {
    Qwen2ForCausalLM::init(&config(tied), RandomKey::new(3, Purpose::Init), device)
}

const ROWS: [(&[u32], &[u32]); 3] =
    [(&[1, 2, 3], &[4, 5, 6, 7, 36]), (&[8], &[9, 0]), (&[10, 11, 12, 13, 14, 15, 16], &[17])];

fn batch() -> ResponseBatch {
    ResponseBatch::new(&ROWS)
}

/// Some gradient that differs from token to token.
fn upstream(shape: [usize; 2], phase: f32, device: &Device) -> Tensor<2> {
    let values: Vec<f32> = (0..shape[0] * shape[1]).map(|i| (i as f32 * 1.7 + phase).sin()).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn collected(
    model: &Qwen2ForCausalLM,
    batch: &ResponseBatch,
    options: &PassOptions,
    objective: impl FnOnce(&TokenStats) -> (Tensor<2>, Option<Tensor<2>>),
) -> GradientsParams {
    let mut gradients = GradientsParams::new();
    model.response_gradients(batch, options, &mut gradients, objective);
    gradients
}

fn gradients(model: &Qwen2ForCausalLM, batch: &ResponseBatch, options: &PassOptions) -> GradientsParams {
    collected(model, batch, options, |stats| {
        let (shape, device) = (stats.log_probs.dims(), stats.log_probs.device());
        let entropy = stats.entropy.as_ref().map(|_| upstream(shape, 0.5, &device));
        (upstream(shape, 0.0, &device), entropy)
    })
}

struct Flat<'a>(&'a GradientsParams, Vec<Vec<f32>>);

impl ModuleVisitor for Flat<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.1.push(host(self.0.get::<D>(param.id).expect("every parameter has a gradient")));
    }
}

/// Every parameter's gradient, in the order of the module.
fn flat(model: &Qwen2ForCausalLM, gradients: &GradientsParams) -> Vec<Vec<f32>> {
    let mut flat = Flat(gradients, Vec::new());
    model.visit(&mut flat);
    flat.1
}

fn assert_close(found: &[Vec<f32>], expected: &[Vec<f32>], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let difference = relative_difference(found, expected);
        assert!(difference < tolerance, "parameter {index}: {difference}");
    }
}

/// Σ g·log p + Σ g'·H with Burn's autodiff through everything at once, one row after the other.
fn naive_gradients(model: &Qwen2ForCausalLM, options: &PassOptions, device: &Device) -> GradientsParams {
    let rows: [(&[i64], usize); 3] =
        [(&[1, 2, 3, 4, 5, 6, 7, 36], 3), (&[8, 9, 0], 1), (&[10, 11, 12, 13, 14, 15, 16, 17], 7)];
    let mut loss = Tensor::<1>::zeros([1], device);
    for (row, (ids, prompt)) in rows.into_iter().enumerate() {
        let n = ids.len();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids.to_vec(), [1, n]), device);
        let hidden = model.hidden(ids.clone().slice([0..1, 0..n - 1])).squeeze_dim::<2>(0);
        let log_p = log_softmax(model.logits(hidden) / options.temperature, 1).slice([prompt - 1..n - 1, 0..37]);
        let target = ids.slice([0..1, prompt..n]).swap_dims(0, 1);
        let entropy = (log_p.clone().exp() * log_p.clone()).sum_dim(1).neg();
        let length = n - prompt;
        let part = |phase| upstream([3, 5], phase, device).slice([row..row + 1, 0..length]).swap_dims(0, 1);
        loss = loss + (log_p.gather(1, target) * part(0.0)).sum();
        if options.entropy {
            loss = loss + (entropy * part(0.5)).sum();
        }
    }
    GradientsParams::from_grads(loss.backward(), model)
}

#[test]
fn gradients_are_those_of_plain_autodiff() {
    for (_, device) in devices() {
        let device = device.autodiff();
        for tied in [true, false] {
            for entropy in [true, false] {
                let options = PassOptions { entropy, memory: MemoryOptions { log_prob_chunk: 3, ..MEMORY }, ..OPTIONS };
                let model = model(tied, &device);
                let found = gradients(&model, &batch(), &options);
                assert_eq!(found.len(), if tied { 26 } else { 27 });
                let expected = naive_gradients(&model, &options, &device);
                // Two f32 computations of the same sums in another order.
                assert_close(&flat(&model, &found), &flat(&model, &expected), 1e-5);
            }
        }
    }
}

/// All statistics, one list each.
fn stats(model: &Qwen2ForCausalLM, batch: &ResponseBatch, memory: MemoryOptions) -> [Vec<f32>; 3] {
    let TokenStats { log_probs, entropy, sum_pi_squared } =
        model.response_stats(batch, &PassOptions { memory, ..OPTIONS });
    [log_probs, entropy.unwrap(), sum_pi_squared.unwrap()].map(host)
}

#[test]
fn what_is_held_at_once_does_not_change_gradients_or_statistics() {
    let of_logits = [1, 3, 8].map(|log_prob_chunk| MemoryOptions { log_prob_chunk, ..MEMORY });
    let of_scores = [1, 2, 5].map(|attention_chunk| MemoryOptions { attention_chunk, ..MEMORY });
    let recomputed = MemoryOptions { activation_checkpointing: true, ..MEMORY };
    let least = MemoryOptions { log_prob_chunk: 1, attention_chunk: 1, activation_checkpointing: true };
    for (_, device) in devices() {
        for tied in [true, false] {
            let model = model(tied, &device.clone().autodiff());
            let expected = flat(&model, &gradients(&model, &batch(), &OPTIONS));
            let whole = stats(&model, &batch(), MEMORY);
            for memory in of_logits.into_iter().chain(of_scores).chain([recomputed, least]) {
                let found = gradients(&model, &batch(), &PassOptions { memory, ..OPTIONS });
                // Only the order of additions differs.
                assert_close(&flat(&model, &found), &expected, 2e-6);
                for (found, expected) in stats(&model, &batch(), memory).iter().zip(&whole) {
                    // Up to 8, where the last place of f32 is 5e-7.
                    assert!(max_difference(found, expected) < 3e-6);
                }
            }
        }
    }
}

#[test]
fn a_prompt_read_once_for_its_group_gives_what_it_gives_each_answer() {
    let (one, other): (&[u32], &[u32]) = (&[1, 2, 3], &[8]);
    let rows: [(&[u32], &[u32]); 6] =
        [(one, &[4, 5, 6, 7, 36]), (one, &[9]), (one, &[]), (one, &[5, 5]), (other, &[7, 0, 11]), (other, &[1, 2])];
    for (_, device) in devices() {
        for activation_checkpointing in [false, true] {
            let memory = MemoryOptions { activation_checkpointing, attention_chunk: 2, ..MEMORY };
            let options = PassOptions { memory, ..OPTIONS };
            let model = model(true, &device.clone().autodiff());
            let (apart, together) = (ResponseBatch::new(&rows), ResponseBatch::sharing_prompts(&rows));
            let [found, expected] = [&together, &apart].map(|batch| stats(&model, batch, memory).concat());
            assert!(max_difference(&found, &expected) < 3e-6);
            let [found, expected] = [&together, &apart].map(|batch| flat(&model, &gradients(&model, batch, &options)));
            // Only the order of additions differs; that of the keys' bias is a sum that cancels.
            assert_close(&found, &expected, 5e-6);
        }
    }
}

#[test]
fn gradients_of_bf16_parameters_are_in_f32_and_those_of_f32_parameters_within_bf16s_error() {
    let model = model(true, &Backend::Flex.device().unwrap().autodiff()).cast(WeightDtype::Bf16);
    let exact = model.clone().cast(WeightDtype::F32);
    for activation_checkpointing in [false, true] {
        let memory = MemoryOptions { activation_checkpointing, ..MEMORY };
        let options = PassOptions { memory, ..OPTIONS };
        let found = gradients(&model, &batch(), &options);
        assert_eq!(found.get::<1>(model.model.norm.weight.id).unwrap().dtype(), DType::F32);
        let expected = gradients(&exact, &batch(), &options);
        let [found, expected] = [flat(&model, &found).concat(), flat(&exact, &expected).concat()];
        let norm = |values: &[f32]| values.iter().map(|x| x * x).sum::<f32>().sqrt();
        let difference: Vec<f32> = found.iter().zip(&expected).map(|(a, b)| a - b).collect();
        // Eight significant bits, 2⁻⁹ a rounding, through some dozens of roundings that are as often up as down.
        assert!(norm(&difference) < 0.05 * norm(&expected), "{} of {}", norm(&difference), norm(&expected));
    }
}

#[test]
fn nan_in_the_padding_of_an_upstream_gradient_has_no_effect() {
    let model = model(true, &Backend::Flex.device().unwrap().autodiff());
    let poisoned = collected(&model, &batch(), &OPTIONS, |stats| {
        let shape = stats.log_probs.dims();
        let padding = Tensor::<1, Int>::arange(0..5, &stats.log_probs.device()).unsqueeze::<2>().expand(shape);
        let lengths = Tensor::<2, Int>::from_data([[5], [2], [1]], &stats.log_probs.device()).expand(shape);
        let padding = padding.greater_equal(lengths);
        let poison = |gradient: Tensor<2>| gradient.mask_fill(padding.clone(), f32::NAN);
        let device = stats.log_probs.device();
        (poison(upstream(shape, 0.0, &device)), Some(poison(upstream(shape, 0.5, &device))))
    });
    assert_eq!(flat(&model, &poisoned), flat(&model, &gradients(&model, &batch(), &OPTIONS)));
}

#[test]
fn statistics_are_zero_in_the_padding_and_the_same_on_both_views() {
    let model = model(true, &Backend::Flex.device().unwrap().autodiff());
    let stats = model.response_stats(&batch(), &OPTIONS);
    assert!(!stats.log_probs.is_autodiff());
    assert_eq!(stats.log_probs.dims(), [3, 5]);
    let (log_probs, entropy) = (host(stats.log_probs), host(stats.entropy.unwrap()));
    for (slot, (log_prob, entropy)) in log_probs.iter().zip(&entropy).enumerate() {
        let real = slot % 5 < [5, 2, 1][slot / 5];
        assert_eq!(*log_prob < 0.0, real);
        assert_eq!(*entropy > 0.0, real);
    }
    let plain = model.valid().response_stats(&batch(), &OPTIONS);
    assert_eq!(host(plain.log_probs), log_probs);
}

#[test]
fn sum_pi_squared_is_that_of_the_distribution_at_the_temperature_and_changes_no_gradient() {
    for (_, device) in devices() {
        let model = model(false, &device.autodiff());
        let options = PassOptions { sum_pi_squared: false, ..OPTIONS };
        assert!(model.response_stats(&batch(), &options).sum_pi_squared.is_none());
        let found = host(model.response_stats(&batch(), &OPTIONS).sum_pi_squared.unwrap());

        let plain = model.valid();
        let ids = Tensor::<2, Int>::from_data([[8, 9, 0]], &plain.device());
        let logits = host(plain.logits(plain.hidden(ids).squeeze_dim::<2>(0)));
        for (t, logits) in logits.chunks(37).take(2).enumerate() {
            let weights = logits.iter().map(|logit| (f64::from(*logit) / OPTIONS.temperature).exp());
            let (sum, squares) = weights.fold((0.0, 0.0), |(sum, squares), w| (sum + w, squares + w * w));
            // Exact but for the rounding of f32 in the logits and the sum.
            assert!((f64::from(found[5 + t]) - squares / (sum * sum)).abs() < 1e-6);
        }
        assert_eq!(found[7..10], [0.0; 3], "padding");
        let with = flat(&model, &gradients(&model, &batch(), &OPTIONS));
        assert_eq!(with, flat(&model, &gradients(&model, &batch(), &options)));
    }
}

#[test]
fn accumulated_gradients_are_the_gradients_of_all_rows() {
    for (_, device) in devices() {
        let model = model(true, &device.autodiff());
        let ones = |rows: &[(&[u32], &[u32])], into: &mut GradientsParams| {
            let batch = ResponseBatch::new(rows);
            model.response_gradients(&batch, &OPTIONS, into, |stats| (stats.log_probs.ones_like(), None));
        };
        let (mut whole, mut sum) = (GradientsParams::new(), GradientsParams::new());
        ones(&ROWS, &mut whole);
        ones(&ROWS[..1], &mut sum);
        ones(&ROWS[1..], &mut sum);
        // Batch composition changes the order of sums only.
        assert_close(&flat(&model, &sum), &flat(&model, &whole), 1e-5);
    }
}

#[test]
fn prefill_and_decode_see_what_hidden_sees() {
    for (_, device) in devices() {
        // On the autodiff view too: sampling never builds a graph.
        for device in [device.clone(), device.autodiff()] {
            let model = model(false, &device);
            let rows: Vec<Vec<u32>> = vec![(0..12).collect(), (5..14).collect(), (20..28).collect()];
            let prompts: Vec<&[u32]> = rows.iter().map(|row| &row[..row.len() - 6]).collect();
            let (hidden, sequences, mut cache) = prefilled(&model, &prompts, 12);
            assert!(!hidden.is_autodiff());
            let mut steps = vec![hidden];
            for step in 0..6 {
                let tokens: Vec<u32> = rows.iter().map(|row| row[row.len() - 6 + step]).collect();
                steps.push(decoded(&model, &sequences, &tokens, &mut cache));
            }
            let lengths: Vec<usize> = sequences.iter().map(|sequence| cache.len(*sequence)).collect();
            assert_eq!((lengths, cache.filled(), cache.taken(), cache.capacity()), (vec![12, 9, 8], 29, 36, 36));
            for (row, ids) in rows.iter().enumerate() {
                let n = ids.len();
                let ids = TensorData::new(ids.iter().map(|id| i64::from(*id)).collect::<Vec<_>>(), [1, n]);
                let whole = host(model.hidden(Tensor::from_data(ids, &device)).inner());
                for (step, hidden) in steps.iter().enumerate() {
                    let found = host(hidden.clone().slice([row..row + 1, 0..24]));
                    let expected = &whole[(n - 7 + step) * 24..][..24];
                    // Hidden states are about 1; f32 sums in another order.
                    assert!(max_difference(&found, expected) < 1e-5, "row {row}, step {step}");
                }
            }
        }
    }
}

#[test]
fn sequences_come_and_go_in_one_cache() {
    for (_, device) in devices() {
        let model = model(true, &device);
        let follow = |prompt: &[u32], last: u32| {
            let (_, sequences, mut cache) = prefilled(&model, &[prompt], 8);
            host(decoded(&model, &sequences, &[last], &mut cache))
        };
        let mut cache = KvCache::new(&model, 14).unwrap();
        let [a, b] = [4, 6].map(|room| cache.begin(room).unwrap());
        assert_eq!(cache.begin(5), None);
        model.prefill(&[(a, &[1, 2, 3]), (b, &[5])], &mut cache);
        let both = host(model.decode(&[(b, 11), (a, 10)], &mut cache));
        let expected = [follow(&[5], 11), follow(&[1, 2, 3], 10)].concat();
        assert!(max_difference(&both, &expected) < 1e-5);

        // Its room is taken again, while the other goes on.
        cache.end(a);
        let c = cache.begin(4).unwrap();
        model.prefill(&[(c, &[6, 7])], &mut cache);
        let both = host(model.decode(&[(b, 13), (c, 14)], &mut cache));
        let expected = [follow(&[5, 11], 13), follow(&[6, 7], 14)].concat();
        assert!(max_difference(&both, &expected) < 1e-5);
        assert_eq!((cache.len(b), cache.len(c), cache.taken()), (3, 3, 10));
        cache.clear();
        assert!(cache.is_empty() && cache.begin(14).is_some());
    }
}

#[test]
fn a_prompt_that_is_read_once_is_shared_by_a_group() {
    for (_, device) in devices() {
        let model = model(true, &device);
        let mut cache = KvCache::new(&model, 9).unwrap();
        let prompt = cache.begin(3).unwrap();
        let forks = [3, 3].map(|room| cache.fork(prompt, room).unwrap());
        model.prefill(&[(prompt, &[1, 2, 3])], &mut cache);
        cache.end(prompt);
        let (_, apart, mut copies) = prefilled(&model, &[&[1, 2, 3], &[1, 2, 3]], 6);
        for tokens in [[4, 5], [6, 6], [7, 8]] {
            let shared = host(decoded(&model, &forks, &tokens, &mut cache));
            let expected = host(decoded(&model, &apart, &tokens, &mut copies));
            // Sums over two runs of tokens in place of one.
            assert!(max_difference(&shared, &expected) < 1e-5);
        }
        assert_eq!((cache.len(forks[0]), cache.taken()), (6, 9));
        cache.end(forks[0]);
        assert_eq!(cache.taken(), 6, "the other still looks at the prompt");
        cache.end(forks[1]);
        assert!(cache.is_empty());
    }
}

#[test]
fn a_prompt_may_be_read_in_parts_beside_others() {
    let long: Vec<u32> = (0..30).map(|i| i * 7 % 37).collect();
    let short: Vec<u32> = (0..11).collect();
    for (_, device) in devices() {
        let model = model(false, &device);
        let (whole, ..) = prefilled(&model, &[&long, &short], 30);
        let whole = host(whole);
        let mut cache = KvCache::new(&model, 41).unwrap();
        let [a, b] = [30, 11].map(|room| cache.begin(room).unwrap());
        model.prefill(&[(a, &long[..13])], &mut cache);
        model.prefill(&[(b, &short[..10]), (a, &long[13..14])], &mut cache);
        let ends = host(model.prefill(&[(a, &long[14..]), (b, &short[10..])], &mut cache));
        // Hidden states are about 1; f32 sums in another order.
        assert!(max_difference(&ends, &whole) < 1e-5, "{}", max_difference(&ends, &whole));
    }
}

#[test]
fn a_cache_that_no_machine_has_memory_for_is_refused() {
    let model = model(true, &Backend::Flex.device().unwrap());
    let error = KvCache::new(&model, 1 << 50).unwrap_err().to_string();
    assert!(error.contains("cache") && error.contains("max_tokens_in_cache"), "{error}");
}

#[test]
fn initial_weights_are_the_same_on_every_backend_and_scaled_by_fan_in() {
    let mut seen: Vec<Vec<f32>> = Vec::new();
    for (_, device) in devices() {
        let model = Qwen2ForCausalLM::init(
            &Qwen2Config::new(500, 64, 96, 2, 4, 2),
            RandomKey::new(1, Purpose::Init),
            &device.autodiff(),
        );
        let hidden = host(model.hidden(Tensor::<2, Int>::from_data([[1, 2, 3]], &model.device())).inner());
        seen.push(hidden);
        let std = |values: Vec<f32>| {
            let n = values.len() as f32;
            (values.iter().map(|value| value * value).sum::<f32>() / n).sqrt()
        };
        let layer = &model.model.layers[1];
        // The relative standard error of these estimates is below 1 %.
        let expect = |found: f32, expected: f32| assert!((found / expected - 1.0).abs() < 0.05, "{found} {expected}");
        expect(std(host(model.model.embed_tokens.weight.val())), 0.05);
        expect(std(host(layer.self_attn.q_proj.weight.val())), 1.0 / 8.0);
        expect(std(host(layer.self_attn.o_proj.weight.val())), 1.0 / 8.0 / 2.0);
        expect(std(host(layer.mlp.down_proj.weight.val())), 1.0 / 96f32.sqrt() / 2.0);
        assert!(host(layer.self_attn.k_proj.bias.as_ref().unwrap().val()).iter().all(|bias| *bias == 0.0));
        assert!(host(layer.input_layernorm.weight.val()).iter().all(|scale| *scale == 1.0));
    }
    assert!(seen.iter().all(|other| max_difference(&seen[0], other) < 1e-5));
}

#[test]
fn parameters_are_named_and_counted_as_in_a_checkpoint() {
    for tied in [true, false] {
        let model = model(tied, &Backend::Flex.device().unwrap());
        let mut expected: Vec<String> = config(tied).parameters().map(|(name, _)| name).collect();
        expected.sort();
        let names: Vec<String> = model.parameter_names().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, expected);
        assert_eq!(model.num_params(), config(tied).num_params());
    }
}
