//! The command line: one file a command, and how each ends as an exit code.

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

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, Config, Environment};
use crate::control::{Answer, Question, ask};
use crate::process::runtimes::TransferRuntimes;
use crate::process::telemetry::LogFormat;
use crate::{domain, exit};

pub use console::{Console, start_console};

/// Watches export requests of the Batch.com API and brings the finished files home.
#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// How the log is written: text and json go to standard error; without this option it is
    /// journald where standard error is systemd's journal, and text elsewhere.
    #[arg(long, value_enum, global = true)]
    log_format: Option<LogFormat>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon.
    Run(RunArgs),
    /// Validate the configuration and print what is in force, secrets hidden.
    Check(CheckArgs),
    /// Set failed exports to watching again.
    Retry(RetryArgs),
    /// Drop what is known of exports and what is half done of them, never finished files; those
    /// that are configured begin anew.
    Forget(ForgetArgs),
    /// Let the running daemon read its configuration again; 78 where it refuses.
    Reload(ReloadArgs),
    /// Show how everything is: from the running daemon, or from what the state has where none runs.
    Status(StatusArgs),
    /// Show the whole job against a simulated API on this machine; needs no key.
    Demo(DemoArgs),
    /// Hang the scheduler of the running daemon, to prove the watchdog. Not in release builds.
    #[cfg(debug_assertions)]
    #[command(hide = true)]
    DebugHang(ReloadArgs),
}

#[derive(Debug, Args)]
struct ConfigArg {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE", env = "BATCH_EXPORT_WATCHER_CONFIG", default_value = config::DEFAULT_FILE)]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// End when every configured export is whole, failed, or refused for its key.
    #[arg(long)]
    exit_when_settled: bool,
    /// Give up after this long (5m, 2h, 1d) and end with 75.
    #[arg(long, value_name = "DURATION", requires = "exit_when_settled", value_parser = parse_duration)]
    deadline: Option<Duration>,
}

#[derive(Debug, Args)]
struct CheckArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Also ask the API once per project.
    #[arg(long)]
    probe: bool,
}

#[derive(Debug, Args)]
struct RetryArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// The failed exports.
    #[arg(value_name = "EXPORT", required = true)]
    exports: Vec<domain::ids::ExportId>,
}

#[derive(Debug, Args)]
struct ForgetArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// The exports, configured or not.
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
    /// Print the document of the status page as JSON.
    #[arg(long)]
    json: bool,
    /// Draw the table again each second, until Ctrl-C; with --json print one document a line.
    #[arg(long)]
    watch: bool,
    /// A health probe that says nothing where all is well: 0 where the daemon answers within five
    /// seconds, else 1.
    #[arg(long, conflicts_with_all = ["json", "watch"])]
    check: bool,
}

#[derive(Debug, Args)]
struct DemoArgs {
    /// Where to put the demo's files; a new folder in the temporary directory without it.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    config::parse_duration(text).map_err(|error| error.to_string())
}

/// Runs the command and returns its exit code. `transfer` are the runtimes that move bytes.
pub async fn execute(cli: Cli, transfer: TransferRuntimes, console: Console) -> u8 {
    let environment = Environment::from_process();
    match cli.command {
        Command::Run(args) => run::run(&args, environment, transfer, console).await,
        Command::Check(args) => check::check(&args, &environment).await,
        Command::Retry(args) => retry::retry(&args, &environment).await,
        Command::Forget(args) => forget::forget(&args, &environment).await,
        Command::Reload(args) => reload::reload(&args, &environment).await,
        Command::Status(args) => status::status(&args, &environment).await,
        Command::Demo(args) => demo::demo(args, transfer, console).await,
        #[cfg(debug_assertions)]
        Command::DebugHang(args) => reload::hang(&args, &environment).await,
    }
}

/// Loads the configuration, or says what is wrong with it: one line a fault.
fn load(arg: &ConfigArg, environment: &Environment) -> Result<Config, u8> {
    let config = config::load(&arg.config, environment).map_err(|faults| {
        console::complain(&faults.to_string());
        exit::CONFIGURATION
    })?;
    for warning in &config.warnings {
        tracing::warn!(event = "configuration_doubtful", cause = warning, "{warning}");
    }
    Ok(config)
}

/// Asks the running daemon, or says why that brings no answer. Returns the exit code for that.
async fn asked(
    arg: &ConfigArg,
    environment: &Environment,
    question: &Question,
    patience: Duration,
) -> Result<Answer, u8> {
    let directory = config::state_directory(&arg.config, environment);
    let complaint = match ask(&directory, question, patience).await {
        Ok(Answer::Unavailable { cause }) => format!("the daemon cannot do that now: {cause}"),
        Ok(answer) => return Ok(answer),
        Err(error) => error.to_string(),
    };
    console::complain(&complaint);
    Err(exit::UNFINISHED)
}
