#![allow(missing_docs)]
use burn::module::{Module, Param};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use luspo_trainer::config::OptimizerConfig;
use std::time::Instant;
#[path = "/tmp/old_optimizer.rs"]
mod old;

#[derive(Module, Debug)]
struct Weights {
    a: Vec<Param<Tensor<2>>>,
}

fn peak() -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let kb = |key: &str| {
        text.lines().find(|l| l.starts_with(key)).unwrap().split_whitespace().nth(1).unwrap().parse::<f64>().unwrap()
            / 1e6
    };
    kb("VmHWM")
}
fn main() {
    let which = std::env::args().nth(1).unwrap();
    let threads: usize = std::env::args().nth(2).unwrap().parse().unwrap();
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().unwrap();
    let plain = Device::flex();
    let device = plain.clone().autodiff();
    // The shape of a model of 100 M: an embedding of 27 M and 73 matrices of 1 M.
    let shapes: Vec<[usize; 2]> = std::iter::once([27_000, 1000]).chain((0..73).map(|_| [1000, 1000])).collect();
    let dtype = if which.contains("bf16") { FloatDType::BF16 } else { FloatDType::F32 };
    let random = |n: usize, k: u32| -> Vec<f32> {
        let mut s = k;
        (0..n)
            .map(|_| {
                s = s.wrapping_mul(1664525).wrapping_add(1013904223);
                (s >> 8) as f32 / (1 << 24) as f32 - 0.5
            })
            .collect()
    };
    let mut model = Weights {
        a: shapes
            .iter()
            .enumerate()
            .map(|(i, s)| {
                Param::from_tensor(
                    Tensor::<2>::from_data(TensorData::new(random(s[0] * s[1], i as u32), *s), (&device, DType::F32))
                        .cast(dtype)
                        .detach(),
                )
            })
            .collect(),
    };
    if which.contains("hash") {
        use rayon::prelude::*;
        use sha2::{Digest, Sha256};
        let t = Instant::now();
        let mut all = Sha256::new();
        for p in &model.a {
            all.update(p.val().into_data().as_bytes());
        }
        println!("one after the other {:?} peak {:.2}", t.elapsed(), peak());
        for _ in 0..3 {
            let t = Instant::now();
            const PIECE: usize = 1 << 18;
            for p in &model.a {
                let value = p.val().inner();
                let len = value.shape().num_elements();
                let value = value.reshape([len]);
                let piece = |i: usize| value.clone().slice([i * PIECE..len.min((i + 1) * PIECE)]).into_data();
                let d: Vec<_> =
                    (0..len.div_ceil(PIECE)).into_par_iter().map(|i| Sha256::digest(piece(i).as_bytes())).collect();
                d.iter().for_each(|d| all.update(d));
            }
            println!("pieces {:?} peak {:.2}", t.elapsed(), peak());
        }
        return;
    }
    let gradients = |model: &Weights| {
        let mut g = GradientsParams::new();
        for (p, s) in model.a.iter().zip(&shapes) {
            g.register(p.id, Tensor::<2>::from_data(TensorData::new(random(s[0] * s[1], 7), *s), (&plain, DType::F32)));
        }
        g
    };
    let config = OptimizerConfig::default();
    let mut times = Vec::new();
    println!("{which} threads {threads}: parameters alone {:.2} GB", peak());
    let mut run = |step: &mut dyn FnMut(&mut Weights, GradientsParams)| {
        for _ in 0..6 {
            let g = gradients(&model);
            let t = Instant::now();
            step(&mut model, g);
            times.push((t.elapsed().as_secs_f64() * 1e3).round());
        }
    };
    if which == "old" {
        let mut o = old::AdamW::new(config);
        run(&mut |m, g| {
            o.step(m, g, 1e-4);
        });
    } else {
        let mut o = luspo_trainer::AdamW::new(config);
        run(&mut |m, g| {
            o.step(m, g, 1e-4);
        });
    }
    println!("ms {times:?}, peak {:.2} GB", peak());
}
