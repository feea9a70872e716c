//! The `luspo` command. It parses arguments, prints, and sets the exit code; the work is done by the crate `luspo`.
//!
//! It is a library with a one-line binary so that the end-to-end tests can build the very same program.
#![warn(missing_docs)]

mod allocator;
mod args;
mod command;
mod console;
mod fetching;
mod input_lines;
mod interrupt;
mod json_lines;
mod live_line;
mod ranges;
mod source;

use std::process::ExitCode;

use clap::Parser;
use env_logger::{Target, WriteStyle};
use luspo::data::DataError;
use luspo::model::ModelError;
use luspo::reward::RewardError;
use luspo::trainer::TrainError;

pub use crate::allocator::keep_freed_memory;
use crate::args::{Cli, Command, UsageError};
use crate::live_line::{AboveLiveLine, tell};

/// Runs the command that the process's arguments name.
///
/// Results go to standard output, errors to standard error. The exit code is 0 when done, 1 when something failed, 2 for
/// wrong usage or configuration, 130 when interrupted after a checkpoint.
pub fn main() -> ExitCode {
    keep_freed_memory();
    silence_contained_panics();
    let cli = Cli::parse();
    let level = match (cli.global.quiet, cli.global.verbose) {
        (true, _) => log::LevelFilter::Error,
        (false, 0) => log::LevelFilter::Warn,
        (false, 1) => log::LevelFilter::Info,
        (false, _) => log::LevelFilter::Debug,
    };
    let log_style = if ::console::colors_enabled_stderr() { WriteStyle::Always } else { WriteStyle::Never };
    env_logger::Builder::new()
        .filter_level(level)
        .format_timestamp(None)
        .format_target(false)
        .target(Target::Pipe(Box::new(AboveLiveLine)))
        .write_style(log_style)
        .init();

    let result = match cli.command {
        Command::Train(args) => command::train::run(args, &cli.global),
        Command::Sft(args) => command::train::run_sft(args, &cli.global),
        Command::Check(args) => command::check::run(args, &cli.global),
        Command::Replay(args) => command::replay::run(args, &cli.global),
        Command::Eval(args) => command::eval::run(args, &cli.global),
        Command::Generate(args) => command::generate::run(args, &cli.global),
        #[cfg(feature = "serve")]
        Command::Serve(args) => command::serve::run(args, &cli.global),
        Command::Score(args) => command::score::run(args, &cli.global),
        Command::Verify(args) => command::verify::run(args),
        Command::Export(args) => command::export::run(args, &cli.global),
        Command::Data(args) => command::data::run(args, &cli.global),
        Command::Devices => command::devices::run(&cli.global),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        // It has been told already.
        Err(error) if matches!(error.downcast_ref(), Some(TrainError::Interrupted { .. })) => {
            ExitCode::from(interrupt::EXIT_CODE)
        }
        Err(error) => {
            tell(&format!("error: {}", message(&error)));
            ExitCode::from(if is_usage(&error) { 2 } else { 1 })
        }
    }
}

/// The error and what caused it, each thing said once: many errors already end with their cause.
fn message(error: &anyhow::Error) -> String {
    // The commands say where they read and write; only the output itself is left.
    let output = error.chain().len() == 1 && error.is::<std::io::Error>();
    let mut message = String::from(if output { "standard output" } else { "" });
    for cause in error.chain().map(ToString::to_string) {
        if !message.contains(&cause) {
            message += if message.is_empty() { "" } else { ": " };
            message += &cause;
        }
    }
    message
}

/// Whether the command line or the configuration is at fault, and not the machine or the run.
fn is_usage(error: &anyhow::Error) -> bool {
    let model = |error: &ModelError| {
        matches!(
            error,
            ModelError::BackendNotBuilt { .. }
                | ModelError::DtypeNotComputed { .. }
                | ModelError::HubNotBuilt { .. }
                | ModelError::TooLarge { .. }
        )
    };
    let data = |error: &DataError| matches!(error, DataError::TaskConfig { .. } | DataError::TrainTokenizer { .. });
    let run = |error: &TrainError| match error {
        TrainError::Config { .. }
        | TrainError::Override { .. }
        | TrainError::Read { .. }
        | TrainError::Mismatch(_)
        | TrainError::Evaluation { .. }
        | TrainError::Memory(_)
        | TrainError::DiskSpace { .. }
        | TrainError::Algo(_) => true,
        TrainError::Reward(error) => !matches!(error, RewardError::Failed { .. }),
        TrainError::Model(error) => model(error),
        TrainError::Data(error) => data(error),
        _ => false,
    };
    error.chain().any(|cause| {
        cause.is::<UsageError>()
            || cause.downcast_ref().is_some_and(model)
            || cause.downcast_ref().is_some_and(data)
            || cause.downcast_ref().is_some_and(run)
    })
}

/// A panic that luspo turns into an error is told once, as that error. All others are reported as usual.
fn silence_contained_panics() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !luspo::core::is_contained() {
            report(panic);
        }
    }));
}

/// Whoever read the output has seen enough (`luspo … | head`).
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
