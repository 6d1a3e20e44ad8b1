//! `reload`: makes the running daemon read its configuration again, and prints the result.

use std::time::Duration;

use super::{ReloadArgs, asked, console};
use crate::config::Environment;
use crate::control::{Answer, Question};
use crate::exit;

/// The daemon gives up reading its files earlier.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn reload(args: &ReloadArgs, environment: &Environment) -> u8 {
    let file = &args.config.config;
    match asked(&args.config, environment, &Question::Reload, PATIENCE).await {
        Ok(Answer::Reloaded { words, file: read }) => {
            console::print(&format!("configuration reloaded: {words}\n"));
            // The user may have edited another file than the daemon's.
            if std::path::absolute(file).is_ok_and(|asked| asked != read) {
                let (read, file) = (read.display(), file.display());
                console::complain(&format!("the daemon reads {read}, not {file}"));
            }
            exit::DONE
        }
        Ok(Answer::Refused { faults }) => {
            console::complain(&faults);
            console::complain("reload refused: the daemon keeps its current configuration");
            exit::CONFIGURATION
        }
        Ok(_) => console::complain_of_version(),
        Err(code) => code,
    }
}

#[cfg(debug_assertions)]
pub(super) async fn hang(args: &ReloadArgs, environment: &Environment) -> u8 {
    match asked(&args.config, environment, &Question::Hang, Duration::from_secs(5)).await {
        Ok(_) => exit::DONE,
        Err(code) => code,
    }
}
