//! The program: parses the command line, starts the runtimes, and runs the command.

use std::process::ExitCode;

use batch_export_watcher::process::limits::{disable_core_dumps, raise_open_files};
use batch_export_watcher::process::runtimes::Runtimes;
use batch_export_watcher::process::signals;
use batch_export_watcher::{cli, exit};

fn main() -> ExitCode {
    let held = signals::hold();
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(code) => return ExitCode::from(code),
    };
    let console = cli::start_console(&cli);
    for (done, what) in
        [(held, "cannot block signals"), (disable_core_dumps(), "cannot disable core dumps")]
    {
        if let Err(error) = done {
            tracing::error!(event = "start_failed", cause = %error, "{what}: {error}");
            return ExitCode::from(exit::INTERNAL);
        }
    }
    if let Err(error) = raise_open_files() {
        let words = "cannot raise the limit of open files";
        tracing::warn!(event = "file_limit_low", cause = %error, "{words}: {error}");
    }
    let runtimes = match Runtimes::start() {
        Ok(runtimes) => runtimes,
        Err(error) => {
            let words = "cannot start enough threads (see ulimit -u, TasksMax= of the service, the \
                         pids limit of the container)";
            tracing::error!(event = "start_failed", cause = %error, "{words}: {error}");
            return ExitCode::from(exit::UNFINISHED);
        }
    };
    let code = runtimes.block_on(cli::execute(cli, runtimes.transfer(), console));
    runtimes.shut_down();
    ExitCode::from(code.unwrap_or(exit::INTERNAL))
}
