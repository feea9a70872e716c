//! Where an objective's gradient goes: to which lengths of answers, and to right or to wrong ones.
//!
//! The weight of an answer is Σ_t |∂loss/∂log π(y_t)|, for any objective. How it is shared out among short and long
//! answers is the length bias that LUSPO's paper argues about (arXiv 2602.05261, section 4).

use burn::tensor::Tensor;

/// Σ_t |∂loss/∂log π(y_t)| of each row of a gradient `[batch, seq]`. Waits for the device.
pub fn row_weights(gradient: Tensor<2>) -> Vec<f64> {
    gradient.abs().sum_dim(1).into_data().iter::<f64>().collect()
}

/// Collects the answers of a step with their gradient weights, and says where the weight lies.
#[derive(Clone, Debug, Default)]
pub struct GradientWeights {
    answers: Vec<Answer>,
}

#[derive(Clone, Copy, Debug)]
struct Answer {
    length: usize,
    correct: bool,
    weight: f64,
}

const QUARTILES: [&str; 4] = ["length_q1", "length_q2", "length_q3", "length_q4"];

impl GradientWeights {
    /// Adds rows with these numbers of response tokens, whether their answers are right, and their
    /// [weights](row_weights). Rows without any token are left out.
    ///
    /// # Panics
    /// If the three differ in length.
    pub fn add(&mut self, lengths: &[usize], correct: &[bool], weights: &[f64]) {
        assert_eq!((lengths.len(), lengths.len()), (correct.len(), weights.len()), "one entry a row in each");
        let rows = lengths.iter().zip(correct).zip(weights);
        let answers = rows.map(|((&length, &correct), &weight)| Answer { length, correct, weight });
        self.answers.extend(answers.filter(|answer| answer.length > 0));
    }

    /// Shares of the whole weight, in [0, 1]:
    ///
    /// - `length_q1` … `length_q4`: on the shortest quarter of the answers, …, on the longest;
    /// - `correct`, `wrong`: on right and on wrong answers;
    ///
    /// and `long_to_short_per_token`: the weight per token in the longest quarter, divided by that in the shortest. It
    /// is the length bias as a number: 1 for none, and where answers of all lengths are equally good about
    /// |y|_short / |y|_long under GRPO. It is left out where the shortest quarter has no weight.
    ///
    /// A quarter's edge may go through an answer, or through several of one length; each of these counts in part on
    /// either side, so that the order of the answers has no say. Nothing if there is no weight, or if it is not finite.
    pub fn shares(&self) -> Vec<(&'static str, f64)> {
        let total: f64 = self.answers.iter().map(|answer| answer.weight).sum();
        if !(total.is_finite() && total > 0.0) {
            return Vec::new();
        }
        let quartiles = self.quartiles();
        let of = |correct: bool| {
            let chosen = self.answers.iter().filter(|answer| answer.correct == correct);
            chosen.map(|answer| answer.weight).sum::<f64>() / total
        };
        let mut shares: Vec<_> = QUARTILES.into_iter().zip(quartiles.map(|part| part.weight / total)).collect();
        shares.extend([("correct", of(true)), ("wrong", of(false))]);
        let [short, _, _, long] = quartiles.map(|part| part.weight / part.tokens);
        if short > 0.0 {
            shares.push(("long_to_short_per_token", long / short));
        }
        shares
    }

    /// Weight and tokens in each quarter of the answers by length, of which there is at least one.
    fn quartiles(&self) -> [Part; 4] {
        let mut by_length = self.answers.clone();
        by_length.sort_by_key(|answer| answer.length);
        let quarter = by_length.len() as f64 / 4.0;

        let mut parts = [Part::default(); 4];
        let mut begin = 0.0;
        for equal in by_length.chunk_by(|a, b| a.length == b.length) {
            // These lie side by side in [begin, end), in no order.
            let count = equal.len() as f64;
            let (end, weight) = (begin + count, equal.iter().map(|answer| answer.weight).sum::<f64>());
            for (k, part) in parts.iter_mut().enumerate() {
                let (first, last) = (k as f64 * quarter, (k + 1) as f64 * quarter);
                let inside = (end.min(last) - begin.max(first)).max(0.0);
                part.weight += weight * inside / count;
                part.tokens += equal[0].length as f64 * inside;
            }
            begin = end;
        }
        parts
    }
}

#[derive(Clone, Copy, Default)]
struct Part {
    weight: f64,
    tokens: f64,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::host::{HostBatch, assert_close, devices};
    use crate::loss::{Grpo, Gspo, Luspo};
    use crate::objective::Objective;
    use crate::policy_loss::PolicyLoss;

    fn share(weights: &GradientWeights, name: &str) -> Option<f64> {
        weights.shares().iter().find(|(known, _)| *known == name).map(|(_, share)| *share)
    }

