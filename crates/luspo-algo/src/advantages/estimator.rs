//! The names of the estimators in a config.

use std::str::FromStr;

use super::optimal_token_baseline::{self, Position};
use super::{AdvantageBatch, Advantages, gae, gdpo, gpg, grpo, opo, pass_at_k, reinforce_plus_plus, remax, rloo};
use crate::error::{AlgoError, in_range};

/// What an estimator can be told; each reads what its equation has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdvantageOptions {
    /// Whether a group's scores are divided by their standard deviation: `grpo`, `grpo_passk`, `gdpo`,
    /// `normalize_then_sum`. Without it `grpo` is Dr. GRPO's.
    pub norm_adv_by_std_in_grpo: bool,
    /// Whose standard deviation divides: `grpo`.
    pub scale_rewards: ScaleRewards,
    /// Discount per token, in \[0, 1\]: `gae`, `reinforce_plus_plus`.
    pub gamma: f64,
    /// λ of `gae`, in \[0, 1\].
    pub lam: f64,
    /// Added to a standard deviation before it divides, at least 0; verl's is 1e-6, TRL's 1e-4.
    pub epsilon: f64,
}

impl Default for AdvantageOptions {
    fn default() -> Self {
        Self {
            norm_adv_by_std_in_grpo: true,
            scale_rewards: ScaleRewards::Group,
            gamma: 1.0,
            lam: 1.0,
            epsilon: grpo::EPSILON,
        }
    }
}

/// Whose standard deviation divides a score's distance from its group's mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScaleRewards {
    /// That of the group.
    #[default]
    Group,
    /// That of all scores of the batch.
    Batch,
}

impl FromStr for ScaleRewards {
    type Err = AlgoError;

    fn from_str(name: &str) -> Result<Self, AlgoError> {
        match name {
            "group" => Ok(Self::Group),
            "batch" => Ok(Self::Batch),
            _ => Err(AlgoError::UnknownName { key: "scale_rewards", name: name.into(), known: "group, batch".into() }),
        }
    }
}

/// How the scores of a step become advantages. See the [module docs](super) for the equations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdvantageEstimator {
    kind: Kind,
    options: AdvantageOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Grpo,
    PassAtK,
    Rloo,
    Opo,
    ReinforcePlusPlus,
    ReinforcePlusPlusBaseline,
    ReMax,
    Gpg,
    Gae,
    OptimalTokenBaseline,
    TirOptimalTokenBaseline,
    Gdpo,
    NormalizeThenSum,
}

/// The names of a config; a vectorised form computes the same.
const NAMES: [(&str, Kind); 15] = [
    ("grpo", Kind::Grpo),
    ("grpo_vectorized", Kind::Grpo),
    ("grpo_passk", Kind::PassAtK),
    ("rloo", Kind::Rloo),
    ("rloo_vectorized", Kind::Rloo),
    ("opo", Kind::Opo),
    ("reinforce_plus_plus", Kind::ReinforcePlusPlus),
    ("reinforce_plus_plus_baseline", Kind::ReinforcePlusPlusBaseline),
    ("remax", Kind::ReMax),
    ("gpg", Kind::Gpg),
    ("gae", Kind::Gae),
    ("optimal_token_baseline", Kind::OptimalTokenBaseline),
    ("tir_optimal_token_baseline", Kind::TirOptimalTokenBaseline),
    ("gdpo", Kind::Gdpo),
    ("normalize_then_sum", Kind::NormalizeThenSum),
];

