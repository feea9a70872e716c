//! A whole step of reinforcement learning: sample, score, compare, update.

use std::sync::Arc;

use burn::module::Module;
use luspo::algo::advantages;
use luspo::core::{Purpose, RandomKey, Rollout, Score};
use luspo::prelude::{BatchTotals, Luspo, Objective};
use luspo::rollout::{Request, generate};
use luspo::trainer::config::OptimizerConfig;
use luspo::trainer::{AdamW, Sample, gradients};

use crate::measure::Figures;
use crate::workload::{ROWS, config, ids, micro, model, options, sampling};

const GROUP: usize = 4;
const PROMPT: usize = 33;
const RESPONSE: usize = 128;

pub fn measure(runs: usize) -> anyhow::Result<Figures> {
    let mut model = model(&config())?;
    let prompts: Vec<Vec<u32>> = (0..ROWS / GROUP).map(|row| ids(row, PROMPT)).collect();
    let requests: Vec<Request<'_>> = (0..)
        .zip(&prompts)
        .map(|(prompt_id, prompt_ids)| Request { prompt_id, prompt_ids, samples: GROUP as u32 })
        .collect();
    let groups: Vec<usize> = (0..ROWS).map(|row| row / GROUP).collect();
    let objective = Objective::new(Arc::new(Luspo::new()));
    let mut optimizer = AdamW::new(OptimizerConfig::default());
    let key = RandomKey::new(0, Purpose::Rollout);

    let mut step = 0;
    Figures::of(runs, ROWS * RESPONSE, || {
        step += 1;
        let rollouts = generate(&model.valid(), &requests, &sampling(RESPONSE), key.at(step), ROWS)?;
        let rewards: Vec<f64> = rollouts.iter().map(reward).collect();
        let advantages = advantages::grpo(&rewards, &groups, true);
        let samples: Vec<Sample> =
            rollouts.into_iter().zip(rewards).zip(advantages).map(|((r, s), a)| sample(r, s, a)).collect();
        let lengths: Vec<usize> = samples.iter().map(|sample| sample.rollout.response_len()).collect();
        let totals = BatchTotals::of_lengths(&lengths);
        // The entropy is measured at every step of a run.
        let update = gradients(&model, &objective, &[], &samples, &totals, &micro(), &options(&config(), true));
        optimizer.step(&mut model, update.gradients, 1e-6);
        Ok(())
    })
}

/// The share of even tokens: as cheap as a reward can be, and different for every answer.
fn reward(rollout: &Rollout) -> f64 {
    let even = rollout.response_ids.iter().filter(|id| id.is_multiple_of(2)).count();
    even as f64 / rollout.response_len() as f64
}

fn sample(rollout: Rollout, reward: f64, advantage: f64) -> Sample {
    let score = Score { total: reward, components: vec![], correct: false, extracted: None, style: None };
    let advantages = vec![advantage; rollout.response_len()];
    Sample { advantages, ..Sample::new(rollout, score) }
}
