//! A policy loss of one's own in a run of luspo: the plain policy gradient, weighed by a ratio that is never above 2.
//!
//! ```sh
//! cargo run --release -p own-loss -- configs/arithmetic.toml algorithm.loss_mode=custom
//! ```

use std::path::Path;
use std::sync::Arc;

use luspo::algo::ratio;
use luspo::prelude::*;
use luspo::trainer::train_with;

struct Truncated;

impl PolicyLoss for Truncated {
    fn aggregation(&self) -> Aggregation {
        Aggregation::SeqMeanTokenSum
    }

    fn forward(&self, batch: &PolicyBatch, totals: &BatchTotals) -> PolicyLossOutput {
        let weight = ratio::token(batch).detach().exp().clamp_max(2.0); // [batch, seq]
        let terms = -(weight * batch.advantages.clone() * batch.log_probs.clone());
        PolicyLossOutput { loss: self.aggregation().apply(terms, &batch.mask, totals), metrics: Vec::new() }
    }
}

fn main() -> Result<(), TrainError> {
    let mut words = std::env::args().skip(1);
    let file = words.next().expect("the first argument is a configuration");
    let config = Config::load(Path::new(&file), &words.collect::<Vec<_>>())?;
    let summary = train_with(config, Arc::new(Truncated), &mut ())?;
    println!("the policy is in {}", summary.policy.display());
    Ok(())
}
