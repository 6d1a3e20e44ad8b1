//! `retry`: failed exports are watched again; by the daemon at once where one runs, else from the
//! next start on.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{RetryArgs, console, load};
use crate::app;
use crate::config::{self, Environment};
use crate::control::{Answer, AskError, Question, Retried, ask};
use crate::domain::ids::ExportId;
use crate::exit;

/// Longest wait for the daemon.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn retry(args: &RetryArgs, environment: &Environment) -> u8 {
    let wanted: BTreeSet<ExportId> = args.exports.iter().cloned().collect();
    let directory = config::state_directory(&args.config.config, environment);
    let question = Question::Retry { exports: wanted.clone() };
    let (retried, when) = match ask(&directory, &question, PATIENCE).await {
        Ok(Answer::Retried { exports }) => (exports, "watched again"),
        Ok(Answer::Unavailable { cause }) => {
            console::complain(&format!("the daemon cannot do that now: {cause}"));
            return exit::UNFINISHED;
        }
        Ok(_) => return console::complain_of_version(),
        Err(AskError::NoDaemon { .. }) => match without_daemon(args, environment, &wanted).await {
            Ok(retried) => (retried, "watched again from the next start on"),
            Err(code) => return code,
        },
        Err(error) => {
            console::complain(&error.to_string());
            return exit::UNFINISHED;
        }
    };
    for Retried { project, export } in &retried {
        console::print(&format!("{project}/{export}: {when}\n"));
    }
    let found: BTreeSet<&ExportId> = retried.iter().map(|retried| &retried.export).collect();
    let missing: Vec<_> = wanted.iter().filter(|export| !found.contains(export)).collect();
    for export in &missing {
        console::complain(&format!(
            "{export} is no failed export of this configuration; nothing was changed for it"
        ));
    }
    if missing.is_empty() { exit::DONE } else { exit::EXPORTS_FAILED }
}

async fn without_daemon(
    args: &RetryArgs,
    environment: &Environment,
    wanted: &BTreeSet<ExportId>,
) -> Result<Vec<Retried>, u8> {
    let config = load(&args.config, environment)?;
    let retried = app::retry(&config, wanted).await.map_err(|error| {
        console::complain(&error.to_string());
        error.exit_code()
    })?;
    let retried = retried.into_iter();
    Ok(retried.map(|(project, export)| Retried { project: project.to_string(), export }).collect())
}
