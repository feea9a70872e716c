//! What a step of training and of sampling costs, as one JSON object.
//!
//! ```text
//! cargo run --release -p luspo-benchmarks [-- --threads 2 --runs 5]
//! cargo run --release -p luspo-benchmarks -- --shape 0.5b --dtype bf16 --work train_step:4x256 --work generation:8x64
//! ```
//!
//! Every entry of [`SUITE`] runs in a process of its own, so that its peak memory is its own too: this program starts
//! itself once per entry. `compare`, beside this package's manifest, measures the same work in PyTorch.
#![warn(missing_docs)]

mod generation;
mod log_probs;
mod loss;
mod machine;
mod measure;
mod process;
mod rlvr_step;
mod train_step;
mod work;
mod workload;

use std::process::Command;

use anyhow::{Context, bail, ensure};
use clap::{Parser, ValueEnum};
use luspo::Backend;
use luspo::model::{Qwen2ForCausalLM, WeightDtype};
use serde_json::{Map, Value, json};

use crate::measure::Figures;
use crate::work::{Phase, Work};
use crate::workload::Shape;

/// What is measured where nothing is asked for.
const SUITE: [(Shape, &str); 10] = [
    (Shape::Small, "train_step:8x256"),
    (Shape::Small, "log_probs:8x256"),
    (Shape::HalfBillion, "train_step:1x128"),
    (Shape::HalfBillion, "log_probs:1x128"),
    (Shape::Small, "loss:512x4096"),
    (Shape::Small, "generation:8x128"),
    (Shape::Small, "ragged:64x512"),
    (Shape::HalfBillion, "generation:1x32"),
    (Shape::HalfBillion, "generation:4x32"),
    (Shape::Small, "rlvr_step:8x128"),
];

#[derive(Parser)]
#[command(about = "Measures what a step of training and of sampling costs, and prints it as JSON")]
struct Args {
    /// Threads to compute with.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    threads: u16,
    /// Timed runs of each phase, after one that is not counted.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Where to compute.
    #[arg(long, default_value_t)]
    backend: Backend,
    /// Number type to compute with, and of the parameters.
    #[arg(long, default_value = "f32")]
    dtype: WeightDtype,
    /// Measures a model that is not trained, as `luspo generate` loads it from a checkpoint of this number type: the random
    /// weights are rounded to it, written and read again.
    #[arg(long, value_name = "DTYPE", requires = "work")]
    checkpoint: Option<WeightDtype>,
    /// The model whose shape random weights get, for the work that is named.
    #[arg(long, value_enum, default_value_t)]
    shape: Shape,
    /// Keep the optimizer's state in host memory.
    #[arg(long)]
    offload: bool,
    /// Measures this work alone, PHASE:ROWSxTOKENS, in this process; several times for several kinds of work.
    #[arg(long, value_name = "PHASE:ROWSxTOKENS")]
    work: Vec<Work>,
}

fn main() -> anyhow::Result<()> {
    luspo_cli::keep_freed_memory(); // its allocator is that of this program too
    let args = Args::parse();
    let report = match args.work.is_empty() {
        false => measured(&args)?,
        true => json!({ "machine": machine::description(args.threads.into()), "phases": suite(&args)? }),
    };
    println!("{report:#}");
    Ok(())
}

/// What is asked for, one after the other, with the same model.
fn measured(args: &Args) -> anyhow::Result<Value> {
    let frozen = |work: &&Work| matches!(work.phase, Phase::LogProbs | Phase::Generation | Phase::Ragged);
    if let Some(other) = args.work.iter().find(|work| args.checkpoint.is_some() && !frozen(work)) {
        bail!("{other}: --checkpoint is for work with a model that is not trained");
    }
    rayon::ThreadPoolBuilder::new().num_threads(args.threads.into()).build_global()?;
    let mut phases = Map::new();
    let mut model = None;
    for work in &args.work {
        let figures = match work.phase {
            Phase::Loss => loss::measure(work, args)?,
            _ => {
                let model = match &mut model {
                    Some(model) => model,
                    unmade => unmade.insert(workload::model(args)?),
                };
                of_model(work, model, args)?
            }
        };
        phases.insert(work.to_string(), figures.to_json());
    }
    Ok(Value::Object(phases))
}

fn of_model(work: &Work, model: &mut Qwen2ForCausalLM, args: &Args) -> anyhow::Result<Figures> {
    match work.phase {
        Phase::TrainStep => train_step::measure(work, model, args, true),
        Phase::Gradients => train_step::measure(work, model, args, false),
        Phase::LogProbs => log_probs::measure(work, model, args),
        Phase::Generation => generation::measure(work, model, args),
        Phase::Ragged => generation::ragged(work, model, args),
        Phase::RlvrStep => rlvr_step::measure(work, model, args),
        Phase::Loss => unreachable!("it has no model"),
    }
}

fn suite(args: &Args) -> anyhow::Result<Map<String, Value>> {
    let mut phases = Map::new();
    for (shape, work) in SUITE {
        let shape = shape.to_possible_value().expect("no shape is hidden").get_name().to_string();
        let name = format!("{shape} {work}");
        let (threads, runs) = (args.threads.to_string(), args.runs.to_string());
        let mut options = vec!["--threads", &threads, "--runs", &runs, "--shape", &shape, "--work", work];
        let (backend, dtype) = (args.backend.to_string(), args.dtype.to_string());
        options.extend(["--backend", &backend, "--dtype", &dtype]);
        options.extend(args.offload.then_some("--offload"));
        let output = Command::new(std::env::current_exe()?).args(options).output()?;
        ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let mut figures: Map<String, Value> = serde_json::from_slice(&output.stdout).with_context(|| name.clone())?;
        phases.insert(name, figures.remove(work).context("figures of the work that was asked for")?);
    }
    Ok(phases)
}
