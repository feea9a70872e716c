//! What verl's values in `tests/golden_parts` do not show: other modes, holes, what is missing, and what is refused.

use luspo_core::{Collective, Local};

use super::*;
use crate::processes;

/// Options as a config has them.
fn importance(level: &str, threshold: &str, mode: Option<&str>) -> RolloutCorrectionOptions {
    RolloutCorrectionOptions {
        rollout_is: Some(level.into()),
        rollout_is_threshold: Some(threshold.into()),
        rollout_is_mode: mode.map(Into::into),
        ..RolloutCorrectionOptions::default()
    }
}

fn rejection(rules: &str, thresholds: &str) -> RolloutCorrectionOptions {
    RolloutCorrectionOptions {
        rollout_rs: Some(rules.into()),
        rollout_rs_threshold: Some(thresholds.into()),
        ..RolloutCorrectionOptions::default()
    }
}

/// The correction of rows whose ratios π_old/π_rollout are these.
fn correct(options: &RolloutCorrectionOptions, ratios: &[Vec<f64>], mask: &[Vec<bool>]) -> Correction {
    let old: Vec<Vec<f64>> = ratios.iter().map(|row| row.iter().map(|ratio| ratio.ln() - 40.0).collect()).collect();
    let rollout: Vec<Vec<f64>> = ratios.iter().map(|row| vec![-40.0; row.len()]).collect();
    RolloutCorrection::new(options).unwrap().apply(&old, &rollout, mask, &Local).unwrap()
}

fn whole(ratios: &[Vec<f64>]) -> Vec<Vec<bool>> {
    ratios.iter().map(|row| vec![true; row.len()]).collect()
}

fn metric(correction: &Correction, name: &str) -> f64 {
    let name = format!("rollout_corr/{name}");
    correction.metrics.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("no {name}")).1
}

#[track_caller]
fn assert_weights(correction: &Correction, expected: &[&[f64]]) {
    let weights = correction.weights.as_ref().expect("weights were asked for");
    // A logarithm and an exponential in f64, beside a log-prob of 40.
    let close =
        |got: &[f64], expected: &[f64]| got.iter().zip(expected).all(|(g, e)| (g - e).abs() <= 1e-13 * (1.0 + e));
    assert_eq!(weights.len(), expected.len());
    assert!(weights.iter().zip(expected).all(|(got, expected)| close(got, expected)), "{weights:?}");
}

#[test]
fn a_weight_out_of_bounds_is_truncated_or_masked() {
    let ratios = [vec![0.25, 1.0, 4.0], vec![2.0, 1.0]];
    let mask = whole(&ratios);
    for (level, threshold, mode, expected) in [
        // verl's two.
        ("token", "3.0", None, [&[0.25, 1.0, 3.0][..], &[2.0, 1.0]]),
        ("token", "0.5_3.0", None, [&[0.0, 1.0, 0.0], &[2.0, 1.0]]),
        // TRL's four, with both bounds and with one.
        ("token", "0.5_3.0", Some("truncate"), [&[0.5, 1.0, 3.0], &[2.0, 1.0]]),
        ("token", "3.0", Some("mask"), [&[0.25, 1.0, 0.0], &[2.0, 1.0]]),
        ("sequence", "1.5_3.0", Some("truncate"), [&[1.5, 1.5, 1.5], &[2.0, 2.0]]),
        ("sequence", "1.5", Some("mask"), [&[1.0, 1.0, 1.0], &[0.0, 0.0]]),
        ("sequence", "inf", None, [&[1.0, 1.0, 1.0], &[2.0, 2.0]]),
    ] {
        let correction = correct(&importance(level, threshold, mode), &ratios, &mask);
        assert_weights(&correction, &expected);
        assert_eq!(correction.mask, mask, "weights reject nothing");
    }
}

#[test]
fn without_a_threshold_weights_are_truncated_at_two() {
    let options = RolloutCorrectionOptions { rollout_is: Some("token".into()), ..RolloutCorrectionOptions::default() };
    let ratios = [vec![0.001, 5.0]];
    assert_weights(&correct(&options, &ratios, &whole(&ratios)), &[&[0.001, 2.0]]);
}

#[test]
fn holes_and_padding_count_nowhere() {
    let mask = [vec![true, false, true, false], vec![false]];
    let ratios = [vec![2.0, 7.0, 2.0, 1e9], vec![9.0]];
    let correction = correct(&importance("sequence", "10", None), &ratios, &mask);
    assert_weights(&correction, &[&[4.0, 0.0, 4.0, 0.0], &[0.0]]);
    assert!((metric(&correction, "kl") + 2f64.ln()).abs() < 1e-12);
    let correction = correct(&rejection("seq_sum_k2", "0.5"), &ratios, &mask);
    assert_eq!(correction.mask, mask, "(ln 2)² < 0.5");
    assert_eq!(metric(&correction, "rollout_rs_masked_fraction"), 0.0);
}

