//! What is to happen, drawn from a seed: files with their versions, and for each of their transfers
//! how it is to end.

use batch_export_watcher::simulator::{
    Canned, Content, LinkStep, Place, Serving, SimFile, StoreStep,
};
use fastrand::Rng;
use hyper::body::Bytes;
use rustix::process::Signal;

use crate::support::random_bytes;

/// Transfers that are interrupted, all lanes together.
pub(super) const INTERRUPTIONS: usize = 200;
/// Daemons at work at the same time, each with a store of its own.
pub(super) const LANES: usize = 4;
/// Random bytes that all contents are cut from.
const QUARRY_BYTES: usize = 48 << 20;
/// Contents that a file may have, one after the other and again.
const VERSIONS: usize = 3;

/// How a transfer ends, and how many of them are drawn; see [`FilePlan::put_back`] for the others.
const DECK: &[(Ending, usize)] = &[
    (Ending::Closed, 34),
    (Ending::Reset, 26),
    (Ending::StalledThenClosed, 16),
    (Ending::Stalled, 8),
    (Ending::Signalled { signal: Signal::KILL, stalled: true }, 6),
    (Ending::Signalled { signal: Signal::KILL, stalled: false }, 10),
    (Ending::Signalled { signal: Signal::TERM, stalled: true }, 6),
    (Ending::Signalled { signal: Signal::TERM, stalled: false }, 6),
    (Ending::Refused(503), 12),
    (Ending::Refused(500), 12),
    (Ending::Refused(403), 14),
    (Ending::Refused(416), 12),
    (Ending::Refused(429), 6),
    (Ending::Refused(410), 4),
    // A page of a gateway under the status of a file.
    (Ending::Refused(200), 4),
];

/// Sizes of a lane's files, least and most bytes: one of none first, a large one last.
const SIZES: &[(usize, usize)] = &[
    (0, 0),
    (64, 64),
    (100, 8_000),
    (100, 8_000),
    (8_000, 100_000),
    (700_000, 1_500_000),
    (700_000, 1_500_000),
    (1_000_000, 3_000_000),
    // Far more than the 16 MiB after which a program may note how far it is.
    (24 << 20, 40 << 20),
];

/// What some files of each lane get besides.
const AT_THE_END: &[(Moment, Signal)] = &[
    (Moment::Sent, Signal::KILL),
    (Moment::Sent, Signal::KILL),
    (Moment::Sent, Signal::TERM),
    (Moment::Visible, Signal::KILL),
    (Moment::Visible, Signal::KILL),
    (Moment::Visible, Signal::TERM),
];
/// Runs of each lane that are killed as soon as they ask for anything.
const STILLBORN: usize = 2;

/// How a transfer ends before it is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The store closes the connection.
    Closed,
    /// The connection is reset.
    Reset,
    /// Silence for a while, then the store closes the connection.
    StalledThenClosed,
    /// Silence until the program gives up.
    Stalled,
    /// The program gets a signal while the store is silent, or while it goes on to send.
    Signalled { signal: Signal, stalled: bool },
    /// No body of the file: another status, or 200 with a page.
    Refused(u16),
}

/// In which way the store is odd besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    Well,
    Chunked,
    WeakEtag,
    IgnoringRange,
    IgnoringIfRange,
}

/// One transfer of a file.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) ending: Ending,
    pub(super) manner: Manner,
    /// Which of the file's contents the store has by then.
    pub(super) version: usize,
    pub(super) place: Place,
}

/// When a signal comes that belongs to no interrupted transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// The store has sent a file to its end: it is about to be committed, or has just been.
    Sent,
    /// A final name has appeared: its record is about to be written, or has just been.
    Visible,
}

/// One file: every transfer ends early, until no step is left; from then on they are whole.
#[derive(Debug)]
pub(super) struct FilePlan {
    pub(super) id: String,
    pub(super) number: u64,
    versions: Vec<Content>,
    pub(super) steps: Vec<Step>,
    /// Version and manner of what is whole.
    last: (usize, Manner),
    /// What the program gets while it commits the file.
    pub(super) at_end: Option<(Moment, Signal)>,
}

/// One daemon's work.
#[derive(Debug)]
pub(super) struct LanePlan {
    /// Each with its files in part order.
    pub(super) exports: Vec<(String, Vec<FilePlan>)>,
    /// So many runs, the first ones, are killed as soon as they ask for anything.
    pub(super) stillborn: usize,
}

