//! `/metrics` for Prometheus: the counters, and gauges of what the read model says now.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use super::{Shared, accept, plain, silent, typed};
use crate::domain::stage::Cause;
use crate::engine::overview::Overview;
use crate::meters::{Facts, Moment};

pub(super) async fn metrics(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    let (made, free_bytes) = tokio::join!(shared.source.latest(), shared.space.free_bytes());
    let Some(made) = made else { return silent() };
    let moment = moment(&made.overview, free_bytes, shared.space.reserve_bytes());
    let format = accept::format(&headers);
    match shared.meters.expose(&moment, format) {
        Ok(text) => typed(format.content_type(), text),
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n"),
    }
}

fn moment(overview: &Overview, free_bytes: Option<u64>, reserve_bytes: u64) -> Moment {
    let moment = Moment::new(Facts {
        slots_in_use: overview.slots_in_use,
        slots_max: overview.slots_max,
        reload_accepted: overview.standing.reloads.refusal.is_none(),
        started_at: overview.started_at,
        free_bytes,
        reserve_bytes,
    });
    for project in &overview.projects {
        moment.project(&project.name);
        for export in &project.exports {
            // A clock that was set back does not make ages negative.
            let age = overview.standing.now.duration_since(export.since).as_secs_f64().max(0.0);
            moment.export(&project.name, export.stage, age);
            if let Some(wait) = &export.waiting {
                let age = wait.age(overview.standing.now).as_secs_f64();
                moment.wait(&project.name, wait.cause, age);
            }
        }
        if let Some(at) = project.last_success {
            moment.success(&project.name, at);
        }
    }
    for &cause in Cause::OF_ALL {
        moment.pause(None, cause, false);
    }
    for wait in &overview.standing.waits {
        moment.pause(wait.concern.project(), wait.cause, true);
    }
    moment
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::{Semaphore, mpsc};

    use super::super::source::Source;
    use super::super::space::Space;
    use super::*;
    use crate::meters::Meters;
    use crate::sinks::AnySink;
    use crate::sinks::local::{LocalSink, SinkSettings};

    #[tokio::test(start_paused = true)]
    async fn while_the_scheduler_does_not_answer_a_scrape_fails() {
        let folder = tempfile::tempdir().unwrap();
        let (sink, _) = LocalSink::open(folder.path(), None, SinkSettings::default()).unwrap();
        let (engine, _questions) = mpsc::channel(16);
        let shared = Shared {
            source: Arc::new(Source::new(engine, "c.toml".into())),
            meters: Meters::default(),
            space: Arc::new(Space::new(AnySink::Local(sink))),
            streams: Arc::new(Semaphore::new(1)),
        };
        let answer = metrics(State(shared), HeaderMap::new()).await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
