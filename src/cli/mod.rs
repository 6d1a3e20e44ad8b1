//! The command line: one file for each command. Each command returns its exit code.

mod check;
mod console;
mod demo;
mod forget;
mod progress;
mod reload;
mod retry;
mod run;
mod status;
mod status_watch;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, Config, ConfigFaults, Environment};
use crate::control::{Answer, AskError, Question, ask};
use crate::process::runtimes::TransferRuntimes;
use crate::process::signals;
use crate::process::telemetry::LogFormat;
use crate::{app, domain, exit};

pub use console::{Console, start_console};

/// Watches export requests of the Batch.com API and downloads the finished files.
#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Format of the log on standard error. The default is journald if standard error is connected
    /// to systemd's journal, and text otherwise.
    #[arg(long, value_enum, global = true)]
    log_format: Option<LogFormat>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon.
    Run(RunArgs),
    /// Validate the configuration and print it with all defaults. Secrets are hidden.
    Check(CheckArgs),
    /// Watch failed exports again.
    Retry(RetryArgs),
    /// Forget exports and delete their unfinished files, but never finished ones. Exports that are
    /// still configured start over.
    Forget(ForgetArgs),
    /// Make the running daemon reload its configuration. Exits with 78 if it refuses.
    Reload(ReloadArgs),
    /// Show the status of the exports, from the running daemon or else from the recorded state.
    Status(StatusArgs),
    /// Run the daemon against a simulated API on this machine. Needs no key.
    Demo(DemoArgs),
    /// Hang the scheduler of the running daemon, to test the watchdog. Not in release builds.
    #[cfg(debug_assertions)]
    #[command(hide = true)]
    DebugHang(ReloadArgs),
}

#[derive(Debug, Args)]
struct ConfigArg {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE", env = "BATCH_EXPORT_WATCHER_CONFIG")]
    #[arg(default_value = config::DEFAULT_FILE)]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Exit when every configured export is whole, has failed, or is refused because of its key.
    #[arg(long)]
    exit_when_settled: bool,
    /// Give up after this time (5m, 2h, 1d) and exit with 75.
    #[arg(long, value_name = "DURATION", requires = "exit_when_settled")]
    #[arg(value_parser = config::parse_duration)]
    deadline: Option<Duration>,
}

#[derive(Debug, Args)]
struct CheckArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Also ask the API once for each project.
    #[arg(long)]
    probe: bool,
}

#[derive(Debug, Args)]
struct RetryArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// IDs of failed exports.
    #[arg(value_name = "EXPORT", required = true)]
    exports: Vec<domain::ids::ExportId>,
}

#[derive(Debug, Args)]
struct ForgetArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// IDs of exports, configured or not.
    #[arg(value_name = "EXPORT", required = true)]
    exports: Vec<domain::ids::ExportId>,
}

#[derive(Debug, Args)]
struct ReloadArgs {
    #[command(flatten)]
    config: ConfigArg,
}

#[derive(Debug, Args)]
struct StatusArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Print JSON, the same document as the status page's.
    #[arg(long)]
    json: bool,
    /// Redraw the table every second until Ctrl-C. With --json, print one document per line.
    #[arg(long)]
    watch: bool,
    /// Health probe: exit with 0 if the daemon answers within five seconds, else with 1. Prints
    /// nothing if the daemon answers.
    #[arg(long, conflicts_with_all = ["json", "watch"])]
    check: bool,
}

#[derive(Debug, Args)]
struct DemoArgs {
    /// Folder for the demo's files. The default is a new folder in the temporary directory.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Parses the command line. Prints the help, the version or what is wrong, and returns the exit code.
pub fn parse() -> Result<Cli, u8> {
    Cli::try_parse().map_err(|stop| {
        let printed = stop.print().and_then(|()| io::stdout().flush());
        match u8::try_from(stop.exit_code()) {
            Ok(exit::DONE) => console::written(printed).err().unwrap_or(exit::DONE),
            _ => exit::USAGE,
        }
    })
}

/// Runs the command and returns its exit code.
pub async fn execute(cli: Cli, transfer: TransferRuntimes, console: Console) -> u8 {
    let environment = Environment::from_process();
    // Those that install handlers let signals in when these are there.
    if !matches!(cli.command, Command::Run(_) | Command::Demo(_))
        && let Err(error) = signals::release()
    {
        console::complain(&format!("cannot unblock signals: {error}"));
        return exit::INTERNAL;
    }
    // A command that cannot go on returns its exit code as an error.
    let done = match cli.command {
        Command::Run(args) => run::run(&args, environment, transfer, console).await,
        Command::Check(args) => check::check(&args, &environment).await,
        Command::Retry(args) => retry::retry(&args, &environment).await,
        Command::Forget(args) => forget::forget(&args, &environment).await,
        Command::Reload(args) => reload::reload(&args, &environment).await,
        Command::Status(args) if args.watch => status_watch::watch(&args, &environment).await,
        Command::Status(args) => status::status(&args, &environment).await,
        // Boxed, because it is the largest: the program and what it is tried against.
        Command::Demo(args) => Box::pin(demo::demo(args, transfer, console)).await,
        #[cfg(debug_assertions)]
        Command::DebugHang(args) => reload::hang(&args, &environment).await,
    };
    done.unwrap_or_else(|code| code)
}

/// Loads the configuration, or prints its faults, one on each line.
fn load(arg: &ConfigArg, environment: &Environment) -> Result<Config, u8> {
    accepted(config::load(&arg.config, environment))
}

fn accepted(loaded: Result<Config, ConfigFaults>) -> Result<Config, u8> {
    let config = loaded.map_err(|faults| faulty(&faults))?;
    for warning in &config.warnings {
        tracing::warn!(event = "configuration_doubtful", cause = warning, "{warning}");
    }
    Ok(config)
}

/// Prints the faults and returns the exit code.
fn faulty(faults: &ConfigFaults) -> u8 {
    console::complain(&faults.to_string());
    exit::CONFIGURATION
}

/// Prints an error and returns its exit code.
fn failed(error: &app::StartError) -> u8 {
    console::complain(&error.to_string());
    error.exit_code()
}

/// Asks the running daemon. If there is no answer, prints why and returns the exit code.
async fn asked(
    arg: &ConfigArg,
    environment: &Environment,
    question: &Question,
    patience: Duration,
) -> Result<Answer, u8> {
    asked_if_running(arg, environment, question, patience).await?.map_err(|no_daemon| {
        console::complain(&no_daemon.to_string());
        exit::UNFINISHED
    })
}

/// As [`asked`], but prints nothing if no daemon runs. The inner error is [`AskError::NoDaemon`].
async fn asked_if_running(
    arg: &ConfigArg,
    environment: &Environment,
    question: &Question,
    patience: Duration,
) -> Result<Result<Answer, AskError>, u8> {
    let directory =
        config::state_directory(&arg.config, environment).map_err(|faults| faulty(&faults))?;
    let complaint = match ask(&directory, question, patience).await {
        Ok(Answer::Unavailable { cause }) => console::unavailable(&cause),
        Err(error) if !matches!(error, AskError::NoDaemon { .. }) => error.to_string(),
        answer => return Ok(answer),
    };
    console::complain(&complaint);
    Err(exit::UNFINISHED)
}
