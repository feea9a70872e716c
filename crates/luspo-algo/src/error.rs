//! What can be wrong with an objective's settings.

/// A setting that no objective can be built from. Keys are those of the `[algorithm]` section of a config.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AlgoError {
    /// The loss is not one of the built-in ones.
    #[error("loss_mode `{name}` is unknown; known are: {known}")]
    UnknownLossMode {
        /// What was asked for.
        name: String,
        /// All known names.
        known: String,
    },

    /// The aggregation is not one of the four.
    #[error("loss_agg_mode `{name}` is unknown; known are: {known}")]
    UnknownAggregation {
        /// What was asked for.
        name: String,
        /// All known names.
        known: String,
    },

    /// The KL estimator is not one of the known ones.
    #[error("kl_loss_type `{name}` is unknown; known are: {known}")]
    UnknownKlKind {
        /// What was asked for.
        name: String,
        /// All known names.
        known: String,
    },

    /// LUSPO is defined by its aggregation.
    #[error(
        "loss_mode `luspo` weighs a sequence by its length, which is loss_agg_mode `seq-mean-token-sum`; `{name}` would \
         make it another objective (leave loss_agg_mode out, or use loss_mode `gspo`)"
    )]
    LuspoAggregation {
        /// What was asked for.
        name: String,
    },

    /// `clip_ratio_c` was given for a loss that has no dual clip.
    #[error("clip_ratio_c is the dual clip of loss_mode `vanilla`; loss_mode `{loss_mode}` has none (remove the key)")]
    NoDualClip {
        /// The loss without a dual clip.
        loss_mode: String,
    },

    /// A number outside of its range.
    #[error("{key} = {value}, but it must be {range}")]
    OutOfRange {
        /// The setting.
        key: &'static str,
        /// Its value.
        value: f64,
        /// Which values are allowed, in words.
        range: &'static str,
    },
}
