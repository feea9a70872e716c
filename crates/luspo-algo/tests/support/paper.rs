//! How to reach the values derived from the paper's equations, which clamp no ratio.

use std::sync::Arc;

use luspo_algo::{Aggregation, BatchTotals, Grpo, Gspo, Luspo, Objective, PolicyLoss};
use serde_json::Value;

use super::account::Plan;
use super::{GoldenBatch, Setting, number, text};

pub fn plan(case: &Value, batch: &GoldenBatch) -> Plan {
    let (low, high) = (number(&case["params"]["low"]), number(&case["params"]["high"]));
    let policy: Arc<dyn PolicyLoss> = match text(&case["algo"]) {
        "gspo" => Arc::new(Gspo::new().with_clip_ratio_low(low).with_clip_ratio_high(high).with_log_ratio_clamp(None)),
        "luspo" => {
            Arc::new(Luspo::new().with_clip_ratio_low(low).with_clip_ratio_high(high).with_log_ratio_clamp(None))
        }
        // Wrong values on purpose; see `anti_golden`.
        "anti_golden" => return Plan::Wrong,
        other => panic!("{}: algorithm `{other}` is not accounted for", case["id"]),
    };
    let sequences = number(&case["out"]["n_sequences"]) as usize;
    Plan::Equal(setting(policy, BatchTotals { sequences, ..batch.totals() }))
}

/// The token-level ratio with LUSPO's weight, whose historic implementation weighed by |y|²/T.
pub fn anti_golden(case: &Value, batch: &GoldenBatch) -> Setting {
    let (low, high) = (number(&case["params"]["low"]), number(&case["params"]["high"]));
    let grpo = Grpo::new().with_clip_ratio_low(low).with_clip_ratio_high(high).with_log_ratio_clamp(None);
    let totals = batch.totals();
    let policy = Arc::new(grpo.with_loss_agg_mode(Aggregation::SeqMeanTokenSum));
    setting(policy, BatchTotals { sequences: totals.rows, ..totals })
}

fn setting(policy: Arc<dyn PolicyLoss>, totals: BatchTotals) -> Setting {
    Setting { objective: Objective::new(policy), totals, scale: 1.0, token_weights: None, token_advantages: false }
}
