//! The names of the objectives in a config.

use std::sync::Arc;

use super::settings::{Configured, configure};
use super::{
    Cispo, ClipCov, Divergence, Dppo, Dro, GeoMean, Gpg, Grpo, Gspo, KlCov, LossOptions, Luspo, Ppo, Reinforce, Sapo,
    Vespo,
};
use crate::aggregate::Aggregation;
use crate::error::AlgoError;
use crate::policy_loss::PolicyLoss;

type Build = fn(&str, &LossOptions) -> Result<Configured, AlgoError>;

/// The one place that maps names to objectives and their defaults.
const LOSSES: [(&str, Build); 21] = [
    ("vanilla", |mode, options| configure(Ppo::new(), mode, options)),
    ("ppo", |mode, options| configure(Ppo::new(), mode, options)),
    ("grpo", |mode, options| configure(Grpo::new(), mode, options)),
    ("dr_grpo", |mode, options| configure(Grpo::new(), mode, &options.or_loss_agg_mode("seq-mean-token-sum-norm"))),
    ("dapo", |mode, options| {
        configure(Grpo::new().with_loss_agg_mode(Aggregation::TokenMean).with_clip_ratio_high(0.28), mode, options)
    }),
    ("bnpo", |mode, options| configure(Grpo::new().with_loss_agg_mode(Aggregation::TokenMean), mode, options)),
    ("gspo", |mode, options| configure(Gspo::new(), mode, options)),
    ("gspo_token", |mode, options| configure(Gspo::new().with_token_gradient(true), mode, options)),
    ("luspo", |mode, options| configure(Luspo::new(), mode, options)),
    ("cispo", |mode, options| configure(Cispo::new(), mode, options)),
    ("sapo", |mode, options| configure(Sapo::new(), mode, options)),
    ("geo_mean", |mode, options| configure(GeoMean::new(), mode, options)),
    ("gmpo", |mode, options| configure(GeoMean::new(), mode, options)),
    ("gpg", |mode, options| configure(Gpg::new(), mode, options)),
    ("clip_cov", |mode, options| configure(ClipCov::new(), mode, options)),
    ("kl_cov", |mode, options| configure(KlCov::new(), mode, options)),
    ("dppo_tv", |mode, options| configure(Dppo::new(Divergence::TotalVariation), mode, options)),
    ("dppo_kl", |mode, options| configure(Dppo::new(Divergence::KullbackLeibler), mode, options)),
    ("dro", |mode, options| configure(Dro::new(options.required("dro_beta", mode)?), mode, options)),
    ("vespo", |mode, options| configure(Vespo::new(), mode, options)),
    ("reinforce", |mode, options| configure(Reinforce::new(), mode, options)),
];

/// Every `loss_mode`: verl's names, TRL's where verl has none, and `ppo`, `gmpo` as other names of `vanilla`, `geo_mean`.
pub const LOSS_MODES: [&str; LOSSES.len()] = {
    let mut names = [""; LOSSES.len()];
    let mut i = 0;
    while i < names.len() {
        names[i] = LOSSES[i].0;
        i += 1;
    }
    names
};

/// The objective of a `loss_mode`, one of [`LOSS_MODES`].
///
/// `dr_grpo`, `dapo` and `bnpo` are [`Grpo`] with their aggregation and clip range as defaults, `gspo_token` is [`Gspo`]
/// with `token_gradient`.
///
/// # Errors
/// If the name or the aggregation is unknown, an option is out of its range, is not read by the objective, or is missing
/// without a default, or if an objective is asked for another aggregation than the one that defines it.
pub fn policy_loss(loss_mode: &str, options: &LossOptions) -> Result<Arc<dyn PolicyLoss>, AlgoError> {
    Ok(configured(loss_mode, options)?.loss)
}

