//! The table against documents: how it looks, and that nothing in a document can break it.

use proptest::prelude::*;

use super::super::document::Amount;
use super::*;

const PLAIN: Look = Look { columns: 80, colours: false };

fn document() -> Stamped {
    let json = r#"{
        "now": "2026-01-02T03:04:05Z", "source": "daemon", "version": "0.1.0",
        "config_file": "/srv/watcher/config.toml", "started_at": "2026-01-02T00:04:05Z",
        "sentence": "what the sentence says is never read", "bytes_per_second": 2097152,
        "summary": "watching 4 exports, 1 downloading, 1 failed",
        "polls": {"under_way": false, "next_at": "2026-01-02T03:04:12.500Z"},
        "disk": {"ill": true}, "a key of tomorrow": [1],
        "waits": [{"reason": "disk", "words": "downloads wait because the download directory cannot be used",
                   "advice": "check the mount", "until": null, "asking": false},
                  {"reason": "unavailable", "words": "the API is unavailable",
                   "advice": "nothing to do while the API is down", "until": null, "asking": true}],
        "reloads": {"accepted": 1, "refused": 1, "last_refusal": "/srv/watcher/config.toml:3: poll.max_interval: is not a duration"},
        "projects": [{
            "name": "shop",
            "pauses": [{"reason": "throttled", "words": "the API asks for fewer requests",
                        "advice": "nothing to do, it continues by itself", "until": "2026-01-02T03:05:00Z"}],
            "exports": [
                {"id": "export_nvctr8tgdjf7", "state": "polling", "remote_status": "RUNNING",
                 "since": "2026-01-02T03:00:00Z", "next_poll_at": "2026-01-02T03:04:12.500Z",
                 "parts": {"done": 0, "total": 0}, "bytes": {"done": 0, "total": null}},
                {"id": "export_with_an_id_of_sixty_four_characters", "state": "fetching", "remote_status": "SUCCESS",
                 "since": "2026-01-02T03:04:00Z", "parts": {"done": 1, "total": 12},
                 "bytes": {"done": 10485760, "total": 524288000}, "bytes_per_second": 2097152,
                 "waiting": {"cause": "fault", "words": "part 7: the store answers HTTP 500", "since": "2026-01-02T03:04:00Z",
                             "attempts": 2, "next_at": "2026-01-02T03:04:09Z", "advice": "it is tried again by itself"}},
                {"id": "export_1", "state": "polling", "since": "2026-01-02T02:00:00Z",
                 "waiting": {"cause": "not_found", "words": "the API does not know the export yet", "since": "2026-01-02T02:00:00Z",
                             "attempts": 9, "next_at": null, "asking": true, "advice": "check the ID", "needs_attention": true,
                             "command": "batch-export-watcher check -c /srv/watcher/config.toml --probe"}},
                {"id": "export_2", "state": "whole", "remote_status": "SUCCESS", "since": "2025-12-30T03:04:00Z",
                 "parts": {"done": 3, "total": 3}, "bytes": {"done": 1234, "total": 1234}},
                {"id": "export_3", "state": "failed", "since": "2026-01-02T02:04:00Z",
                 "parts": {"done": 1, "total": 1}, "bytes": {"done": 7, "total": null},
                 "failure": {"kind": "rejected", "cause": "the API refuses the request", "code": "INVALID_ID",
                    "advice": "check the ID, then retry the export",
                    "command": "batch-export-watcher retry -c /srv/watcher/config.toml export_3"}}
            ]
        }, {"name": "other"}]
    }"#;
    serde_json::from_str(json).unwrap()
}

#[test]
fn a_person_can_read_the_table() {
    let lines = table(&document(), PLAIN);
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    assert_eq!(text, include_str!("table_golden.txt"));
    assert!(lines.iter().all(|line| width(line) <= 80), "{text}");
}

#[test]
fn a_daemon_of_an_older_version_is_shown_by_its_sentence() {
    let json = r#"{"now": "2026-01-02T03:04:05Z", "source": "daemon",
        "sentence": "watching 1 export, next poll in 8 s; downloads wait for the disk"}"#;
    let lines = table(&serde_json::from_str(json).unwrap(), PLAIN);
    assert_eq!(lines[0], "watching 1 export, next poll in 8 s; downloads wait for the disk");
}

#[test]
fn colours_are_the_same_words() {
    let coloured = table(&document(), Look { colours: true, ..PLAIN });
    let stripped: Vec<_> = coloured.iter().map(|line| without_colours(line)).collect();
    assert_ne!(stripped, coloured);
    assert_eq!(stripped, table(&document(), PLAIN));
}

#[test]
fn a_wider_terminal_shows_the_whole_id() {
    let lines = table(&document(), Look { columns: 120, ..PLAIN });
    let id = "export_with_an_id_of_sixty_four_characters";
    assert!(lines.iter().any(|line| line.contains(id)), "{lines:#?}");
}

