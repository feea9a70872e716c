//! A KL penalty in the reward instead of the loss.

use luspo_core::Collective;

use crate::error::AlgoError;
use crate::kl::KlKind;
use crate::masked;

/// Takes `coef` times the penalty of each response token from its reward, and returns the batch's divergence.
///
/// ```text
/// rᵢₜ ← rᵢₜ − β · kl(log π(yᵢₜ) − log π_ref(yᵢₜ))
/// ```
///
/// The divergence is the mean over rows (with a response token, of all processes) of the mean over their tokens, in nats:
/// what a [`KlController`](crate::KlController) is updated with, and verl's `actor/reward_kl_penalty`.
///
/// # Errors
/// If the shapes differ. The rewards are as before then.
pub fn kl_in_reward(
    rewards: &mut [Vec<f64>],
    log_probs: &[Vec<f64>],
    ref_log_probs: &[Vec<f64>],
    mask: &[Vec<bool>],
    kind: KlKind,
    coef: f64,
    collective: &dyn Collective,
) -> Result<f64, AlgoError> {
    masked::check_shape("rewards", rewards, mask)?;
    masked::check_shape("log_probs", log_probs, mask)?;
    masked::check_shape("ref_log_probs", ref_log_probs, mask)?;
    let penalty = masked::fill(mask, |row, t| kind.value(log_probs[row][t] - ref_log_probs[row][t]));
    for (rewards, penalty) in rewards.iter_mut().zip(&penalty) {
        rewards.iter_mut().zip(penalty).for_each(|(reward, penalty)| *reward -= coef * penalty);
    }
    let of_sequences = masked::sequence_means(&penalty, mask);
    Ok(masked::mean_and_variance(of_sequences.into_iter(), collective).0)
}

#[cfg(test)]
mod tests {
    use luspo_core::Local;

    use super::*;

    #[test]
    fn the_penalty_is_taken_from_response_tokens_and_averaged_over_rows() {
        let mask = [vec![true, false, true], vec![true], vec![false]];
        let mut rewards = [vec![0.0, 7.0, 1.0], vec![1.0], vec![5.0]];
        let log_probs = [vec![-1.0, f64::NAN, -2.0], vec![-0.5], vec![f64::NAN]];
        let reference = [vec![-1.5, 0.0, -1.0], vec![-0.25], vec![0.0]];
        let kl = kl_in_reward(&mut rewards, &log_probs, &reference, &mask, KlKind::K1, 0.5, &Local).unwrap();
        assert_eq!(rewards, [vec![-0.25, 7.0, 1.5], vec![1.125], vec![5.0]]);
        // Rows of mean (0.5 − 1)/2 and −0.25; the empty one counts nowhere.
        assert_eq!(kl, -0.25);
    }

    #[test]
    fn other_shapes_are_refused_and_change_nothing() {
        let mask = [vec![true]];
        let mut rewards = [vec![1.0]];
        let longer = [vec![-1.0, -1.0]];
        let error = kl_in_reward(&mut rewards, &[vec![-1.0]], &longer, &mask, KlKind::K3, 1.0, &Local).unwrap_err();
        assert_eq!(error, AlgoError::RowLength { input: "ref_log_probs", row: 0, length: 2, expected: 1 });
        assert_eq!(rewards, [[1.0]]);
    }
}
