//! Every way to make an update gives the same bits.

use burn::module::Param;
use burn::tensor::{Device, FloatDType, TensorData};
use luspo_core::{Purpose, RandomKey};

use super::state::Numbers;
use super::*;

/// A matrix of more than one piece of work, and a vector.
#[derive(Module, Debug)]
struct Weights {
    matrix: Param<Tensor<2>>,
    vector: Param<Tensor<1>>,
}

const SHAPE: [usize; 2] = [301, 119];

fn values(seed: u64, len: usize, size: f64) -> Vec<f32> {
    let key = RandomKey::new(seed, Purpose::Task);
    (0..len as u64).map(|i| ((key.uniform(i) * 2.0 - 1.0) * size) as f32).collect()
}

fn weights(device: &Device, dtype: FloatDType) -> Weights {
    let device = &device.clone().autodiff();
    let matrix = TensorData::new(values(0, SHAPE[0] * SHAPE[1], 1.0), SHAPE);
    let vector = TensorData::new(values(1, 7, 1.0), [7]);
    let matrix = Tensor::<2>::from_data(matrix, device).cast(dtype).detach();
    let vector = Tensor::<1>::from_data(vector, device).cast(dtype).detach();
    Weights { matrix: Param::from_tensor(matrix), vector: Param::from_tensor(vector) }
}

#[cfg(feature = "wgpu")]
#[test]
#[ignore = "needs a GPU, or software in its place"]
fn updates_leave_nothing_in_a_gpus_memory_but_parameters() {
    use luspo_model::{Backend, Qwen2Config, Qwen2ForCausalLM, release_memory};

    let device = Backend::Wgpu.device().unwrap();
    let held = || device.memory_pool_usage().unwrap().bytes_reserved;
    let config = Qwen2Config::new(8192, 256, 704, 4, 8, 2);
    let mut model = Qwen2ForCausalLM::init(&config, RandomKey::new(3, Purpose::Init), &device.clone().autodiff());
    let parameters = 4 * model.num_params() as u64;
    let mut optimizer = AdamW::new(OptimizerConfig { offload: true, ..OptimizerConfig::default() });
    for _ in 0..3 {
        let mut gradients = GradientsParams::new();
        model.visit(&mut Ones(&mut gradients));
        optimizer.step(&mut model, gradients, 1e-3);
    }
    let before = held();
    assert_eq!(release_memory(&device), Some(before));
    // The parameters, and a few pages of small things.
    assert!(held() < 2 * parameters && held() < before, "{} of {before}, parameters {parameters}", held());
}

/// A gradient of ones for every parameter.
#[cfg(feature = "wgpu")]
struct Ones<'a>(&'a mut GradientsParams);

#[cfg(feature = "wgpu")]
impl burn::module::ModuleVisitor for Ones<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.register(param.id, param.val().inner().ones_like());
    }
}

/// Gradients of very different sizes, some of them 0.
fn gradients(model: &Weights, device: &Device, step: u64) -> GradientsParams {
    let mut matrix = values(10 + step, SHAPE[0] * SHAPE[1], 1e-3);
    matrix.iter_mut().step_by(5).for_each(|value| *value *= 1e-6);
    matrix.iter_mut().step_by(7).for_each(|value| *value = 0.0);
    let mut gradients = GradientsParams::new();
    gradients.register(model.matrix.id, Tensor::<2>::from_data(TensorData::new(matrix, SHAPE), device));
    let vector = TensorData::new(values(20 + step, 7, 3.0), [7]);
    gradients.register(model.vector.id, Tensor::<1>::from_data(vector, device));
    gradients
}

fn config(offload: bool) -> OptimizerConfig {
    OptimizerConfig { lr: 1e-2, weight_decay: 0.1, betas: [0.9, 0.95], offload, ..OptimizerConfig::default() }
}

/// Parameters, masters and moments, in bits.
fn bits(model: &Weights, optimizer: &AdamW) -> Vec<Vec<u32>> {
    let bits = |data: TensorData| data.iter::<f32>().map(f32::to_bits).collect();
    let mut all = vec![bits(model.matrix.val().into_data()), bits(model.vector.val().into_data())];
    for id in [model.matrix.id, model.vector.id] {
        let State { first, second, master } = optimizer.states[&id].clone();
        all.extend([Some(first), Some(second), master].into_iter().flatten().map(|part| bits(part.into_host())));
    }
    all
}

