//! The program: parse, start the runtimes, run, map the outcome to an exit code.

use std::process::ExitCode;

use batch_export_watcher::cli::Cli;
use batch_export_watcher::process::descriptors::raise_limit;
use batch_export_watcher::process::hardening::disable_core_dumps;
use batch_export_watcher::process::runtimes::Runtimes;
use batch_export_watcher::{cli, exit};
use clap::Parser as _;

fn main() -> ExitCode {
    // Exits with 2 and a usage message where the command line is wrong.
    let cli = Cli::parse();
    let console = cli::start_console(&cli);
    if let Err(error) = disable_core_dumps() {
        tracing::error!(event = "start_failed", cause = %error, "core dumps cannot be switched off: {error}");
        return ExitCode::from(exit::INTERNAL);
    }
    if let Err(error) = raise_limit() {
        tracing::warn!(event = "file_limit_low", cause = %error, "the limit of open files cannot be raised: {error}");
    }
    let runtimes = match Runtimes::start() {
        Ok(runtimes) => runtimes,
        Err(error) => {
            tracing::error!(event = "start_failed", cause = %error, "threads cannot be started: {error}");
            return ExitCode::from(exit::INTERNAL);
        }
    };
    let code = runtimes
        .block_on(cli::execute(cli, runtimes.transfer(), console))
        .unwrap_or(exit::INTERNAL);
    runtimes.shut_down();
    ExitCode::from(code)
}
