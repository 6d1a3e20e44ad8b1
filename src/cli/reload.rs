//! `reload`: makes the running daemon read its configuration again, and prints the result.

use std::time::Duration;

use super::{ReloadArgs, asked, console};
use crate::config::Environment;
use crate::control::{Answer, Question};
use crate::exit;

/// The daemon gives up reading its files earlier.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn reload(args: &ReloadArgs, environment: &Environment) -> Result<u8, u8> {
    let file = &args.config.config;
    match asked(&args.config, environment, &Question::Reload, PATIENCE).await? {
        Answer::Reloaded { words, file: read } => {
            console::print(&format!("configuration reloaded: {words}\n"))?;
            // The user may have edited another file than the daemon's.
            if std::path::absolute(file).is_ok_and(|asked| asked != read) {
                let (read, file) = (read.display(), file.display());
                console::complain(&format!("the daemon reads {read}, not {file}"));
            }
            Ok(exit::DONE)
        }
        Answer::Refused { faults } => {
            console::complain(&faults);
            console::complain("reload refused: the daemon keeps its current configuration");
            Err(exit::CONFIGURATION)
        }
        _ => Err(console::complain_of_version()),
    }
}

#[cfg(debug_assertions)]
pub(super) async fn hang(args: &ReloadArgs, environment: &Environment) -> Result<u8, u8> {
    asked(&args.config, environment, &Question::Hang, Duration::from_secs(5)).await?;
    Ok(exit::DONE)
}
