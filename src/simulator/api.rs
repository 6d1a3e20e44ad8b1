//! The Batch API's side of a conversation: credentials, routes, views, listings and signed links.

use hyper::http::request::Parts;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::canned::Canned;
use super::record::{Origin, parameter};
use super::reply::Reply;
use super::script::ViewStep;
use super::steps::{LinkStep, Serving};
use super::store;
use super::world::World;

/// Exports on a page of the listing, unless the call says otherwise.
const DEFAULT_PAGE: usize = 10;
const MAX_PAGE: usize = 100;
/// The place of the cursor's first export follows.
const CURSOR_PREFIX: &str = "cursor_";

enum Route {
    View,
    List,
    Download,
    /// The second hop of [`LinkStep::RelativeHop`].
    Hop,
}

impl Route {
    /// Any version is good, as in the real API: its own links carry other ones.
    fn parse(head: &Parts) -> Option<Self> {
        let (version, route) = head.uri.path().strip_prefix('/')?.split_once('/')?;
        let (major, minor) = version.split_once('.')?;
        let number =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if head.method != hyper::Method::GET || !number(major) || !number(minor) {
            return None;
        }
        match route {
            "exports/view" => Some(Self::View),
            "exports/list" => Some(Self::List),
            "exports/download" => Some(Self::Download),
            "exports/hop" => Some(Self::Hop),
            _ => None,
        }
    }
}

pub(super) async fn answer(world: &World, head: &Parts) -> Reply {
    sleep(world.latency).await;
    if let Some(outage) = world.outage(Origin::Api) {
        return outage.into();
    }
    let Some(route) = Route::parse(head) else {
        return Canned::api_error(404, "ROUTE_NOT_FOUND", "The route does not exist.").into();
    };
    let Some(project_key) = authenticate(world, head) else {
        let message = "The key is not valid for this project.";
        return Canned::api_error(401, "AUTHENTICATION_INVALID", message).into();
    };
    if let Some(outage) = world.project_outage(project_key) {
        return outage.into();
    }
    if matches!(route, Route::List) {
        return list(world, project_key, head.uri.query()).unwrap_or_else(|refusal| refusal).into();
    }
    let Some(id) = parameter(head.uri.query(), "id").filter(|id| !id.is_empty()) else {
        let message = "The parameter `id` is missing.";
        return Canned::api_error(400, "MISSING_PARAMETER", message).into();
    };
    match route {
        Route::View | Route::List => view(world, project_key, &id).await.into(),
        Route::Download => download(world, project_key, &id, head).await,
        Route::Hop => redirect(world, &id),
    }
}

/// A redirect to a fresh signed link.
fn redirect(world: &World, file_id: &str) -> Reply {
    let (origin, path) = world.sign(file_id);
    Canned::redirect(307, &format!("{origin}{path}")).into()
}

/// The project whose key came with the right REST API key.
fn authenticate<'a>(world: &World, head: &'a Parts) -> Option<&'a str> {
    let header = |name: &str| head.headers.get(name)?.to_str().ok();
    let project_key = header("x-batch-project")?;
    let rest_api_key = header("authorization")?.strip_prefix("Bearer ")?;
    world.authenticates(project_key, rest_api_key).then_some(project_key)
}

async fn view(world: &World, project_key: &str, export_id: &str) -> Canned {
    let Some((export, mut step)) = world.next_view(project_key, export_id) else {
        return Canned::api_error(404, "EXPORT_NOT_FOUND", "The export does not exist.");
    };
    while let ViewStep::Held(then) = step {
        world.wait_for_release(export_id).await;
        step = *then;
    }
    match step {
        ViewStep::Answer(canned) => canned,
        step => Canned::json(200, &world.report(&export, &step)),
    }
}

fn malformed(parameter: &str) -> Canned {
    let message = format!("The parameter `{parameter}` is malformed.");
    Canned::api_error(400, "MALFORMED_PARAMETER", &message)
}

fn list(world: &World, project_key: &str, query: Option<&str>) -> Result<Canned, Canned> {
    let number = |name: &str, prefix: &str, default: usize| match parameter(query, name) {
        None => Ok(default),
        Some(text) => text
            .strip_prefix(prefix)
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| malformed(name)),
    };
    let limit = number("limit", "", DEFAULT_PAGE)?;
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(malformed("limit"));
    }
    let from = number("from", CURSOR_PREFIX, 0)?;
    let rows = world.listing(project_key)?;
    let page = rows.iter().skip(from).take(limit);
    let page: Vec<Value> = page.map(|(export, step)| world.report(export, step)).collect();
    let next = from.saturating_add(page.len());
    let mut body = json!({ "count": page.len(), "exports": page, "has_more": next < rows.len() });
    if next < rows.len() {
        body["next_from"] = json!(format!("{CURSOR_PREFIX}{next}"));
    }
    Ok(Canned::json(200, &body))
}

async fn download(world: &World, project_key: &str, file_id: &str, head: &Parts) -> Reply {
    let Some((stored, mut step)) = world.next_link(project_key, file_id) else {
        return Canned::api_error(404, "FILE_NOT_FOUND", "The file does not exist.").into();
    };
    while let LinkStep::Held(then) = step {
        world.wait_for_release(file_id).await;
        step = *then;
    }
    match step {
        LinkStep::Redirect | LinkStep::Held(_) => redirect(world, file_id),
        LinkStep::RedirectWith { status, location } => {
            let (origin, path) = world.sign(file_id);
            let authority = origin.trim_start_matches("http://").trim_start_matches("https://");
            let location = location
                .replace("{link}", &format!("{origin}{path}"))
                .replace("{authority}", authority)
                .replace("{path}", &path);
            Canned::redirect(status, &location).into()
        }
        LinkStep::RelativeHop => {
            let version = head.uri.path().split('/').nth(1).unwrap_or_default();
            Canned::redirect(307, &format!("/{version}/exports/hop?id={file_id}")).into()
        }
        LinkStep::Direct => store::serve(&stored, &Serving::well(), &head.headers),
        LinkStep::Answer(canned) => canned.into(),
    }
}
