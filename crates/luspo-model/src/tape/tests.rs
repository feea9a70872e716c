//! What the host's loops and the tensor operations of a piece have in common: everything but the order of sums.

use burn::module::Param;
use burn::optim::GradientsParams;
use burn::tensor::activation::silu;
use burn::tensor::{Device, Tensor, TensorData};

use super::layout::{Heads, Places};
use super::rotation::Rotation;
use super::softmax::Seen;
use super::{Gradients, swiglu};
use crate::Backend;
use crate::norm::RmsNorm;

/// Two f32 computations in another order, relative to the largest value.
const ROUNDING: f32 = 2e-6;

fn random<const D: usize>(shape: [usize; D], seed: u32, device: &Device) -> Tensor<D> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        })
        .collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

#[track_caller]
fn assert_same<const D: usize>(found: Tensor<D>, expected: Tensor<D>) {
    assert_eq!(found.dims(), expected.dims());
    let [found, expected] = [found, expected].map(|x| x.into_data().iter::<f32>().collect::<Vec<_>>());
    let largest = expected.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    assert!(largest > 0.0);
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= ROUNDING * largest, "value {index}: {found} against {expected}");
    }
}

fn flex() -> Device {
    Backend::Flex.device().unwrap()
}

/// A backend that the host's loops do not serve.
fn elsewhere() -> Device {
    Backend::NdArray.device().unwrap()
}

#[test]
fn tokens_are_folded_into_padded_rows_and_brought_back() {
    let heads = Heads { kv_heads: 2, group: 3, head_dim: 4 };
    let rows = vec![[2..4, 6..9], [0..3, 3..3], [8..9, 0..4]]; // tokens in several rows, and a token in none
    let flat = random([10, heads.width()], 1, &flex());
    let folded = Places::new(rows.clone(), None).fold(&mut flat.clone(), heads);
    assert_eq!(folded.dims(), [3, 2, 3 * 5, 4]);
    for device in [flex(), elsewhere()] {
        let places = Places::new(rows.clone(), Some(&device));
        assert_same(places.fold(&mut flat.clone().to_device(&device), heads).to_device(&flex()), folded.clone());
    }
    // Query head 4 belongs to key head 1; the second row's third token is token 2.
    let value = folded.clone().slice([1..2, 1..2, 7..8, 0..4]).reshape([4]);
    assert_same(value, flat.clone().slice([2..3, 16..20]).reshape([4]));

    let poisoned = random([3, 2, 15, 4], 2, &flex()); // something in the padding too
    let mut sum = random([10, heads.width()], 3, &flex());
    let mut expected = sum.clone();
    Places::new(rows.clone(), Some(&flex())).unfold(poisoned.clone(), heads, &mut expected);
    Places::new(rows, None).unfold(poisoned, heads, &mut sum);
    assert_same(sum, expected);
}

#[test]
fn a_query_weighs_the_keys_that_it_sees() {
    let (queries, keys, first) = (4, 7, vec![1, 4, 3]);
    let (host, tensor) = (Seen::new(first.clone(), queries, None), Seen::new(first.clone(), queries, Some(&flex())));
    let (scores, gradient) = (random([3, 2, 3 * 4, 7], 1, &flex()), random([3, 2, 3 * 4, 7], 2, &flex()));
    let mut weights = host.softmax(scores.clone(), 3.0);
    assert_same(weights.clone(), tensor.softmax(scores.clone(), 3.0));
    let seen = weights.clone().slice([1..2, 0..1, 5..6, 0..7]).into_data().iter::<f32>().filter(|p| *p > 0.0).count();
    assert_eq!(seen, 5, "the second query of a row whose first sees 4");

    let leaf = scores.autodiff().require_grad();
    let bias = first.iter().flat_map(|first| {
        (0..queries).flat_map(move |query| (0..keys).map(move |key| if key < first + query { 0.0 } else { -1e30 }))
    });
    let bias = TensorData::new(bias.collect::<Vec<f32>>(), [3, 1, 1, queries, keys]);
    let biased = (leaf.clone() * 3.0).reshape([3, 2, 3, 4, 7]) + Tensor::from_data(bias, &flex()).autodiff();
    let loss =
        (burn::tensor::activation::softmax(biased, 4).reshape([3, 2, 12, 7]) * gradient.clone().autodiff()).sum();
    let expected = leaf.grad(&loss.backward()).unwrap();
    assert_same(host.backward(&mut weights, gradient.clone(), 3.0), expected.clone());
    assert_same(tensor.backward(&mut weights, gradient, 3.0), expected);
}

#[test]
fn a_rotation_is_the_same_everywhere_and_its_transpose_turns_back() {
    let places = [0, 1, 2, 0, 1, 5];
    let x = random([6, 3 * 8], 1, &flex());
    let (host, tensor) = (Rotation::new(&places, 8, 1e4, None), Rotation::new(&places, 8, 1e4, Some(&flex())));
    let turned = host.forward(x.clone(), 3);
    assert_same(turned.clone(), tensor.forward(x.clone(), 3));
    assert_same(host.backward(turned.clone(), 3), x.clone());
    assert_same(tensor.backward(turned, 3), x);
}

#[test]
fn norm_and_gated_product_have_the_gradients_of_autodiff_where_the_host_does_not_serve() {
    let device = elsewhere();
    let x = |seed| random([7, 6], seed, &device);
    let leaf = |x: &Tensor<2>| x.clone().autodiff().require_grad();

    let norm = RmsNorm { weight: Param::from_tensor(random([6], 4, &device)), epsilon: 1e-6 };
    let tracked = RmsNorm { weight: Param::from_tensor(norm.weight.val().autodiff().require_grad()), epsilon: 1e-6 };
    let (input, gradient, sum) = (x(1), x(2), x(3));
    let leaf_x = leaf(&input);
    let expected = (tracked.forward(leaf_x.clone()) * gradient.clone().autodiff()).sum().backward();
    let mut gradients = GradientsParams::new();
    let d_x = norm.backward(input, gradient.clone(), sum.clone(), &mut Gradients::into(&mut gradients));
    assert_same(d_x, leaf_x.grad(&expected).unwrap() + sum);
    assert_same(gradients.get(norm.weight.id).unwrap(), tracked.weight.val().grad(&expected).unwrap());

    let (gate, up) = (x(5), x(6));
    let (leaf_gate, leaf_up) = (leaf(&gate), leaf(&up));
    let product = silu(leaf_gate.clone()) * leaf_up.clone();
    assert_same(swiglu::forward(&mut gate.clone(), &mut up.clone()), product.clone().inner());
    let expected = (product * gradient.clone().autodiff()).sum().backward();
    let (d_gate, d_up) = swiglu::backward(gate, up, gradient);
    assert_same(d_gate, leaf_gate.grad(&expected).unwrap());
    assert_same(d_up, leaf_up.grad(&expected).unwrap());
}
