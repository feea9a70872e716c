//! `luspo train` and `luspo sft`.

use std::io::Write;

use anyhow::{Context, Result};
use luspo::trainer::{self, Config, Summary};

use crate::args::{ConfigArgs, Global};
use crate::console::{Console, summary_text};

pub fn run(args: ConfigArgs, global: &Global) -> Result<()> {
    let config = prepare(args, global)?;
    finish(trainer::train(config, &mut *observer(global))?, global)
}

pub fn run_sft(args: ConfigArgs, global: &Global) -> Result<()> {
    let config = prepare(args, global)?;
    finish(trainer::sft(config, &mut *observer(global))?, global)
}

fn prepare(args: ConfigArgs, global: &Global) -> Result<Config> {
    let mut overrides = args.overrides;
    overrides.extend(global.seed.map(|seed| format!("run.seed={seed}")));
    overrides.extend(global.backend.map(|backend| format!("run.backend={backend}")));
    let config = Config::load(&args.config, &overrides)?;
    rayon::ThreadPoolBuilder::new()
        .num_threads(config.run.threads)
        .build_global()
        .context("run.threads: the thread pool cannot be started")?;
    Ok(config)
}

fn observer(global: &Global) -> Box<dyn trainer::Observer> {
    if global.quiet || global.json { Box::new(()) } else { Box::new(Console::new()) }
}

fn finish(summary: Summary, global: &Global) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if global.json {
        let metrics = |e: &Option<trainer::Evaluation>| e.as_ref().map(|e| e.metrics().to_json());
        let result = serde_json::json!({
            "run": summary.dir,
            "policy": summary.policy,
            "before": metrics(&summary.before),
            "after": metrics(&summary.after),
        });
        writeln!(out, "{result}")?;
    } else {
        writeln!(out, "{}", summary_text(&summary))?;
    }
    Ok(())
}
