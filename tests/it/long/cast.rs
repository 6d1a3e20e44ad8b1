//! Exports drawn from a seed, with what goes wrong on their way.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use batch_export_watcher::domain::checksum::Algorithm;
use batch_export_watcher::simulator::{
    Canned, ChecksumHeader, Content, Declared, LinkStep, Place, SentChecksum, Serving, SimExport,
    SimFile, StoreStep, ViewStep,
};
use fastrand::Rng;

use crate::support::fault_proxy::Fault;

/// Of a hundred answers of the simulator, how many are faults; what the network does to connections
/// comes on top.
const FAULTS_PERCENT: u8 = 10;
/// One export of so many has a part that is large enough for checkpoints.
const LARGE_ONE_IN: usize = 150;
/// One of so many has dozens of parts.
const WIDE_ONE_IN: usize = 60;

/// What an export comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is delivered.
    Whole,
    /// It ends in ERROR and is taken out of the configuration.
    Fails,
    /// It ends in ERROR, succeeds on the other side, and is retried.
    FailsFirst,
}

/// One export.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) number: usize,
    pub(super) id: String,
    pub(super) fate: Fate,
    pub(super) files: Vec<SimFile>,
    /// What goes wrong with it.
    pub(super) faults: Vec<&'static str>,
}

/// Draws exports, one after the other.
#[derive(Debug)]
pub(super) struct Casting {
    random: Rng,
    next: usize,
}

/// The export that a file or an export ID of ours belongs to.
pub(super) fn number_of(id: &str) -> Option<usize> {
    id.split('_').nth(1)?.parse().ok()
}

impl Casting {
    pub(super) fn new(seed: u64) -> Self {
        Self { random: Rng::with_seed(seed), next: 0 }
    }

    /// Another export, and what the simulator is to know of it.
    pub(super) fn draw(&mut self) -> (Member, SimExport) {
        let number = self.next;
        self.next += 1;
        let id = format!("export_{number}");
        let mut faults = Vec::new();
        let files = self.files(number, &mut faults);
        let fate = match self.random.u8(0..100) {
            0..3 => Fate::Fails,
            3..6 => Fate::FailsFirst,
            _ => Fate::Whole,
        };
        let last = match fate {
            Fate::Whole => ViewStep::Success(files.clone()),
            Fate::Fails | Fate::FailsFirst => ViewStep::status("ERROR"),
        };
        let views = self.views(last, &mut faults);
        let export = SimExport::new(&id, views);
        (Member { number, id, fate, files, faults }, export)
    }

    fn views(&mut self, last: ViewStep, faults: &mut Vec<&'static str>) -> Vec<ViewStep> {
        let mut views = Vec::new();
        let running = self.random.usize(0..3);
        for status in
            ["CREATED", "PENDING"].into_iter().chain(std::iter::repeat_n("RUNNING", running))
        {
            self.view_faults(&mut views, faults);
            views.push(ViewStep::status(status));
        }
        self.view_faults(&mut views, faults);
        views.push(last);
        views
    }

    fn view_faults(&mut self, views: &mut Vec<ViewStep>, faults: &mut Vec<&'static str>) {
        while self.random.u8(0..100) < FAULTS_PERCENT {
            let (kind, answer) = self.api_fault();
            faults.push(kind);
            views.push(ViewStep::Answer(answer));
        }
    }

    fn api_fault(&mut self) -> (&'static str, Canned) {
        match self.random.u8(0..100) {
            0..22 => ("429", Canned::throttled(None)),
            22..25 => ("429 with Retry-After", Canned::throttled(Some("1"))),
            25..43 => ("503", Canned::unavailable(None)),
            43..45 => ("503 with Retry-After", Canned::unavailable(Some("1"))),
            45..75 => ("500", Canned::html(500)),
            75..88 => ("502", Canned::html(502)),
            _ => ("half an answer", Canned::new(200, "application/json", "{\"id\": \"expo")),
        }
    }

    fn files(&mut self, number: usize, faults: &mut Vec<&'static str>) -> Vec<SimFile> {
        let count =
            if self.random.usize(0..WIDE_ONE_IN) == 0 { 40 } else { self.random.u64(1..=4) };
        let large = self.random.usize(0..LARGE_ONE_IN) == 0;
        (1..=count).map(|part| self.file(number, part, large && part == count, faults)).collect()
    }

