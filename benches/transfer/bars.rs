//! What the numbers have to reach, and whether they do.

use super::measure::Run;
use super::peers::{IN_FLIGHT, Tool};
use super::scenario::{Measured, Outcome, Scenario};
use super::table::{Spread, markdown};

/// The most that this program's memory may come to with a few parts in flight, in MiB.
const FEW_IN_FLIGHT_MIB: f64 = 24.0;
const MANY_IN_FLIGHT_MIB: f64 = 64.0;
/// The most that an export may wait for us as a rule, in milliseconds.
const LATENCY_MILLISECONDS: f64 = 50.0;

/// What of this program's runs is set against another tool's.
#[derive(Debug, Clone, Copy)]
enum Ratio {
    /// Medians of the wall time.
    Wall,
    /// Medians of the CPU time: of the same bytes, so it is that of a gigabyte.
    Cpu,
}

/// Ours, divided by that of a tool, may be so much at most.
const RATIOS: [(Scenario, Ratio, Tool, f64); 11] = [
    (Scenario::BigHttp, Ratio::Wall, Tool::Curl, 0.75),
    (Scenario::BigHttp, Ratio::Wall, Tool::Aria2c, 0.5),
    (Scenario::BigHttp, Ratio::Wall, Tool::CurlSyncSums, 0.45),
    (Scenario::BigHttp, Ratio::Cpu, Tool::Curl, 1.2),
    (Scenario::BigHttps, Ratio::Wall, Tool::Curl, 0.9),
    (Scenario::BigHttps, Ratio::Wall, Tool::Aria2c, 0.7),
    (Scenario::BigHttps, Ratio::Wall, Tool::CurlSyncSums, 0.6),
    (Scenario::BigHttps, Ratio::Cpu, Tool::Curl, 1.1),
    (Scenario::SmallHttp, Ratio::Wall, Tool::CurlSync, 0.85),
    (Scenario::SmallHttp, Ratio::Wall, Tool::Aria2c, 0.35),
    (Scenario::SmallHttps, Ratio::Wall, Tool::Curl, 0.9),
];

/// One bar and what was measured.
#[derive(Debug)]
struct Judged {
    what: String,
    measured: f64,
    limit: f64,
    unit: &'static str,
}

impl Judged {
    fn ok(&self) -> bool {
        self.measured <= self.limit
    }
}

/// The verdicts as a table, and how many bars are missed.
pub(crate) fn judge(scenario: Scenario, measured: &Measured) -> (String, usize) {
    let mut judged: Vec<_> = RATIOS
        .iter()
        .filter(|(of, ..)| *of == scenario)
        .filter_map(|&(_, ratio, tool, limit)| against(measured, ratio, tool, limit))
        .collect();
    judged.extend(measured.outcomes.iter().filter_map(memory));
    judged.extend(Spread::of(measured.latencies.iter().copied()).map(|latency| Judged {
        what: "median from SUCCESS to the manifest".to_owned(),
        measured: latency.median,
        limit: LATENCY_MILLISECONDS,
        unit: " ms",
    }));
    let rows: Vec<_> = judged
        .iter()
        .map(|bar| {
            let Judged { what, measured, limit, unit } = bar;
            let verdict = if bar.ok() { "ok" } else { "MISSED" };
            vec![
                what.clone(),
                format!("{measured:.2}{unit}"),
                format!("{limit}{unit}"),
                verdict.to_owned(),
            ]
        })
        .collect();
    let missed = judged.iter().filter(|bar| !bar.ok()).count();
    (markdown(&["bar", "measured", "at most", "verdict"], &rows), missed)
}

fn against(measured: &Measured, ratio: Ratio, tool: Tool, limit: f64) -> Option<Judged> {
    let median = |tool: Tool| {
        let outcome = measured.outcomes.iter().find(|outcome| outcome.contender.tool == tool)?;
        let numbers = outcome.runs.iter().map(|run| match ratio {
            Ratio::Wall => run.wall_seconds,
            Ratio::Cpu => run.cpu_seconds,
        });
        Spread::of(numbers).map(|spread| spread.median)
    };
    let what = match ratio {
        Ratio::Wall => "wall time",
        Ratio::Cpu => "CPU time",
    };
    Some(Judged {
        what: format!("{what}, ours / {}", tool.name()),
        measured: median(Tool::Ours)? / median(tool)?,
        limit,
        unit: "",
    })
}

/// The largest of all runs of ours, not the median.
fn memory(outcome: &Outcome) -> Option<Judged> {
    let contender = outcome.contender;
    if contender.tool != Tool::Ours {
        return None;
    }
    let peak = Spread::of(outcome.runs.iter().map(Run::peak_mib))?.most;
    let limit =
        if contender.in_flight > IN_FLIGHT { MANY_IN_FLIGHT_MIB } else { FEW_IN_FLIGHT_MIB };
    let (size, scheme, in_flight) = (contender.set.size(), contender.scheme, contender.in_flight);
    let what = format!("memory, {size} over {scheme}, {in_flight} in flight");
    Some(Judged { what, measured: peak, limit, unit: " MiB" })
}
