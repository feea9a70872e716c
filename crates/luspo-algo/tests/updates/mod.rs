//! Random updates, and what an objective makes of them.

use burn::tensor::{Device, Tensor};
use luspo_algo::{
    Aggregation, BatchTotals, KlKind, KlTerm, LossOptions, MetricAccumulator, Objective, PolicyBatch, PolicyLoss,
    RatioLevel, TokenFilters, policy_loss,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};
use std::sync::Arc;

pub const MAX_ROWS: usize = 5;

/// The same cases in every run, unless `PROPTEST_RNG_SEED` or `PROPTEST_CASES` ask for others.
pub fn config() -> Config {
    let mut config = Config { failure_persistence: None, ..Config::default() };
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(17);
    }
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 32;
    }
    config
}

/// The backends that every check runs on.
#[allow(deprecated)] // ndarray
pub fn devices() -> [Device; 2] {
    [Device::flex(), Device::ndarray()]
}

#[derive(Clone, Copy, Debug)]
pub struct Token {
    pub log_prob: f32,
    pub old_log_prob: f32,
    pub ref_log_prob: f32,
    pub rollout_log_prob: f32,
    pub advantage: f32,
    pub entropy: f32,
    pub weight: f32,
}

/// The rows of an update; `None` is a hole or padding.
#[derive(Clone, Debug)]
pub struct Update {
    pub rows: Vec<Vec<Option<Token>>>,
}

/// A token whose log-ratios are within ±`spread`, to either side, and whose log-probs are at most 0.
fn token(spread: f32) -> impl Strategy<Value = Token> {
    let away = move || -spread..=spread;
    let advantage = prop_oneof![8 => -2f32..=2.0, 1 => Just(0.0)];
    let at_least_0 = || prop_oneof![8 => 0f32..=2.0, 1 => Just(0.0)];
    (-3f32..=-0.01, away(), away(), away(), advantage, at_least_0(), at_least_0()).prop_map(
        |(likely, moved, from_reference, from_rollout, advantage, entropy, weight)| {
            let log_prob = likely + moved.min(0.0);
            Token {
                log_prob,
                old_log_prob: likely - moved.max(0.0),
                ref_log_prob: (log_prob - from_reference).min(0.0),
                rollout_log_prob: (log_prob - from_rollout).min(0.0),
                advantage,
                entropy,
                weight,
            }
        },
    )
}

/// Updates of up to [`MAX_ROWS`] rows, some of them empty, with holes, whose log-ratios are within ±`spread`; token
/// weights are 1 in some, advantages are constant within rows in some.
pub fn update(spread: f32) -> impl Strategy<Value = Update> {
    let rows = (1..=MAX_ROWS, 1..=6usize).prop_flat_map(move |(rows, width)| {
        let row = prop::collection::vec(prop::option::weighted(0.75, token(spread)), width);
        let row = prop_oneof![6 => row, 1 => Just(vec![None; width])];
        prop::collection::vec(row, rows)
    });
    (rows, any::<bool>(), any::<bool>()).prop_map(|(rows, weighted, by_row)| {
        let mut update = Update { rows };
        if !weighted {
            update.tokens_mut().for_each(|token| token.weight = 1.0);
        }
        if by_row { update.with_row_advantages() } else { update }
    })
}

impl Update {
    pub fn tokens_mut(&mut self) -> impl Iterator<Item = &mut Token> {
        self.rows.iter_mut().flatten().flatten()
    }

    /// Every token has the advantage of its row's first.
    pub fn with_row_advantages(mut self) -> Self {
        for row in &mut self.rows {
            let of_row = row.iter().flatten().next().map(|token| token.advantage);
            row.iter_mut().flatten().for_each(|token| token.advantage = of_row.unwrap_or_default());
        }
        self
    }

    pub fn lengths(&self) -> Vec<usize> {
        self.rows.iter().map(|row| row.iter().flatten().count()).collect()
    }

    pub fn totals(&self) -> BatchTotals {
        BatchTotals::of_lengths(&self.lengths())
    }