#[test]
fn every_rule_must_let_a_token_pass() {
    let ratios = [vec![1.0, 1.3, 1.0], vec![1.0, 0.7, 1.0], vec![1.1, 1.1, 1.1]];
    let mask = whole(&ratios);
    let kept = |rules, thresholds| correct(&rejection(rules, thresholds), &ratios, &mask).mask;
    // −ln of the ratio between −ln 1.25 and ln 1.25.
    let by_token = [vec![true, false, true], vec![true, false, true], vec![true; 3]];
    assert_eq!(kept("token_k1", "1.25"), by_token);
    // The sum of the third row is −3 ln 1.1, below −ln 1.32 but above −ln 1.34.
    assert_eq!(kept("seq_sum_k1", "1.32"), [vec![true; 3], vec![false; 3], vec![false; 3]]);
    assert_eq!(kept("seq_sum_k1", "1.34"), [vec![true; 3], vec![false; 3], vec![true; 3]]);
    let both = [vec![true, false, true], vec![false; 3], vec![false; 3]];
    assert_eq!(kept("token_k1, seq_sum_k1", "1.25,1.32"), both);
    assert_eq!(kept("seq_sum_k1,token_k1", "1.32,1.25"), both);
    let correction = correct(&rejection("token_k1,seq_sum_k1", "1.25,1.32"), &ratios, &mask);
    assert!((metric(&correction, "rollout_rs_masked_fraction") - 7.0 / 9.0).abs() < 1e-12);
    assert!((metric(&correction, "rollout_rs_token_k1_masked_fraction") - 2.0 / 9.0).abs() < 1e-12);
    assert_eq!(metric(&correction, "rollout_rs_seq_masked_fraction"), 1.0);
}

#[test]
fn a_log_prob_that_the_sampler_did_not_report_is_not_corrected() {
    let mask = [vec![true, true]];
    let correction = RolloutCorrection::new(&importance("token", "5", None)).unwrap();
    let got = correction.apply(&[vec![-1.0, -2.0]], &[vec![f64::NAN, -2.5]], &mask, &Local).unwrap();
    assert_weights(&got, &[&[1.0, 0.5f64.exp()]]);
    assert!(got.metrics.iter().all(|(_, value)| value.is_finite()), "{:?}", got.metrics);
}

#[test]
fn extreme_ratios_stay_finite() {
    let (old, rollout) = (vec![vec![-1e4, -0.1], vec![-0.1]], vec![vec![-0.1, -900.0], vec![-500.0]]);
    for level in ["token", "sequence"] {
        let correction = RolloutCorrection::new(&importance(level, "inf", None)).unwrap();
        let weights = correction.apply(&old, &rollout, &whole(&old), &Local).unwrap().weights.unwrap();
        assert!(weights.iter().flatten().all(|weight| weight.is_finite() && *weight > 0.0), "{weights:?}");
    }
}