/// After `steps` updates.
fn trained(device: &Device, dtype: FloatDType, offload: bool, steps: u64) -> (Weights, AdamW) {
    let (mut model, mut optimizer) = (weights(device, dtype), AdamW::new(config(offload)));
    for step in 0..steps {
        let gradients = gradients(&model, device, step);
        optimizer.step(&mut model, gradients, 1e-2);
    }
    (model, optimizer)
}

#[allow(deprecated)] // the only other device of a build without a GPU
fn ndarray() -> Device {
    Device::ndarray()
}

#[test]
fn offloading_changes_no_bit() {
    for (device, dtype) in [
        (Device::flex(), FloatDType::F32),
        (Device::flex(), FloatDType::BF16),
        (ndarray(), FloatDType::F32), // which has no bf16
    ] {
        let kept = trained(&device, dtype, false, 5);
        let offloaded = trained(&device, dtype, true, 5);
        assert_eq!(bits(&kept.0, &kept.1), bits(&offloaded.0, &offloaded.1), "{device:?} {dtype:?}");
        let State { first, second, master } = &offloaded.1.states[&offloaded.0.matrix.id];
        for part in [Some(first), Some(second), master.as_ref()].into_iter().flatten() {
            assert!(matches!(part, Numbers::Host(_)));
        }
    }
    let (model, optimizer) = trained(&ndarray(), FloatDType::F32, false, 1);
    assert!(matches!(optimizer.states[&model.matrix.id].first, Numbers::Device(_)), "the test means something");
}

#[test]
fn the_fused_pass_and_tensor_operations_give_the_same_bits() {
    let device = Device::flex();
    for dtype in [FloatDType::F32, FloatDType::BF16] {
        let mut states = [None, None];
        let start = weights(&device, dtype).matrix.val().inner();
        let mut now = [start.clone(), start];
        for step in 0..5 {
            let model = weights(&device, dtype);
            let coefficients = Coefficients::new(&config(false), 1 + step, 2.5, 1e-2);
            for (way, (now, state)) in now.iter_mut().zip(&mut states).enumerate() {
                let gradient = gradients(&model, &device, step as u64).remove::<2>(model.matrix.id).unwrap();
                let (value, old) = (now.clone(), state.take());
                let (value, new) = match way {
                    0 => arithmetic::on_host(&coefficients, value, gradient, old),
                    _ => arithmetic::by_tensors(&coefficients, value, gradient, old),
                };
                (*now, *state) = (value, Some(new));
            }
            let bits = |way: usize| {
                let State { first, second, master } = states[way].clone().unwrap();
                assert_eq!(master.is_some(), dtype == FloatDType::BF16);
                let numbers: Vec<TensorData> =
                    [Some(first), Some(second), master].into_iter().flatten().map(Numbers::into_host).collect();
                (now[way].to_data(), numbers)
            };
            assert_eq!(bits(0), bits(1), "{dtype:?}, step {step}");
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let (model, optimizer) = pool.install(|| trained(&Device::flex(), FloatDType::BF16, false, 3));
        bits(&model, &optimizer)
    };
    assert_eq!(with(1), with(3));
}

#[test]
fn a_parameter_is_its_master_rounded_and_small_updates_are_not_lost() {
    let device = Device::flex();
    let weights = weights(&device, FloatDType::BF16);
    let (mut model, mut optimizer) = (weights.clone(), AdamW::new(config(false)));
    let mut exact = Weights {
        matrix: weights.matrix.clone().map(|values| values.cast(FloatDType::F32).detach().require_grad()),
        vector: weights.vector.clone().map(|values| values.cast(FloatDType::F32).detach().require_grad()),
    };
    let mut reference = AdamW::new(config(false));
    for step in 0..50 {
        // A bf16 near 1 is 2⁻⁸ from the next; a step of 1e-5 alone would be rounded away.
        let gradient = || gradients(&weights, &device, step % 3);
        optimizer.step(&mut model, gradient(), 1e-5);
        reference.step(&mut exact, gradient(), 1e-5);
    }
    let State { master, .. } = optimizer.states[&model.matrix.id].clone();
    let master = master.unwrap().into_host();
    let expected = exact.matrix.val().into_data();
    assert_eq!(master.as_slice::<f32>().unwrap(), expected.as_slice::<f32>().unwrap());
    let rounded = exact.matrix.val().inner().cast(FloatDType::BF16).into_data();
    assert_eq!(model.matrix.val().into_data(), rounded);
    assert_ne!(rounded, weights.matrix.val().into_data());
}

#[test]
fn parameters_are_updated_in_their_place() {
    /// Where the matrix is in memory.
    fn place(model: Weights) -> (Weights, *const u8) {
        let (id, value, mapper) = model.matrix.consume();
        let (device, data) = (value.device(), value.inner().into_data());
        let place = data.as_bytes().as_ptr();
        let value = Tensor::from_data(data, &device).require_grad();
        (Weights { matrix: Param::from_mapped_value(id, value, mapper), ..model }, place)
    }
    let device = Device::flex();
    let (model, mut optimizer) = trained(&device, FloatDType::F32, false, 1);
    let (mut model, before) = place(model);
    let gradient = gradients(&model, &device, 1);
    optimizer.step(&mut model, gradient, 1e-2);
    let (mut model, after) = place(model);
    assert_eq!(after, before);

    let (shared, then) = (model.clone(), model.matrix.val().into_data());
    let gradient = gradients(&model, &device, 2);
    optimizer.step(&mut model, gradient, 1e-2);
    assert_eq!(shared.matrix.val().into_data(), then, "whoever else holds a parameter keeps what it was");
    assert_ne!(model.matrix.val().into_data(), then);
}

#[test]
fn saved_states_continue_to_the_same_bits_with_or_without_offload() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("optimizer.safetensors");
    let names = |model: &Weights| vec![("matrix".into(), model.matrix.id), ("vector".into(), model.vector.id)];
    for (device, dtype) in
        [(Device::flex(), FloatDType::F32), (Device::flex(), FloatDType::BF16), (ndarray(), FloatDType::F32)]
    {
        let (whole, end) = trained(&device, dtype, false, 6);
        let mut files = Vec::new();
        for (before, after) in [(false, false), (true, true), (true, false), (false, true)] {
            let (mut model, optimizer) = trained(&device, dtype, before, 3);
            optimizer.save(&file, names(&model)).unwrap();
            files.push(std::fs::read(&file).unwrap());
            let mut optimizer = AdamW::load(config(after), 3, &file, names(&model), &model).unwrap();
            for step in 3..6 {
                let gradients = gradients(&model, &device, step);
                optimizer.step(&mut model, gradients, 1e-2);
            }
            assert_eq!(bits(&model, &optimizer), bits(&whole, &end), "{device:?} {dtype:?} {before} {after}");
        }
        assert!(files.iter().all(|file| *file == files[0]), "the file does not tell where the state was");
    }
}

