//! Low-rank adapters: a frozen projection learns the product of two thin matrices beside its weight.
//!
//! ```text
//! y = x Wᵀ + b + s (x Aᵀ) Bᵀ        A [rank, in], B [out, rank], s = alpha / rank
//! ∂L/∂B = s gᵀ (x Aᵀ)        ∂L/∂A = s (g B)ᵀ x        ∂L/∂x = g W + s (g B) A        g = ∂L/∂y
//! ```
//!
//! Hu et al., arXiv 2106.09685; names, scale and initial values are PEFT's. B begins as 0, so that an adapter begins as
//! nothing at all, and the model without it is the policy that training started from.

use burn::module::{Module, Param};
use burn::tensor::{FloatDType, Tensor, TensorData};
use luspo_core::RandomKey;
use rand_distr::{Distribution, Uniform};

use crate::ModelError;
use crate::error::listed;
use crate::linear::Linear;
use crate::modeling::{Qwen2DecoderLayer, Qwen2ForCausalLM};
use crate::tape::Gradients;

/// The projections that can have an adapter, as PEFT calls them, in the order of a block.
pub(crate) const PROJECTIONS: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// Which adapters a model has.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// Rows of A and columns of B.
    pub rank: usize,
    /// Numerator of the scale.
    pub alpha: f64,
    /// Whether the scale is alpha / √rank (arXiv 2312.03732) in place of alpha / rank.
    pub use_rslora: bool,
    /// The projections that have one in every block: `q_proj`, `k_proj`, `v_proj`, `o_proj`, `gate_proj`, `up_proj`,
    /// `down_proj` or some of them.
    pub target_modules: Vec<String>,
}

impl LoraConfig {
    /// s of the equations.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }

    /// Shapes of A and B of a projection of this size, `[out, in]`.
    pub(crate) fn shapes(&self, [outputs, inputs]: [usize; 2]) -> [[usize; 2]; 2] {
        [[self.rank, inputs], [outputs, self.rank]]
    }

    /// Whether the projection of this name has an adapter.
    pub(crate) fn targets(&self, projection: &str) -> bool {
        self.target_modules.iter().any(|target| target == projection)
    }

    /// Refuses what is no adapter.
    ///
    /// # Errors
    /// [`ModelError::Lora`]: a rank of 0, a scale that is 0 or not finite, no projection or an unknown one.
    pub fn check(&self) -> Result<(), ModelError> {
        let unknown: Vec<String> =
            self.target_modules.iter().filter(|name| !PROJECTIONS.contains(&name.as_str())).cloned().collect();
        let known = PROJECTIONS.map(String::from);
        let problem = if self.rank == 0 {
            "the rank is 0; it must be at least 1".into()
        } else if !self.scale().is_normal() {
            format!("alpha = {} is no scale; it must be finite and not 0", self.alpha)
        } else if self.target_modules.is_empty() {
            format!("no projection has an adapter; name some of {}", listed(&known))
        } else if !unknown.is_empty() {
            format!("there is no projection {}; there are {}", listed(&unknown), listed(&known))
        } else {
            return Ok(());
        };
        Err(ModelError::Lora { problem })
    }
}

/// The adapter of one projection.
#[derive(Module, Debug)]
pub struct Lora {
    /// `[rank, in]`
    pub a: Param<Tensor<2>>,
    /// `[out, rank]`
    pub b: Param<Tensor<2>>,
    /// What its product is multiplied by.
    pub(crate) scale: f64,
}

impl Lora {
    /// What is added to the projection, `[tokens, in]` → `[tokens, out]`.
    pub(crate) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        (x.matmul(self.a.val().transpose()) * self.scale).matmul(self.b.val().transpose())
    }

    /// What is added to ∂L/∂x, `[tokens, in]`, from ∂L/∂y; adds the gradients of A and B.
    pub(crate) fn backward(&self, x: Tensor<2>, gradient: Tensor<2>, gradients: &mut Gradients) -> Tensor<2> {
        let inner = x.clone().matmul(self.a.val().transpose()) * self.scale;
        gradients.add_adapter(&self.b, gradient.clone().transpose().matmul(inner));
        let d_inner = gradient.matmul(self.b.val()) * self.scale;
        gradients.add_adapter(&self.a, d_inner.clone().transpose().matmul(x));
        d_inner.matmul(self.a.val())
    }

    /// `weight` with the adapter in it, computed in f32 and rounded once.
    fn merged(&self, weight: Tensor<2>) -> Tensor<2> {
        let dtype = self.a.dtype(); // that of a frozen weight may be shorter
        let [a, b, weight] = [self.a.val(), self.b.val(), weight].map(|x| x.inner().cast(FloatDType::F32));
        (weight + b.matmul(a) * self.scale).cast(dtype)
    }
}

impl Linear {
    /// The same map without an adapter of its own.
    fn merged(self) -> Self {
        let Self { weight, bias, lora } = self;
        let weight = match lora {
            Some(lora) => weight.map(|weight| match weight.is_autodiff() {
                // A parameter begins a graph: the sum is no part of it.
                true => lora.merged(weight).autodiff().require_grad(),
                false => lora.merged(weight),
            }),
            None => weight,
        };
        Self { weight, bias, lora: None }
    }
}

