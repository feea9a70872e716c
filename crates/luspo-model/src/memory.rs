//! Whether a model fits into memory, asked before it is taken: where the system has no more to give, it ends the process
//! without a word.

use sysinfo::System;

use crate::{Backend, ModelError, Qwen2Config};

/// What is held at once, at the least, in numbers of f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Numbers for each parameter: 1 to load it, 4 to train it (with its gradient and the optimizer's two moments), 0
    /// where the model is loaded already.
    pub per_parameter: usize,
    /// Answers that are sampled together.
    pub rows: usize,
    /// Longest of these, in tokens, with its prompt where that is known.
    pub tokens: usize,
}

impl MemoryPlan {
    /// Whether this machine has the memory for it. GPUs, which have their own, are not asked.
    ///
    /// # Errors
    /// [`ModelError::TooLarge`].
    pub fn check(&self, config: &Qwen2Config, backend: Backend) -> Result<(), ModelError> {
        if backend.has_own_memory() {
            return Ok(());
        }
        let Some(available) = available() else { return Ok(()) };
        let parameters = config.num_params() as f64;
        let too_large = |what: String, numbers: f64, instead| {
            let needed = numbers * size_of::<f32>() as f64;
            if needed <= available as f64 {
                return Ok(());
            }
            Err(ModelError::TooLarge { what, needed, available, instead })
        };
        let weights = parameters * self.per_parameter as f64;
        let what = match self.per_parameter {
            1 => format!("a model of {:.1} M parameters", parameters / 1e6),
            _ => format!("training a model of {:.1} M parameters", parameters / 1e6),
        };
        too_large(what, weights, "choose a smaller one, or free memory")?;
        let cache = self.rows as f64 * self.tokens as f64 * config.cached_per_token() as f64;
        let what = format!("sampling {} answers of up to {} tokens together", self.rows, self.tokens);
        too_large(what, weights + cache, "lower max_batch_size or max_response_length")
    }
}

/// Bytes that processes can still take, swap included; none where the system does not say.
fn available() -> Option<u64> {
    let mut system = System::new();
    system.refresh_memory();
    let free = system.available_memory() + system.free_swap();
    // A container's limit; what of it is free does not count the file cache, which would give way.
    let free = system.cgroup_limits().map_or(free, |limits| free.min(limits.total_memory));
    (free > 0).then_some(free)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_machine_holds_is_refused_and_a_small_model_is_not() {
        let small = Qwen2Config::new(259, 16, 32, 1, 2, 1);
        let plan = MemoryPlan { per_parameter: 4, rows: 8, tokens: 64 };
        assert!(plan.check(&small, Backend::Flex).is_ok());

        let wide = Qwen2Config::new(259, 1 << 20, 1 << 22, 1 << 10, 16, 16);
        assert!(plan.check(&wide, Backend::Cuda(0)).is_ok());
        let error = plan.check(&wide, Backend::Flex).unwrap_err().to_string();
        assert!(error.contains("parameters") && error.contains("GB"), "{error}");

        let long = MemoryPlan { tokens: usize::MAX, ..plan };
        assert!(long.check(&small, Backend::Flex).unwrap_err().to_string().contains("max_response_length"));
    }
}