#[test]
fn normalised_weights_have_mean_one_over_all_processes() {
    let ratios = [vec![0.5, 0.5, 0.5], vec![2.0], vec![1.5, 3.0]];
    let mask = whole(&ratios);
    for (level, counts) in [("token", [3.0, 1.0, 2.0]), ("sequence", [1.0, 1.0, 1.0])] {
        let options = RolloutCorrectionOptions { rollout_is_batch_normalize: true, ..importance(level, "100", None) };
        let one = correct(&options, &ratios, &mask);
        let weights = one.weights.clone().unwrap();
        let mean_of_row = |row: &Vec<f64>| row.iter().sum::<f64>() / row.len() as f64;
        let sum: f64 = weights.iter().zip(counts).map(|(row, count)| mean_of_row(row) * count).sum();
        assert!((sum / counts.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{level}: {weights:?}");

        let shares = processes::run(2, |rank: usize, collective: &dyn Collective| {
            let rows = [0..1, 1..3][rank].clone();
            let old: Vec<Vec<f64>> =
                ratios[rows.clone()].iter().map(|row| row.iter().map(|r| r.ln()).collect()).collect();
            let rollout: Vec<Vec<f64>> = old.iter().map(|row| vec![0.0; row.len()]).collect();
            let correction = RolloutCorrection::new(&options).unwrap();
            correction.apply(&old, &rollout, &mask[rows], collective).unwrap().weights.unwrap()
        });
        for (one, share) in weights.concat().iter().zip(shares.concat().concat()) {
            assert!((one - share).abs() < 1e-12);
        }
    }
}

#[test]
fn weights_that_are_all_masked_stay_zero() {
    let options = RolloutCorrectionOptions { rollout_is_batch_normalize: true, ..importance("token", "2_3", None) };
    let ratios = [vec![1.0, 1.0]];
    let correction = correct(&options, &ratios, &whole(&ratios));
    assert_weights(&correction, &[&[0.0, 0.0]]);
    assert_eq!(metric(&correction, "rollout_is_batch_norm_factor"), 1.0);
    assert_eq!(metric(&correction, "rollout_is_eff_sample_size"), 0.0);
}

#[test]
fn a_batch_without_tokens_has_nothing_to_measure() {
    let options = RolloutCorrectionOptions {
        rollout_is_batch_normalize: true,
        rollout_rs: Some("seq_max_k2,token_k1".into()),
        rollout_rs_threshold: Some("1.5".into()),
        ..importance("sequence", "0.5_2", None)
    };
    for (ratios, mask) in [(vec![vec![1.0, 2.0], vec![]], vec![vec![false; 2], vec![]]), (vec![], vec![])] {
        let correction = correct(&options, &ratios, &mask);
        let weights = mask.iter().map(|row| vec![0.0; row.len()]).collect();
        assert_eq!(correction, Correction { weights: Some(weights), mask, metrics: Vec::new() });
    }
}

#[test]
fn settings_that_cannot_be_read_or_do_nothing_are_refused_by_key() {
    let refused = |options: RolloutCorrectionOptions, expected: &str| {
        let error = RolloutCorrection::new(&options).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused(importance("tokens", "2", None), "rollout_is `tokens` is unknown; known are: token, sequence");
    refused(importance("token", "2", Some("clip")), "rollout_is_mode `clip` is unknown");
    for threshold in ["", "0", "-1", "two", "3_2", "0_2", "1_2_3", "NaN", "_"] {
        refused(importance("token", threshold, None), &format!("rollout_is_threshold = `{threshold}`"));
    }
    refused(rejection("seq_max_k1", "2"), "rollout_rs `seq_max_k1` is unknown");
    refused(rejection(" , ", "2"), "rollout_rs = ` , `");
    refused(rejection("token_k1", "0.5"), "rollout_rs_threshold = `0.5`, but it must be at least 1");
    refused(rejection("token_k2", "0.5_2"), "a single bound for a k2 or k3 rule");
    refused(rejection("token_k1,token_k2,token_k3", "1,2"), "one for each rule");
    refused(rejection("token_k2", ""), "rollout_rs_threshold = ``");

    let nothing = RolloutCorrectionOptions::default;
    refused(
        RolloutCorrectionOptions { rollout_is_threshold: Some("2".into()), ..nothing() },
        "rollout_is_threshold is set, but not rollout_is",
    );
    refused(RolloutCorrectionOptions { rollout_is_mode: Some("mask".into()), ..nothing() }, "rollout_is_mode is set");
    refused(
        RolloutCorrectionOptions { rollout_is_batch_normalize: true, ..nothing() },
        "rollout_is_batch_normalize is set",
    );
    refused(
        RolloutCorrectionOptions { rollout_rs: Some("token_k1".into()), ..nothing() },
        "rollout_rs is set, but not rollout_rs_threshold",
    );
    refused(
        RolloutCorrectionOptions { rollout_rs_threshold: Some("2".into()), ..nothing() },
        "rollout_rs_threshold is set, but not rollout_rs",
    );
}

#[test]
fn log_probs_of_another_shape_or_not_finite_are_refused_by_name_and_row() {
    let correction = RolloutCorrection::new(&RolloutCorrectionOptions::default()).unwrap();
    let (row, mask) = (vec![vec![-1.0, -1.0]], [vec![true, true]]);
    let refused = |old: &[Vec<f64>], rollout: &[Vec<f64>], expected: &str| {
        let error = correction.apply(old, rollout, &mask, &Local).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused(&row, &[vec![-1.0]], "rollout_log_probs, row 0: 1 tokens, but the mask has 2");
    refused(&[], &row, "old_log_probs has 0 rows");
    refused(&[vec![-1.0, f64::NAN]], &row, "old_log_probs, row 0: NaN");
    refused(&row, &[vec![f64::NEG_INFINITY, -1.0]], "rollout_log_probs, row 0: -inf");
}
