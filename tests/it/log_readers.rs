//! Who takes the log: a reader that is stuck does not stop the work, and a log file may be rotated.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;

use batch_export_watcher::simulator::{SimExport, SimFile, ViewStep};
use rustix::process::Signal;
use tokio::time::timeout;

use super::support::journal::Journal;
use super::support::solo::{SHOP, Solo};
use super::support::{PATIENCE, eventually, look};

fn file() -> SimFile {
    SimFile::generated("file_1", 1, 100_000)
}

/// How many bytes a pipe takes that nobody reads.
const PIPE_BYTES: usize = 65_536;

#[tokio::test]
async fn a_reader_of_stderr_that_is_stuck_stops_nothing_and_is_told_what_it_missed() {
    let solo = Solo::finished(vec![file()]).await;
    let (mut reader, mut writer) = std::io::pipe().expect("a pipe");
    writer.write_all(&[b'\n'; PIPE_BYTES]).expect("it fits");
    let mut command = solo.home.command("run", &[]);
    command.stdin(Stdio::null()).stderr(writer).kill_on_drop(true);
    let mut child = command.spawn().expect("the program starts");
    // It has the writing end, too.
    drop(command);
    let manifest = solo.home.export(SHOP, "export_1").join("manifest.json");
    eventually("the manifest", || manifest.exists()).await;
    reader.read_exact(&mut [0; PIPE_BYTES]).expect("what filled the pipe");
    let pid = child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()));
    rustix::process::kill_process(pid.expect("it runs"), Signal::TERM).expect("a signal");
    let status = timeout(PATIENCE, child.wait()).await.expect("it ends").expect("a status");
    assert_eq!(status.code(), Some(0));
    let mut log = String::new();
    reader.read_to_string(&mut log).expect("the rest");
    let lines: Vec<_> = log.lines().collect();
    assert!(lines.iter().any(|line| line.contains("entries of the log were lost")), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("stopping")), "{lines:#?}");
    for line in lines {
        serde_json::from_str::<serde_json::Value>(line).expect("no line was cut");
    }
}

#[tokio::test]
async fn a_journal_that_is_stuck_stops_nothing() {
    for before_the_start in [false, true] {
        // So many that their entries fill the queue.
        let files = (1..=30).map(|part| SimFile::generated(&format!("file_{part}"), part, 1000));
        let solo = Solo::finished(files.clone().collect()).await;
        let Some(journal) = Journal::new(&solo.home).await else { return };
        let place = solo.home.path().join("journal/socket");
        let _socket = UnixDatagram::bind(&place).expect("a socket of the test's own");
        let filler = UnixDatagram::unbound().expect("a socket");
        filler.set_nonblocking(true).expect("a flag");
        while before_the_start && filler.send_to(b"PRIORITY=7\n", &place).is_ok() {}
        let plain = solo.home.command("run", &["--exit-when-settled"]);
        let mut command = tokio::process::Command::new(plain.as_std().get_program());
        command.args(["--log-format", "journald"]).args(plain.as_std().get_args().skip(2));
        command.env_clear().env("RUST_LOG", "debug");
        let output = solo.settled(journal.start(&solo.home, "", &command), 0).await;
        let contents: Vec<_> = files.map(|file| file.content).collect();
        solo.home.assert_whole(SHOP, "export_1", &contents.iter().collect::<Vec<_>>());
        assert_eq!(!output.stderr.is_empty(), before_the_start, "{output:#?}");
        assert!(filler.send_to(b"PRIORITY=7\n", &place).is_err(), "its queue was never full");
    }
}

#[tokio::test]
async fn a_log_file_that_is_copied_and_truncated_goes_on_from_its_start() {
    let pending = SimExport::new("export_1", vec![ViewStep::status("RUNNING")]);
    let solo = Solo::new(vec![pending]).await.with("[reload]\nwatch = false");
    let mut watcher = solo.start_after("exec 2>>log", &[]);
    let log = solo.home.path().join("log");
    let says = |words: &str| look::text(&log).is_some_and(|text| text.contains(words));
    eventually("the first lines", || says("status changed")).await;
    for _ in 0..3 {
        fs::copy(&log, solo.home.path().join("log.1")).expect("a copy");
        fs::OpenOptions::new()
            .write(true)
            .open(&log)
            .and_then(|file| file.set_len(0))
            .expect("cut");
        watcher.signal(Signal::HUP);
        eventually("the next lines", || says("configuration reloaded")).await;
        let text = fs::read_to_string(&log).expect("text");
        assert!(!text.contains('\0'), "a hole is where the old lines were");
    }
    watcher.signal(Signal::TERM);
    assert_eq!(watcher.wait().await.0, 0);
}
