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

    /// The aggregation is not one of the known ones.
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

    /// The importance ratio is neither a token's nor a sequence's.
    #[error("an importance ratio is by `token` or by `sequence`, not by `{name}`")]
    UnknownRatioLevel {
        /// What was asked for.
        name: String,
    },

    /// The loss is defined by its aggregation, as LUSPO is by the weight |y| of a sequence.
    #[error(
        "loss_mode `{loss_mode}` is defined by loss_agg_mode `{own}`; `{name}` would make it another objective (leave \
         loss_agg_mode out, or choose another loss_mode)"
    )]
    FixedAggregation {
        /// The loss.
        loss_mode: String,
        /// Its aggregation.
        own: &'static str,
        /// What was asked for.
        name: String,
    },

    /// An option that the loss does not read.
    #[error("{key} has no effect on loss_mode `{loss_mode}`{beside} (remove the key)")]
    UnreadOption {
        /// The setting.
        key: &'static str,
        /// The loss.
        loss_mode: String,
        /// What else was asked for that takes its effect away, in words; empty if the loss never reads it.
        beside: String,
    },

    /// An option without a default.
    #[error("loss_mode `{loss_mode}` needs {key}, which has no default")]
    MissingOption {
        /// The setting.
        key: &'static str,
        /// The loss.
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

    /// A name that a setting does not know.
    #[error("{key} `{name}` is unknown; known are: {known}")]
    UnknownName {
        /// The setting.
        key: &'static str,
        /// What was asked for.
        name: String,
        /// All known names.
        known: String,
    },

    /// A setting that cannot be read.
    #[error("{key} = `{text}`, but it must be {expected}")]
    Malformed {
        /// The setting.
        key: &'static str,
        /// What stands there.
        text: String,
        /// What should stand there, in words.
        expected: &'static str,
    },

    /// A setting that does nothing on its own.
    #[error("{key} is set, but not {needs}, without which it has no effect (set that too, or remove {key})")]
    WithoutEffect {
        /// What is set.
        key: &'static str,
        /// What is not.
        needs: &'static str,
    },

    /// A batch lacks what an advantage estimator reads.
    #[error("adv_estimator `{estimator}` needs {input}, which the batch does not have")]
    MissingInput {
        /// The estimator.
        estimator: &'static str,
        /// The part of the batch.
        input: &'static str,
    },

    /// A part of a batch has another number of rows than its mask.
    #[error("{input} has {rows} rows, but the mask has {expected}")]
    RowCount {
        /// The part of the batch.
        input: &'static str,
        /// Its rows.
        rows: usize,
        /// The mask's.
        expected: usize,
    },

    /// A row of a part of a batch has another length than the mask's.
    #[error("{input}, row {row}: {length} tokens, but the mask has {expected}")]
    RowLength {
        /// The part of the batch.
        input: &'static str,
        /// The row, from 0.
        row: usize,
        /// Its length.
        length: usize,
        /// The length of the mask's row.
        expected: usize,
    },

    /// A number that nothing can be computed from.
    #[error("{input}, row {row}: {value} is no finite number (leave the row out, or mask the token)")]
    NotFinite {
        /// The part of the batch.
        input: &'static str,
        /// The row, from 0.
        row: usize,
        /// The number.
        value: f64,
    },
}

/// Fails unless a setting's value `holds`, which is to say that it is finite and in `range`.
pub(crate) fn in_range(key: &'static str, value: f64, holds: bool, range: &'static str) -> Result<(), AlgoError> {
    if holds && value.is_finite() { Ok(()) } else { Err(AlgoError::OutOfRange { key, value, range }) }
}