impl Manner {
    /// A store that ignores `If-Range` is odd only where the file is another one than before.
    fn draw(replaced: bool, rng: &mut Rng) -> Self {
        match rng.u8(..10) {
            0 => Self::Chunked,
            1 => Self::WeakEtag,
            2 => Self::IgnoringRange,
            3..6 if replaced => Self::IgnoringIfRange,
            _ => Self::Well,
        }
    }

    fn of(self, serving: Serving, content: &Content) -> Serving {
        match self {
            Self::Well => serving,
            Self::Chunked => serving.chunked(),
            Self::WeakEtag => serving.header("etag", &format!("W/{}", content.etag())),
            Self::IgnoringRange => serving.ignoring_range(),
            Self::IgnoringIfRange => serving.ignoring_if_range(),
        }
    }
}

impl Step {
    /// One in three transfers may find that the file was replaced.
    fn draw(ending: Ending, before: usize, rng: &mut Rng) -> Self {
        let version = if rng.u8(..3) == 0 { rng.usize(..VERSIONS) } else { before };
        let manner = Manner::draw(version != before, rng);
        Self { ending, manner, version, place: Place::Permille(rng.u16(..1000)) }
    }

    /// Whether somebody outside the store has to do something when the transfer gets to its place.
    pub(super) fn is_driven(&self) -> bool {
        matches!(self.ending, Ending::StalledThenClosed | Ending::Signalled { .. })
    }

    /// Whether a transfer got so far.
    pub(super) fn is_reached(&self, body_bytes: u64, whole_bytes: Option<u64>) -> bool {
        let refused = matches!(self.ending, Ending::Refused(_));
        whole_bytes.is_some_and(|whole| refused || body_bytes >= self.place.in_body(whole))
    }
}

impl FilePlan {
    /// What the store has in the end.
    pub(super) fn content(&self) -> &Content {
        &self.versions[self.last.0]
    }

    /// What the store had before that transfer.
    pub(super) fn version_before(&self, index: usize) -> usize {
        index
            .checked_sub(1)
            .and_then(|before| self.steps.get(before))
            .map_or(0, |step| step.version)
    }

    /// What is whole in the end is another version, two times out of three.
    fn draw_last(&mut self, rng: &mut Rng) {
        let before = self.version_before(self.steps.len());
        let version = rng.usize(..VERSIONS);
        let manner = match version != before && rng.bool() {
            true => Manner::IgnoringIfRange,
            false => Manner::draw(version != before, rng),
        };
        self.last = (version, manner);
    }

    /// A signal, a crash amid more bytes of another version, and the version before that again:
    /// what was known of the first partial fits the store and no longer fits the disk.
    fn put_back(&mut self, first: Signal, rng: &mut Rng) {
        let version = self.version_before(self.steps.len());
        let mut stop = |signal, version, places| {
            let ending = Ending::Signalled { signal, stalled: true };
            let place = Place::Permille(rng.u16(places));
            self.steps.push(Step { ending, manner: Manner::Well, version, place });
        };
        stop(first, version, 700..900);
        stop(Signal::KILL, (version + 1) % VERSIONS, 900..1000);
        self.last = (version, Manner::Well);
    }

    /// Whether the program gets a signal at that moment of its end.
    pub(super) fn is_signalled(&self, moment: Moment) -> bool {
        self.at_end.is_some_and(|(at, _)| at == moment)
    }

    /// The name that the program gives it.
    pub(super) fn final_name(&self) -> String {
        format!("part-{:05}-{}.json", self.number, self.id)
    }

    /// The script of all this; resets come from the proxy of that origin.
    pub(super) fn script(&self, resetting_origin: &str) -> SimFile {
        let mut file = SimFile::new(&self.id, self.number, self.content().clone());
        for step in &self.steps {
            let link = match step.ending {
                Ending::Reset => LinkStep::RedirectWith {
                    status: 307,
                    location: format!("{resetting_origin}{{path}}"),
                },
                _ => LinkStep::Redirect,
            };
            file = file.on_link(link).on_fetch(self.answer(step));
        }
        let (_, manner) = self.last;
        file.on_link(LinkStep::Redirect).on_fetch(manner.of(Serving::well(), self.content()))
    }

