//! `run`: the daemon.

use std::io;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Console, RunArgs, accepted, progress};
use crate::app::{App, RunOptions, Setup};
use crate::config::{self, Environment};
use crate::engine::Outcome;
use crate::exit;
use crate::process::runtimes::TransferRuntimes;
use crate::process::signals::{self, Hangups, StopSignals};

pub(super) async fn run(
    args: &RunArgs,
    environment: Environment,
    transfer: TransferRuntimes,
    console: Console,
) -> Result<u8, u8> {
    let options = RunOptions { exit_when_settled: args.exit_when_settled, deadline: args.deadline };
    let hangups = Some(Hangups::install().map_err(|error| not_installed(&error))?);
    let (file, of) = (args.config.config.clone(), environment.clone());
    let setup = async {
        // A disk that hangs must not keep signals out.
        let loading = tokio::task::spawn_blocking(move || config::load(&file, &of));
        let config = accepted(loading.await.map_err(|_| exit::INTERNAL)?)?;
        Ok(Setup { config, environment, options, transfer, hangups })
    };
    Ok(exit_code(run_until_stopped(setup, console).await?, args.exit_when_settled))
}

fn not_installed(error: &io::Error) -> u8 {
    let cause = error.to_string();
    tracing::error!(event = "start_failed", cause, "cannot install signal handlers: {error}");
    exit::INTERNAL
}

/// Builds the program and runs it until it is settled or a signal stops it.
pub(super) async fn run_until_stopped(
    setup: impl Future<Output = Result<Setup, u8>>,
    console: Console,
) -> Result<Outcome, u8> {
    let signals = StopSignals::install().map_err(|error| not_installed(&error))?;
    signals::release().map_err(|error| not_installed(&error))?;
    let stop = CancellationToken::new();
    let running = Box::pin(async {
        // Starting may take long, for example if a directory hangs or a disk is full. A signal ends
        // that too, and so does the deadline.
        let starting = Box::pin(async {
            let setup = setup.await?;
            let deadline = setup.options.deadline;
            tokio::select! {
                built = App::build(setup) => built.map(Some).map_err(|error| {
                    tracing::error!(event = "start_failed", cause = %error, "{error}");
                    error.exit_code()
                }),
                () = passed(deadline) => {
                    tracing::warn!(
                        event = "deadline_passed",
                        "the deadline has passed before every export was settled"
                    );
                    Ok(None)
                }
            }
        });
        let app = tokio::select! {
            built = starting => built?,
            () = stop.cancelled() => return Ok(Outcome::Drained { clean: true }),
        };
        let Some(app) = app else { return Ok(Outcome::DeadlinePassed) };
        let drawing = console.bars.map(|bars| progress::draw(bars, app.overviews()));
        match drawing {
            Some(drawing) => Ok(tokio::join!(app.run(stop.clone()), drawing).0),
            None => Ok(app.run(stop.clone()).await),
        }
    });
    tokio::select! {
        outcome = running => outcome,
        () = signals.watch(stop.clone()) => Ok(Outcome::Drained { clean: false }),
    }
}

async fn passed(deadline: Option<Duration>) {
    match deadline {
        Some(deadline) => tokio::time::sleep(deadline).await,
        None => std::future::pending().await,
    }
}

fn exit_code(outcome: Outcome, exit_when_settled: bool) -> u8 {
    match outcome {
        Outcome::Settled { refused, .. } if refused > 0 => exit::CREDENTIALS_REFUSED,
        Outcome::Settled { failed, .. } if failed > 0 => exit::EXPORTS_FAILED,
        Outcome::Settled { .. } => exit::DONE,
        Outcome::Drained { clean: true } if !exit_when_settled => exit::DONE,
        Outcome::Drained { .. } | Outcome::DeadlinePassed => exit::UNFINISHED,
        Outcome::StateLost => exit::INTERNAL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_keys_come_before_failed_exports_before_success() {
        for (outcome, flag, code) in [
            (Outcome::Settled { failed: 1, refused: 1 }, true, 77),
            (Outcome::Settled { failed: 1, refused: 0 }, true, 1),
            (Outcome::Settled { failed: 0, refused: 0 }, true, 0),
            (Outcome::Drained { clean: true }, false, 0),
            (Outcome::Drained { clean: true }, true, 75),
            (Outcome::Drained { clean: false }, false, 75),
            (Outcome::DeadlinePassed, true, 75),
            (Outcome::StateLost, false, 70),
        ] {
            assert_eq!(exit_code(outcome, flag), code, "{outcome:?} {flag}");
        }
    }
}