    #[test]
    fn the_length_bias_of_each_objective_is_a_number() {
        // On policy, four answers of 2 tokens and four of 8, half of each right, advantages ±1.
        let mut host = HostBatch::random(8, 8);
        let lengths = [2, 8, 2, 8, 2, 8, 2, 8];
        let correct = [true, true, false, false, true, true, false, false];
        host.mask = lengths.iter().map(|&length| (0..8).map(|t| t < length).collect()).collect();
        host.old_log_probs = vec![vec![-1.0; 8]; 8];
        host.log_probs = host.old_log_probs.clone();
        host.advantages = correct.iter().map(|&right| vec![if right { 1.0 } else { -1.0 }; 8]).collect();
        host.poison_padding();
        let losses: [(Arc<dyn PolicyLoss>, f64); 3] = [
            (Arc::new(Grpo::new()), 0.25), //  |y| of short over |y| of long
            (Arc::new(Gspo::new()), 0.25),
            (Arc::new(Luspo::new()), 1.0), // none
        ];
        for device in devices() {
            for (loss, bias) in &losses {
                let gradient = Objective::new(loss.clone()).gradients(host.batch(&device), None, &host.totals());
                let mut weights = GradientWeights::default();
                weights.add(&lengths, &correct, &row_weights(gradient.log_probs));
                // Sums of a few f32 numbers.
                assert_close(&[share(&weights, "long_to_short_per_token").unwrap()], &[*bias], 1e-5, 0.0);
                let long = 4.0 * bias / (1.0 + 4.0 * bias);
                let expected = [(1.0 - long) / 2.0, (1.0 - long) / 2.0, long / 2.0, long / 2.0, 0.5, 0.5];
                let got: Vec<f64> = weights.shares().into_iter().take(6).map(|(_, share)| share).collect();
                assert_close(&got, &expected, 1e-5, 0.0);
            }
        }
    }

    #[test]
    fn shares_do_not_depend_on_the_order_of_answers_nor_on_the_parts_they_come_in() {
        // Ten answers: no quarter has a whole number of them, and lengths repeat.
        let lengths = [5, 3, 3, 3, 9, 5, 5, 1, 9, 0, 3];
        let correct = [true, false, true, true, false, false, true, false, true, true, false];
        let weights = [0.5, 2.0, 0.25, 1.0, 4.0, 0.125, 8.0, 1.5, 0.75, 100.0, 3.0];
        let mut together = GradientWeights::default();
        together.add(&lengths, &correct, &weights);
        let mut reversed = GradientWeights::default();
        for row in (0..lengths.len()).rev() {
            reversed.add(&lengths[row..=row], &correct[row..=row], &weights[row..=row]);
        }
        let (one, other) = (together.shares(), reversed.shares());
        assert_eq!(one.len(), 7);
        for ((name, one), (known, other)) in one.iter().zip(&other) {
            assert_eq!(name, known);
            // The same numbers in f64, summed in another order.
            assert_close(&[*one], &[*other], 1e-12, 0.0);
        }
        let shares: Vec<f64> = one.iter().map(|(_, share)| *share).collect();
        assert_close(&[shares[..4].iter().sum(), shares[4] + shares[5]], &[1.0, 1.0], 1e-12, 0.0);
        // Shortest quarter, 2.5 answers: the one of length 1, and 1.5 of the four of length 3. The row without a token
        // is no answer.
        assert_close(&shares[..1], &[(1.5 + 6.25 * 1.5 / 4.0) / 21.125], 1e-12, 0.0);
    }

    #[test]
    fn answers_of_one_length_have_equal_quarters_and_no_bias() {
        let mut weights = GradientWeights::default();
        weights.add(&[4, 4, 4], &[true, true, true], &[1.0, 2.0, 6.0]);
        let shares: Vec<f64> = weights.shares().into_iter().map(|(_, share)| share).collect();
        assert_close(&shares, &[0.25, 0.25, 0.25, 0.25, 1.0, 0.0, 1.0], 1e-12, 0.0);
    }

    #[test]
    fn without_weight_there_are_no_shares() {
        let mut weights = GradientWeights::default();
        assert!(weights.shares().is_empty());
        weights.add(&[3, 4], &[true, false], &[0.0, 0.0]);
        assert!(weights.shares().is_empty());
        weights.add(&[3], &[true], &[f64::NAN]);
        assert!(weights.shares().is_empty());
    }

    #[test]
    fn a_shortest_quarter_without_weight_has_no_ratio() {
        let mut weights = GradientWeights::default();
        weights.add(&[1, 2, 3, 4], &[true; 4], &[0.0, 1.0, 1.0, 2.0]);
        assert_eq!(share(&weights, "length_q4"), Some(0.5));
        assert_eq!(share(&weights, "long_to_short_per_token"), None);
    }
}
