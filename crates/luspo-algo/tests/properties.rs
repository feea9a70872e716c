//! What holds for every objective, over random updates: the update does not depend on how its rows are split, ordered,
//! padded or pierced by holes, and extreme ratios do no harm. Each row of an update is computed alone, so that only sums
//! over rows differ, by rounding.

mod updates;

use luspo_algo::{KlKind, KlTerm, LOSS_MODES, LossOptions, Objective};
use proptest::prelude::*;
use updates::{Beside, MAX_ROWS, Outcome, Update, beside, config, devices, loss, loss_with, update};

proptest! {
    #![proptest_config(config())]

    #[test]
    fn an_update_does_not_depend_on_its_micro_batches(
        update in update(1.0),
        beside in beside(),
        micro_batch in prop::array::uniform5(0..3usize),
    ) {
        let parts = [0, 1, 2].map(|part| (0..update.rows.len()).filter(|&row| micro_batch[row] == part).collect());
        for (mode, objective) in LOSS_MODES.map(|mode| (mode, beside.objective(loss(mode)))) {
            if objective.needs_whole_update() {
                continue;
            }
            for device in devices() {
                let whole = update.run(&objective, &device);
                update.run_in_parts(&objective, &parts, &device).assert_is(&whole, mode);
            }
        }
    }

    #[test]
    fn an_update_does_not_depend_on_the_order_of_its_rows(
        update in update(1.0),
        beside in beside(),
        order in Just((0..MAX_ROWS).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let order: Vec<usize> = order.into_iter().filter(|&row| row < update.rows.len()).collect();
        for mode in LOSS_MODES {
            let objective = beside.objective(loss(mode));
            for device in devices() {
                let ordered = update.run(&objective, &device);
                update.run_in_parts(&objective, std::slice::from_ref(&order), &device).assert_is(&ordered, mode);
            }
        }
    }

    #[test]
    fn an_update_does_not_depend_on_its_padding(
        update in update(1.0),
        beside in beside(),
        garbage in prop::collection::vec(
            prop::sample::select(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, -1e30, 0.0][..]),
            1..4,
        ),
        columns in 0..9usize,
    ) {
        let whole = [(0..update.rows.len()).collect::<Vec<_>>()];
        for mode in LOSS_MODES {
            let objective = beside.objective(loss(mode));
            for device in devices() {
                let clean = update.run_padded(&objective, &whole, &[0.0], 0, &device);
                update.run_padded(&objective, &whole, &garbage, columns, &device).assert_is(&clean, mode);
            }
        }
    }

    #[test]
    fn holes_are_as_if_they_were_not_there(update in update(1.0), beside in beside()) {
        let width = update.rows[0].len();
        let closed = |row: &Vec<Option<_>>| {
            let mut row: Vec<Option<_>> = row.iter().filter(|token| token.is_some()).copied().collect();
            row.resize(width, None);
            row
        };
        let without = Update { rows: update.rows.iter().map(closed).collect() };
        for mode in LOSS_MODES {
            let objective = beside.objective(loss(mode));
            for device in devices() {
                update.run(&objective, &device).assert_is(&without.run(&objective, &device), mode);
            }
        }
    }

    #[test]
    fn empty_rows_leave_no_trace(update in update(1.0), beside in beside(), at in 0..=MAX_ROWS) {
        let at = at.min(update.rows.len());
        let mut with_empty = update.clone();
        with_empty.rows.insert(at, vec![None; update.rows[0].len()]);
        for mode in LOSS_MODES {
            let objective = beside.objective(loss(mode));
            for device in devices() {
                let mut got = with_empty.run(&objective, &device);
                prop_assert!(got.gradient.remove(at).is_empty());
                got.assert_is(&update.run(&objective, &device), mode);
            }
        }
    }

    #[test]
    fn an_update_without_a_response_token_has_loss_and_gradient_zero(
        rows in 1..=MAX_ROWS,
        width in 1..4usize,
        beside in beside(),
    ) {
        let nothing = Update { rows: vec![vec![None; width]; rows] };
        for mode in LOSS_MODES {
            for device in devices() {
                // That padding has no gradient is checked within.
                let outcome = nothing.run(&beside.objective(loss(mode)), &device);
                prop_assert_eq!((outcome.loss, outcome.metric("actor/empty_update")), (0.0, Some(1.0)));
            }
        }
    }

    #[test]
    fn extreme_ratios_have_finite_losses_and_gradients(update in update(60.0), beside in beside()) {
        // e⁶⁰ is a number in f32, its product with e⁶⁰ is not.
        let fits = |kl: &KlTerm| kl.kind != KlKind::K3Unbounded || kl.times_ratio.is_none();
        let kl = beside.kl.filter(fits);
        let beside = Beside { kl, ..beside };
        for mode in LOSS_MODES {
            for device in devices() {
                let outcome = update.run(&beside.objective(loss(mode)), &device);
                prop_assert!(is_finite(&outcome), "{mode}: {outcome:?}");
            }
        }
    }

    #[test]
    fn where_a_clip_hides_a_ratio_it_may_be_of_any_size(mut update in update(1000.0)) {
        // Good tokens that became likely and bad ones that became unlikely, by up to e¹⁰⁰⁰.
        let unclamped = LossOptions { log_ratio_clamp: Some(0.0), ..LossOptions::default() };
        let check = |update: &Update, modes: &[&str]| {
            for mode in modes {
                let objective = Objective::new(loss_with(mode, unclamped.clone()));
                for device in devices() {
                    let outcome = update.run(&objective, &device);
                    assert!(is_finite(&outcome), "{mode}: {outcome:?}");
                }
            }
        };
        for token in update.tokens_mut() {
            token.advantage = token.advantage.abs().copysign(token.log_prob - token.old_log_prob);
        }
        check(&update, &["ppo", "grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "dppo_tv", "dppo_kl"]);
        // The same for whole answers.
        for row in &mut update.rows {
            let moved: f32 = row.iter().flatten().map(|token| token.log_prob - token.old_log_prob).sum();
            row.iter_mut().flatten().for_each(|token| token.advantage = token.advantage.abs().copysign(moved));
        }
        check(&update, &["gspo", "gspo_token", "luspo"]);
    }
}

fn is_finite(outcome: &Outcome) -> bool {
    outcome.loss.is_finite() && outcome.gradient.iter().flatten().flatten().all(|gradient| gradient.is_finite())
}
