//! `status`: the status document, from the running daemon or from the state; `--check` is a health
//! probe.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use super::{ConfigArg, StatusArgs, asked, console, status_watch};
use crate::app;
use crate::config::{self, Environment};
use crate::control::{Answer, AskError, Question, ask};
use crate::exit;
use crate::status::{Look, Stamped, table};

/// What is said if the daemon knows only its sentence.
pub(super) const OLDER: &str = "the daemon is of an older version and has no table: restart it";
/// Longest wait for an answer; probes of container engines give up after 5 to 30 seconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// The width if there is no terminal.
const COLUMNS: usize = 80;

/// Why there is no document.
#[derive(Debug)]
pub(super) enum Silence {
    /// The daemon is of an older version and knows only its sentence.
    Older(String),
    /// The reason in words, with its exit code.
    Words(String, u8),
}

pub(super) async fn status(args: &StatusArgs, environment: &Environment) -> u8 {
    if args.check {
        return check(&args.config, environment).await;
    }
    if args.watch {
        return status_watch::watch(args, environment).await;
    }
    match look(&args.config, environment).await {
        Ok(status) if args.json => {
            console::print(&json(&status));
            exit::DONE
        }
        Ok(status) => {
            let text: String =
                table(&status, terminal_look()).into_iter().map(|line| line + "\n").collect();
            console::print(&text);
            exit::DONE
        }
        Err(Silence::Older(sentence)) if !args.json => {
            console::print(&format!("{sentence}\n"));
            console::complain(OLDER);
            exit::DONE
        }
        Err(Silence::Older(_)) => console::complain_of_version(),
        Err(Silence::Words(words, code)) => {
            console::complain(&words);
            code
        }
    }
}

/// The health probe: unhealthy if no daemon answers.
async fn check(config: &ConfigArg, environment: &Environment) -> u8 {
    match asked(config, environment, &Question::Status, PATIENCE).await {
        Ok(Answer::Status(_)) => exit::DONE,
        Ok(_) => {
            console::complain_of_version();
            exit::UNHEALTHY
        }
        Err(_) => exit::UNHEALTHY,
    }
}

/// The document of the running daemon, or of what the state has.
pub(super) async fn look(
    config: &ConfigArg,
    environment: &Environment,
) -> Result<Stamped, Silence> {
    match from_daemon(config, environment).await? {
        Some(status) => Ok(status),
        None => from_state(config, environment).await,
    }
}

/// `None` if no daemon runs.
async fn from_daemon(
    arg: &ConfigArg,
    environment: &Environment,
) -> Result<Option<Stamped>, Silence> {
    let directory = config::state_directory(&arg.config, environment);
    let unfinished = |words: String| Silence::Words(words, exit::UNFINISHED);
    match ask(&directory, &Question::Document, PATIENCE).await {
        Ok(Answer::Document { document }) => match serde_json::from_value(document) {
            Ok(status) => Ok(Some(status)),
            Err(error) => Err(unfinished(format!(
                "the daemon's answer cannot be read ({error}): restart the daemon"
            ))),
        },
        Ok(Answer::Unavailable { cause }) => {
            Err(unfinished(format!("the daemon cannot do that now: {cause}")))
        }
        Ok(_) => match ask(&directory, &Question::Status, PATIENCE).await {
            Ok(Answer::Status(report)) => Err(Silence::Older(report.sentence)),
            Ok(_) => Err(unfinished(
                "the daemon is of another version and does not know this question: restart it"
                    .to_owned(),
            )),
            Err(error) => Err(unfinished(error.to_string())),
        },
        Err(AskError::NoDaemon { .. }) => Ok(None),
        Err(error) => Err(unfinished(error.to_string())),
    }
}

async fn from_state(arg: &ConfigArg, environment: &Environment) -> Result<Stamped, Silence> {
    let config = config::load(&arg.config, environment)
        .map_err(|faults| Silence::Words(faults.to_string(), exit::CONFIGURATION))?;
    app::recorded_status(&config)
        .await
        .map_err(|error| Silence::Words(error.to_string(), error.exit_code()))
}

/// The document on one line.
pub(super) fn json(status: &Stamped) -> String {
    // Only strings, numbers and lists of them: nothing in it can fail to be written.
    serde_json::to_string(status).unwrap_or_default() + "\n"
}

pub(super) fn terminal_look() -> Look {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_terminal = io::stdout().is_terminal();
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    let columns = if is_terminal { console::size().0 } else { COLUMNS };
    Look { columns, colours: is_terminal && !dumb && !is_set("NO_COLOR") }
}
