//! Where the objectives are the same, and where they differ by exactly one factor.

mod updates;

use std::sync::Arc;

use luspo_algo::{KlTerm, LOSS_MODES, LossOptions, Objective, PolicyLoss};
use proptest::prelude::*;
use updates::{KL_KINDS, Update, beside, close, config, devices, loss, loss_with, update};

fn options(loss_agg_mode: &str) -> LossOptions {
    let loss_scale_factor = (loss_agg_mode == "seq-mean-token-sum-norm").then_some(8.0);
    LossOptions { loss_agg_mode: Some(loss_agg_mode.into()), loss_scale_factor, ..LossOptions::default() }
}

/// The same range for token and for sequence ratios, and no clamp.
fn clipped(low: f64, high: f64) -> LossOptions {
    LossOptions {
        clip_ratio_low: Some(low),
        clip_ratio_high: Some(high),
        log_ratio_clamp: Some(0.0),
        ..LossOptions::default()
    }
}

fn alone(policy: Arc<dyn PolicyLoss>) -> Objective {
    Objective::new(policy)
}

/// The update as it was sampled: the policy has not moved.
fn on_policy(mut update: Update) -> Update {
    update.tokens_mut().for_each(|token| token.old_log_prob = token.log_prob);
    update
}

const AGGREGATIONS: [&str; 5] =
    ["token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"];