    /// The update on a device, with `garbage` wherever there is no token, once more in each of `columns` at the end.
    fn batch(&self, rows: &[usize], garbage: &[f32], columns: usize, device: &Device) -> (PolicyBatch, Tensor<2>) {
        let width = self.rows[0].len() + columns;
        let table = |of_token: fn(&Token) -> f32| {
            let value = |(row, t): (usize, usize)| {
                let token = self.rows[row].get(t).and_then(Option::as_ref);
                token.map_or(garbage[(row + t) % garbage.len()], of_token)
            };
            let positions = rows.iter().flat_map(|&row| (0..width).map(move |t| (row, t)));
            let values: Vec<f32> = positions.map(value).collect();
            Tensor::<1>::from_data(values.as_slice(), device).reshape([rows.len(), width])
        };
        let inside = |row: usize, t: usize| matches!(self.rows[row].get(t), Some(Some(_)));
        let mask: Vec<f32> =
            rows.iter().flat_map(|&row| (0..width).map(move |t| f32::from(u8::from(inside(row, t))))).collect();
        let mask = Tensor::<1>::from_data(mask.as_slice(), device).reshape([rows.len(), width]).greater_scalar(0.5);
        let [log_probs, old_log_probs, advantages] =
            [table(|token| token.log_prob), table(|token| token.old_log_prob), table(|token| token.advantage)];
        let batch = PolicyBatch::new(log_probs, old_log_probs, advantages, mask)
            .with_token_weights(table(|token| token.weight))
            .with_rollout_log_probs(table(|token| token.rollout_log_prob))
            .with_entropy(table(|token| token.entropy));
        (batch, table(|token| token.ref_log_prob))
    }

    /// What the objective makes of the whole update at once.
    pub fn run(&self, objective: &Objective, device: &Device) -> Outcome {
        self.run_in_parts(objective, &[(0..self.rows.len()).collect()], device)
    }

    /// The same in micro-batches of these rows.
    pub fn run_in_parts(&self, objective: &Objective, parts: &[Vec<usize>], device: &Device) -> Outcome {
        self.run_padded(objective, parts, &[f32::NAN, f32::INFINITY, f32::NEG_INFINITY], 0, device)
    }

    /// The same with other garbage, and with more `columns` of it.
    pub fn run_padded(
        &self,
        objective: &Objective,
        parts: &[Vec<usize>],
        garbage: &[f32],
        columns: usize,
        device: &Device,
    ) -> Outcome {
        let (totals, mut metrics) = (self.totals(), MetricAccumulator::default());
        let mut outcome = Outcome { loss: 0.0, gradient: vec![Vec::new(); self.rows.len()], metrics: Vec::new() };
        for part in parts.iter().filter(|part| !part.is_empty()) {
            let (batch, reference) = self.batch(part, garbage, columns, device);
            let got = objective.gradients(batch, Some(&reference), &totals);
            outcome.loss += f64::from(got.loss.into_scalar::<f32>());
            let numbers = |tensor: Tensor<2>| tensor.into_data().iter::<f64>().collect::<Vec<f64>>();
            let of_log_probs = numbers(got.log_probs);
            let of_entropy = got.entropy.map_or(vec![0.0; of_log_probs.len()], numbers);
            let width = of_log_probs.len() / part.len();
            for (i, &row) in part.iter().enumerate() {
                for t in 0..width {
                    let gradient = [of_log_probs[i * width + t], of_entropy[i * width + t]];
                    match self.rows[row].get(t) {
                        Some(Some(_)) => outcome.gradient[row].push(gradient),
                        _ => assert_eq!(gradient, [0.0; 2], "padding has a gradient"),
                    }
                }
            }
            metrics.add(got.metrics);
        }
        outcome.metrics = metrics.finish();
        outcome
    }
}

/// What an objective made of an update.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub loss: f64,
    /// ∂loss/∂log_prob and ∂loss/∂entropy of each token, holes left out, by row.
    pub gradient: Vec<Vec<[f64; 2]>>,
    pub metrics: Vec<(&'static str, f64)>,
}

impl Outcome {
    /// Sum of all gradients' sizes: how large the numbers are that cancel out in a loss.
    fn size(&self) -> f64 {
        self.gradient.iter().flatten().flatten().map(|gradient| gradient.abs()).sum()
    }

