//! `retry`: failed exports are watched again from the next start on.

use std::collections::BTreeSet;

use super::{RetryArgs, console, load};
use crate::app;
use crate::config::Environment;
use crate::domain::ids::ExportId;
use crate::exit;

pub(super) async fn retry(args: &RetryArgs, environment: &Environment) -> u8 {
    let config = match load(&args.config, environment) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let wanted: BTreeSet<ExportId> = args.exports.iter().cloned().collect();
    let retried = match app::retry(&config, &wanted).await {
        Ok(retried) => retried,
        Err(error) => {
            console::complain(&error.to_string());
            return error.exit_code();
        }
    };
    for (project, export) in &retried {
        console::print(&format!("{project}/{export}: watched again from the next start on\n"));
    }
    let found: BTreeSet<&ExportId> = retried.iter().map(|(_, export)| export).collect();
    let missing: Vec<_> = wanted.iter().filter(|export| !found.contains(export)).collect();
    for export in &missing {
        console::complain(&format!(
            "{export} is no failed export of this configuration; nothing was changed for it"
        ));
    }
    if missing.is_empty() { exit::DONE } else { exit::EXPORTS_FAILED }
}