#[test]
fn states_of_another_model_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("optimizer.safetensors");
    let device = Device::flex();
    let (model, optimizer) = trained(&device, FloatDType::F32, false, 1);
    optimizer.save(&file, vec![("matrix".into(), model.matrix.id), ("vector".into(), model.vector.id)]).unwrap();
    let refused = |model: &Weights, names: [&str; 2], expected: &str| {
        let names = vec![(names[0].into(), model.matrix.id), (names[1].into(), model.vector.id)];
        let error = AdamW::load(config(false), 1, &file, names, model).unwrap_err().to_string();
        assert!(error.contains("optimizer.safetensors") && error.contains(expected), "{error}");
    };
    refused(&model, ["vector", "matrix"], "`vector.exp_avg` has shape [7]");
    refused(&model, ["matrix", "other"], "4 tensors, of which 2 are this model's");
    refused(&weights(&device, FloatDType::BF16), ["matrix", "vector"], "there is no `matrix.master`");
}

#[test]
fn the_norm_is_that_of_all_gradients_together() {
    for device in [Device::flex(), ndarray()] {
        let model = weights(&device, FloatDType::F32);
        let mut gradients = gradients(&model, &device, 0);
        let norm = global_norm(&model, &mut gradients);
        let parts = [
            gradients.get::<2>(model.matrix.id).unwrap().into_data(),
            gradients.get::<1>(model.vector.id).unwrap().into_data(),
        ];
        let exact: f64 = parts.iter().flat_map(|part| part.iter::<f64>().map(|value| value * value)).sum();
        // The other device sums in f32.
        assert!((norm / exact.sqrt() - 1.0).abs() < 1e-6, "{norm} against {}", exact.sqrt());
    }
}
