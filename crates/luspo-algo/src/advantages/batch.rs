//! What an estimator sees, and what it gives back.

use luspo_core::{Collective, Local};

use crate::error::{AlgoError, in_range};
use crate::masked;

/// The rows of a step on the host. Rows are ragged: position t of row i is response token t of answer i, and a mask may
/// have holes (tokens that a tool wrote, say).
///
/// ```
/// use luspo_algo::advantages::{AdvantageBatch, AdvantageEstimator, AdvantageOptions};
///
/// let mask = [vec![true, true], vec![true, true, true]];
/// let rewards = [vec![0.0, 1.0], vec![0.0, 0.0, 0.0]];
/// let values = [vec![0.5, 0.7], vec![0.5, 0.3, 0.1]];
/// let batch = AdvantageBatch { values: Some(&values), ..AdvantageBatch::new(&[0, 0], &rewards, &mask) };
///
/// let gae = AdvantageEstimator::from_name("gae", &AdvantageOptions { lam: 0.95, ..Default::default() })?;
/// let estimated = gae.estimate(&batch)?;
/// assert!(estimated.advantages[0][0] > 0.0 && estimated.advantages[1][0] < 0.0);
/// # Ok::<(), luspo_algo::AlgoError>(())
/// ```
#[derive(Clone, Copy)]
pub struct AdvantageBatch<'a> {
    /// The group of each row: answers to the same prompt. A group lies within one process.
    pub groups: &'a [usize],
    /// Reward of each token. The score of a row is the sum of its rewards, inside the mask or not.
    pub rewards: &'a [Vec<f64>],
    /// Which positions are response tokens.
    pub mask: &'a [Vec<bool>],
    /// The critic's value of the state that each token was chosen in.
    pub values: Option<&'a [Vec<f64>]>,
    /// Score of the greedy answer to each row's prompt (ReMax).
    pub baselines: Option<&'a [f64]>,
    /// Log-prob of each token under the policy that the step began with (optimal token baseline).
    pub log_probs: Option<&'a [Vec<f64>]>,
    /// Σⱼ pⱼ² over the vocabulary at each position, under the same policy (optimal token baseline).
    pub sum_pi_squared: Option<&'a [Vec<f64>]>,
    /// Weights of a [rollout correction](crate::RolloutCorrection), which the optimal token baseline takes into account.
    pub rollout_weights: Option<&'a [Vec<f64>]>,
    /// Rewards to be normalised apart (GDPO): the score of each row, and the weight of this reward.
    pub components: &'a [(Vec<f64>, f64)],
    /// The processes that share the batch: what is whitened or scaled over the batch, is so over all of them.
    pub collective: &'a dyn Collective,
}

/// What an estimator says of each token; 0 outside the mask.
#[derive(Clone, Debug, PartialEq)]
pub struct Advantages {
    /// How much better than expected.
    pub advantages: Vec<Vec<f64>>,
    /// What a critic should have said; the advantages themselves where the estimator knows no returns.
    pub returns: Vec<Vec<f64>>,
}

impl<'a> AdvantageBatch<'a> {
    /// A batch of one process, without the optional parts.
    pub fn new(groups: &'a [usize], rewards: &'a [Vec<f64>], mask: &'a [Vec<bool>]) -> Self {
        Self {
            groups,
            rewards,
            mask,
            values: None,
            baselines: None,
            log_probs: None,
            sum_pi_squared: None,
            rollout_weights: None,
            components: &[],
            collective: &Local,
        }
    }

    /// The score of each row.
    pub(super) fn scores(&self) -> Vec<f64> {
        self.rewards.iter().map(|row| row.iter().sum()).collect()
    }

    /// The sum of a row's rewards from each response token on; 0 outside the mask, where no reward counts.
    pub(super) fn returns(&self, gamma: f64) -> Vec<Vec<f64>> {
        let of_row = |(rewards, mask): (&Vec<f64>, &Vec<bool>)| {
            let mut returns = vec![0.0; mask.len()];
            let mut ahead = 0.0;
            for t in (0..mask.len()).rev().filter(|&t| mask[t]) {
                ahead = rewards[t] + gamma * ahead;
                returns[t] = ahead;
            }
            returns
        };
        self.rewards.iter().zip(self.mask).map(of_row).collect()
    }

    /// One advantage a row, the same for all its tokens.
    pub(super) fn of_rows(&self, advantages: &[f64]) -> Advantages {
        Advantages::without_returns(masked::fill(self.mask, |row, _| advantages[row]))
    }

    /// Refuses what cannot be computed with: other numbers of rows or tokens than the mask has, NaN and infinities.
    pub(super) fn check(&self) -> Result<(), AlgoError> {
        masked::check_rows("groups", self.groups.len(), self.mask)?;
        masked::check_shape("rewards", self.rewards, self.mask)?;
        // A row's score is the sum of all its rewards, those outside the mask too.
        finite("rewards", &self.scores())?;
        let tables = [
            ("values", self.values),
            ("log_probs", self.log_probs),
            ("sum_pi_squared", self.sum_pi_squared),
            ("rollout_weights", self.rollout_weights),
        ];
        for (input, table) in tables.into_iter().filter_map(|(input, table)| Some((input, table?))) {
            masked::check_shape(input, table, self.mask)?;
            masked::check_finite(input, table, self.mask)?;
        }
        let baselines = self.baselines.map(|baselines| ("baselines", baselines));
        let components = self.components.iter().map(|(scores, _)| ("components", &scores[..]));
        for (input, scores) in baselines.into_iter().chain(components) {
            masked::check_rows(input, scores.len(), self.mask)?;
            finite(input, scores)?;
        }
        let mut weights = self.components.iter().map(|(_, weight)| *weight);
        weights.try_for_each(|weight| in_range("weight of a component", weight, true, "finite"))
    }
}

impl Advantages {
    pub(super) fn without_returns(advantages: Vec<Vec<f64>>) -> Self {
        Self { returns: advantages.clone(), advantages }
    }
}

fn finite(input: &'static str, rows: &[f64]) -> Result<(), AlgoError> {
    match rows.iter().enumerate().find(|(_, value)| !value.is_finite()) {
        None => Ok(()),
        Some((row, &value)) => Err(AlgoError::NotFinite { input, row, value }),
    }
}
