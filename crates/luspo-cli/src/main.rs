//! The `luspo` command.

fn main() -> std::process::ExitCode {
    luspo_cli::main()
}
