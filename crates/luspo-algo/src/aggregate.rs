//! From per-token terms to a loss: what a token weighs.

use burn::serde::{Deserialize, Serialize};
use burn::tensor::{Bool, Tensor};

use crate::batch::{BatchTotals, lengths, zero_padding};
use crate::error::AlgoError;

/// How per-token terms become one number. Names are verl's `loss_agg_mode`.
///
/// With N tokens and S non-empty sequences in the whole update ([`BatchTotals`]), a token's term counts
///
/// | mode | weight of a term of row i |
/// |---|---|
/// | `token-mean` | 1 / N |
/// | `token-sum` | 1 |
/// | `seq-mean-token-sum` | 1 / S |
/// | `seq-mean-token-mean` | 1 / (S · \|yᵢ\|) |
/// | `seq-mean-token-sum-norm` | 1 / (S · `loss_scale_factor`) |
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(crate = "burn::serde", rename_all = "kebab-case")]
pub enum Aggregation {
    /// Mean over all tokens of the update.
    TokenMean,
    /// Sum over all tokens of the update.
    TokenSum,
    /// Sum over a sequence's tokens, mean over sequences.
    SeqMeanTokenSum,
    /// Mean over a sequence's tokens, mean over sequences.
    SeqMeanTokenMean,
    /// Sum over a sequence's tokens divided by a constant, mean over sequences (Dr. GRPO, arXiv 2503.20783).
    SeqMeanTokenSumNorm {
        /// The constant, usually the maximum response length in tokens.
        loss_scale_factor: f64,
    },
}

impl Aggregation {
    const NAMES: [&str; 5] =
        ["token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"];

    /// The aggregation of a `loss_agg_mode`. `loss_scale_factor` is read by `seq-mean-token-sum-norm` alone.
    ///
    /// # Errors
    /// If the name is unknown, or the scale is needed and not a positive number.
    pub fn from_name(name: &str, loss_scale_factor: f64) -> Result<Self, AlgoError> {
        match name {
            "token-mean" => Ok(Self::TokenMean),
            "token-sum" => Ok(Self::TokenSum),
            "seq-mean-token-sum" => Ok(Self::SeqMeanTokenSum),
            "seq-mean-token-mean" => Ok(Self::SeqMeanTokenMean),
            "seq-mean-token-sum-norm" if loss_scale_factor.is_finite() && loss_scale_factor > 0.0 => {
                Ok(Self::SeqMeanTokenSumNorm { loss_scale_factor })
            }
            "seq-mean-token-sum-norm" => Err(AlgoError::OutOfRange {
                key: "loss_scale_factor",
                value: loss_scale_factor,
                range: "a finite number above 0",
            }),
            _ => Err(AlgoError::UnknownAggregation { name: name.into(), known: Self::NAMES.join(", ") }),
        }
    }

    /// The `loss_agg_mode` of this aggregation.
    pub fn name(&self) -> &'static str {
        match self {
            Self::TokenMean => Self::NAMES[0],
            Self::TokenSum => Self::NAMES[1],
            Self::SeqMeanTokenSum => Self::NAMES[2],
            Self::SeqMeanTokenMean => Self::NAMES[3],
            Self::SeqMeanTokenSumNorm { .. } => Self::NAMES[4],
        }
    }

    /// The weighted sum of these rows' `terms` (`[batch, seq]`, ignored outside the mask), `[1]`.
    ///
    /// Its denominators come from `totals` alone, so that the micro-batches of an update add up. An update without any
    /// response token has the value 0.
    ///
    /// # Panics
    /// If the shapes of `terms` and `mask` differ.
    pub fn apply(&self, terms: Tensor<2>, mask: &Tensor<2, Bool>, totals: &BatchTotals) -> Tensor<1> {
        let terms = zero_padding("terms", terms, mask);
        self.of_sequences(terms.sum_dim(1), || lengths(mask), totals)
    }

    /// The weighted sum of rows whose terms add up to `sums`, `[batch, 1]`, and which are `lengths` long, at least 1.
    pub(crate) fn of_sequences(
        &self,
        sums: Tensor<2>,
        lengths: impl FnOnce() -> Tensor<2>,
        totals: &BatchTotals,
    ) -> Tensor<1> {
        // A count of 0 comes with a sum of 0.
        let sequences = totals.sequences.max(1) as f64;
        match self {
            Self::TokenMean => sums.sum() / totals.tokens.max(1) as f64,
            Self::TokenSum => sums.sum(),
            Self::SeqMeanTokenSum => sums.sum() / sequences,
            Self::SeqMeanTokenMean => (sums / lengths()).sum() / sequences,
            Self::SeqMeanTokenSumNorm { loss_scale_factor } => sums.sum() / (sequences * loss_scale_factor),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{devices, scalar, tensor};

    #[test]
    fn a_token_weighs_what_the_table_says() {
        let modes = [
            (Aggregation::TokenMean, [1.0 / 4.0, 1.0 / 4.0]),
            (Aggregation::TokenSum, [1.0, 1.0]),
            (Aggregation::SeqMeanTokenSum, [1.0 / 2.0, 1.0 / 2.0]),
            (Aggregation::SeqMeanTokenMean, [1.0 / 6.0, 1.0 / 2.0]),
            (Aggregation::SeqMeanTokenSumNorm { loss_scale_factor: 5.0 }, [1.0 / 10.0, 1.0 / 10.0]),
        ];
        let totals = BatchTotals::of_lengths(&[3, 1]);
        for device in devices() {
            let mask = tensor(&[vec![1.0, 1.0, 1.0], vec![0.0, 1.0, 0.0]], &device).greater_scalar(0.5);
            for (aggregation, weights) in modes {
                let terms = tensor(&[vec![7.0, 0.0, 0.0], vec![f64::NAN, 11.0, f64::INFINITY]], &device);
                let value = scalar(aggregation.apply(terms, &mask, &totals));
                let expected = 7.0 * weights[0] + 11.0 * weights[1];
                // Rounding of a few f32 operations.
                assert!((value - expected).abs() < 1e-6, "{}: {value} is not {expected}", aggregation.name());
            }
        }
    }

    #[test]
    fn an_update_without_tokens_has_loss_zero() {
        for device in devices() {
            let mask = tensor(&[vec![0.0, 0.0]], &device).greater_scalar(0.5);
            for name in Aggregation::NAMES {
                let aggregation = Aggregation::from_name(name, 8.0).unwrap();
                let terms = tensor(&[vec![f64::NAN, 1.0]], &device);
                assert_eq!(scalar(aggregation.apply(terms, &mask, &BatchTotals::of_lengths(&[0]))), 0.0);
            }
        }
    }

    #[test]
    fn names_are_read_and_written_alike() {
        for name in Aggregation::NAMES {
            assert_eq!(Aggregation::from_name(name, 8.0).unwrap().name(), name);
        }
        let unknown = Aggregation::from_name("token_mean", 8.0).unwrap_err().to_string();
        assert!(unknown.contains("token_mean") && unknown.contains("seq-mean-token-sum-norm"), "{unknown}");
        assert!(Aggregation::from_name("seq-mean-token-sum-norm", 0.0).is_err());
        assert!(Aggregation::from_name("token-mean", 0.0).is_ok(), "the scale belongs to one mode only");
    }
}
