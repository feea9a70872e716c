//! What the host's loops and the tensor operations of a piece have in common: everything but the order of sums.

use std::ops::Range;

use burn::module::Param;
use burn::optim::GradientsParams;
use burn::tensor::activation::silu;
use burn::tensor::{Device, Tensor, TensorData};

use super::attention::{Attention, Parts, Projected};
use super::layout::{Heads, Places};
use super::rotation::Rotation;
use super::{Gradients, swiglu};
use crate::Backend;
use crate::batch::Span;
use crate::host::HostAttention;
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
    let device = flex();
    let heads = Heads { kv_heads: 2, group: 3, head_dim: 4 };
    let rows = [[2..4, 6..9], [0..3, 3..3], [8..9, 0..4]]; // tokens in several rows, and a token in none
    let flat = random([10, heads.width()], 1, &device);
    let places = Places::new(&rows, &device);
    let folded = places.fold(&flat, heads);
    assert_eq!(folded.dims(), [3, 2, 3 * 5, 4]);
    // Query head 4 belongs to key head 1; the second row's third token is token 2.
    let value = folded.clone().slice([1..2, 1..2, 7..8, 0..4]).reshape([4]);
    assert_same(value, flat.clone().slice([2..3, 16..20]).reshape([4]));

    let mut sum = flat.zeros_like();
    places.unfold(folded + 0.0, heads, &mut sum);
    let times = [2.0, 2.0, 3.0, 2.0, 0.0, 0.0, 1.0, 1.0, 2.0, 0.0]; // how often each token is in a row
    let times = Tensor::<2>::from_data(TensorData::new(times.to_vec(), [10, 1]), &device).expand([10, 24]);
    assert_same(sum.clone(), flat * times);
    places.unfold(random([3, 2, 15, 4], 2, &device), heads, &mut sum); // something in the padding too
    assert_eq!(sum.slice([4..6, 0..24]).abs().sum().into_scalar::<f32>(), 0.0);
}

/// Three rows that share a prompt of 5, of 3, 150 and 1 tokens of their own, and one row alone of 4 tokens.
fn spans() -> Vec<Span> {
    let span = |prefix: Range<usize>, own: Range<usize>| Span { prefix, own };
    vec![span(0..0, 0..5), span(0..5, 5..8), span(0..5, 8..158), span(0..5, 158..159), span(159..159, 159..163)]
}

#[test]
fn attention_is_the_same_by_loops_and_by_tensors_and_has_the_gradients_of_autodiff() {
    let device = flex();
    let heads = Heads { kv_heads: 2, group: 3, head_dim: 8 };
    let keys = Heads { group: 1, ..heads };
    let x = |heads: Heads, seed| random([163, heads.width()], seed, &device);
    let (queries, keys, values, gradient) = (x(heads, 1), x(keys, 2), x(keys, 3), x(heads, 4));

    // Every token of every query head, against all keys but those that it does not see.
    let mut bias = vec![f32::NEG_INFINITY; 163 * 163];
    for Span { prefix, own } in spans() {
        for query in own.clone() {
            prefix.clone().chain(own.start..=query).for_each(|key| bias[query * 163 + key] = 0.0);
        }
    }
    let bias = Tensor::<3>::from_data(TensorData::new(bias, [1, 163, 163]), &device).autodiff();
    let leaves = [&queries, &keys, &values].map(|x| x.clone().autodiff().require_grad());
    let by_head = |x: &Tensor<2>, count: usize, repeat: usize| {
        let x = x.clone().reshape([163, count, 1, 8]).repeat_dim(2, repeat).reshape([163, count * repeat, 8]);
        x.swap_dims(0, 1)
    };
    let [q, k, v] = [by_head(&leaves[0], 6, 1), by_head(&leaves[1], 2, 3), by_head(&leaves[2], 2, 3)];
    let scores = q.matmul(k.swap_dims(1, 2)) / 8f64.sqrt() + bias;
    let output = burn::tensor::activation::softmax(scores, 2).matmul(v).swap_dims(0, 1).reshape([163, 48]);
    let judged = (output.clone() * gradient.clone().autodiff()).sum().backward();
    let expected = leaves.map(|leaf| leaf.grad(&judged).unwrap());

    for chunk in [1, 7, 64, 1000] {
        let host = HostAttention::new(&spans(), heads, chunk);
        let tensors = Parts::new(&spans(), heads, chunk, &device);
        let projected = || Projected { queries: queries.clone(), keys: keys.clone(), values: values.clone() };
        for attention in [Attention::Host(host), Attention::Tensor(tensors)] {
            assert_same(attention.forward(&projected()), output.clone().inner());
            let found = attention.backward(projected(), gradient.clone());
            found.into_iter().zip(&expected).for_each(|(found, expected)| assert_same(found, expected.clone()));
        }
    }
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
    let d_x = norm.backward(&input, &gradient, sum.clone(), &mut Gradients::into(&mut gradients));
    assert_same(d_x, leaf_x.grad(&expected).unwrap() + sum);
    assert_same(gradients.get(norm.weight.id).unwrap(), tracked.weight.val().grad(&expected).unwrap());

    let (gate, up) = (x(5), x(6));
    let (leaf_gate, leaf_up) = (leaf(&gate), leaf(&up));
    let product = silu(leaf_gate.clone()) * leaf_up.clone();
    assert_same(swiglu::forward(&gate, &up), product.clone().inner());
    let expected = (product * gradient.clone().autodiff()).sum().backward();
    let (d_gate, d_up) = swiglu::backward(gate, up, &gradient);
    assert_same(d_gate, leaf_gate.grad(&expected).unwrap());
    assert_same(d_up, leaf_up.grad(&expected).unwrap());
}