/// The objective of a `loss_mode`, and the options with its defaults filled in.
pub(super) fn configured(loss_mode: &str, options: &LossOptions) -> Result<Configured, AlgoError> {
    let found = LOSSES.iter().find(|(name, _)| *name == loss_mode);
    let unknown = || AlgoError::UnknownLossMode { name: loss_mode.into(), known: LOSS_MODES.join(", ") };
    found.ok_or_else(unknown)?.1(loss_mode, options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{BatchTotals, PolicyBatch};
    use crate::host::{HostBatch, assert_close, devices, scalar, tensor, values};
    use crate::objective::Objective;

    fn refusal(loss_mode: &str, options: &LossOptions) -> String {
        policy_loss(loss_mode, options).err().expect("this cannot be built").to_string()
    }

    /// The options that a `loss_mode` cannot do without.
    fn required(loss_mode: &str) -> LossOptions {
        LossOptions {
            dro_beta: (loss_mode == "dro").then_some(0.3),
            loss_scale_factor: (loss_mode == "dr_grpo").then_some(9.0),
            ..LossOptions::default()
        }
    }

    fn with(mut options: LossOptions, key: &str, value: f64) -> LossOptions {
        let (_, option) = options.numbers_mut().into_iter().find(|(known, _)| *known == key).unwrap();
        *option = Some(value);
        options
    }

    /// Every option with a value that is nobody's default.
    const NUMBERS: [(&str, f64); 18] = [
        ("clip_ratio_low", 0.05),
        ("clip_ratio_high", 0.06),
        ("clip_ratio_c", 1.1),
        ("log_ratio_clamp", 0.02),
        ("delta", 1.0001),
        ("tau_pos", 2.0),
        ("tau_neg", 3.0),
        ("cispo_max_ratio", 1.1),
        ("clip_cov_ratio", 0.5),
        ("clip_cov_lb", -1.0),
        ("clip_cov_ub", 1.2),
        ("kl_cov_ratio", 0.5),
        ("ppo_kl_coef", 0.7),
        ("dro_beta", 0.6),
        ("vespo_k_pos", 1.5),
        ("vespo_lambda_pos", 2.5),
        ("vespo_k_neg", 2.5),
        ("vespo_lambda_neg", 1.5),
    ];

    #[test]
    fn every_name_has_its_default_aggregation() {
        let defaults = [
            ("vanilla", "token-mean"),
            ("ppo", "token-mean"),
            ("grpo", "seq-mean-token-mean"),
            ("dr_grpo", "seq-mean-token-sum-norm"),
            ("dapo", "token-mean"),
            ("bnpo", "token-mean"),
            ("gspo", "seq-mean-token-mean"),
            ("gspo_token", "seq-mean-token-mean"),
            ("luspo", "seq-mean-token-sum"),
            ("cispo", "token-mean"),
            ("sapo", "seq-mean-token-mean"),
            ("geo_mean", "seq-mean-token-mean"),
            ("gmpo", "seq-mean-token-mean"),
            ("gpg", "token-mean"),
            ("clip_cov", "token-mean"),
            ("kl_cov", "token-mean"),
            ("dppo_tv", "token-mean"),
            ("dppo_kl", "token-mean"),
            ("dro", "token-mean"),
            ("vespo", "token-mean"),
            ("reinforce", "seq-mean-token-sum"),
        ];
        assert_eq!(defaults.map(|(name, _)| name), LOSS_MODES);
        for (name, aggregation) in defaults {
            let options = required(name);
            assert_eq!(policy_loss(name, &options).unwrap().aggregation().name(), aggregation);
            assert_eq!(options.resolved(name).unwrap().loss_agg_mode.as_deref(), Some(aggregation));
        }
    }

    #[test]
    fn an_option_is_kept_or_refused() {
        for name in LOSS_MODES {
            let defaults = required(name).resolved(name).unwrap();
            for (key, value) in NUMBERS {
                let options = with(required(name), key, value);
                match options.resolved(name) {
                    Ok(resolved) => {
                        assert_ne!(defaults.number(key), Some(value), "{name}: {key} is its default");
                        assert_eq!(resolved.number(key), Some(value), "{name}");
                    }
                    Err(error) => {
                        assert_eq!(defaults.number(key), None, "{name}: {error}");
                        assert!(matches!(error, AlgoError::UnreadOption { .. }), "{name}: {error}");
                        assert!(error.to_string().contains(key) && error.to_string().contains(name), "{error}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_option_that_is_kept_changes_a_number() {
        let mut host = HostBatch::random(9, 8);
        // Ratios of e^±2 and e^±0.5 as well, with both signs of the advantage.
        for (row, t) in (0..4).flat_map(|row| (0..4).map(move |t| (row, t))) {
            let sign = if (row + t) % 2 == 0 { 1.0 } else { -1.0 };
            let size = if t == 0 { 2.0 } else { 0.5 };
            host.old_log_probs[row][t] = host.log_probs[row][t] - size * sign;
        }
        let device = &devices()[0];
        let outcome = |name: &str, options: &LossOptions| {
            let objective = Objective::new(policy_loss(name, options).unwrap());
            let got = objective.gradients(host.batch(device), None, &host.totals());
            (scalar(got.loss), values(got.log_probs))
        };
        for name in LOSS_MODES {
            let before = outcome(name, &required(name));
            for (key, value) in NUMBERS {
                let options = with(required(name), key, value);
                if options.resolved(name).is_ok() {
                    assert_ne!(outcome(name, &options), before, "{name}: {key}");
                }
            }
        }
    }

    #[test]
    fn resolved_options_build_the_same_objective() {
        for name in LOSS_MODES {
            let given = NUMBERS.into_iter().map(|(key, value)| with(required(name), key, value));
            for options in given.chain([required(name)]).filter(|options| policy_loss(name, options).is_ok()) {
                let resolved = options.resolved(name).unwrap();
                assert_eq!(resolved.resolved(name).unwrap(), resolved, "{name}");
            }
        }
        let off = LossOptions { log_ratio_clamp: Some(0.0), ..LossOptions::default() };
        assert_eq!(off.resolved("luspo").unwrap().log_ratio_clamp, Some(0.0), "an explicit 0 is no absent key");
        let gspo = LossOptions { clip_ratio_high: Some(0.3), ..LossOptions::default() }.resolved("gspo").unwrap();
        assert_eq!((gspo.clip_ratio_low, gspo.clip_ratio_high), (Some(3e-4), Some(0.3)));
        assert_eq!((gspo.clip_ratio_c, gspo.log_ratio_clamp), (None, Some(10.0)));
    }

    #[test]
    fn dapo_clips_higher() {
        let dapo = LossOptions::default().resolved("dapo").unwrap();
        assert_eq!((dapo.clip_ratio_low, dapo.clip_ratio_high), (Some(0.2), Some(0.28)));
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let error = refusal("lupso", &LossOptions::default());
        assert!(error.contains("`lupso`"), "{error}");
        assert!(LOSS_MODES.iter().all(|name| error.contains(name)), "{error}");
    }

    #[test]
    fn an_option_without_a_default_must_be_given() {
        assert!(refusal("dro", &LossOptions::default()).contains("dro_beta"));
        assert!(refusal("dr_grpo", &LossOptions::default()).contains("loss_scale_factor"));
    }

    #[test]
    fn the_loss_scale_factor_belongs_to_one_aggregation() {
        let options = LossOptions::default();
        assert_eq!(options.clone().or_loss_scale_factor("dr_grpo", 7.0).loss_scale_factor, Some(7.0));
        assert_eq!(options.clone().or_loss_scale_factor("grpo", 7.0), options);
        let given = LossOptions { loss_scale_factor: Some(5.0), ..LossOptions::default() };
        assert_eq!(given.clone().or_loss_scale_factor("dr_grpo", 7.0), given);
        assert!(refusal("grpo", &given).contains("loss_scale_factor"));
        let zero = LossOptions { loss_scale_factor: Some(0.0), ..LossOptions::default() };
        assert!(refusal("dr_grpo", &zero).contains("loss_scale_factor = 0"));
    }

    #[test]
    fn a_loss_that_is_defined_by_its_aggregation_has_no_other() {
        let with = |mode: &str| LossOptions {
            loss_agg_mode: Some(mode.into()),
            loss_scale_factor: (mode == "seq-mean-token-sum-norm").then_some(8.0),
            ..LossOptions::default()
        };
        assert!(policy_loss("luspo", &with("seq-mean-token-sum")).is_ok());
        assert!(policy_loss("geo_mean", &with("seq-mean-token-mean")).is_ok());
        for mode in ["token-mean", "token-sum", "seq-mean-token-sum-norm"] {
            assert!(refusal("luspo", &with(mode)).contains(mode));
            assert!(refusal("geo_mean", &with(mode)).contains(mode));
            assert_eq!(policy_loss("gspo", &with(mode)).unwrap().aggregation().name(), mode);
        }
        assert!(refusal("luspo", &with("mean")).contains("unknown"));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (name, key, value) in [
            ("vanilla", "clip_ratio_low", 1.0),
            ("grpo", "clip_ratio_high", -0.1),
            ("vanilla", "clip_ratio_c", 1.0),
            ("gspo", "clip_ratio_low", 1.0),
            ("luspo", "delta", 0.0),
            ("cispo", "clip_ratio_low", -0.1),
            ("cispo", "cispo_max_ratio", 0.0),
            ("sapo", "tau_pos", 0.0),
            ("sapo", "tau_neg", -1.0),
            ("geo_mean", "clip_ratio_low", -0.1),
            ("geo_mean", "clip_ratio_high", -0.1),
            ("clip_cov", "clip_ratio_high", -0.1),
            ("clip_cov", "clip_cov_ratio", 0.0),
            ("clip_cov", "clip_cov_ub", 1.0),
            ("kl_cov", "kl_cov_ratio", 1.5),
            ("kl_cov", "ppo_kl_coef", -1.0),
            ("dppo_tv", "clip_ratio_low", 0.0),
            ("dppo_kl", "clip_ratio_high", 0.0),
            ("dppo_tv", "clip_ratio_c", 1.0),
            ("dro", "dro_beta", 0.0),
            ("vespo", "vespo_k_pos", -1.0),
            ("vespo", "vespo_k_neg", -1.0),
            ("vespo", "vespo_lambda_pos", 0.0),
            ("vespo", "vespo_lambda_neg", 0.0),
        ] {
            let error = refusal(name, &with(required(name), key, value));
            assert!(error.contains(&format!("{key} = {value}")), "{name}: {error}");
        }
        for name in LOSS_MODES {
            let defaults = required(name).resolved(name).unwrap();
            for (key, _) in NUMBERS.into_iter().filter(|(key, _)| defaults.number(key).is_some()) {
                for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                    let error = refusal(name, &with(required(name), key, value));
                    assert!(error.contains(&format!("{key} = {value}")), "{name}: {error}");
                }
            }
        }
        assert!(refusal("luspo", &with(required("luspo"), "log_ratio_clamp", -1.0)).contains("log_ratio_clamp = -1"));
    }

    #[test]
    fn the_two_conventions_of_cispo_exclude_each_other() {
        let absolute = LossOptions { cispo_max_ratio: Some(5.0), ..LossOptions::default() };
        let resolved = absolute.resolved("cispo").unwrap();
        assert_eq!((resolved.clip_ratio_low, resolved.clip_ratio_high), (None, None));
        let both = LossOptions { clip_ratio_high: Some(0.3), ..absolute };
        assert!(refusal("cispo", &both).contains("clip_ratio_high"));
    }

    #[test]
    fn an_extreme_ratio_is_bounded_unless_the_clamp_is_off() {
        const LOG_RATIO: f64 = 30.0;
        for (name, default) in [("vanilla", 20.0), ("grpo", 20.0), ("gspo", 10.0), ("luspo", 10.0)] {
            for (log_ratio_clamp, reached) in
                [(None, default), (Some(0.0), LOG_RATIO), (Some(5.0), 5.0), (Some(40.0), LOG_RATIO)]
            {
                // A dual clip so far away that it hides nothing.
                let clip_ratio_c = (name == "vanilla").then_some(1e30);
                let options = LossOptions { clip_ratio_c, log_ratio_clamp, ..LossOptions::default() };
                let loss = policy_loss(name, &options).unwrap();
                for device in devices() {
                    let token = |value: f64| tensor(&[vec![value]], &device);
                    // One token with advantage −1: the loss is the ratio.
                    let mask = token(1.0).greater_scalar(0.5);
                    let batch = PolicyBatch::new(token(-0.5), token(-0.5 - LOG_RATIO), token(-1.0), mask);
                    let value = scalar(loss.forward(&batch, &BatchTotals::of_lengths(&[1])).loss);
                    // An exponential in f32, whose argument is exact.
                    assert_close(&[value], &[reached.exp()], 1e-5, 0.0);
                }
            }
        }
    }
}