    fn answer(&self, step: &Step) -> StoreStep {
        if let Ending::Refused(status) = step.ending {
            return refusal(status);
        }
        let content = &self.versions[step.version];
        let mut serving = Serving::well();
        if step.version != self.last.0 {
            serving = serving.other_content(content.clone());
        }
        serving = step.manner.of(serving, content);
        match step.ending {
            Ending::Closed | Ending::Reset | Ending::Refused(_) => {
                serving.cut_after(step.place).into()
            }
            // It goes on to send, so that the signal comes at any moment, and never gets to the
            // end.
            Ending::Signalled { stalled: false, .. } => {
                serving.cut_after(Place::Permille(999)).into()
            }
            Ending::StalledThenClosed
            | Ending::Stalled
            | Ending::Signalled { stalled: true, .. } => {
                serving.cut_after(step.place).stall_after(step.place).into()
            }
        }
    }
}

fn refusal(status: u16) -> StoreStep {
    match status {
        403 => StoreStep::ExpiredLink,
        200 => Canned::html(200).into(),
        status => Canned::store_error(status, "Interrupted", "As the script says.").into(),
    }
}

/// Everything that the seed says.
pub(super) fn draw(seed: u64) -> Vec<LanePlan> {
    let mut rng = Rng::with_seed(seed);
    let quarry = quarry(&mut rng);
    let mut files: Vec<Vec<FilePlan>> = (0..LANES)
        .map(|lane| {
            (1..)
                .zip(SIZES)
                .map(|(number, sizes)| file(lane, number, *sizes, &quarry, &mut rng))
                .collect()
        })
        .collect();
    let mut deck: Vec<Ending> =
        DECK.iter().flat_map(|(ending, count)| std::iter::repeat_n(*ending, *count)).collect();
    rng.shuffle(&mut deck);
    for ending in deck {
        deal(ending, &mut files, &mut rng);
    }
    for (index, lane) in files.iter_mut().enumerate() {
        lane.iter_mut().for_each(|file| file.draw_last(&mut rng));
        let small = rng.choose_multiple(1..SIZES.len() - 1, 2);
        let of_large = if index % 2 == 0 { Signal::KILL } else { Signal::TERM };
        for (place, first) in
            small.into_iter().zip([Signal::KILL, Signal::TERM]).chain([(SIZES.len() - 1, of_large)])
        {
            lane[place].put_back(first, &mut rng);
        }
        let places: Vec<_> = rng.choose_multiple(0..SIZES.len(), AT_THE_END.len());
        for (place, at_end) in places.into_iter().zip(AT_THE_END) {
            lane[place].at_end = Some(*at_end);
        }
    }
    files.into_iter().map(|files| lane(files, &mut rng)).collect()
}

/// Gives the next transfer of some file this ending; one without bytes can only be refused.
fn deal(ending: Ending, files: &mut [Vec<FilePlan>], rng: &mut Rng) {
    loop {
        let lane = rng.usize(..files.len());
        let place = rng.usize(..files[lane].len());
        let file = &mut files[lane][place];
        if file.versions[0].len_bytes() == 0 && !matches!(ending, Ending::Refused(_)) {
            continue;
        }
        let before = file.version_before(file.steps.len());
        file.steps.push(Step::draw(ending, before, rng));
        return;
    }
}

fn quarry(rng: &mut Rng) -> Bytes {
    random_bytes(rng, QUARRY_BYTES).into()
}

fn file(
    lane: usize,
    number: u64,
    (least, most): (usize, usize),
    quarry: &Bytes,
    rng: &mut Rng,
) -> FilePlan {
    let bytes = rng.usize(least..=most);
    let mut cut = || {
        let from = rng.usize(..QUARRY_BYTES - bytes);
        Content::Bytes(quarry.slice(from..from + bytes))
    };
    let versions = (0..VERSIONS).map(|_| cut()).collect();
    FilePlan {
        id: format!("file_{lane}_{number}"),
        number,
        versions,
        steps: Vec::new(),
        last: (0, Manner::Well),
        at_end: None,
    }
}

/// Two exports, of a random half of the files each.
fn lane(mut files: Vec<FilePlan>, rng: &mut Rng) -> LanePlan {
    rng.shuffle(&mut files);
    let second = files.split_off(files.len() / 2);
    let mut exports = Vec::new();
    for (name, mut files) in [("export_1", files), ("export_2", second)] {
        for (number, file) in (1..).zip(&mut files) {
            file.number = number;
        }
        exports.push((name.to_owned(), files));
    }
    LanePlan { exports, stillborn: STILLBORN }
}
