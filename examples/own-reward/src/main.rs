//! A reward of one's own in a run of luspo, as a Rust type: answers that show their work, sum by sum.
//!
//! ```sh
//! cargo run --release -p own-reward -- configs/arithmetic.toml reward.components.work.custom=true
//! ```
//!
//! Beside it lie the same kind of thing in other languages: `reward.py` and `reward.sh` say whether an answer is right.

use std::path::Path;
use std::sync::Arc;

use luspo::prelude::*;
use luspo::reward::{Answer, CustomRewards, Reward, Verdict};
use luspo::trainer::{Custom, train_with_custom};

/// The share of an answer's characters that come before its last `=`.
struct Work;

impl Reward for Work {
    fn score(&self, answer: &Answer<'_>) -> Result<Verdict, String> {
        let work = answer.text.rsplit_once('=').map_or(0, |(work, _)| work.chars().count());
        let score = work as f64 / answer.text.chars().count().max(1) as f64;
        Ok(Verdict { score, correct: false, extracted: None, style: None })
    }
}

fn main() -> Result<(), TrainError> {
    let mut words = std::env::args().skip(1);
    let file = words.next().expect("the first argument is a configuration");
    let config = Config::load(Path::new(&file), &words.collect::<Vec<_>>())?;
    let rewards = CustomRewards::from([("work".to_string(), Arc::new(Work) as Arc<dyn Reward>)]);
    let summary = train_with_custom(config, Custom { rewards, ..Custom::default() }, &mut ())?;
    println!("the policy is in {}", summary.policy.display());
    Ok(())
}
