//! `status`: shows the exports, from the running daemon or from the recorded state.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use super::{ConfigArg, StatusArgs, asked, console};
use crate::app;
use crate::config::{self, Environment};
use crate::control::{Answer, AskError, Question, ask};
use crate::exit;
use crate::status::{Look, Stamped, table};

/// Health probes of container engines give up after 5 to 30 seconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// For the document, which may be long.
const DOCUMENT_PATIENCE: Duration = Duration::from_secs(30);
/// The width of the table without a terminal.
const COLUMNS: usize = 80;
const OLDER_VERSION: &str =
    "the running daemon is an older version and reports only this summary: restart it";

#[derive(Debug)]
pub(super) enum Silence {
    Older(String),
    Words(String, u8),
}

impl Silence {
    pub(super) fn words(&self) -> String {
        match self {
            Self::Older(sentence) => format!("{sentence}\n{OLDER_VERSION}"),
            Self::Words(words, _) => words.clone(),
        }
    }
}

pub(super) async fn status(args: &StatusArgs, environment: &Environment) -> Result<u8, u8> {
    if args.check {
        return Ok(check(&args.config, environment).await);
    }
    match look(&args.config, environment).await {
        Ok(status) if args.json => console::print(&json(&status))?,
        Ok(status) => console::print(&(table(&status, terminal_look()).join("\n") + "\n"))?,
        Err(Silence::Older(sentence)) if !args.json => {
            console::print(&format!("{sentence}\n"))?;
            console::complain(OLDER_VERSION);
        }
        Err(Silence::Older(_)) => return Err(console::complain_of_version()),
        Err(Silence::Words(words, code)) => {
            console::complain(&words);
            return Err(code);
        }
    }
    Ok(exit::DONE)
}

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

/// The document of the running daemon, or else of the recorded state.
pub(super) async fn look(arg: &ConfigArg, environment: &Environment) -> Result<Stamped, Silence> {
    match from_daemon(arg, environment).await? {
        Some(status) => Ok(status),
        None => from_state(arg, environment).await,
    }
}

/// `None` if no daemon runs.
async fn from_daemon(arg: &ConfigArg, of: &Environment) -> Result<Option<Stamped>, Silence> {
    let directory = config::state_directory(&arg.config, of)
        .map_err(|faults| Silence::Words(faults.to_string(), exit::CONFIGURATION))?;
    let unfinished = |words: String| Silence::Words(words, exit::UNFINISHED);
    let other = "cannot read the answer of the daemon, which is another version";
    match ask(&directory, &Question::Document, DOCUMENT_PATIENCE).await {
        Ok(Answer::Document { document }) => serde_json::from_value(document)
            .map(Some)
            .map_err(|error| unfinished(format!("{other}: {error}"))),
        Ok(Answer::Unavailable { cause }) => Err(unfinished(console::unavailable(&cause))),
        Ok(_) => match ask(&directory, &Question::Status, PATIENCE).await {
            Ok(Answer::Status(report)) => Err(Silence::Older(report.sentence)),
            Ok(_) => Err(unfinished(console::OTHER_VERSION.to_owned())),
            Err(error) => Err(unfinished(error.to_string())),
        },
        Err(AskError::NoDaemon { .. }) => Ok(None),
        Err(error) => Err(unfinished(error.to_string())),
    }
}

async fn from_state(arg: &ConfigArg, environment: &Environment) -> Result<Stamped, Silence> {
    let config = config::load(&arg.config, environment)
        .map_err(|faults| Silence::Words(faults.to_string(), exit::CONFIGURATION))?;
    let status = app::recorded_status(&config).await;
    status.map_err(|error| Silence::Words(error.to_string(), error.exit_code()))
}

pub(super) fn json(status: &Stamped) -> String {
    // It holds only strings, numbers and lists of them, so serializing cannot fail.
    serde_json::to_string(status).unwrap_or_default() + "\n"
}

pub(super) fn terminal_look() -> Look {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_terminal = io::stdout().is_terminal();
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    let columns = if is_terminal { console::size().0 } else { COLUMNS };
    Look { columns, colours: is_terminal && !dumb && !is_set("NO_COLOR") }
}
