//! Progress on a terminal: one line an export, fed by snapshots.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::sync::watch;

use crate::engine::snapshot::{ExportView, Phase, Snapshot};

/// More exports than this would scroll the terminal away; the others are still worked on.
const MAX_LINES: usize = 40;

/// Draws until the engine is gone.
pub(super) async fn draw(bars: MultiProgress, mut snapshots: watch::Receiver<Snapshot>) {
    let mut lines: Vec<ProgressBar> = Vec::new();
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        for (index, export) in snapshot.exports.iter().take(MAX_LINES).enumerate() {
            if lines.len() <= index {
                lines.push(new_line(&bars, export));
            }
            show(&lines[index], &export.phase);
        }
        if snapshots.changed().await.is_err() {
            break;
        }
    }
    for line in lines.iter().filter(|line| !line.is_finished()) {
        line.abandon();
    }
}

/// The line joins the others before it draws for the first time, or it would draw over them.
fn new_line(bars: &MultiProgress, export: &ExportView) -> ProgressBar {
    let line = bars.add(ProgressBar::new(0).with_style(words()));
    line.set_prefix(format!("{}/{}", export.project, export.export));
    line.enable_steady_tick(Duration::from_millis(200));
    line
}

fn show(line: &ProgressBar, phase: &Phase) {
    if line.is_finished() {
        return;
    }
    match phase {
        Phase::Polling { remote_status } => {
            line.set_style(words());
            line.set_message(remote_status.as_deref().unwrap_or("asking").to_owned());
        }
        Phase::Fetching(progress) => {
            if line.length() != Some(progress.bytes_total) {
                // The rate counts from here, not from when the line began to wait.
                line.set_style(bytes());
                line.set_length(progress.bytes_total);
                line.reset_eta();
            }
            line.set_position(progress.bytes_done);
            line.set_message(format!("{}/{} parts", progress.parts_done, progress.parts_total));
        }
        Phase::Sealing => line.set_message("sealing"),
        Phase::Completed { parts, bytes } => {
            line.set_style(words());
            let parts = if *parts == 1 { "1 part".to_owned() } else { format!("{parts} parts") };
            line.finish_with_message(format!("whole: {parts}, {}", bytesize::ByteSize(*bytes)));
        }
        Phase::Failed { cause } => {
            line.set_style(words());
            line.abandon_with_message(format!("failed: {cause}"));
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
