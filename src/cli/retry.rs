//! `retry`: watches failed exports again, at once if a daemon runs, else from the next start on.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{RetryArgs, asked_if_running, console, failed, load};
use crate::app;
use crate::config::Environment;
use crate::control::{Answer, Question, Retried};
use crate::domain::ids::ExportId;
use crate::exit;

const PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn retry(args: &RetryArgs, environment: &Environment) -> u8 {
    let wanted: BTreeSet<ExportId> = args.exports.iter().cloned().collect();
    let question = Question::Retry { exports: wanted.clone() };
    let (retried, when) =
        match asked_if_running(&args.config, environment, &question, PATIENCE).await {
            Ok(Ok(Answer::Retried { exports })) => (exports, "watched again"),
            Ok(Ok(_)) => return console::complain_of_version(),
            Ok(Err(_no_daemon)) => match without_daemon(args, environment, &wanted).await {
                Ok(retried) => (retried, "watched again from the next start on"),
                Err(code) => return code,
            },
            Err(code) => return code,
        };
    for Retried { project, export } in &retried {
        console::print(&format!("{project}/{export}: {when}\n"));
    }
    let found: BTreeSet<&ExportId> = retried.iter().map(|retried| &retried.export).collect();
    let missing: Vec<_> = wanted.iter().filter(|export| !found.contains(export)).collect();
    for export in &missing {
        let words = "is not a failed export of the configuration: nothing was changed for it";
        console::complain(&format!("{export} {words}"));
    }
    if missing.is_empty() { exit::DONE } else { exit::EXPORTS_FAILED }
}

async fn without_daemon(
    args: &RetryArgs,
    environment: &Environment,
    wanted: &BTreeSet<ExportId>,
) -> Result<Vec<Retried>, u8> {
    let config = load(&args.config, environment)?;
    let retried = app::retry(&config, wanted).await.map_err(|error| failed(&error))?;
    Ok(retried.into_iter().map(Retried::from).collect())
}
