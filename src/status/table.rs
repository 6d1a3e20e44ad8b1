//! The status document as text: a table that fits the given width, whatever the document says.

use std::time::Duration;

use jiff::Timestamp;

use super::document::{Amount, Document, Export, Failed, Project, STATE, Stamped, Waiting, Waits};
use super::text::{shortened, size, time, to_the_left, to_the_right, width, wrapped};
use crate::domain::stage::Stage;
use crate::domain::text::escaped;

/// The narrowest rows. On a narrower terminal their last columns are lost.
const MIN_WIDTH: usize = 80;
/// The narrowest sentences.
const MIN_TEXT_WIDTH: usize = 30;
/// More would only pull the columns apart.
const MAX_WIDTH: usize = 160;
const STATE_COLUMNS: usize = 10;
/// Of the age, the parts, the bytes, and what comes next.
const CELL_COLUMNS: [usize; 4] = [7, 11, 11, 14];
/// Two before the ID and one before each of the others.
const GAPS: usize = 7;

#[derive(Debug, Clone, Copy)]
pub struct Look {
    pub columns: usize,
    pub colours: bool,
}

/// One element a line.
pub fn table(status: &Stamped, look: Look) -> Vec<String> {
    let columns = look.columns.clamp(MIN_WIDTH, MAX_WIDTH);
    let text_columns = look.columns.clamp(MIN_TEXT_WIDTH, MAX_WIDTH);
    let now = status.now.parse().unwrap_or_else(|_| Timestamp::now());
    let mut table = Table { lines: Vec::new(), now, columns, text_columns, colours: look.colours };
    table.head(&status.document);
    for project in &status.document.projects {
        table.project(project);
    }
    table.lines
}

/// With the terminal's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Colour {
    Plain = 0,
    Bold = 1,
    Dim = 2,
    Bad = 31,
    Good = 32,
    Warning = 33,
    Busy = 36,
}

struct Table {
    lines: Vec<String>,
    now: Timestamp,
    columns: usize,
    text_columns: usize,
    colours: bool,
}

impl Table {
    fn head(&mut self, document: &Document) {
        let Document { source, version, config_file, started_at, .. } = document;
        // A daemon of an older version has no summary, and tells everything in its sentence.
        let summary = match document.summary.as_str() {
            "" => document.sentence.clone(),
            summary => format!("{summary}{}", self.next_poll(document)),
        };
        self.paragraph("", &summary, Colour::Bold);
        for wait in &document.waits {
            self.pause("", wait);
        }
        if let Some(refusal) = &document.reloads.last_refusal {
            let words = format!("the last reload was refused: {refusal}");
            self.paragraph("", &words, Colour::Warning);
        }
        let mut facts = vec![format!("batch-export-watcher {version}"), config_file.clone()];
        if source != STATE
            && let Some(age) = self.since(started_at.as_deref())
        {
            facts.push(format!("up {}", time(age)));
        }
        if document.bytes_per_second > 0 {
            facts.push(format!("{}/s", size(document.bytes_per_second)));
        }
        facts.retain(|fact| !fact.is_empty());
        self.paragraph("", &facts.join(", "), Colour::Dim);
    }

    fn next_poll(&self, document: &Document) -> String {
        let next = document.polls.next_at.as_deref().and_then(|at| at.parse::<Timestamp>().ok());
        match next {
            _ if document.draining => String::new(),
            _ if document.polls.under_way => ", polling now".to_owned(),
            Some(at) => format!(", next poll in {}", time(self.until(at))),
            None => String::new(),
        }
    }

    fn project(&mut self, project: &Project) {
        self.lines.push(String::new());
        self.paragraph("", &project.name, Colour::Bold);
        for pause in &project.pauses {
            self.pause("  ", pause);
        }
        if project.exports.is_empty() {
            self.paragraph("  ", "no exports", Colour::Dim);
            return;
        }
        self.row("EXPORT", ("STATE", Colour::Dim), ["FOR", "PARTS", "BYTES", "NEXT"], Colour::Dim);
        for export in &project.exports {
            self.export(export);
        }
    }

    fn export(&mut self, export: &Export) {
        let (state, colour) = state(export);
        let age = self.since(export.since.as_deref()).map(time).unwrap_or_default();
        let parts = match (export.parts.done, export.parts.total) {
            (_, Some(0)) | (0, None) => String::new(),
            (done, Some(total)) => format!("{done}/{total}"),
            (done, None) => format!("{done}/?"),
        };
        let bytes = match (export.bytes.done, export.bytes.total) {
            (0, None) => String::new(),
            (done, Some(total)) if total == done => size(done),
            (done, Some(total)) => format!("{}/{}", size(done), size(total)),
            (done, None) => size(done),
        };
        let next = self.next(export);
        self.row(&export.id, (&state, colour), [&age, &parts, &bytes, &next], Colour::Plain);
        if let Some(failure) = &export.failure {
            self.failure(failure);
        }
        if let Some(waiting) = &export.waiting {
            self.waiting(waiting);
        }
    }

    /// What heals by itself takes one line.
    fn waiting(&mut self, waiting: &Waiting) {
        let mut words = self.told(&waiting.words, waiting.attempts, waiting.since.as_deref());
        words.push_str(&self.next_try(waiting.next_at.as_deref(), waiting.asking));
        if !waiting.needs_attention {
            return self.paragraph("    ", &words, Colour::Dim);
        }
        self.paragraph("    ", &words, Colour::Warning);
        self.paragraph("    ", &waiting.advice, Colour::Plain);
        if let Some(command) = &waiting.command {
            self.command(command);
        }
    }

