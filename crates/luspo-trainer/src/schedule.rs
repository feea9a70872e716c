//! The learning rate over the steps of a run.

use crate::config::{LrSchedule, OptimizerConfig};

/// The learning rate of `step` (from 1) of `total`.
///
/// It rises linearly over `lr_warmup_steps` (the first step has 1/warm-up of the peak, so that no step is wasted at 0)
/// and then follows `lr_schedule`.
pub fn learning_rate(config: &OptimizerConfig, step: usize, total: usize) -> f64 {
    let warmup = config.lr_warmup_steps;
    if step <= warmup {
        return config.lr * step as f64 / warmup as f64;
    }
    // 0 right after the warm-up, 1 at the end of the last step.
    let progress = (step - warmup - 1) as f64 / total.saturating_sub(warmup).max(1) as f64;
    config.lr
        * match config.lr_schedule {
            LrSchedule::Constant => 1.0,
            LrSchedule::Linear => 1.0 - progress,
            LrSchedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            LrSchedule::Wsd => {
                let decay = ((step - 1) as f64 / total as f64 - 0.6).max(0.0) / 0.4;
                1.0 - 0.95 * decay
            }
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(schedule: LrSchedule, warmup: usize, total: usize) -> Vec<f64> {
        let config = OptimizerConfig { lr: 1.0, lr_warmup_steps: warmup, lr_schedule: schedule, ..Default::default() };
        (1..=total).map(|step| learning_rate(&config, step, total)).collect()
    }

    #[test]
    fn the_rate_rises_in_a_line_and_then_stays() {
        assert_eq!(rates(LrSchedule::Constant, 4, 6), [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]);
    }

    #[test]
    fn a_linear_rate_falls_to_zero_just_after_the_last_step() {
        assert_eq!(rates(LrSchedule::Linear, 0, 4), [1.0, 0.75, 0.5, 0.25]);
    }

    #[test]
    fn a_cosine_rate_is_half_way_down_in_the_middle() {
        assert!((rates(LrSchedule::Cosine, 0, 10)[5] - 0.5).abs() < 1e-12);
    }

    #[test]
    fn a_wsd_rate_is_stable_to_sixty_percent_and_then_decays_to_a_twentieth() {
        let rates = rates(LrSchedule::Wsd, 0, 1000);
        assert_eq!(rates[599], 1.0);
        assert!(rates[650] < 1.0 && (rates[999] - 0.05).abs() < 0.01);
    }
}
