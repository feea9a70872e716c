//! Every fused pass against the same in Burn's tensor operations, its backward against Burn's autodiff.

use burn::module::Param;
use burn::tensor::activation::silu;
use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use rayon::ThreadPoolBuilder;

use super::{
    HostDistributions, add_rows, by_transposed, norm_backward, norm_forward, outer, sum_of_rows, swiglu_backward,
    swiglu_forward, times,
};
use crate::Backend;
use crate::head::{PackedGradients, TensorDistributions};
use crate::norm::RmsNorm;
use crate::options::PassOptions;

/// Two f32 computations in another order, relative to the largest value.
const ROUNDING: f32 = 2e-6;

fn device() -> Device {
    Backend::Flex.device().unwrap()
}

/// Values without a pattern that a wrong index could hide in.
fn random<const D: usize>(shape: [usize; D], seed: u32, scale: f32) -> Tensor<D> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 8) as f32 / 8_388_608.0 - 1.0) * scale
        })
        .collect();
    Tensor::from_data(TensorData::new(values, shape), &device())
}

fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.clone().into_data().iter::<f32>().collect()
}

#[track_caller]
fn assert_same<const D: usize>(found: &Tensor<D>, expected: &Tensor<D>) {
    assert_close(found, expected, ROUNDING);
}

#[track_caller]
fn assert_close<const D: usize>(found: &Tensor<D>, expected: &Tensor<D>, tolerance: f32) {
    assert_eq!(found.dims(), expected.dims());
    let expected = values(expected);
    let largest = expected.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    for (index, (found, expected)) in values(found).into_iter().zip(expected).enumerate() {
        let difference = (found - expected).abs();
        assert!(difference <= tolerance * largest, "value {index}: {found} against {expected}");
    }
}

fn leaf<const D: usize>(tensor: &Tensor<D>) -> Tensor<D> {
    tensor.clone().autodiff().require_grad()
}

fn rms_norm(size: usize) -> RmsNorm {
    RmsNorm { weight: Param::from_tensor(random([size], 7, 1.0)), epsilon: 1e-6 }
}

#[test]
fn the_norm_and_its_gradients_are_those_of_tensor_operations() {
    let (x, gradient, sum) = (random([37, 24], 1, 2.0), random([37, 24], 2, 1.0), random([37, 24], 3, 1.0));
    let norm = rms_norm(24);
    assert_same(&norm_forward(&norm, &x), &norm.forward(x.clone()));

    let (leaf_x, leaf_weight) = (leaf(&x), leaf(&norm.weight.val()));
    let tracked = RmsNorm { weight: Param::from_tensor(leaf_weight.clone()), epsilon: 1e-6 };
    let gradients = (tracked.forward(leaf_x.clone()) * gradient.clone().autodiff()).sum().backward();
    let (d_x, d_weight) = norm_backward(&norm, &x, &gradient, sum.clone());
    assert_same(&d_x, &(leaf_x.grad(&gradients).unwrap() + sum));
    assert_same(&d_weight, &tracked.weight.val().grad(&gradients).unwrap());
}

#[test]
fn the_gated_product_and_its_gradients_are_those_of_tensor_operations() {
    let shape = [33, 1000]; // more than one piece
    let (gate, up, gradient) = (random(shape, 1, 9.0), random(shape, 2, 2.0), random(shape, 3, 1.0));
    assert_same(&swiglu_forward(&gate, &up), &(silu(gate.clone()) * up.clone()));

    let (leaf_gate, leaf_up) = (leaf(&gate), leaf(&up));
    let product = silu(leaf_gate.clone()) * leaf_up.clone();
    let gradients = (product * gradient.clone().autodiff()).sum().backward();
    let (d_gate, d_up) = swiglu_backward(gate, up, &gradient);
    assert_same(&d_gate, &leaf_gate.grad(&gradients).unwrap());
    assert_same(&d_up, &leaf_up.grad(&gradients).unwrap());
}

#[test]
fn distributions_and_their_gradients_are_those_of_tensor_operations() {
    let (tokens, vocab) = (19, 2500);
    let targets: Vec<i64> = (0..tokens).map(|token| (token * 131 % vocab) as i64).collect();
    let logits = random([tokens, vocab], 1, 12.0);
    for temperature in [1.0, 0.3] {
        for (entropy, sum_pi_squared) in [(false, false), (true, false), (false, true), (true, true)] {
            let options = PassOptions { temperature, entropy, sum_pi_squared, ..PassOptions::default() };
            let host = HostDistributions::new(logits.clone(), &options);
            let tensor = TensorDistributions::new(logits.clone(), &options);
            let (found, expected) = (host.stats(&targets), tensor.stats(&targets));
            assert_same(&found.log_probs, &expected.log_probs);
            assert_eq!((found.entropy.is_some(), found.sum_pi_squared.is_some()), (entropy, sum_pi_squared));
            assert_eq!((expected.entropy.is_some(), expected.sum_pi_squared.is_some()), (entropy, sum_pi_squared));
            let others = [(found.entropy, expected.entropy), (found.sum_pi_squared, expected.sum_pi_squared)];
            for (found, expected) in others.into_iter().filter_map(|(found, expected)| found.zip(expected)) {
                assert_same(&found, &expected);
            }
            let upstream = PackedGradients {
                log_probs: random([tokens, 1], 2, 1.0),
                entropy: entropy.then(|| random([tokens, 1], 3, 1.0)),
            };
            assert_same(&host.into_gradient(&targets, &upstream), &tensor.into_gradient(&targets, &upstream));
        }
    }
}