    fn file(
        &mut self,
        number: usize,
        part: u64,
        large: bool,
        faults: &mut Vec<&'static str>,
    ) -> SimFile {
        let bytes = match self.random.u8(0..20) {
            _ if large => self.random.u64(17 << 20..20 << 20),
            0 => 0,
            1 => self.random.u64(300_000..1_500_000),
            _ => self.random.u64(2..60_000),
        };
        let content = Content::Generated { bytes, seed: (number as u64) << 8 | part };
        let mut file = SimFile::new(&format!("file_{number}_{part}"), part, content);
        if !large && self.random.bool() {
            file = file
                .with_checksum(SentChecksum::correct(ChecksumHeader::ContentMd5, Algorithm::Md5));
        }
        if self.random.u8(0..10) == 0 && bytes > 1 {
            file = file.declaring(Declared::Absent);
        }
        while self.random.u8(0..100) < FAULTS_PERCENT {
            let (kind, answer) = self.api_fault();
            if kind != "half an answer" {
                faults.push(kind);
                file = file.on_link(LinkStep::Answer(answer));
            }
        }
        // Behind its faults a call succeeds: the last step repeats.
        file = file.on_link(LinkStep::Redirect);
        while self.random.u8(0..100) < FAULTS_PERCENT {
            let (kind, step) = self.store_fault(&file);
            faults.push(kind);
            file = file.on_fetch(step);
        }
        file.on_fetch(Serving::well())
    }

    fn store_fault(&mut self, file: &SimFile) -> (&'static str, StoreStep) {
        let bytes = file.content.len_bytes();
        let small = (2..1 << 20).contains(&bytes);
        match self.random.u8(0..100) {
            0..15 => {
                ("503 of the store", Canned::store_error(503, "SlowDown", "Slow down.").into())
            }
            15..17 => {
                let slow = Canned::store_error(503, "SlowDown", "Slow down.")
                    .with_header("retry-after", "1");
                ("503 of the store with Retry-After", slow.into())
            }
            17..30 => {
                ("500 of the store", Canned::store_error(500, "InternalError", "Again.").into())
            }
            30..45 => ("expired link", StoreStep::ExpiredLink),
            45..55 => ("a page instead of the file", Canned::html(200).into()),
            55..70 if small => ("wrong bytes", self.wrong_bytes(file).into()),
            70..80 if small => {
                let rate = bytes * 10 / self.random.u64(5..20);
                ("slow drip", Serving::well().bytes_per_second(rate.max(20)).into())
            }
            _ if bytes > 1 => {
                let place = Place::Permille(self.random.u16(0..1000));
                ("cut body", Serving::well().cut_after(place).into())
            }
            _ => ("expired link", StoreStep::ExpiredLink),
        }
    }

    /// Of the same length, so that only the checksum of what it should be gives it away, or of
    /// another one.
    fn wrong_bytes(&mut self, file: &SimFile) -> Serving {
        let bytes = file.content.len_bytes();
        let of_its_length = self.random.bool() || file.declared != Declared::True;
        let bytes = if of_its_length { bytes } else { bytes + self.random.u64(1..100) };
        let serving = Serving::well().other_content(Content::Generated { bytes, seed: u64::MAX });
        if of_its_length {
            serving.header("content-md5", &STANDARD.encode(file.content.digest(Algorithm::Md5)))
        } else {
            serving
        }
    }
}

/// What a network does to connections: each comes to its end after so many bytes, one way or the
/// other.
pub(super) fn weather(seed: u64, typical_bytes: u64) -> impl FnMut() -> Fault + Send + 'static {
    let mut random = Rng::with_seed(seed);
    move || {
        let response_bytes = typical_bytes * random.u64(1..40) / 20 + random.u64(0..1000);
        match random.u8(0..20) {
            0 => Fault::RefuseConnection,
            1..10 => Fault::ResetAfter { response_bytes },
            // Now and then a connection that brings a large part as well.
            10 => Fault::CutAfter { response_bytes: response_bytes + (30 << 20) },
            _ => Fault::CutAfter { response_bytes },
        }
    }
}

/// How often each kind is among these.
pub(super) fn count_kinds(counts: &mut BTreeMap<&'static str, u64>, faults: &[&'static str]) {
    for kind in faults {
        *counts.entry(kind).or_default() += 1;
    }
}
