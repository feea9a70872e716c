//! The LUSPO loss of a group of two answers.

use std::sync::Arc;

use burn::tensor::Tensor;
use luspo::prelude::*;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Backend::Flex.device()?;
    // Answers of 2 tokens and of 1; the policy has moved on the first one's first token only.
    let log_probs = Tensor::<2>::from_data([[-0.498, -1.0], [-0.7, 0.0]], &device);
    let old = Tensor::<2>::from_data([[-0.5, -1.0], [-0.7, 0.0]], &device);
    let advantages = Tensor::<2>::from_data([[1.0, 1.0], [-0.5, 0.0]], &device);
    let mask = Tensor::<2>::from_data([[1.0, 1.0], [1.0, 0.0]], &device).equal_elem(1.0);

    let objective = Objective::new(Arc::new(Luspo::new()));
    let batch = PolicyBatch::new(log_probs, old, advantages, mask);
    let loss: f32 = objective.forward(&batch, None, &BatchTotals::of_lengths(&[2, 1])).loss.into_scalar();

    // 1/G Σ −|y| s Â, with s = exp(0.002 / 2) for the first answer, which is not clipped, and 1 for the second.
    let expected = -(2.0 * 0.001_f32.exp() * 1.0 + 1.0 * -0.5) / 2.0;
    // The ratio is 1 plus a thousandth, of which an f32 keeps four digits.
    assert!((loss - expected).abs() < 1e-6, "{loss} and not {expected}");
    println!("luspo loss {loss:.4}");
    Ok(())
}
