//! Sums over the processes of a run.

/// The processes that share a run, one device each.
///
/// Whatever counts or sums over a batch does so through this trait, so that the update of several processes equals the
/// update of one.
pub trait Collective: Send + Sync {
    /// This process's number, from 0.
    fn rank(&self) -> usize;
    /// How many processes there are.
    fn world_size(&self) -> usize;
    /// Replaces each value by its sum over all processes.
    fn all_reduce_sum(&self, values: &mut [f64]);
}

/// A run of one process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Local;

impl Collective for Local {
    fn rank(&self) -> usize {
        0
    }
    fn world_size(&self) -> usize {
        1
    }
    fn all_reduce_sum(&self, _values: &mut [f64]) {}
}
