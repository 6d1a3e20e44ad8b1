//! Progress on a terminal: one line an export, fed by the engine's read model.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::domain::ids::ProjectName;
use crate::domain::stage::Stage;
use crate::engine::overview::{ExportOverview, Overview};

/// How often what only spins is drawn.
const TICK: Duration = Duration::from_millis(200);

/// Draws until the engine is gone.
pub(super) async fn draw(bars: MultiProgress, mut overviews: watch::Receiver<Overview>) {
    let mut lines: Vec<ProgressBar> = Vec::new();
    // Not `enable_steady_tick`: it starts a thread for each line, and panics if there is none.
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let overview = overviews.borrow_and_update().clone();
        let mut index = 0;
        for project in &overview.projects {
            for export in &project.exports {
                if lines.len() <= index {
                    lines.push(new_line(&bars, &project.name, export));
                }
                show(&lines[index], export);
                index += 1;
            }
        }
        let changed = loop {
            tokio::select! {
                changed = overviews.changed() => break changed,
                _ = ticks.tick() => {
                    lines.iter().filter(|line| !line.is_finished()).for_each(ProgressBar::tick);
                }
            }
        };
        if changed.is_err() {
            break;
        }
    }
    for line in lines.iter().filter(|line| !line.is_finished()) {
        line.abandon();
    }
}

/// The line joins the others before it draws for the first time, or it would draw over them.
fn new_line(bars: &MultiProgress, project: &ProjectName, export: &ExportOverview) -> ProgressBar {
    let line = bars.add(ProgressBar::new(0).with_style(words()));
    line.set_prefix(format!("{project}/{}", export.id));
    line.tick();
    line
}

fn show(line: &ProgressBar, export: &ExportOverview) {
    if line.is_finished() {
        return;
    }
    let progress = export.progress;
    match export.stage {
        Stage::New | Stage::Polling => {
            line.set_style(words());
            line.set_message(export.remote_status.as_deref().unwrap_or("asking").to_owned());
        }
        Stage::Fetching => {
            // Without a total, the bar stays full and the bytes count up.
            let total = progress.bytes_total.unwrap_or(progress.bytes_done);
            if line.length() != Some(total) {
                // The rate counts from here, not from when the line began to wait.
                line.set_style(bytes());
                line.set_length(total);
                line.reset_eta();
            }
            line.set_position(progress.bytes_done);
            line.set_message(format!("{}/{} parts", progress.parts_done, progress.parts_total));
        }
        stage @ Stage::Sealing => line.set_message(stage.as_str()),
        Stage::Whole => {
            line.set_style(words());
            let parts = progress.parts_total;
            let parts = if parts == 1 { "1 part".to_owned() } else { format!("{parts} parts") };
            let bytes = bytesize::ByteSize(progress.bytes_done);
            line.finish_with_message(format!("{}: {parts}, {bytes}", export.stage.as_str()));
        }
        Stage::Failing | Stage::Failed => {
            line.set_style(words());
            let cause = export.failure.as_ref().map_or("", |failure| &failure.cause);
            line.abandon_with_message(format!("{}: {cause}", Stage::Failed.as_str()));
        }
    }
}

fn words() -> ProgressStyle {
    style("{spinner} {prefix:32} {wide_msg}")
}

fn bytes() -> ProgressStyle {
    style("{spinner} {prefix:32} {bar:20} {bytes}/{total_bytes} {bytes_per_sec} {eta} {wide_msg}")
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
