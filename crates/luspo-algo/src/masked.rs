//! Statistics over the response tokens of ragged rows, on the host.
//!
//! Position t of row i is response token t of answer i; what stands outside the mask is never looked at. Sums run over
//! all processes of the [`Collective`], so that a statistic does not depend on how the rows are spread over them.

use luspo_core::Collective;

use crate::error::AlgoError;

/// Beside the variance in [`whiten`]; verl's value.
const EPSILON: f64 = 1e-8;

/// `values` at the response tokens, row by row.
///
/// # Panics
/// If a row of `mask` is longer than the row of `values`.
pub fn tokens<'a>(values: &'a [Vec<f64>], mask: &'a [Vec<bool>]) -> impl Iterator<Item = f64> + Clone + 'a {
    values.iter().zip(mask).flat_map(|(row, mask)| of_row(row, mask))
}

/// `values` at the response tokens of one row.
pub(crate) fn of_row<'a>(values: &'a [f64], mask: &'a [bool]) -> impl Iterator<Item = f64> + Clone + 'a {
    (0..mask.len()).filter(|&t| mask[t]).map(|t| values[t])
}

/// The mean over the response tokens of each row, 0 for a row without any.
pub(crate) fn row_means(values: &[Vec<f64>], mask: &[Vec<bool>]) -> Vec<f64> {
    values.iter().zip(mask).map(|(row, mask)| mean_of(of_row(row, mask))).collect()
}

/// The mean over the response tokens of each row that has one.
pub(crate) fn sequence_means(values: &[Vec<f64>], mask: &[Vec<bool>]) -> Vec<f64> {
    let rows = values.iter().zip(mask).filter(|(_, mask)| mask.contains(&true));
    rows.map(|(row, mask)| mean_of(of_row(row, mask))).collect()
}

/// Mean of some numbers, 0 of none.
pub(crate) fn mean_of(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = sum_and_count(values);
    sum / count.max(1.0)
}

/// The rows with `f(row, position)` at the response tokens and 0 elsewhere.
pub(crate) fn fill(mask: &[Vec<bool>], f: impl Fn(usize, usize) -> f64) -> Vec<Vec<f64>> {
    let of_row = |(row, mask): (usize, &Vec<bool>)| {
        mask.iter().enumerate().map(|(t, &inside)| if inside { f(row, t) } else { 0.0 }).collect()
    };
    mask.iter().enumerate().map(of_row).collect()
}

/// Mean over all response tokens, 0 where there are none.
pub fn mean(values: &[Vec<f64>], mask: &[Vec<bool>], collective: &dyn Collective) -> f64 {
    let (sum, count) = sum_and_count(tokens(values, mask));
    let mut totals = [sum, count];
    collective.all_reduce_sum(&mut totals);
    totals[0] / totals[1].max(1.0)
}

/// Mean and unbiased variance of numbers spread over the processes; the variance of a single one is 0.
pub(crate) fn mean_and_variance(values: impl Iterator<Item = f64> + Clone, collective: &dyn Collective) -> (f64, f64) {
    let (sum, count) = sum_and_count(values.clone());
    let mut totals = [sum, count];
    collective.all_reduce_sum(&mut totals);
    let mean = totals[0] / totals[1].max(1.0);
    let mut squares = [values.map(|value| (value - mean).powi(2)).sum::<f64>()];
    collective.all_reduce_sum(&mut squares);
    (mean, squares[0] / (totals[1] - 1.0).max(1.0))
}

/// The values with mean 0 and variance 1 over all response tokens; 0 outside the mask.
///
/// ```text
/// x̂ = (x − mean) / √(var + 1e-8)        unbiased variance
/// ```
///
/// A batch of a single response token, or of none, gives 0.
pub fn whiten(values: &[Vec<f64>], mask: &[Vec<bool>], collective: &dyn Collective) -> Vec<Vec<f64>> {
    let (mean, variance) = mean_and_variance(tokens(values, mask), collective);
    let deviation = (variance + EPSILON).sqrt();
    fill(mask, |row, t| (values[row][t] - mean) / deviation)
}

/// Refuses a table with other numbers of rows or tokens than the mask.
pub(crate) fn check_shape(input: &'static str, table: &[Vec<f64>], mask: &[Vec<bool>]) -> Result<(), AlgoError> {
    check_rows(input, table.len(), mask)?;
    let mut rows = table.iter().zip(mask).map(|(row, mask)| (row.len(), mask.len())).enumerate();
    match rows.find(|(_, (length, expected))| length != expected) {
        None => Ok(()),
        Some((row, (length, expected))) => Err(AlgoError::RowLength { input, row, length, expected }),
    }
}

/// Refuses a table with a NaN or an infinity at a response token.
pub(crate) fn check_finite(input: &'static str, table: &[Vec<f64>], mask: &[Vec<bool>]) -> Result<(), AlgoError> {
    let found = table.iter().zip(mask).map(|(row, mask)| of_row(row, mask).find(|value| !value.is_finite()));
    match found.enumerate().find_map(|(row, value)| Some((row, value?))) {
        None => Ok(()),
        Some((row, value)) => Err(AlgoError::NotFinite { input, row, value }),
    }
}

/// Refuses another number of rows than the mask's.
pub(crate) fn check_rows(input: &'static str, rows: usize, mask: &[Vec<bool>]) -> Result<(), AlgoError> {
    let expected = mask.len();
    if rows == expected { Ok(()) } else { Err(AlgoError::RowCount { input, rows, expected }) }
}

fn sum_and_count(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0))
}

#[cfg(test)]
mod tests {
    use luspo_core::Local;

    use super::*;

    #[test]
    fn padding_and_holes_are_never_looked_at() {
        let values = vec![vec![1.0, f64::NAN, 3.0], vec![f64::INFINITY], vec![]];
        let mask = vec![vec![true, false, true], vec![false], vec![]];
        assert_eq!(mean(&values, &mask, &Local), 2.0);
        let whitened = whiten(&values, &mask, &Local);
        let unit = 1.0 / (2.0f64 + 1e-8).sqrt();
        assert_eq!(whitened, [vec![-unit, 0.0, unit], vec![0.0], vec![]]);
    }

    #[test]
    fn one_token_or_none_is_whitened_to_zero() {
        assert_eq!(whiten(&[vec![5.0]], &[vec![true]], &Local), [[0.0]]);
        assert_eq!(whiten(&[vec![5.0]], &[vec![false]], &Local), [[0.0]]);
        assert_eq!(mean(&[], &[], &Local), 0.0);
    }
}