impl AdvantageEstimator {
    /// Every name that [`from_name`](Self::from_name) knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|(name, _)| *name)
    }

    /// The estimator of an `adv_estimator`.
    ///
    /// # Errors
    /// If the name is unknown, or an option is out of its range.
    pub fn from_name(name: &str, options: &AdvantageOptions) -> Result<Self, AlgoError> {
        let Some(&(_, kind)) = NAMES.iter().find(|(known, _)| *known == name) else {
            let known = Self::names().collect::<Vec<_>>().join(", ");
            return Err(AlgoError::UnknownName { key: "adv_estimator", name: name.into(), known });
        };
        for (key, value) in [("gamma", options.gamma), ("lam", options.lam)] {
            in_range(key, value, (0.0..=1.0).contains(&value), "from 0 to 1")?;
        }
        in_range("epsilon", options.epsilon, options.epsilon >= 0.0, "at least 0")?;
        Ok(Self { kind, options: *options })
    }

    /// The name of the estimator, the shortest where it has two.
    pub fn name(&self) -> &'static str {
        NAMES.iter().find(|(_, kind)| *kind == self.kind).map_or("", |(name, _)| name)
    }

    /// Whether it reads [`AdvantageBatch::values`], a critic's.
    pub fn needs_values(&self) -> bool {
        self.kind == Kind::Gae
    }

    /// Whether it reads [`AdvantageBatch::baselines`], the scores of greedy answers.
    pub fn needs_baselines(&self) -> bool {
        self.kind == Kind::ReMax
    }

    /// Whether it reads [`AdvantageBatch::sum_pi_squared`] and [`AdvantageBatch::log_probs`].
    pub fn needs_sum_pi_squared(&self) -> bool {
        matches!(self.kind, Kind::OptimalTokenBaseline | Kind::TirOptimalTokenBaseline)
    }

    /// Whether it compares the answers of a group, so that a group of one has advantage 0.
    pub fn needs_groups(&self) -> bool {
        !matches!(self.kind, Kind::ReinforcePlusPlus | Kind::ReMax | Kind::Gae)
    }

    /// Whether it reads [`AdvantageBatch::components`], the rewards apart.
    pub fn needs_components(&self) -> bool {
        matches!(self.kind, Kind::Gdpo | Kind::NormalizeThenSum)
    }

    /// Whether it reads [`AdvantageOptions::gamma`]; `lam` is read where [values](Self::needs_values) are.
    pub fn reads_gamma(&self) -> bool {
        matches!(self.kind, Kind::Gae | Kind::ReinforcePlusPlus)
    }

    /// Whether it reads [`AdvantageOptions::norm_adv_by_std_in_grpo`].
    pub fn reads_norm_adv_by_std(&self) -> bool {
        matches!(self.kind, Kind::Grpo | Kind::PassAtK | Kind::Gdpo | Kind::NormalizeThenSum)
    }

    /// Whether it reads [`AdvantageOptions::scale_rewards`]: there is something to scale by.
    pub fn reads_scale_rewards(&self) -> bool {
        self.kind == Kind::Grpo && self.options.norm_adv_by_std_in_grpo
    }

    /// The advantages of a batch.
    ///
    /// # Errors
    /// If the batch lacks what the estimator needs, its parts differ in shape, or a number in it is not finite.
    pub fn estimate(&self, batch: &AdvantageBatch) -> Result<Advantages, AlgoError> {
        batch.check()?;
        let options = &self.options;
        let missing = |input| AlgoError::MissingInput { estimator: self.name(), input };
        let baseline_per_token = |position| {
            let log_probs = batch.log_probs.ok_or(missing("log_probs"))?;
            let sum_pi_squared = batch.sum_pi_squared.ok_or(missing("sum_pi_squared"))?;
            Ok(optimal_token_baseline::estimate(batch, position, log_probs, sum_pi_squared))
        };
        if self.needs_components() && batch.components.is_empty() {
            return Err(missing("components"));
        }
        match self.kind {
            Kind::Grpo => Ok(grpo::estimate(batch, options)),
            Kind::PassAtK => Ok(pass_at_k::estimate(batch, options)),
            Kind::Rloo => Ok(rloo::estimate(batch)),
            Kind::Opo => Ok(opo::estimate(batch)),
            Kind::ReinforcePlusPlus => Ok(reinforce_plus_plus::estimate(batch, options)),
            Kind::ReinforcePlusPlusBaseline => Ok(reinforce_plus_plus::estimate_with_baseline(batch)),
            Kind::ReMax => Ok(remax::estimate(batch, batch.baselines.ok_or(missing("baselines"))?)),
            Kind::Gpg => Ok(gpg::estimate(batch)),
            Kind::Gae => Ok(gae::estimate(batch, options, batch.values.ok_or(missing("values"))?)),
            Kind::OptimalTokenBaseline => baseline_per_token(Position::InRow),
            Kind::TirOptimalTokenBaseline => baseline_per_token(Position::AmongTokens),
            Kind::Gdpo => Ok(gdpo::estimate(batch, options)),
            Kind::NormalizeThenSum => Ok(gdpo::estimate_over_rows(batch, options)),
        }
    }
}
