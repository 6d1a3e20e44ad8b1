//! A scenario's table, as docs/performance.md has it.

use super::measure::Run;
use super::peers::Tool;
use super::scenario::{Measured, Outcome, Scenario};
use super::table::{Spread, markdown};

/// The table of what a scenario gave.
pub(crate) fn table(scenario: Scenario, measured: &Measured) -> String {
    match scenario {
        Scenario::Latency => latency(&measured.latencies),
        Scenario::Memory => memory(&measured.outcomes),
        Scenario::BigHttp | Scenario::BigHttps | Scenario::SmallHttp | Scenario::SmallHttps => {
            transfers(&measured.outcomes)
        }
    }
}

fn transfers(outcomes: &[Outcome]) -> String {
    let wall = |outcome: &Outcome| of(outcome, |run| run.wall_seconds);
    let ours = outcomes.iter().find(|outcome| outcome.contender.tool == Tool::Ours).and_then(wall);
    let row = |outcome: &Outcome| {
        let tool = outcome.contender.tool;
        let wall = wall(outcome)?;
        Some(vec![
            tool.name().to_owned(),
            seconds(wall),
            format!("{:.2}", of(outcome, |run| run.cpu_seconds)?.median),
            format!("{:.1}", of(outcome, Run::peak_mib)?.most),
            format!("{:.2}×", wall.median / ours?.median),
            tool.proves().to_owned(),
        ])
    };
    let rows: Vec<_> = outcomes.iter().filter_map(row).collect();
    let header = [
        "tool",
        "wall s, median (min–max)",
        "CPU s",
        "memory MiB",
        "wall / ours",
        "what it proves",
    ];
    markdown(&header, &rows)
}

fn memory(outcomes: &[Outcome]) -> String {
    let row = |outcome: &Outcome| {
        let contender = outcome.contender;
        Some(vec![
            contender.set.size(),
            contender.scheme.to_string(),
            contender.in_flight.to_string(),
            seconds(of(outcome, |run| run.wall_seconds)?),
            format!("{:.2}", of(outcome, |run| run.cpu_seconds)?.median),
            format!("{:.1}", of(outcome, Run::peak_mib)?.most),
        ])
    };
    let rows: Vec<_> = outcomes.iter().filter_map(row).collect();
    markdown(
        &["parts", "over", "in flight", "wall s, median (min–max)", "CPU s", "memory MiB"],
        &rows,
    )
}

fn latency(latencies: &[f64]) -> String {
    let rows: Vec<_> = Spread::of(latencies.iter().copied())
        .map(|Spread { median, least, most }| {
            vec![
                latencies.len().to_string(),
                format!("{median:.1}"),
                format!("{least:.1}"),
                format!("{most:.1}"),
            ]
        })
        .into_iter()
        .collect();
    markdown(&["exports", "median ms", "min ms", "max ms"], &rows)
}

fn of(outcome: &Outcome, number: impl Fn(&Run) -> f64) -> Option<Spread> {
    Spread::of(outcome.runs.iter().map(number))
}

fn seconds(Spread { median, least, most }: Spread) -> String {
    format!("{median:.3} ({least:.3}–{most:.3})")
}