proptest! {
    #![proptest_config(config())]

    /// L_LUSPO = 1/G Σᵢ |yᵢ| · (GSPO's term of row i), and so for each row's gradient.
    #[test]
    fn luspo_is_the_sum_of_gspo_terms_times_their_lengths(update in update(0.3)) {
        let (luspo, gspo) = (alone(loss_with("luspo", clipped(0.1, 0.2))), alone(loss_with("gspo", clipped(0.1, 0.2))));
        let lengths = update.lengths();
        for device in devices() {
            let (got, mut expected) = (update.run(&luspo, &device), update.run(&gspo, &device));
            for (row, gradient) in expected.gradient.iter_mut().enumerate() {
                gradient.iter_mut().for_each(|gradient| gradient[0] *= lengths[row] as f64);
            }
            got.assert_same_gradient(&expected, "luspo");
            // A row alone is an update of one sequence.
            let term = |row: usize| Update { rows: vec![update.rows[row].clone()] }.run(&gspo, &device).loss;
            let sum: f64 = (0..lengths.len()).map(|row| lengths[row] as f64 * term(row)).sum();
            let sequences = update.totals().sequences.max(1) as f64;
            prop_assert!(close(got.loss, sum / sequences, 1e-5), "{} is not {}", got.loss, sum / sequences);
        }
    }

    /// With r = 1 everywhere ∇(r A) = A ∇log π, whatever clips or weighs the ratio; SAPO's gate has slope 1 there for
    /// either temperature, VESPO's weight is 1, DRO's penalty and KL-Cov's are flat. Clip-Cov leaves tokens out.
    #[test]
    fn on_policy_all_gradients_are_those_of_reinforce(update in update(0.5)) {
        let mut update = on_policy(update).with_row_advantages();
        // A weight that varies within a row reaches its token's own log-prob or the mean of its row.
        update.tokens_mut().for_each(|token| token.weight = 1.0);
        for aggregation in AGGREGATIONS {
            let of = |mode: &str| alone(loss_with(mode, options(aggregation)));
            for device in devices() {
                let expected = update.run(&of("reinforce"), &device);
                for mode in [
                    "ppo", "grpo", "dr_grpo", "dapo", "bnpo", "gspo", "gspo_token", "cispo", "sapo", "gpg", "kl_cov",
                    "dppo_tv", "dppo_kl", "dro", "vespo",
                ] {
                    update.run(&of(mode), &device).assert_same_gradient(&expected, &format!("{mode}, {aggregation}"));
                }
                // These have one aggregation.
                for (mode, own) in [("luspo", "seq-mean-token-sum"), ("geo_mean", "seq-mean-token-mean")] {
                    if own == aggregation {
                        update.run(&alone(loss(mode)), &device).assert_same_gradient(&expected, mode);
                    }
                }
            }
        }
    }

    /// ∇(r A) = r A ∇log π: where nothing is clipped, it is the same to weigh the term or the gradient by r.
    #[test]
    fn inside_all_bounds_the_token_objectives_have_one_gradient(update in update(0.15)) {
        let of = |mode: &str, options: LossOptions| {
            alone(loss_with(mode, LossOptions { loss_agg_mode: Some("token-mean".into()), ..options }))
        };
        // A divergence of 0.2 takes less than that beside a probability of 0.99.
        let near = LossOptions { clip_ratio_low: Some(0.5), clip_ratio_high: Some(0.5), ..LossOptions::default() };
        let without_penalty = LossOptions { ppo_kl_coef: Some(0.0), ..LossOptions::default() };
        for device in devices() {
            let expected = update.run(&of("grpo", LossOptions::default()), &device);
            for mode in ["ppo", "dapo", "bnpo", "cispo"] {
                update.run(&of(mode, LossOptions::default()), &device).assert_same_gradient(&expected, mode);
            }
            for (mode, options) in [("dppo_tv", &near), ("dppo_kl", &near), ("kl_cov", &without_penalty)] {
                update.run(&of(mode, options.clone()), &device).assert_same_gradient(&expected, mode);
            }
        }
    }

    #[test]
    fn a_sequence_of_one_token_has_the_ratio_of_its_token(update in update(0.5)) {
        // Without holes there is nothing but the first token.
        let rows = update.rows.iter().map(|row| vec![row.iter().flatten().next().copied()]);
        let update = Update { rows: rows.collect() };
        let grpo = alone(loss_with("grpo", clipped(0.2, 0.3)));
        for device in devices() {
            let expected = update.run(&grpo, &device);
            for mode in ["gspo", "gspo_token", "luspo"] {
                update.run(&alone(loss_with(mode, clipped(0.2, 0.3))), &device).assert_is(&expected, mode);
            }
        }
    }

    #[test]
    fn for_answers_of_one_length_dapo_is_grpo(update in update(0.5), length in 1..4usize) {
        // Rows with fewer tokens become empty; the others keep as many.
        let cut = |row: &Vec<Option<_>>| {
            let tokens: Vec<_> = row.iter().flatten().copied().take(length).map(Some).collect();
            if tokens.len() == length { tokens } else { vec![None; length] }
        };
        let update = Update { rows: update.rows.iter().map(cut).collect() };
        for device in devices() {
            let grpo = update.run(&alone(loss_with("grpo", clipped(0.2, 0.28))), &device);
            update.run(&alone(loss_with("dapo", clipped(0.2, 0.28))), &device).assert_is(&grpo, "dapo");
            update.run(&alone(loss_with("bnpo", clipped(0.2, 0.28))), &device).assert_is(&grpo, "bnpo");
        }
    }

    #[test]
    fn gspo_with_a_sum_over_tokens_is_luspo(update in update(0.5), beside in beside()) {
        let gspo = LossOptions { loss_agg_mode: Some("seq-mean-token-sum".into()), ..clipped(0.1, 0.2) };
        for device in devices() {
            let luspo = update.run(&beside.objective(loss_with("luspo", clipped(0.1, 0.2))), &device);
            let gspo = update.run(&beside.objective(loss_with("gspo", gspo.clone())), &device);
            gspo.assert_is(&luspo, "gspo");
        }
    }

    /// The KL term adds its own gradient, each token with the weight of the aggregation, and leaves the policy's alone:
    /// under LUSPO 1/G for every token, never |y|/G or |y|²/(G T).
    #[test]
    fn a_kl_term_does_not_change_a_sequence_weight(update in update(0.5), kind in prop::sample::select(&KL_KINDS[..])) {
        let kind = kind.parse().unwrap();
        let (lengths, totals) = (update.lengths(), update.totals());
        for mode in LOSS_MODES {
            let policy = loss(mode);
            let weight = |row: usize| match policy.aggregation().name() {
                "token-mean" => 1.0 / totals.tokens as f64,
                "seq-mean-token-sum" => 1.0 / totals.sequences as f64,
                "seq-mean-token-mean" => 1.0 / (totals.sequences * lengths[row]) as f64,
                "seq-mean-token-sum-norm" => 1.0 / (totals.sequences as f64 * 8.0),
                other => panic!("{mode} aggregates by {other}"),
            };
            for device in devices() {
                let plain = alone(policy.clone());
                let kl = Objective { kl: Some(KlTerm::new(kind, 0.3)), ..plain.clone() };
                let (plain, with_kl) = (update.run(&plain, &device), update.run(&kl, &device));
                let mut expected = plain.clone();
                for (row, gradient) in expected.gradient.iter_mut().enumerate() {
                    for (gradient, token) in gradient.iter_mut().zip(update.rows[row].iter().flatten()) {
                        let d = f64::from(token.log_prob) - f64::from(token.ref_log_prob);
                        gradient[0] += 0.3 * weight(row) * slope(&kind.to_string(), d);
                    }
                }
                with_kl.assert_same_gradient(&expected, mode);
            }
        }
    }
}

/// ∂k/∂d of an estimator.
fn slope(kind: &str, d: f64) -> f64 {
    match kind {
        "k1" => 1.0,
        "k2" | "k1+" | "k3+" | "abs+" => d,
        "k3" | "k3_unbounded" => 1.0 - (-d).exp(),
        "abs" => d.signum(),
        other => panic!("{other} has no slope here"),
    }
}
