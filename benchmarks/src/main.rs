//! What a step of training and of sampling costs, as one JSON object.
//!
//! ```text
//! cargo run --release -p luspo-benchmarks [-- --threads 2 --runs 5 --phase train_step]
//! ```
//!
//! Every phase runs in a process of its own, so that its peak memory is its own too: this program starts itself once
//! per phase. `compare`, beside this package's manifest, measures the same work in PyTorch.
#![warn(missing_docs)]

mod generation;
mod log_probs;
mod loss;
mod machine;
mod measure;
mod rlvr_step;
mod train_step;
mod workload;

use std::process::Command;

use anyhow::{Context, ensure};
use clap::{Parser, ValueEnum};
use serde_json::{Map, Value, json};

use crate::measure::Figures;

#[derive(Parser)]
#[command(about = "Measures what a step of training and of sampling costs, and prints it as JSON")]
struct Args {
    /// Threads to compute with.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    threads: u16,
    /// Timed runs of each phase, after one that is not counted.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Measures this phase alone, in this process, and prints its figures alone.
    #[arg(long)]
    phase: Option<Phase>,
}

/// What is measured.
#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Phase {
    /// Forward, log-probs, LUSPO loss, backward, clipping and AdamW on 8 × 256 tokens.
    TrainStep,
    /// The log-probs of 8 × 256 tokens, without a graph.
    LogProbs,
    /// As `train_step`, on 128 tokens of a model of the shape of Qwen2.5-0.5B.
    TrainStepHalfBillion,
    /// As `log_probs`, on 128 tokens of a model of the shape of Qwen2.5-0.5B.
    LogProbsHalfBillion,
    /// The LUSPO loss and its gradient by log-prob, 512 × 4096, apart from any model.
    Loss,
    /// 8 answers of 128 tokens to prompts of 32.
    Generation,
    /// A whole RL step: 8 answers of 128 tokens to prompts of 33 sampled, scored, compared, and learned from.
    RlvrStep,
}

fn main() -> anyhow::Result<()> {
    luspo_cli::keep_freed_memory(); // its allocator is that of this program too
    let args = Args::parse();
    let report = match args.phase {
        Some(phase) => {
            rayon::ThreadPoolBuilder::new().num_threads(args.threads.into()).build_global()?;
            measured(phase, args.runs.into())?.to_json()
        }
        None => all_phases(&args)?,
    };
    println!("{report:#}");
    Ok(())
}

fn measured(phase: Phase, runs: usize) -> anyhow::Result<Figures> {
    match phase {
        Phase::TrainStep => train_step::measure(&workload::small(), runs),
        Phase::LogProbs => log_probs::measure(&workload::small(), runs),
        Phase::TrainStepHalfBillion => train_step::measure(&workload::half_billion(), runs),
        Phase::LogProbsHalfBillion => log_probs::measure(&workload::half_billion(), runs),
        Phase::Loss => loss::measure(runs),
        Phase::Generation => generation::measure(runs),
        Phase::RlvrStep => rlvr_step::measure(runs),
    }
}

fn all_phases(args: &Args) -> anyhow::Result<Value> {
    let mut phases = Map::new();
    for phase in Phase::value_variants() {
        let name = phase.to_possible_value().expect("no phase is hidden").get_name().to_string();
        let output = Command::new(std::env::current_exe()?)
            .args(["--phase", &name, "--threads", &args.threads.to_string(), "--runs", &args.runs.to_string()])
            .output()?;
        ensure!(output.status.success(), "phase {name}: {}", String::from_utf8_lossy(&output.stderr));
        let figures = serde_json::from_slice(&output.stdout).with_context(|| format!("phase {name}"))?;
        phases.insert(name, figures);
    }
    Ok(json!({
        "machine": machine::description(args.threads.into()),
        "model": workload::shape(),
        "phases": phases,
    }))
}
