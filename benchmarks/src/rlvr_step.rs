//! A whole step of reinforcement learning: sample, score, compare, update.

use std::sync::Arc;

use burn::module::Module;
use luspo::algo::advantages;
use luspo::core::{Purpose, RandomKey, Rollout, Score};
use luspo::model::Qwen2ForCausalLM;
use luspo::prelude::{BatchTotals, Luspo, Objective};
use luspo::rollout::{Request, generate};
use luspo::trainer::config::OptimizerConfig;
use luspo::trainer::{AdamW, Sample, gradients};

use crate::Args;
use crate::measure::Figures;
use crate::work::Work;
use crate::workload::{ids, micro, sampling};

const GROUP: usize = 4;
const PROMPT: usize = 33;

pub fn measure(work: &Work, model: &mut Qwen2ForCausalLM, args: &Args) -> anyhow::Result<Figures> {
    let Work { rows, tokens, .. } = *work;
    let prompts: Vec<Vec<u32>> = (0..rows.div_ceil(GROUP)).map(|row| ids(row, PROMPT)).collect();
    let requests: Vec<Request<'_>> = (0..)
        .zip(&prompts)
        .map(|(prompt_id, prompt_ids)| Request { prompt_id, prompt_ids, samples: GROUP as u32 })
        .collect();
    let groups: Vec<usize> = (0..requests.len() * GROUP).map(|row| row / GROUP).collect();
    let objective = Objective::new(Arc::new(Luspo::new()));
    let mut optimizer = AdamW::new(OptimizerConfig { offload: args.offload, ..OptimizerConfig::default() });
    let key = RandomKey::new(0, Purpose::Rollout);

    let (device, sampling) = (model.device(), sampling(args, tokens));
    // The entropy is measured at every step of a run.
    let options = args.shape.options(true);

    let mut step = 0;
    Figures::of(args, groups.len() * tokens, || {
        step += 1;
        let rollouts = generate(&model.valid(), &requests, &sampling, key.at(step), groups.len())?;
        let rewards: Vec<f64> = rollouts.iter().map(reward).collect();
        let advantages = advantages::grpo(&rewards, &groups, true);
        let samples: Vec<Sample> =
            rollouts.into_iter().zip(rewards).zip(advantages).map(|((r, s), a)| sample(r, s, a)).collect();
        let lengths: Vec<usize> = samples.iter().map(|sample| sample.rollout.response_len()).collect();
        let totals = BatchTotals::of_lengths(&lengths);
        let update = gradients(model, &objective, &[], &samples, &totals, &micro(groups.len()), &options);
        optimizer.step(model, update.gradients, 1e-6);
        device.sync()?;
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