#[test]
fn products_are_those_of_tensor_operations_and_are_added_in_place() {
    for [tokens, inputs, outputs] in [[1, 40, 24], [7, 33, 50], [300, 200, 260]] {
        let (x, matrix, bias) =
            (random([tokens, inputs], 1, 1.0), random([outputs, inputs], 2, 1.0), random([outputs], 3, 1.0));
        let expected = x.clone().matmul(matrix.clone().transpose());
        assert_same(&by_transposed(&x, &matrix, None), &expected);
        assert_same(&by_transposed(&x, &matrix, Some(&bias)), &(expected + bias.unsqueeze()));
        // A view of every other row, whose numbers do not lie side by side.
        let wide = random([tokens, 2 * inputs], 4, 1.0);
        let part = wide.slice([0..tokens, inputs..2 * inputs]);
        assert_same(&by_transposed(&part, &matrix, None), &part.clone().matmul(matrix.clone().transpose()));

        let gradient = random([tokens, outputs], 5, 1.0);
        let (d_x, sum) = (gradient.clone().matmul(matrix.clone()), random([tokens, inputs], 6, 1.0));
        assert_same(&times(&gradient, &matrix, None), &d_x);
        assert_same(&times(&gradient, &matrix, Some(sum.clone())), &(d_x + sum));
        let (d_matrix, sum) = (gradient.clone().transpose().matmul(x.clone()), random([outputs, inputs], 7, 1.0));
        assert_same(&outer(&gradient, &x, None), &d_matrix);
        assert_same(&outer(&gradient, &x, Some(sum.clone())), &(d_matrix + sum));
        assert_same(&sum_of_rows(&gradient), &gradient.clone().sum_dim(0).squeeze_dim(0));
    }
    let (sum, rows) = (random([3, 2], 1, 1.0), random([2, 2], 2, 1.0));
    let both = rows.clone().sum_dim(0);
    let expected = Tensor::cat(vec![sum.clone().slice([0..2, 0..2]), sum.clone().slice([2..3, 0..2]) + both], 0);
    assert_same(&add_rows(sum, &[2, 2], &rows), &expected);
}

#[test]
fn products_with_matrices_in_half_precision_are_those_with_the_same_numbers_in_f32() {
    for dtype in [FloatDType::BF16, FloatDType::F16] {
        // Rows of an even size are read as pairs, and what fills no whole vectors by itself.
        for (tokens, inputs) in [1, 2, 3, 5, 13, 40].into_iter().flat_map(|tokens| [37, 64, 102].map(|n| (tokens, n))) {
            let outputs = 45;
            let matrix = random([outputs, inputs], 2, 1.0).cast(dtype);
            let (wide, bias) = (matrix.clone().cast(FloatDType::F32), random([outputs], 3, 1.0));
            let (x, gradient) = (random([tokens, inputs], 1, 1.0), random([tokens, outputs], 4, 1.0));
            let expected = by_transposed(&x, &wide, Some(&bias));
            assert_same(&by_transposed(&x, &matrix, Some(&bias)), &expected);
            assert_same(&times(&gradient, &matrix, None), &times(&gradient, &wide, None));
            let half = by_transposed(&x.clone().cast(dtype), &matrix, None);
            assert_eq!(half.dtype(), dtype.into());
            let once = by_transposed(&x.cast(dtype).cast(FloatDType::F32), &wide, None).cast(dtype);
            // Equal but where two sums in f32 lie on either side of the middle between two numbers.
            assert_close(&half, &once, 1e-2);
        }
    }
}

#[test]
fn a_row_gives_the_same_bits_whatever_other_rows_there_are() {
    for dtype in [FloatDType::F32, FloatDType::BF16, FloatDType::F16] {
        let (x, matrix) = (random([29, 100], 1, 1.0), random([70, 100], 2, 1.0).cast(dtype));
        let all = values(&by_transposed(&x, &matrix, None));
        for row in 0..29 {
            let alone = values(&by_transposed(&x.clone().slice([row..row + 1, 0..100]), &matrix, None));
            assert_eq!(alone, all[row * 70..][..70], "{dtype:?}");
        }
    }
}

#[test]
fn a_logit_that_is_no_number_shows_in_its_own_row_alone() {
    let mut logits = vec![0.5f32; 3 * 40];
    logits[45] = f32::NAN;
    let logits = Tensor::from_data(TensorData::new(logits, [3, 40]), &device());
    let log_probs = values(&HostDistributions::new(logits, &PassOptions::default()).stats(&[0, 0, 0]).log_probs);
    assert!(log_probs[0].is_finite() && log_probs[1].is_nan() && log_probs[2].is_finite(), "{log_probs:?}");
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let norm = rms_norm(24);
    let run = |threads: usize| {
        ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
            let rows = |seed| random([200, 24], seed, 1.0);
            let (d_x, d_weight) = norm_backward(&norm, &rows(1), &rows(2), rows(3));
            let options = PassOptions { entropy: true, sum_pi_squared: true, ..PassOptions::default() };
            let stats = HostDistributions::new(random([50, 3000], 4, 5.0), &options).stats(&[7; 50]);
            let stats = [stats.log_probs, stats.entropy.unwrap(), stats.sum_pi_squared.unwrap()];
            (d_x.to_data(), d_weight.to_data(), stats.map(|stat| stat.to_data()))
        })
    };
    assert_eq!(run(1), run(3));
}
