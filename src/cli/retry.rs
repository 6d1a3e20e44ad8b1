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

pub(super) async fn retry(args: &RetryArgs, environment: &Environment) -> Result<u8, u8> {
    let wanted: BTreeSet<ExportId> = args.exports.iter().cloned().collect();
    let question = Question::Retry { exports: wanted.clone() };
    let asked = asked_if_running(&args.config, environment, &question, PATIENCE).await?;
    let (retried, when) = match asked {
        Ok(Answer::Retried { exports }) => (exports, "watched again"),
        Ok(_) => return Err(console::complain_of_version()),
        Err(_no_daemon) => {
            let config = load(&args.config, environment)?;
            let retried = app::retry(&config, &wanted).await.map_err(|error| failed(&error))?;
            (retried, "watched again from the next start on")
        }
    };
    for Retried { project, export } in &retried {
        console::print(&format!("{project}/{export}: {when}\n"))?;
    }
    let found: BTreeSet<&ExportId> = retried.iter().map(|retried| &retried.export).collect();
    let missing: Vec<_> = wanted.iter().filter(|export| !found.contains(export)).collect();
    for export in &missing {
        let words = "is not a failed export of the configuration: nothing was changed for it";
        console::complain(&format!("{export} {words}"));
    }
    if missing.is_empty() { Ok(exit::DONE) } else { Ok(exit::EXPORTS_FAILED) }
}
