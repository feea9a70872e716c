//! The value model: the trunk with one number a token, V(s) of the state that a token is drawn from.
//!
//! ```text
//! Vₜ = wᵀ hₜ + b          ∂L/∂hₜ = ∂L/∂Vₜ · w          ∂L/∂w = Σₜ ∂L/∂Vₜ · hₜ          ∂L/∂b = Σₜ ∂L/∂Vₜ
//! ```
//!
//! hₜ is the state after the last norm at the token before response token t: the one that predicts it.

mod folder;

use std::convert::Infallible;

use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use luspo_core::RandomKey;
use rand_distr::{Distribution, StandardNormal};

use crate::batch::ResponseBatch;
use crate::init::Parameters;
use crate::linear::Linear;
use crate::modeling::{Qwen2ForCausalLM, Qwen2Model};
use crate::options::MemoryOptions;
use crate::tape::{self, Gradients, Tape};

/// Standard deviation of a fresh head's weights: the `initializer_range` of Qwen2.5.
const FRESH_STD: f64 = 0.02;

/// Qwen2 with a head that makes one number of each token: a value model, or critic.
///
/// ```
/// use burn::optim::GradientsParams;
/// use luspo_core::{Purpose, RandomKey};
/// use luspo_model::{
///     Backend, MemoryOptions, Qwen2Config, Qwen2ForCausalLM, Qwen2ForTokenClassification, ResponseBatch,
/// };
///
/// # fn main() -> Result<(), luspo_model::ModelError> {
/// let device = Backend::Flex.device()?.autodiff();
/// let config = Qwen2Config::new(260, 32, 64, 2, 4, 2);
/// let policy = Qwen2ForCausalLM::init(&config, RandomKey::new(0, Purpose::Init), &device);
/// let critic = Qwen2ForTokenClassification::from_policy(&policy, RandomKey::new(0, Purpose::Init).at(1));
///
/// let batch = ResponseBatch::new(&[(&[1, 2, 3], &[6, 0]), (&[4, 5], &[7])]);
/// let memory = MemoryOptions::default();
/// assert_eq!(critic.response_values(&batch, &memory).dims(), [2, 2]);
/// // ∂/∂V ½ Σ (V − 1)²: values that should be 1.
/// let mut gradients = GradientsParams::new();
/// critic.value_gradients(&batch, &memory, &mut gradients, |values| values.clone() - 1.0);
/// assert_eq!(gradients.len(), 28);
/// # Ok(())
/// # }
/// ```
#[derive(Module, Debug)]
pub struct Qwen2ForTokenClassification {
    /// The trunk.
    pub model: Qwen2Model,
    /// The head, hidden → 1, with a bias.
    pub score: Linear,
}

impl Qwen2ForTokenClassification {
    /// A value model that begins as the policy's trunk, with parameters of its own, on the policy's device. Adapters of the
    /// policy are [merged](Qwen2ForCausalLM::merged) into them.
    ///
    /// The head is as transformers makes one that a checkpoint lacks, which is what verl's critic begins with: weights
    /// from the host generator of `key` with standard deviation 0.02, bias 0. Values are therefore small, not 0.
    pub fn from_policy(policy: &Qwen2ForCausalLM, key: RandomKey) -> Self {
        let [_, hidden] = policy.model.embed_tokens.weight.dims();
        let device = policy.device();
        let mut fresh = fresh_head(key);
        let dtype = policy.dtype().into();
        let values = |_: &str, shape: &[usize]| Ok::<_, Infallible>(fresh(shape).convert_dtype(dtype));
        let mut parameters = Parameters { values, device: &device };
        let Ok(score) = parameters.linear("score", hidden, 1, true);
        Self { model: policy.merged().cast(policy.dtype()).model.map(&mut OwnParameters), score }
    }

    /// Where the parameters are, with autodiff if they are trained.
    pub fn device(&self) -> Device {
        self.score.weight.device()
    }

    /// The value of the state that each response token is drawn from, `[batch, seq]`, plain f32, right-padded with 0.
    /// Keeps no graph, on either view of the model.
    pub fn response_values(&self, batch: &ResponseBatch, memory: &MemoryOptions) -> Tensor<2> {
        let plain = self.plain();
        let values = plain.score.forward(tape::forward(&plain.model, batch, memory));
        batch.spread_tokens(values.cast(FloatDType::F32))
    }

    /// Adds to `gradients`, in f32, the gradient with respect to all parameters of a loss that is a function of the
    /// responses' values.
    ///
    /// `objective` is called once with the values of the whole batch, as
    /// [`response_values`](Self::response_values) gives them, and returns ∂loss/∂values, `[batch, seq]`; whatever stands
    /// in its padding is ignored. The loss itself is the caller's business.
    pub fn value_gradients(
        &self,
        batch: &ResponseBatch,
        memory: &MemoryOptions,
        gradients: &mut GradientsParams,
        objective: impl FnOnce(&Tensor<2>) -> Tensor<2>,
    ) {
        let plain = self.plain();
        let mut gradients = Gradients::into(gradients);
        let (hidden, tape) = Tape::record(&plain.model, batch, memory);
        let values = plain.score.forward(hidden.clone()).cast(FloatDType::F32);
        let d_values = batch.pack_tokens(objective(&batch.spread_tokens(values)).inner()); // [responses, 1]
        let dtype = hidden.dtype();
        let d_hidden = plain.score.backward(&hidden, &d_values.cast(dtype), None, &mut gradients);
        tape.backward(&plain.model, d_hidden, &mut gradients);
    }

    /// The view without autodiff: itself where there is none. Shares storage either way.
    fn plain(&self) -> Self {
        if self.device().is_autodiff() { self.valid() } else { self.clone() }
    }
}

/// The values of a new head's parameters by their shapes, see
/// [`from_policy`](Qwen2ForTokenClassification::from_policy).
fn fresh_head(key: RandomKey) -> impl FnMut(&[usize]) -> TensorData {
    let mut rng = key.rng();
    move |shape| {
        let normal = |rng: &mut _| -> f64 { StandardNormal.sample(rng) };
        let values: Vec<f32> = match shape {
            [size] => vec![0.0; *size], // the bias
            _ => (0..shape.iter().product()).map(|_| (normal(&mut rng) * FRESH_STD) as f32).collect(),
        };
        TensorData::new(values, shape)
    }
}

/// Gives every parameter an id and a graph of its own; values are shared until one of the two changes.
struct OwnParameters;

impl ModuleMapper for OwnParameters {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (_, value, mapper) = param.consume();
        let value = if value.is_autodiff() { value.inner().autodiff().require_grad() } else { value };
        Param::from_mapped_value(ParamId::new(), value, mapper)
    }
}