    /// Fails unless loss, gradients and metrics are `expected`, up to the f32 rounding of sums in another order.
    #[track_caller]
    pub fn assert_is(&self, expected: &Self, about: &str) {
        self.assert_same_gradient(expected, about);
        let size = expected.size();
        let is = |got: f64, expected: f64| close(got, expected, 1e-5 * size);
        assert!(is(self.loss, expected.loss), "{about}: loss {} instead of {}", self.loss, expected.loss);
        assert_eq!(self.metrics.len(), expected.metrics.len(), "{about}: {:?}, {:?}", self.metrics, expected.metrics);
        for (name, value) in &expected.metrics {
            let got = self.metric(name).unwrap_or_else(|| panic!("{about}: {name} is missing"));
            assert!(is(got, *value), "{about}: {name} {got} instead of {value}");
        }
    }

    /// Fails unless the gradients are `expected`, up to f32 rounding.
    #[track_caller]
    pub fn assert_same_gradient(&self, expected: &Self, about: &str) {
        assert_eq!(self.gradient.len(), expected.gradient.len());
        for (row, (got, expected)) in self.gradient.iter().zip(&expected.gradient).enumerate() {
            assert_eq!(got.len(), expected.len());
            let same = got.as_flattened().iter().zip(expected.as_flattened()).all(|(&g, &e)| close(g, e, 0.0));
            assert!(same, "{about}: row {row} has gradient\n{got:?} instead of\n{expected:?}");
        }
    }

    pub fn metric(&self, name: &str) -> Option<f64> {
        self.metrics.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }
}

/// A dozen f32 operations on numbers of order 1 or larger.
pub fn close(got: f64, expected: f64, more: f64) -> bool {
    (got - expected).abs() <= 1e-6 + 2e-5 * expected.abs() + more
}

/// The loss that a name stands for, with the options that have no default.
pub fn loss(loss_mode: &str) -> Arc<dyn PolicyLoss> {
    loss_with(loss_mode, LossOptions::default())
}

/// The same with some options.
pub fn loss_with(loss_mode: &str, options: LossOptions) -> Arc<dyn PolicyLoss> {
    let dro_beta = (loss_mode == "dro").then_some(0.5);
    let options = LossOptions { dro_beta, ..options }.or_loss_scale_factor(loss_mode, 8.0);
    policy_loss(loss_mode, &options).unwrap_or_else(|error| panic!("{loss_mode}: {error}"))
}

/// What stands beside a policy loss.
#[derive(Clone, Debug)]
pub struct Beside {
    pub kl: Option<KlTerm>,
    pub entropy_coeff: f64,
    pub entropy_aggregation: Option<Aggregation>,
    pub filters: TokenFilters,
}

impl Beside {
    pub fn objective(&self, policy: Arc<dyn PolicyLoss>) -> Objective {
        let Self { kl, entropy_coeff, entropy_aggregation, filters } = self.clone();
        Objective { policy, kl, entropy_coeff, entropy_aggregation, filters }
    }
}

pub const KL_KINDS: [&str; 8] = ["k1", "k2", "k3", "k3_unbounded", "abs", "k1+", "k3+", "abs+"];

/// KL and entropy terms and filters, any of them absent.
pub fn beside() -> impl Strategy<Value = Beside> {
    let kind = prop::sample::select(&KL_KINDS[..]).prop_map(|name| name.parse::<KlKind>().unwrap());
    let times_ratio = prop::option::of(prop_oneof![Just(RatioLevel::Token), Just(RatioLevel::Sequence)]);
    let kl = (kind, times_ratio).prop_map(|(kind, times_ratio)| KlTerm { times_ratio, ..KlTerm::new(kind, 0.3) });
    let entropy_aggregation = prop::option::of(Just(Aggregation::TokenMean));
    let filters = (prop::option::of(-0.1..=0.1), prop::option::weighted(0.3, 0.0..=1.0));
    (prop::option::of(kl), prop_oneof![Just(0.0), Just(0.05)], entropy_aggregation, filters).prop_map(
        |(kl, entropy_coeff, entropy_aggregation, (off_policy_mask_threshold, top_entropy_quantile))| Beside {
            kl,
            entropy_coeff,
            entropy_aggregation,
            filters: TokenFilters { off_policy_mask_threshold, top_entropy_quantile },
        },
    )
}