impl Qwen2DecoderLayer {
    /// The projections, in the order of [`PROJECTIONS`].
    pub(crate) fn projections(&self) -> [&Linear; 7] {
        let (attention, mlp) = (&self.self_attn, &self.mlp);
        let [q, k, v, o] = [&attention.q_proj, &attention.k_proj, &attention.v_proj, &attention.o_proj];
        [q, k, v, o, &mlp.gate_proj, &mlp.up_proj, &mlp.down_proj]
    }

    pub(crate) fn projections_mut(&mut self) -> [&mut Linear; 7] {
        let (attention, mlp) = (&mut self.self_attn, &mut self.mlp);
        let [q, k, v, o] = [&mut attention.q_proj, &mut attention.k_proj, &mut attention.v_proj, &mut attention.o_proj];
        [q, k, v, o, &mut mlp.gate_proj, &mut mlp.up_proj, &mut mlp.down_proj]
    }
}

impl Qwen2ForCausalLM {
    /// The model with new adapters, which are all that is trained from then on; what it computes is as before, bit for
    /// bit. Weights are shared with this model, whose own adapters, if it has any, are left out.
    ///
    /// A is drawn uniformly from ±1/√in, as PEFT draws it, from the host generator of `key` at the block's and the
    /// projection's number, so that it depends neither on the backend nor on which other projections have an adapter; B
    /// is 0. Both have the number type that the model computes with.
    ///
    /// # Errors
    /// As [`LoraConfig::check`].
    pub fn with_lora(&self, config: &LoraConfig, key: RandomKey) -> Result<Self, ModelError> {
        self.with_adapters(config, |[layer, projection], _, [a, b]| {
            let bound = 1.0 / (a[1] as f64).sqrt();
            let uniform = Uniform::new_inclusive(-bound, bound).expect("a projection has inputs");
            let mut rng = key.at(layer as u64).at(projection as u64).rng();
            let values: Vec<f32> = (0..a[0] * a[1]).map(|_| uniform.sample(&mut rng) as f32).collect();
            Ok([TensorData::new(values, a), TensorData::new(vec![0f32; b[0] * b[1]], b)])
        })
    }

    /// The model with adapters of these values. `values` is asked by block and projection, by the projection's name in
    /// PEFT's files, and by the shapes of A and B, for their numbers in any type.
    pub(crate) fn with_adapters(
        &self,
        config: &LoraConfig,
        mut values: impl FnMut([usize; 2], &str, [[usize; 2]; 2]) -> Result<[TensorData; 2], ModelError>,
    ) -> Result<Self, ModelError> {
        config.check()?;
        let (mut model, device, dtype) = (self.without_lora(), self.device(), self.model.dtype());
        for (layer, block) in model.model.layers.iter_mut().enumerate() {
            for (projection, linear) in block.projections_mut().into_iter().enumerate() {
                if !config.targets(PROJECTIONS[projection]) {
                    continue;
                }
                let shapes = config.shapes(linear.weight.dims());
                let [a, b] = values([layer, projection], &name(layer, projection), shapes)?
                    .map(|data| Param::from_tensor(Tensor::from_data(data.convert_dtype(dtype), (&device, dtype))));
                linear.lora = Some(Lora { a, b, scale: config.scale() });
            }
        }
        Ok(model)
    }

    /// The base: the model without its adapters. Shares its weights.
    pub fn without_lora(&self) -> Self {
        let mut model = self.clone();
        model
            .model
            .layers
            .iter_mut()
            .flat_map(Qwen2DecoderLayer::projections_mut)
            .for_each(|linear| linear.lora = None);
        model
    }

    /// Whether the model has adapters; then they alone are trained.
    pub fn has_lora(&self) -> bool {
        self.adapters().next().is_some()
    }

    /// A model without adapters that computes the same but for rounding: every weight with its adapter in it, W + s B A,
    /// computed in f32 and rounded to the number type of the adapter. Weights without one are shared.
    pub fn merged(&self) -> Self {
        let mut model = self.clone();
        for linear in model.model.layers.iter_mut().flat_map(Qwen2DecoderLayer::projections_mut) {
            *linear = linear.clone().merged();
        }
        model
    }

    /// Names and sizes (`[out, in]`) of the projections that have an adapter by `config`.
    pub(crate) fn places(&self, config: &LoraConfig) -> Vec<(String, [usize; 2])> {
        let layers = self.model.layers.iter().enumerate();
        let all = layers.flat_map(|(layer, block)| {
            let projections = block.projections().into_iter().enumerate();
            projections.map(move |(projection, linear)| (projection, (name(layer, projection), linear.weight.dims())))
        });
        all.filter(|(projection, _)| config.targets(PROJECTIONS[*projection])).map(|(_, place)| place).collect()
    }

    /// The adapters, by block and projection.
    pub fn adapters(&self) -> impl Iterator<Item = &Lora> {
        self.model.layers.iter().flat_map(Qwen2DecoderLayer::projections).filter_map(|linear| linear.lora.as_ref())
    }
}

/// A projection's Hugging Face name.
fn name(layer: usize, projection: usize) -> String {
    let part = if projection < 4 { "self_attn" } else { "mlp" };
    format!("model.layers.{layer}.{part}.{}", PROJECTIONS[projection])
}
