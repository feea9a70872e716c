//! `luspo train` and `luspo sft`.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use luspo::trainer::{self, Config, RunFolder, Start, Summary, TrainError};

use crate::args::{ConfigArgs, Global};
use crate::console::{Console, summary_text};
use crate::interrupt;
use crate::json_lines::JsonLines;
use crate::live_line::tell;

pub fn run(args: ConfigArgs, global: &Global) -> Result<()> {
    let (start, config) = prepare(args, global)?;
    let mut observer = observer(&config, global);
    let summary = trainer::train(start, &mut *observer);
    drop(observer);
    finish(summary, "train", global)
}

pub fn run_sft(args: ConfigArgs, global: &Global) -> Result<()> {
    let (start, config) = prepare(args, global)?;
    let mut observer = observer(&config, global);
    let summary = trainer::sft(start, &mut *observer);
    drop(observer);
    finish(summary, "sft", global)
}

/// The overrides with those that options stand for.
pub fn all_overrides(mut overrides: Vec<String>, global: &Global) -> Vec<String> {
    overrides.extend(global.seed.map(|seed| format!("run.seed={seed}")));
    overrides.extend(global.backend.map(|backend| format!("run.backend={backend}")));
    overrides
}

fn prepare(args: ConfigArgs, global: &Global) -> Result<(Start, Config)> {
    let overrides = all_overrides(args.overrides, global);
    let config = Config::load(&args.config, &overrides)?;
    let dir = folder(&args.config, &config);
    let (start, config) = match args.resume && RunFolder::has_begun(&dir) {
        true => {
            // With the overrides: the console listens to some, and what a resumed run may not change is refused later.
            let config = Config::load(&dir.join("config.toml"), &overrides)?;
            let ignored = config.contradicted_by(&args.config, &overrides)?;
            if !ignored.is_empty() {
                log::warn!(
                    "{} has other values of {} than the run in {}, which goes on with its own config.toml; what may \
                     change is changed on the command line, as KEY=VALUE",
                    args.config.display(),
                    ignored.join(", "),
                    dir.display()
                );
            }
            (Start::Resume { dir, overrides }, config)
        }
        false => {
            if args.resume && !global.quiet && !global.json {
                writeln!(std::io::stdout(), "{}: no run has begun here; starting one", dir.display())?;
            }
            (Start::from(config.clone()), config)
        }
    };
    start_threads(&config)?;
    interrupt::listen()?;
    Ok((start, config))
}

/// The run folder: the one that the configuration lies in, if it is a run's own, wherever it was moved.
fn folder(file: &Path, config: &Config) -> PathBuf {
    match file.parent() {
        Some(dir) if file.file_name().is_some_and(|name| name == "config.toml") && dir.join(".lock").exists() => {
            dir.into()
        }
        _ => config.run_dir(),
    }
}

/// Sizes the thread pool as the configuration says; results repeat bit for bit at the same number of threads.
pub fn start_threads(config: &Config) -> Result<()> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(config.run.threads)
        .build_global()
        .context("run.threads: the thread pool cannot be started")
}

/// Who tells of the run while it goes on. To be dropped before anything else is printed: it may keep a live line.
fn observer(config: &Config, global: &Global) -> Box<dyn trainer::Observer> {
    match (global.quiet || !config.logging.console, global.json) {
        (true, _) => Box::new(Quiet),
        (false, true) => Box::new(JsonLines),
        (false, false) => Box::new(Console::new()),
    }
}

/// Says nothing, and ends the run when it is asked to.
struct Quiet;

impl trainer::Observer for Quiet {
    fn interrupted(&mut self) -> bool {
        interrupt::requested()
    }
}

fn finish(summary: Result<Summary, TrainError>, command: &str, global: &Global) -> Result<()> {
    if let Err(error @ TrainError::Interrupted { config, .. }) = &summary {
        // Told here, because only the command knows how it was called.
        tell(&format!("{error}\ncontinue with: luspo {command} {} --resume", config.display()));
    }
    let summary = summary?;
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
