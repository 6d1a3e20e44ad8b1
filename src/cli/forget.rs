//! `forget`: what is known of exports is dropped, with what is half done; by the daemon where one
//! runs.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{ForgetArgs, console, load};
use crate::app;
use crate::config::{self, Environment};
use crate::control::{Answer, AskError, Forgotten, Question, ask};
use crate::domain::ids::ExportId;
use crate::exit;

/// Longest wait for the daemon: what is under way comes to its end first.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) async fn forget(args: &ForgetArgs, environment: &Environment) -> u8 {
    let wanted: BTreeSet<ExportId> = args.exports.iter().cloned().collect();
    let directory = config::state_directory(&args.config.config, environment);
    let question = Question::Forget { exports: wanted.clone() };
    let forgotten = match ask(&directory, &question, PATIENCE).await {
        Ok(Answer::Forgotten { exports }) => exports,
        Ok(Answer::Unavailable { cause }) => {
            console::complain(&format!("the daemon cannot do that now: {cause}"));
            return exit::UNFINISHED;
        }
        Ok(_) => return console::complain_of_version(),
        Err(AskError::NoDaemon { .. }) => match without_daemon(args, environment, &wanted).await {
            Ok(forgotten) => forgotten,
            Err(code) => return code,
        },
        Err(error) => {
            console::complain(&error.to_string());
            return exit::UNFINISHED;
        }
    };
    let mut code = exit::DONE;
    for Forgotten { project, export, hindrance } in &forgotten {
        match hindrance {
            None => console::print(&format!("{project}/{export}: forgotten\n")),
            Some(cause) => {
                console::complain(&format!("{project}/{export} is not forgotten: {cause}"));
                code = exit::UNFINISHED;
            }
        }
    }
    for export in wanted.iter().filter(|export| !forgotten.iter().any(|of| of.export == **export)) {
        console::complain(&format!(
            "{export} is known to no project of this configuration; nothing was changed for it"
        ));
        code = if code == exit::DONE { exit::EXPORTS_FAILED } else { code };
    }
    code
}

async fn without_daemon(
    args: &ForgetArgs,
    environment: &Environment,
    wanted: &BTreeSet<ExportId>,
) -> Result<Vec<Forgotten>, u8> {
    let config = load(&args.config, environment)?;
    let forgotten = app::forget(&config, wanted).await.map_err(|error| {
        console::complain(&error.to_string());
        error.exit_code()
    })?;
    let told = |app::Forgotten { project, export, hindrance }| Forgotten {
        project: project.to_string(),
        export,
        hindrance,
    };
    Ok(forgotten.into_iter().map(told).collect())
}
