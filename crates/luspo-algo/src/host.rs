//! For the unit tests: a batch of f64 numbers on the host, the way to the devices, and numeric differentiation.

use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use luspo_core::{Purpose, RandomKey};

use crate::batch::{BatchTotals, PolicyBatch};
use crate::objective::{Objective, ObjectiveGradients};
use crate::policy_loss::PolicyLoss;

/// The backends that every test runs on.
#[allow(deprecated)] // ndarray
pub fn devices() -> [Device; 2] {
    [Device::flex(), Device::ndarray()]
}

pub fn tensor(rows: &[Vec<f64>], device: &Device) -> Tensor<2> {
    let flat: Vec<f32> = rows.iter().flatten().map(|&value| value as f32).collect();
    Tensor::<1>::from_data(flat.as_slice(), device).reshape([rows.len(), rows[0].len()])
}

pub fn values(tensor: Tensor<2>) -> Vec<Vec<f64>> {
    let [_, seq] = tensor.dims();
    let flat: Vec<f64> = tensor.into_data().iter::<f64>().collect();
    flat.chunks(seq).map(<[f64]>::to_vec).collect()
}

pub fn scalar(tensor: Tensor<1>) -> f64 {
    tensor.into_scalar::<f32>().into()
}

/// Fails unless |got − expected| ≤ `absolute` + `relative` · |expected| everywhere.
#[track_caller]
pub fn assert_close(got: &[f64], expected: &[f64], relative: f64, absolute: f64) {
    assert_eq!(got.len(), expected.len());
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!((g - e).abs() <= absolute + relative * e.abs(), "[{i}]: {g} is not {e}\n{got:?}\n{expected:?}");
    }
}

/// What a [`PolicyBatch`] holds, in f64.
#[derive(Clone)]
pub struct HostBatch {
    pub log_probs: Vec<Vec<f64>>,
    pub old_log_probs: Vec<Vec<f64>>,
    pub ref_log_probs: Vec<Vec<f64>>,
    pub advantages: Vec<Vec<f64>>,
    pub entropy: Vec<Vec<f64>>,
    pub token_weights: Option<Vec<Vec<f64>>>,
    pub mask: Vec<Vec<bool>>,
}

impl HostBatch {
    /// Rows of every length from `seq` down, the last of them empty where there is more than one column, with NaN and
    /// infinities in the padding. Ratios are within about ±35 % of 1.
    pub fn random(rows: usize, seq: usize) -> Self {
        let uniform = |stream: u64| {
            let key = RandomKey::new(17, Purpose::Init).at(rows as u64).at(seq as u64).at(stream);
            (0..rows).map(|row| (0..seq).map(|t| key.uniform((row * seq + t) as u64)).collect()).collect()
        };
        let map = |from: Vec<Vec<f64>>, f: &dyn Fn(f64) -> f64| -> Vec<Vec<f64>> {
            from.into_iter().map(|row| row.into_iter().map(f).collect()).collect()
        };
        let old_log_probs = map(uniform(0), &|u| -3.0 * u);
        let moved = map(uniform(1), &|u| 0.6 * u - 0.3);
        let log_probs = old_log_probs
            .iter()
            .zip(&moved)
            .map(|(row, moved)| row.iter().zip(moved).map(|(old, moved)| old + moved).collect::<Vec<f64>>());
        let length = |row: usize| match row {
            _ if seq == 1 => 1,
            row if row + 1 == rows => 0,
            row => seq.saturating_sub(row).max(1),
        };
        let mut host = Self {
            log_probs: log_probs.collect(),
            ref_log_probs: map(uniform(2), &|u| -3.0 * u),
            advantages: map(uniform(3), &|u| 3.0 * u - 1.5),
            entropy: map(uniform(4), &|u| 2.0 * u),
            token_weights: None,
            mask: (0..rows).map(|row| (0..seq).map(|t| t < length(row)).collect()).collect(),
            old_log_probs,
        };
        host.poison_padding();
        host
    }

    pub fn with_row_advantages(mut self) -> Self {
        for row in &mut self.advantages {
            let of_row = row[0];
            row.fill(if of_row.is_nan() { 1.0 } else { of_row });
        }
        self.poison_padding();
        self
    }

    pub fn with_random_token_weights(mut self) -> Self {
        let key = RandomKey::new(18, Purpose::Init);
        let weights = |row: usize| (0..self.seq()).map(|t| 2.0 * key.at(row as u64).uniform(t as u64)).collect();
        self.token_weights = Some((0..self.rows()).map(weights).collect());
        self.poison_padding();
        self
    }

