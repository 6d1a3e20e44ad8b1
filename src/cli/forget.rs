//! `forget`: drops the record and the unfinished files of exports, through the daemon if one runs.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{ForgetArgs, asked_if_running, console, failed, load};
use crate::app;
use crate::config::Environment;
use crate::control::{Answer, Forgotten, Question};
use crate::domain::ids::ExportId;
use crate::exit;

/// Work in progress of the exports ends first.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) async fn forget(args: &ForgetArgs, environment: &Environment) -> Result<u8, u8> {
    let wanted: BTreeSet<ExportId> = args.exports.iter().cloned().collect();
    let question = Question::Forget { exports: wanted.clone() };
    let forgotten = match asked_if_running(&args.config, environment, &question, PATIENCE).await? {
        Ok(Answer::Forgotten { exports }) => exports,
        Ok(_) => return Err(console::complain_of_version()),
        Err(_no_daemon) => {
            let config = load(&args.config, environment)?;
            app::forget(&config, &wanted).await.map_err(|error| failed(&error))?
        }
    };
    let mut code = exit::DONE;
    for Forgotten { project, export, hindrance } in &forgotten {
        match hindrance {
            None => console::print(&format!("{project}/{export}: forgotten\n"))?,
            Some(cause) => {
                console::complain(&format!("{project}/{export} is not forgotten: {cause}"));
                code = exit::UNFINISHED;
            }
        }
    }
    for export in wanted.iter().filter(|export| !forgotten.iter().any(|of| of.export == **export)) {
        let words = "is not known to any project of the configuration: nothing was changed for it";
        console::complain(&format!("{export} {words}"));
        code = if code == exit::DONE { exit::EXPORTS_FAILED } else { code };
    }
    Ok(code)
}
