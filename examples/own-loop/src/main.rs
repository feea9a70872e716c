//! luspo's losses with a model and a loop of one's own: no other part of luspo is used.
//!
//! The model is a table of logits, `[words, words]`: the next word depends on the last one alone. An answer is right if it
//! says `A B C` and stops. GRPO's advantages and the LUSPO loss teach it that from rewards.
//!
//! ```sh
//! cargo run --release -p own-loop
//! ```

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use luspo_algo::{BatchTotals, Luspo, PolicyBatch, PolicyLoss, advantages};
use luspo_core::{Purpose, RandomKey};

const WORDS: usize = 5; // start, A, B, C, stop
const STOP: usize = 4;
const LONGEST: usize = 6;
const ANSWERS: usize = 64;
const STEPS: u64 = 60;
const LEARNING_RATE: f64 = 4.0;

fn main() {
    let before = train(0);
    let after = train(STEPS);
    println!("share of right answers: {before:.2} before, {after:.2} after {STEPS} steps");
}

/// The share of right answers after so many steps.
fn train(steps: u64) -> f64 {
    let device = Device::flex();
    let mut logits = Tensor::<2>::zeros([WORDS, WORDS], &device);
    for step in 0..steps {
        let answers = sample(&logits, step);
        let scores: Vec<f64> = answers.iter().map(|answer| score(answer)).collect();
        let advantage = advantages::grpo(&scores, &[0; ANSWERS], true); // one prompt, one group

        // The gradient of the table, by way of its log-probs of the sampled words.
        let table = logits.clone().autodiff().require_grad();
        let log_probs = log_probs(&table, &answers);
        let old = log_probs.clone().without_autodiff(); // one update a step: the policy is the one that sampled
        let rows: Vec<f32> = advantage.iter().map(|advantage| *advantage as f32).collect();
        let rows = Tensor::<1>::from_data(rows.as_slice(), &device).unsqueeze_dim::<2>(1).expand(old.dims());
        let batch = PolicyBatch::new(log_probs, old, rows, mask(&answers, &device));
        let totals = BatchTotals::of_lengths(&answers.iter().map(Vec::len).collect::<Vec<_>>());
        let output = Luspo::new().forward(&batch, &totals);
        let gradient = table.grad(&output.loss.backward()).expect("the loss depends on the table");
        logits = logits - gradient * LEARNING_RATE / LONGEST as f64;
    }
    let answers = sample(&logits, steps);
    answers.iter().map(|answer| score(answer)).sum::<f64>() / ANSWERS as f64
}

/// 1 for `A B C stop`, and a share of it for a beginning.
fn score(answer: &[usize]) -> f64 {
    let right = [1, 2, 3, STOP];
    let same = answer.iter().zip(right).take_while(|(word, wanted)| *word == wanted).count();
    if answer == right { 1.0 } else { 0.2 * same as f64 }
}

/// Answers from the table, word by word.
fn sample(logits: &Tensor<2>, step: u64) -> Vec<Vec<usize>> {
    let probs: Vec<f32> = log_softmax(logits.clone(), 1).exp().into_data().iter::<f32>().collect();
    let key = RandomKey::new(0, Purpose::Rollout).at(step);
    let answer = |index: usize| {
        let mut words = vec![0];
        while words.len() <= LONGEST && words.last() != Some(&STOP) {
            let row = &probs[words[words.len() - 1] * WORDS..][..WORDS];
            let mut left = key.at(index as u64).uniform(words.len() as u64) as f32;
            let word = row.iter().position(|prob| {
                left -= prob;
                left < 0.0
            });
            words.push(word.unwrap_or(STOP));
        }
        words.split_off(1)
    };
    (0..ANSWERS).map(answer).collect()
}

/// The table's log-probs of the words of each answer, `[answers, LONGEST]`.
fn log_probs(table: &Tensor<2>, answers: &[Vec<usize>]) -> Tensor<2> {
    let index = |answer: &Vec<usize>, t: usize| match (t.checked_sub(1).map(|t| answer.get(t)), answer.get(t)) {
        (None, Some(word)) => *word as i64,
        (Some(Some(last)), Some(word)) => (last * WORDS + word) as i64,
        _ => 0, // padding
    };
    let indices: Vec<i64> = answers.iter().flat_map(|answer| (0..LONGEST).map(move |t| index(answer, t))).collect();
    let indices = Tensor::<1, Int>::from_data(indices.as_slice(), &table.device());
    let flat: Tensor<1> = log_softmax(table.clone(), 1).reshape([WORDS * WORDS]);
    flat.select(0, indices).reshape([answers.len(), LONGEST])
}

/// True on the words of each answer, `[answers, LONGEST]`.
fn mask(answers: &[Vec<usize>], device: &Device) -> Tensor<2, burn::tensor::Bool> {
    let inside: Vec<bool> = answers.iter().flat_map(|answer| (0..LONGEST).map(|t| t < answer.len())).collect();
    Tensor::from_data(TensorData::new(inside, [answers.len(), LONGEST]), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_learns_to_answer() {
        let (before, after) = (train(0), train(STEPS));
        assert!(before < 0.3 && after > 0.8, "{before} before, {after} after");
    }
}