    /// Fills the padding of everything with NaN and infinities.
    pub fn poison_padding(&mut self) {
        let mask = self.mask.clone();
        for tensor in self.tensors() {
            for (row, values) in tensor.iter_mut().enumerate() {
                for (t, value) in values.iter_mut().enumerate().filter(|(t, _)| !mask[row][*t]) {
                    *value = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY][(row + t) % 3];
                }
            }
        }
    }

    fn tensors(&mut self) -> Vec<&mut Vec<Vec<f64>>> {
        let always = [
            &mut self.log_probs,
            &mut self.old_log_probs,
            &mut self.ref_log_probs,
            &mut self.advantages,
            &mut self.entropy,
        ];
        always.into_iter().chain(self.token_weights.as_mut()).collect()
    }

    /// These rows, in this order.
    pub fn select(&self, rows: &[usize]) -> Self {
        let mut selected = self.clone();
        for tensor in selected.tensors() {
            *tensor = rows.iter().map(|&row| tensor[row].clone()).collect();
        }
        selected.mask = rows.iter().map(|&row| self.mask[row].clone()).collect();
        selected
    }

    pub fn only(&self, row: usize) -> Self {
        self.select(&[row])
    }

    /// The batch with more columns, all of them padding.
    pub fn padded_by(&self, columns: usize) -> Self {
        let mut padded = self.clone();
        for row in &mut padded.mask {
            row.extend(vec![false; columns]);
        }
        for tensor in padded.tensors() {
            for row in tensor {
                row.extend(vec![0.0; columns]);
            }
        }
        padded.poison_padding();
        padded
    }

    pub fn rows(&self) -> usize {
        self.mask.len()
    }

    pub fn seq(&self) -> usize {
        self.mask[0].len()
    }

    pub fn length(&self, row: usize) -> usize {
        self.mask[row].iter().filter(|&&inside| inside).count()
    }

    pub fn totals(&self) -> BatchTotals {
        BatchTotals::of_lengths(&(0..self.rows()).map(|row| self.length(row)).collect::<Vec<_>>())
    }

    /// (row, position) of every response token.
    pub fn tokens(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let all = (0..self.rows()).flat_map(|row| (0..self.seq()).map(move |t| (row, t)));
        all.filter(|&(row, t)| self.mask[row][t])
    }

    pub fn log_ratio(&self, row: usize, t: usize) -> f64 {
        self.log_probs[row][t] - self.old_log_probs[row][t]
    }

    /// Mean log-ratio of a row, 0 for an empty one.
    pub fn sequence_log_ratio(&self, row: usize) -> f64 {
        let sum: f64 = self.tokens().filter(|&(r, _)| r == row).map(|(_, t)| self.log_ratio(row, t)).sum();
        sum / self.length(row).max(1) as f64
    }

    pub fn mask(&self, device: &Device) -> Tensor<2, burn::tensor::Bool> {
        let ones: Vec<Vec<f64>> =
            self.mask.iter().map(|row| row.iter().map(|&inside| f64::from(u8::from(inside))).collect()).collect();
        tensor(&ones, device).greater_scalar(0.5)
    }

    pub fn batch(&self, device: &Device) -> PolicyBatch {
        let [log_probs, old_log_probs, advantages, entropy] =
            [&self.log_probs, &self.old_log_probs, &self.advantages, &self.entropy].map(|rows| tensor(rows, device));
        let batch = PolicyBatch::new(log_probs, old_log_probs, advantages, self.mask(device)).with_entropy(entropy);
        match &self.token_weights {
            Some(weights) => batch.with_token_weights(tensor(weights, device)),
            None => batch,
        }
    }
}

/// The loss's value and gradients on these rows, as a whole update.
pub fn gradients<L: PolicyLoss + Clone + 'static>(loss: &L, host: &HostBatch, device: &Device) -> ObjectiveGradients {
    Objective::new(Arc::new(loss.clone())).gradients(host.batch(device), None, &host.totals())
}

/// Compares a loss with a scalar reference: the value, and the gradient with numeric differentiation of the reference.
#[track_caller]
pub fn check_against<L: PolicyLoss + Clone + 'static>(
    loss: &L,
    host: &HostBatch,
    reference: impl Fn(&HostBatch) -> f64,
) {
    let expected_gradient = numeric_gradient(host, &reference);
    for device in devices() {
        let got = gradients(loss, host, &device);
        // A few dozen f32 operations on numbers of order 1.
        assert_close(&[scalar(got.loss)], &[reference(host)], 1e-5, 1e-6);
        // Central differences of an f64 function with step 1e-5 are good to about 1e-9.
        assert_close(&values(got.log_probs).concat(), &expected_gradient.concat(), 1e-5, 1e-6);
    }
}

/// [`check_against`] for a loss with factors that have no gradient: `weight` of each token is computed once, and the same
/// numbers are given to the reference while its log-probs are varied.
#[track_caller]
pub fn check_with_weights<L: PolicyLoss + Clone + 'static>(
    loss: &L,
    host: &HostBatch,
    weight: impl Fn(&HostBatch, usize, usize) -> f64,
    reference: fn(&HostBatch, &[Vec<f64>]) -> f64,
) {
    let mut weights = vec![vec![0.0; host.seq()]; host.rows()];
    for (row, t) in host.tokens() {
        weights[row][t] = weight(host, row, t);
    }
    check_against(loss, host, |host| reference(host, &weights));
}

/// (Â − mean Â) (log π − mean log π) of a token, with means over all of them.
pub fn covariance(host: &HostBatch, row: usize, t: usize) -> f64 {
    let mean = |of: &[Vec<f64>]| {
        let sum: f64 = host.tokens().map(|(row, t)| of[row][t]).sum();
        sum / host.totals().tokens as f64
    };
    (host.advantages[row][t] - mean(&host.advantages)) * (host.log_probs[row][t] - mean(&host.log_probs))
}

/// ∂reference/∂log_probs by central differences; 0 in padding.
pub fn numeric_gradient(host: &HostBatch, reference: impl Fn(&HostBatch) -> f64) -> Vec<Vec<f64>> {
    const STEP: f64 = 1e-5;
    let mut gradient = vec![vec![0.0; host.seq()]; host.rows()];
    for (row, t) in host.tokens() {
        let shifted = |by: f64| {
            let mut host = host.clone();
            host.log_probs[row][t] += by;
            reference(&host)
        };
        gradient[row][t] = (shifted(STEP) - shifted(-STEP)) / (2.0 * STEP);
    }
    gradient
}
