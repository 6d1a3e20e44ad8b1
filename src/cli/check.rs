//! `check`: validates and prints the configuration; `--probe` asks the API for each project.

use super::{CheckArgs, console, failed, load};
use crate::api::ProbeOutcome;
use crate::app;
use crate::config::{Config, Environment};
use crate::domain::failure::Hold;
use crate::exit;

pub(super) async fn check(args: &CheckArgs, environment: &Environment) -> Result<u8, u8> {
    let config = load(&args.config, environment)?;
    console::print(&config.show())?;
    if args.probe { probe(&config, environment).await } else { Ok(exit::DONE) }
}

async fn probe(config: &Config, environment: &Environment) -> Result<u8, u8> {
    let clients = app::api_clients(config, environment).map_err(|error| failed(&error))?;
    let mut code = exit::DONE;
    for (project, client) in config.projects.iter().zip(clients) {
        let (source, base) = (&project.key_source, &config.api.base_url);
        let probe = client.probe(project.exports.first()).await;
        let (result, words) = match probe.outcome {
            ProbeOutcome::Accepted => (exit::DONE, "the API accepts the key".to_owned()),
            ProbeOutcome::Unknown(export) => {
                (exit::DONE, format!("the API accepts the key, but does not know {export}"))
            }
            ProbeOutcome::Held(Hold::Unauthorized { status }) => (
                exit::CREDENTIALS_REFUSED,
                format!("the API refuses the key from {source} (HTTP {status})"),
            ),
            ProbeOutcome::Held(Hold::RouteNotFound) => (
                exit::CONFIGURATION,
                format!("the API at {base} does not know the route: check api.base_url"),
            ),
            ProbeOutcome::Held(_) => {
                (exit::UNFINISHED, "the API is busy or down: try again later".to_owned())
            }
            ProbeOutcome::Rejected(of) => (
                exit::CONFIGURATION,
                format!("the API refuses the request: {}: {}", of.code, of.message),
            ),
            ProbeOutcome::Fault(cause) => {
                (exit::UNFINISHED, format!("the API gave no valid answer: {cause}"))
            }
        };
        let asked = match &probe.viewed {
            None => "exports/list".to_owned(),
            Some(export) => {
                format!("exports/list, which is not there, then exports/view of {export}")
            }
        };
        console::print(&format!("# project {}: {words} (call: {asked})\n", project.name))?;
        // The worst result counts, which is the highest code: unavailable (75), refused (77),
        // wrong configuration (78).
        code = code.max(result);
    }
    Ok(code)
}
