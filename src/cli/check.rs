//! `check`: validate, print what is in force, and with `--probe` ask the API once per project.

use super::{CheckArgs, console, load};
use crate::api::ProbeOutcome;
use crate::app;
use crate::config::{Config, Environment};
use crate::domain::failure::Hold;
use crate::exit;

pub(super) async fn check(args: &CheckArgs, environment: &Environment) -> u8 {
    let config = match load(&args.config, environment) {
        Ok(config) => config,
        Err(code) => return code,
    };
    console::print(&config.show());
    if args.probe { probe(&config, environment).await } else { exit::DONE }
}

async fn probe(config: &Config, environment: &Environment) -> u8 {
    let clients = match app::api_clients(config, environment) {
        Ok(clients) => clients,
        Err(error) => {
            console::complain(&error.to_string());
            return error.exit_code();
        }
    };
    let mut code = exit::DONE;
    for (project, client) in config.projects.iter().zip(clients) {
        let (words, result) = match client.probe().await {
            ProbeOutcome::Accepted => ("the api accepts the key".to_owned(), exit::DONE),
            ProbeOutcome::Held(Hold::Unauthorized { status }) => {
                (format!("the api refuses the key (http {status})"), exit::CREDENTIALS_REFUSED)
            }
            ProbeOutcome::Held(Hold::RouteNotFound) => {
                ("the api does not know the route: check base_url".to_owned(), exit::CONFIGURATION)
            }
            ProbeOutcome::Held(_) => {
                ("the api asks to be left alone for a while".to_owned(), exit::UNFINISHED)
            }
            ProbeOutcome::Rejected(refusal) => {
                let words =
                    format!("the api refuses the request: {}: {}", refusal.code, refusal.message);
                (words, exit::CONFIGURATION)
            }
            ProbeOutcome::Fault(cause) => {
                (format!("the api gave no good answer: {cause}"), exit::UNFINISHED)
            }
        };
        console::print(&format!("# project {}: {words}\n", project.name));
        // The worst result counts, and the codes are in that order: away (75), refused (77),
        // misconfigured (78).
        code = code.max(result);
    }
    code
}
