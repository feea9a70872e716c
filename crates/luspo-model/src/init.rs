//! Making the model: every parameter is built from host values, never by Burn's lazy, process-global initialisers.

use std::convert::Infallible;

use burn::module::Param;
use burn::nn::Embedding;
use burn::tensor::{Device, Tensor, TensorData};
use luspo_core::RandomKey;
use rand_distr::{Distribution, StandardNormal};

use crate::attention::Qwen2Attention;
use crate::backend::lasting;
use crate::config::Qwen2Config;
use crate::dtype::WeightDtype;
use crate::linear::Linear;
use crate::modeling::{Qwen2DecoderLayer, Qwen2ForCausalLM, Qwen2Mlp, Qwen2Model};
use crate::norm::RmsNorm;
use crate::weights::EMBEDDING;

impl Qwen2ForCausalLM {
    /// Random weights, the same on every backend.
    ///
    /// Drawn from the host generator of `key`, parameter after parameter in the order of [`Qwen2Config::parameters`],
    /// each in its Hugging Face layout: the embedding with standard deviation 0.05, a linear layer with 1/√fan_in,
    /// `o_proj` and `down_proj` further divided by √(2 · layers) so that the residual stream does not grow with depth.
    /// Biases are 0, norms 1. (The customary 0.02 everywhere learns far more slowly in models this narrow.)
    pub fn init(config: &Qwen2Config, key: RandomKey, device: &Device) -> Self {
        Self::init_as(config, key, device, WeightDtype::F32)
    }

    /// As [`init`](Self::init), with parameters of another number type: the same numbers, each rounded to the nearest one
    /// there is.
    ///
    /// # Panics
    /// If the device does not compute with the type.
    pub fn init_as(config: &Qwen2Config, key: RandomKey, device: &Device, dtype: WeightDtype) -> Self {
        let mut rng = key.rng();
        let depth = (2.0 * config.num_hidden_layers as f64).sqrt();
        let Ok(model) = build(config, device, |name, shape| {
            let size = shape.iter().product();
            let data =
                |values: Vec<f32>| Ok::<_, Infallible>(TensorData::new(values, shape).convert_dtype(dtype.into()));
            let std = match shape {
                [_] => return data(vec![if name.ends_with("norm.weight") { 1.0 } else { 0.0 }; size]),
                _ if name.ends_with("embed_tokens.weight") => 0.05,
                _ => {
                    let residual = name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight");
                    1.0 / (shape[1] as f64).sqrt() / if residual { depth } else { 1.0 }
                }
            };
            let normal = |rng: &mut _| -> f64 { StandardNormal.sample(rng) };
            data((0..size).map(|_| (normal(&mut rng) * std) as f32).collect())
        });
        model
    }
}

/// Builds the model, asking `values` for each parameter by its Hugging Face name and shape, in the order of
/// [`Qwen2Config::parameters`]. Parameters have the number type of what they are given.
pub(crate) fn build<E>(
    config: &Qwen2Config,
    device: &Device,
    values: impl FnMut(&str, &[usize]) -> Result<TensorData, E>,
) -> Result<Qwen2ForCausalLM, E> {
    let mut parameters = Parameters { values, device };
    let model = parameters.trunk(config)?;
    let lm_head = match config.tie_word_embeddings {
        true => None,
        false => Some(parameters.linear("lm_head", config.hidden_size, config.vocab_size, false)?),
    };
    Ok(Qwen2ForCausalLM { model, lm_head })
}

/// Makes parameters of the values that it is given by their Hugging Face names and shapes.
pub(crate) struct Parameters<'a, F> {
    pub(crate) values: F,
    pub(crate) device: &'a Device,
}

impl<F, E> Parameters<'_, F>
where
    F: FnMut(&str, &[usize]) -> Result<TensorData, E>,
{
    /// The trunk, its parameters in the order of [`Qwen2Config::parameters`].
    pub(crate) fn trunk(&mut self, config: &Qwen2Config) -> Result<Qwen2Model, E> {
        let (hidden, feed) = (config.hidden_size, config.intermediate_size);
        let keys = config.num_key_value_heads * config.head_dim();
        let embedding = self.take(EMBEDDING, [config.vocab_size, hidden])?;
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for layer in 0..config.num_hidden_layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}");
            layers.push(Qwen2DecoderLayer {
                self_attn: Qwen2Attention {
                    q_proj: self.linear(&name("self_attn.q_proj"), hidden, hidden, true)?,
                    k_proj: self.linear(&name("self_attn.k_proj"), hidden, keys, true)?,
                    v_proj: self.linear(&name("self_attn.v_proj"), hidden, keys, true)?,
                    o_proj: self.linear(&name("self_attn.o_proj"), hidden, hidden, false)?,
                    heads: config.num_attention_heads,
                    kv_heads: config.num_key_value_heads,
                },
                mlp: Qwen2Mlp {
                    gate_proj: self.linear(&name("mlp.gate_proj"), hidden, feed, false)?,
                    up_proj: self.linear(&name("mlp.up_proj"), hidden, feed, false)?,
                    down_proj: self.linear(&name("mlp.down_proj"), feed, hidden, false)?,
                },
                input_layernorm: self.norm(&name("input_layernorm"), config)?,
                post_attention_layernorm: self.norm(&name("post_attention_layernorm"), config)?,
            });
        }
        let embed_tokens = Embedding { weight: embedding };
        Ok(Qwen2Model { embed_tokens, layers, norm: self.norm("model.norm", config)?, rope_theta: config.rope_theta })
    }

    fn take<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> Result<Param<Tensor<D>>, E> {
        Ok(Param::from_tensor(lasting((self.values)(name, &shape)?, self.device)))
    }

    pub(crate) fn linear(&mut self, name: &str, inputs: usize, outputs: usize, bias: bool) -> Result<Linear, E> {
        let weight = self.take(&format!("{name}.weight"), [outputs, inputs])?;
        let bias = match bias {
            true => Some(self.take(&format!("{name}.bias"), [outputs])?),
            false => None,
        };
        Ok(Linear { weight, bias, lora: None })
    }

    fn norm(&mut self, name: &str, config: &Qwen2Config) -> Result<RmsNorm, E> {
        let weight = self.take(&format!("{name}.weight"), [config.hidden_size])?;
        Ok(RmsNorm { weight, epsilon: config.rms_norm_eps })
    }
}