    fn told(&self, words: &str, attempts: u32, since: Option<&str>) -> String {
        let mut words = words.to_owned();
        if attempts > 1 {
            words.push_str(&format!(", {attempts} attempts"));
        }
        if let Some(age) = self.since(since) {
            words.push_str(&format!(", for {}", time(age)));
        }
        words
    }

    fn next_try(&self, at: Option<&str>, asking: bool) -> String {
        match at.and_then(|at| at.parse::<Timestamp>().ok()) {
            Some(at) if at > self.now => {
                format!(", next try in {}, at {at:.0}", time(self.until(at)))
            }
            Some(_) => ", asking now".to_owned(),
            None if asking => ", asking now".to_owned(),
            None => String::new(),
        }
    }

    /// What comes next: the rate and the time left, or the next poll.
    fn next(&self, export: &Export) -> String {
        let rate = export.bytes_per_second;
        if rate > 0 {
            let Amount { done, total } = export.bytes;
            let left = total.map(|total| Duration::from_secs(total.saturating_sub(done) / rate));
            let left = left.map(|left| format!(" {}", time(left))).unwrap_or_default();
            return format!("{}/s{left}", size(rate));
        }
        match export.next_poll_at.as_deref().and_then(|at| at.parse::<Timestamp>().ok()) {
            Some(at) if at > self.now => format!("in {}", time(self.until(at))),
            Some(_) => "now".to_owned(),
            None => String::new(),
        }
    }

    fn failure(&mut self, failure: &Failed) {
        let code = failure.code.as_ref().map(|code| format!(" ({code})")).unwrap_or_default();
        self.paragraph("    ", &format!("{}{code}", failure.cause), Colour::Bad);
        self.paragraph("    ", &failure.advice, Colour::Plain);
        if let Some(command) = &failure.command {
            self.command(command);
        }
    }

    /// In one line, however long: a shell takes what is copied as it stands.
    fn command(&mut self, command: &str) {
        self.lines.push(format!("    {}", escaped(command)));
    }

    fn pause(&mut self, indent: &str, pause: &Waits) {
        let mut words = self.told(&pause.words, pause.attempts, pause.since.as_deref());
        words.push_str(&self.next_try(pause.until.as_deref(), pause.asking));
        self.paragraph(indent, &words, Colour::Warning);
        self.paragraph(&format!("{indent}  "), &pause.advice, Colour::Plain);
    }

    fn paragraph(&mut self, indent: &str, text: &str, colour: Colour) {
        for line in wrapped(&escaped(text), self.text_columns - indent.len()) {
            let line = self.painted(&line, colour);
            self.lines.push(format!("{indent}{line}"));
        }
    }

    fn row(&mut self, id: &str, state: (&str, Colour), cells: [&str; 4], colour: Colour) {
        let id_columns = self.columns - STATE_COLUMNS - CELL_COLUMNS.iter().sum::<usize>() - GAPS;
        let left = |text, columns| to_the_left(&shortened(&escaped(text), columns), columns);
        let right = |(cell, columns)| to_the_right(&shortened(cell, columns), columns);
        let cells = cells.into_iter().zip(CELL_COLUMNS);
        let cells: String = cells.map(|cell| format!(" {}", right(cell))).collect();
        let id = self.painted(&left(id, id_columns), colour);
        let state = self.painted(&left(state.0, STATE_COLUMNS), state.1);
        let cells = self.painted(cells.trim_end(), colour);
        self.lines.push(format!("  {id} {state}{cells}").trim_end().to_owned());
    }

    fn painted(&self, text: &str, colour: Colour) -> String {
        if !self.colours || colour == Colour::Plain || width(text) == 0 {
            return text.to_owned();
        }
        format!("\x1b[{}m{text}\x1b[0m", colour as u8)
    }

    fn since(&self, at: Option<&str>) -> Option<Duration> {
        let at: Timestamp = at?.parse().ok()?;
        Some(Duration::try_from(self.now.duration_since(at)).unwrap_or_default())
    }

    /// Rounded up, so that a time to come is never shown as over.
    fn until(&self, at: Timestamp) -> Duration {
        let left = Duration::try_from(at.duration_since(self.now)).unwrap_or_default();
        Duration::from_secs(left.as_secs() + u64::from(left.subsec_nanos() > 0))
    }
}

/// The stage in a word; while the API is asked, that is the API's own.
fn state(export: &Export) -> (String, Colour) {
    let remote = export.remote_status.as_deref();
    let Some(stage) = Stage::parse(&export.state) else {
        return (export.state.clone(), Colour::Plain);
    };
    match stage {
        Stage::New => ("not asked".to_owned(), Colour::Dim),
        Stage::Polling => (remote.unwrap_or("unknown").to_owned(), Colour::Plain),
        Stage::Fetching | Stage::Sealing => (stage.as_str().to_owned(), Colour::Busy),
        Stage::Whole => (stage.as_str().to_owned(), Colour::Good),
        Stage::Failing | Stage::Failed => (stage.as_str().to_owned(), Colour::Bad),
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
