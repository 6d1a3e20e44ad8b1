//! `status`: how the running daemon is; with `--check` as a health probe.

use std::time::Duration;

use super::{StatusArgs, asked, console};
use crate::config::Environment;
use crate::control::{Answer, Question};
use crate::exit;

/// Longest wait for an answer; probes of container engines give up after 5 to 30 seconds.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) async fn status(args: &StatusArgs, environment: &Environment) -> u8 {
    match asked(&args.config, environment, &Question::Status, PATIENCE).await {
        Ok(Answer::Status(report)) => {
            if !args.check {
                console::print(&format!("{}\n", report.sentence));
            }
            exit::DONE
        }
        Ok(_) => console::complain_of_version(),
        Err(code) => code,
    }
}
