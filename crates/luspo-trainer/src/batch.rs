//! Rows of host numbers as right-padded tensors, and back.

use burn::tensor::{Bool, Device, Tensor, TensorData};

/// Rows of different lengths as `[batch, seq]`, padded on the right with 0.
///
/// # Panics
/// If a row is longer than `seq`.
pub(crate) fn token_grid<'a>(rows: impl ExactSizeIterator<Item = &'a [f32]>, seq: usize, device: &Device) -> Tensor<2> {
    let batch = rows.len();
    let mut grid = vec![0f32; batch * seq];
    for (row, values) in rows.enumerate() {
        grid[row * seq..row * seq + values.len()].copy_from_slice(values);
    }
    Tensor::from_data(TensorData::new(grid, [batch, seq]), device)
}

/// Rows of different lengths as `[batch, seq]`, false beyond their ends.
///
/// # Panics
/// If a row is longer than `seq`.
pub(crate) fn mask_grid<'a>(
    rows: impl ExactSizeIterator<Item = &'a [bool]>,
    seq: usize,
    device: &Device,
) -> Tensor<2, Bool> {
    let batch = rows.len();
    let mut grid = vec![false; batch * seq];
    for (row, values) in rows.enumerate() {
        grid[row * seq..row * seq + values.len()].copy_from_slice(values);
    }
    Tensor::from_data(TensorData::new(grid, [batch, seq]), device)
}

/// The first `lengths[i]` numbers of each row of a `[batch, seq]` tensor.
pub(crate) fn token_rows(grid: Tensor<2>, lengths: &[usize]) -> Vec<Vec<f32>> {
    let [_, seq] = grid.dims();
    let values: Vec<f32> = grid.into_data().iter::<f32>().collect();
    lengths.iter().enumerate().map(|(row, len)| values[row * seq..row * seq + len].to_vec()).collect()
}
