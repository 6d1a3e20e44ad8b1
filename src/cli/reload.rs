//! `reload`: the running daemon reads its configuration again, and says what came of it.

use std::time::Duration;

use super::{ReloadArgs, asked, console};
use crate::config::Environment;
use crate::control::{Answer, Question};
use crate::exit;

/// Longest wait for the verdict; the daemon gives up on its files before.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn reload(args: &ReloadArgs, environment: &Environment) -> u8 {
    let file = &args.config.config;
    match asked(&args.config, environment, &Question::Reload, PATIENCE).await {
        Ok(Answer::Reloaded { words, file: read }) => {
            console::print(&format!("configuration reloaded: {words}\n"));
            // Who edits one file and reloads another one should know.
            if std::path::absolute(file).is_ok_and(|asked| asked != read) {
                console::complain(&format!(
                    "the daemon reads {}, not {}",
                    read.display(),
                    file.display()
                ));
            }
            exit::DONE
        }
        Ok(Answer::Refused { faults }) => {
            console::complain(&faults);
            console::complain("reload refused: the configuration in force goes on");
            exit::CONFIGURATION
        }
        Ok(_) => console::complain_of_version(),
        Err(code) => code,
    }
}

/// Asks the daemon to hang; what it answers, if anything, does not matter.
#[cfg(debug_assertions)]
pub(super) async fn hang(args: &ReloadArgs, environment: &Environment) -> u8 {
    match asked(&args.config, environment, &Question::Hang, Duration::from_secs(5)).await {
        Ok(_) => exit::DONE,
        Err(code) => code,
    }
}
