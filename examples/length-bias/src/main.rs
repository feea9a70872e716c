//! Where the gradient's weight falls, by answer length, under GRPO, GSPO and LUSPO on the same answers.
//!
//! ```text
//! cargo run --release -p luspo-cli -- train configs/arithmetic.toml
//! cargo run --release -p length-bias -- runs/arithmetic
//! ```
//!
//! The policy of a run's warm-up answers some of its training prompts; the answers are scored and compared within their
//! groups, and each objective says how strongly it would push each token: |∂loss/∂log π(yₜ)|. GRPO and GSPO divide an
//! answer's push by its length, so that a token of a long answer moves less than one of a short answer. LUSPO does not.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Bool, Device, Tensor, TensorData};
use luspo::core::Purpose;
use luspo::data::{LoadOptions, PromptOverlong};
use luspo::prelude::*;
use luspo::reward::{Answer, RewardConfig};

const PROMPTS: usize = 32;
const SAMPLES: usize = 8;
const LONGEST: usize = 39;

fn main() -> Result<(), Box<dyn Error>> {
    let run = std::env::args().nth(1).map(PathBuf::from).ok_or("usage: length-bias RUN_FOLDER")?;
    let (rollouts, scores) = answers(&run)?;
    let lengths: Vec<usize> = rollouts.iter().map(Rollout::response_len).collect();

    let objectives: [(&str, Arc<dyn PolicyLoss>); 3] =
        [("GRPO", Arc::new(Grpo::new())), ("GSPO", Arc::new(Gspo::new())), ("LUSPO", Arc::new(Luspo::new()))];
    println!("{} answers; weight of one token, relative to the objective's mean\n", rollouts.len());
    println!("{:<12}{:>8}{:>10}{:>8}{:>8}{:>8}", "length", "answers", "right", "GRPO", "GSPO", "LUSPO");
    let weights: Vec<Vec<f64>> =
        objectives.iter().map(|(_, policy)| token_weights(policy.clone(), &rollouts, &scores)).collect();
    for (low, high) in [(1, 9), (10, 19), (20, 29), (30, LONGEST)] {
        // Groups whose answers are all right or all wrong have advantage 0 and push nothing.
        let rows: Vec<usize> =
            (0..rollouts.len()).filter(|&i| (low..=high).contains(&lengths[i]) && weights[0][i] > 0.0).collect();
        if rows.is_empty() {
            continue;
        }
        let right = rows.iter().filter(|&&i| scores[i].correct).count() as f64 / rows.len() as f64;
        print!("{:<12}{:>8}{:>9.0}%", format!("{low}–{high}"), rows.len(), 100.0 * right);
        for weights in &weights {
            print!("{:>8.2}", rows.iter().map(|&i| weights[i]).sum::<f64>() / rows.len() as f64);
        }
        println!();
    }
    Ok(())
}

/// Groups of answers of the warm-up's policy to training prompts, with their scores.
fn answers(run: &Path) -> Result<(Vec<Rollout>, Vec<Score>), Box<dyn Error>> {
    let policy = Policy::load(&run.join("checkpoints/step_000000/policy"), &Backend::Flex.device()?)?;
    let files = [run.join("data/train.parquet")];
    let options = LoadOptions {
        max_prompt_length: 64,
        overlong: PromptOverlong::Error,
        filter_invalid: false,
        by_extra_info: false,
    };
    let data = PromptDataset::load(&files, &policy.tokenizer, options)?;
    let rewards = RewardPipeline::new(&RewardConfig::default(), LONGEST, data.data_sources())?;
    let prompts = data.batch(1, PROMPTS, 0)?;

    let mut sampling = policy.sampling(LONGEST);
    sampling.temperature = 1.0;
    let key = RandomKey::new(0, Purpose::Rollout).at(1);
    let rollouts = policy.generate(&prompts, SAMPLES, &sampling, key, PROMPTS * SAMPLES)?;
    let texts = rollouts.iter().map(|rollout| policy.text(rollout)).collect::<Result<Vec<_>, _>>()?;
    let answer = |(row, rollout): (usize, &Rollout)| Answer {
        prompt: &prompts[row / SAMPLES],
        text: &texts[row],
        tokens: rollout.response_len(),
        finish: rollout.finish,
    };
    let answers: Vec<Answer> = rollouts.iter().enumerate().map(answer).collect();
    let scores = rewards.score(&answers)?.scores;
    Ok((rollouts, scores))
}

/// The weight of a token of each answer, |∂loss/∂log π|, divided by its mean over all tokens that have any.
fn token_weights(policy: Arc<dyn PolicyLoss>, rollouts: &[Rollout], scores: &[Score]) -> Vec<f64> {
    let device = Device::flex();
    let lengths: Vec<usize> = rollouts.iter().map(Rollout::response_len).collect();
    let seq = *lengths.iter().max().expect("there are answers");
    let grid = |value: &dyn Fn(usize, usize) -> f32| -> Tensor<2> {
        let values = (0..rollouts.len())
            .flat_map(|row| (0..seq).map(move |t| (row, t)))
            .map(|(row, t)| if t < lengths[row] { value(row, t) } else { 0.0 })
            .collect::<Vec<f32>>();
        Tensor::from_data(TensorData::new(values, [rollouts.len(), seq]), &device)
    };
    let totals: Vec<f64> = scores.iter().map(|s| s.total).collect();
    let groups: Vec<usize> = (0..rollouts.len()).map(|row| row / SAMPLES).collect();
    let advantages = luspo::algo::advantages::grpo(&totals, &groups, true);
    // The answers are the policy's own: old and new log-probs are the same and every ratio is 1.
    let log_probs = grid(&|row, t| rollouts[row].log_probs[t]);
    let mask: Tensor<2, Bool> = grid(&|_, _| 1.0).equal_elem(1.0);
    let batch = PolicyBatch::new(log_probs.clone(), log_probs, grid(&|row, _| advantages[row] as f32), mask);

    let objective = Objective::new(policy);
    let gradient = objective.gradients(batch, None, &BatchTotals::of_lengths(&lengths)).log_probs;
    let gradient: Vec<f32> = gradient.into_data().iter::<f32>().collect();
    // Divided by |A|, so that what is left is the objective's own weight and not how surprising the answer was.
    let weights: Vec<f64> =
        (0..rollouts.len())
            .map(|row| {
                if advantages[row] == 0.0 { 0.0 } else { f64::from(gradient[row * seq].abs()) / advantages[row].abs() }
            })
            .collect();
    let pushed = weights.iter().zip(&lengths).filter(|(w, _)| **w > 0.0);
    let (sum, tokens) = pushed.fold((0.0, 0), |(sum, tokens), (w, len)| (sum + w * *len as f64, tokens + len));
    weights.iter().map(|w| w * tokens as f64 / sum).collect()
}