/// A shell takes what is copied only if nothing breaks it.
#[test]
fn a_command_stands_in_one_line_and_sentences_fit_a_narrow_terminal() {
    let command = format!("batch-export-watcher check -c '/srv/{}/c.toml'", "a folder ".repeat(20));
    let mut status = document();
    let waiting = &mut status.document.projects[0].exports[2].waiting;
    waiting.as_mut().unwrap().command = Some(command.clone());
    let lines = table(&status, Look { columns: 40, ..PLAIN });
    assert!(lines.contains(&format!("    {command}")), "{lines:#?}");
    let words = lines.iter().filter(|line| line.contains("attempts") || line.contains("export_3"));
    assert!(words.clone().count() > 2, "{lines:#?}");
    let is_text =
        |line: &&String| !line.contains("batch-export-watcher") && !line.contains("export_");
    let rows = ["EXPORT"];
    for line in
        lines.iter().filter(is_text).filter(|line| !rows.iter().any(|row| line.contains(row)))
    {
        assert!(width(line) <= 40, "{line}");
    }
}

fn without_colours(line: &str) -> String {
    let mut parts = line.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once('m').map_or(part, |(_, rest)| rest))
}

prop_compose! {
    fn some_export()(
        (id, state, status) in (".{0,80}", "polling|fetching|new|\\PC{0,20}", proptest::option::of(".{0,40}")),
        (since, next) in (proptest::option::of("2026-01-02T03:0[0-9]:05Z|.{0,9}"), proptest::option::of("2026-01-02T03:0[0-9]:05Z")),
        (done, total, bytes, bytes_total, rate) in
            (any::<u64>(), any::<Option<u64>>(), any::<u64>(), any::<Option<u64>>(), any::<u64>()),
        failure in proptest::option::of((".{0,300}", proptest::option::of(".{0,20}"), ".{0,200}", ".{0,120}")),
        waiting in proptest::option::of((".{0,300}", any::<u32>(), any::<bool>(), proptest::option::of(".{0,120}"))),
    ) -> Export {
        Export {
            id, state, remote_status: status, since, next_poll_at: next,
            parts: Amount { done, total }, bytes: Amount { done: bytes, total: bytes_total },
            bytes_per_second: rate, active_parts: Vec::new(),
            failure: failure.map(|(cause, code, advice, command)| Failed {
                cause, code, advice, command: Some(command), ..Failed::default()
            }),
            waiting: waiting.map(|(words, attempts, needs_attention, command)| Waiting {
                words: words.clone(), advice: words, attempts, needs_attention, command, ..Waiting::default()
            }),
        }
    }
}

proptest! {
    #[test]
    fn no_document_breaks_the_table(
        (sentence, config_file, refusal) in (".{0,200}", ".{0,150}", proptest::option::of(".{0,200}")),
        (name, words, advice, until) in (".{0,100}", ".{0,100}", ".{0,100}", "2026-01-02T03:0[0-9]:05Z|.{0,9}"),
        exports in proptest::collection::vec(some_export(), 0..5),
        (columns, rate) in (0..200_usize, any::<u64>()),
    ) {
        let pause = Waits { words, advice, until: Some(until), ..Waits::default() };
        let project = Project { name, pauses: vec![pause.clone()], exports };
        let waits = vec![pause.clone()];
        let summary = if rate > 9 { sentence.clone() } else { String::new() };
        let mut status = Stamped { now: "2026-01-02T03:04:05Z".to_owned(), ..Stamped::default() };
        status.document = Document { sentence, summary, config_file, origin: Some(pause), waits, projects: vec![project],
            bytes_per_second: rate, ..Document::default() };
        status.document.reloads.last_refusal = refusal;
        let exports = &status.document.projects[0].exports;
        let of_failures = exports.iter().filter_map(|of| of.failure.as_ref()?.command.as_deref());
        let of_waits = exports.iter().filter_map(|of| of.waiting.as_ref()?.command.as_deref());
        let commands: Vec<_> =
            of_failures.chain(of_waits).map(|command| format!("    {}", escaped(command))).collect();
        let plain = table(&status, Look { columns, colours: false });
        for line in &plain {
            let fits = width(line) <= columns.clamp(80, 160) || commands.contains(line);
            prop_assert!(fits, "{line:?}");
            prop_assert!(!line.chars().any(char::is_control), "{line:?}");
        }
        let coloured = table(&status, Look { columns, colours: true });
        let stripped: Vec<_> = coloured.iter().map(|line| without_colours(line)).collect();
        prop_assert_eq!(stripped, plain);
        let json = serde_json::to_string(&status).unwrap();
        prop_assert_eq!(serde_json::from_str::<Stamped>(&json).unwrap(), status);
    }
}
