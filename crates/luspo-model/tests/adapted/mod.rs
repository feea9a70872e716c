//! A small model with adapters, new ones and such as training leaves.
#![allow(dead_code)] // each test file uses its part

use burn::tensor::{Device, Tensor, TensorData};
use luspo_core::{Purpose, RandomKey};
use luspo_model::{Linear, LoraConfig, PassOptions, Qwen2Config, Qwen2ForCausalLM, ResponseBatch};

use crate::reference::host;

pub const ALL: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

pub fn config(tied: bool) -> Qwen2Config {
    Qwen2Config::new(37, 24, 40, 2, 4, 2).with_tie_word_embeddings(tied)
}

pub fn base(device: &Device) -> Qwen2ForCausalLM {
    Qwen2ForCausalLM::init(&config(false), RandomKey::new(3, Purpose::Init), device)
}

pub fn lora(targets: &[&str]) -> LoraConfig {
    let target_modules = targets.iter().map(|name| name.to_string()).collect();
    LoraConfig { rank: 3, alpha: 5.0, use_rslora: false, target_modules }
}

pub fn fresh(base: &Qwen2ForCausalLM, targets: &[&str]) -> Qwen2ForCausalLM {
    base.with_lora(&lora(targets), RandomKey::new(3, Purpose::Lora)).unwrap()
}

/// Every B with some numbers, as training leaves it.
pub fn trained(base: &Qwen2ForCausalLM, targets: &[&str]) -> Qwen2ForCausalLM {
    let mut model = fresh(base, targets);
    for (index, linear) in projections(&mut model).into_iter().enumerate() {
        let Some(lora) = &mut linear.lora else { continue };
        lora.b = lora.b.clone().map(|b| {
            let shape = b.dims();
            let values: Vec<f32> =
                (0..shape[0] * shape[1]).map(|i| 0.3 * ((i + 7 * index) as f32 * 1.3).sin()).collect();
            let b = Tensor::<2>::from_data(TensorData::new(values, shape), (&b.device(), b.dtype()));
            if b.is_autodiff() { b.require_grad() } else { b }
        });
    }
    model
}

fn projections(model: &mut Qwen2ForCausalLM) -> Vec<&mut Linear> {
    let blocks = model.model.layers.iter_mut().map(|block| (&mut block.self_attn, &mut block.mlp));
    let all = blocks.flat_map(|(attention, mlp)| {
        let [q, k, v, o] = [&mut attention.q_proj, &mut attention.k_proj, &mut attention.v_proj, &mut attention.o_proj];
        [q, k, v, o, &mut mlp.gate_proj, &mut mlp.up_proj, &mut mlp.down_proj]
    });
    all.collect()
}

pub const ROWS: [(&[u32], &[u32]); 3] =
    [(&[1, 2, 3], &[4, 5, 6, 7, 36]), (&[8], &[9, 0]), (&[10, 11, 12, 13, 14, 15, 16], &[17])];

pub fn log_probs(model: &Qwen2ForCausalLM) -> Vec<f32> {
    host(model.response_stats(&ResponseBatch::new(&ROWS), &PassOptions::default()).log_probs)
}
