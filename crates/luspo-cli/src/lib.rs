//! The `luspo` command. It parses arguments, prints, and sets the exit code; the work is done by the crate `luspo`.
//!
//! It is a library with a one-line binary so that the end-to-end tests can build the very same program.
#![warn(missing_docs)]

mod args;
mod command;
mod console;

use std::process::ExitCode;

use clap::Parser;
use luspo::trainer::TrainError;

use crate::args::{Cli, Command};

/// Runs the command that the process's arguments name.
///
/// Results go to standard output, errors to standard error. The exit code is 0 when done, 1 when something failed, 2 for
/// wrong usage or configuration.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let level = match (cli.global.quiet, cli.global.verbose) {
        (true, _) => log::LevelFilter::Error,
        (false, 0) => log::LevelFilter::Warn,
        (false, 1) => log::LevelFilter::Info,
        (false, _) => log::LevelFilter::Debug,
    };
    env_logger::Builder::new().filter_level(level).format_timestamp(None).format_target(false).init();

    let result = match cli.command {
        Command::Train(args) => command::train::run(args, &cli.global),
        Command::Sft(args) => command::train::run_sft(args, &cli.global),
        Command::Eval(args) => command::eval::run(args, &cli.global),
        Command::Generate(args) => command::generate::run(args, &cli.global),
        Command::Score(args) => command::score::run(args, &cli.global),
        Command::Data(args) => command::data::run(args, &cli.global),
        Command::Devices => command::devices::run(&cli.global),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            exit_code(&error)
        }
    }
}

/// 2 for a wrong configuration or usage, 1 for everything else.
fn exit_code(error: &anyhow::Error) -> ExitCode {
    let usage = error.is::<args::UsageError>()
        || matches!(
            error.downcast_ref::<TrainError>(),
            Some(TrainError::Config { .. } | TrainError::Override { .. } | TrainError::Algo(_))
        );
    ExitCode::from(if usage { 2 } else { 1 })
}
