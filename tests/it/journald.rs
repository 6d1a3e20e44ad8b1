//! The log as entries of the journal: their fields, when the journal is chosen, and what happens
//! without one.

use batch_export_watcher::exit;
use batch_export_watcher::simulator::{
    Canned, LinkStep, Origin, Serving, SimExport, SimFile, Simulator, ViewStep,
};
use rustix::process::Signal;
use tokio::process::Command;

use super::support::home::Home;
use super::support::journal::{Entry, Journal};
use super::support::process::Watcher;
use super::support::scene::{project_key, rest_key, scene};

/// What systemd puts into the variable for whom it gives a stream into the journal.
const STDERR_IS_THE_JOURNAL: &str = "export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2);";
const BYTES: u64 = 1000;

/// One export with one part, and one that fails.
async fn two_exports() -> (Simulator, Home) {
    let file = SimFile::generated("file_1", 1, BYTES)
        .on_link(LinkStep::Redirect)
        .on_fetch(Canned::store_error(500, "InternalError", "once"))
        .on_fetch(Serving::well());
    let views = vec![ViewStep::status("RUNNING"), ViewStep::Success(vec![file])];
    scene(vec![("shop", vec![SimExport::new("export_1", views), SimExport::failing("export_2")])])
        .await
}

/// `run` as a service manager starts it, with these options before it.
fn run(home: &Home, options: &[&str]) -> Command {
    let plain = home.command("run", &["--exit-when-settled"]);
    let plain = plain.as_std();
    let mut command = Command::new(plain.get_program());
    // The first two say which format the other tests want.
    command.args(options).args(plain.get_args().skip(2)).env_clear();
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

async fn settled(mut watcher: Watcher, code: u8) -> Vec<String> {
    let (ended, output) = watcher.wait().await;
    assert_eq!(ended, i32::from(code), "{:#?}", output.stderr);
    output.stderr
}

fn says(words: &str) -> impl Fn(&Entry) -> bool {
    move |entry| entry.field("MESSAGE").starts_with(words)
}

fn fields<const N: usize>(entry: &Entry, names: [&str; N]) -> [String; N] {
    names.map(|name| entry.field(name).to_owned())
}

#[tokio::test]
async fn a_whole_job_is_logged_in_fields_and_without_secrets() {
    let (sim, home) = two_exports().await;
    let Some(journal) = Journal::new(&home).await else { return };
    let journal = journal.listen(&home);
    let mut command = run(&home, &["--log-format", "journald"]);
    command.env("RUST_LOG", "trace");
    let stderr = settled(journal.start(&home, "", &command), exit::EXPORTS_FAILED).await;
    assert_eq!(stderr, [""; 0], "the journal alone is told");

    let committed = journal.wait_for(says("part committed")).await;
    assert_eq!(
        fields(
            &committed,
            ["MESSAGE", "EVENT", "PRIORITY", "PROJECT", "EXPORT", "PART", "FILE", "BYTES"]
        ),
        ["part committed", "part_committed", "7", "shop", "export_1", "1", "file_1", "1000"]
    );
    let sha256 = SimFile::generated("file_1", 1, BYTES).content.sha256().to_string();
    assert_eq!(committed.field("SHA256"), sha256);
    assert_eq!(committed.field("TARGET"), "batch_export_watcher::engine::narrator");
    assert!(committed.field("CODE_FILE").ends_with("src/engine/narrator.rs"), "{committed:?}");

    let failing = journal.wait_for(says("part failed, will be repeated: ")).await;
    assert_eq!(fields(&failing, ["PRIORITY", "EXPORT", "PART"]), ["4", "export_1", "1"]);
    let failed = journal.wait_for(says("export failed: ")).await;
    assert_eq!(fields(&failed, ["PRIORITY", "PROJECT", "EXPORT"]), ["3", "shop", "export_2"]);
    let checked = journal.wait_for(says("folder ready")).await;
    assert_eq!(fields(&checked, ["PRIORITY", "EXPORT", "ADOPTED"]), ["7", "export_1", "0"]);

    for entry in journal.entries() {
        let ours = entry.field("TARGET").starts_with("batch_export_watcher");
        assert!(ours || ["3", "4"].contains(&entry.field("PRIORITY")), "{entry:?}");
        let common = ["SYSLOG_IDENTIFIER", "SYSLOG_FACILITY"];
        assert_eq!(fields(&entry, common), ["batch-export-watcher", "3"], "{entry:?}");
        for name in entry.names() {
            // The journal drops other names without a word, and keeps those with an underscore
            // first for itself.
            let first = name.starts_with(|first: char| first.is_ascii_uppercase());
            let rest =
                |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
            assert!(first && name.bytes().all(rest) && name.len() <= 64, "{entry:?}");
            // Every field once, so that ours take the place of none that the journal knows.
            entry.field(name);
        }
    }
    let requests = sim.requests();
    let links = requests.iter().filter(|request| request.origin == Origin::Store);
    let mut secrets: Vec<_> = links.filter_map(|request| request.parameter("signature")).collect();
    assert!(secrets.len() >= 2, "the links were not followed");
    secrets.extend([rest_key("shop"), project_key("shop")]);
    for datagram in journal.datagrams() {
        let text = String::from_utf8_lossy(&datagram);
        let shown = secrets.iter().find(|secret| text.contains(secret.as_str()));
        assert_eq!(shown, None, "a secret is in the journal");
    }
}

#[tokio::test]
async fn the_journal_is_chosen_if_stderr_is_the_journal() {
    let (_sim, home) = two_exports().await;
    let Some(journal) = Journal::new(&home).await else { return };
    let journal = journal.listen(&home);
    let watcher = journal.start(&home, STDERR_IS_THE_JOURNAL, &run(&home, &[]));
    assert_eq!(settled(watcher, exit::EXPORTS_FAILED).await, [""; 0]);
    journal.wait_for(says("export whole")).await;
}

#[tokio::test]
async fn a_daemon_that_is_stopped_tells_the_journal_so() {
    let running = SimExport::new("export_1", vec![ViewStep::status("RUNNING")]);
    let (_sim, home) = scene(vec![("shop", vec![running])]).await;
    let Some(journal) = Journal::new(&home).await else { return };
    let journal = journal.listen(&home);
    let watcher = journal.start(&home, STDERR_IS_THE_JOURNAL, &run(&home, &[]));
    let status = journal.wait_for(says("status changed")).await;
    assert_eq!(fields(&status, ["FROM", "TO"]), ["unknown", "RUNNING"]);
    watcher.signal(Signal::TERM);
    assert_eq!(settled(watcher, exit::UNFINISHED).await, [""; 0]);
    assert_eq!(journal.wait_for(says("stopping")).await.field("SIGNAL"), "SIGTERM");
}

#[tokio::test]
async fn another_stderr_or_another_format_keeps_the_log_out_of_the_journal() {
    let nothing: &[&str] = &[];
    let of_another = "export JOURNAL_STREAM=$(stat -L -c %d:%i .);";
    for (words, options, begins) in [
        ("", nothing, "20"),
        (of_another, nothing, "20"),
        (STDERR_IS_THE_JOURNAL, &["--log-format", "json"], "{"),
        // The journal takes the priority off the line.
        (STDERR_IS_THE_JOURNAL, &["--log-format", "text"], "<"),
    ] {
        let (_sim, home) = two_exports().await;
        let Some(journal) = Journal::new(&home).await else { return };
        let journal = journal.listen(&home);
        let watcher = journal.start(&home, words, &run(&home, options));
        let stderr = settled(watcher, exit::EXPORTS_FAILED).await;
        assert!(stderr.iter().any(|line| line.contains("part committed")), "{stderr:#?}");
        assert!(
            stderr.iter().all(|line| line.starts_with(begins)),
            "{words} {options:?}: {stderr:#?}"
        );
        assert_eq!(journal.datagrams(), [[0_u8; 0]; 0], "{words} {options:?}");
    }
}

#[tokio::test]
async fn without_a_journal_the_log_is_text_with_one_word_about_it() {
    for (words, options, error) in [
        ("", ["--log-format", "journald"].as_slice(), ""),
        (STDERR_IS_THE_JOURNAL, [].as_slice(), "<3>"),
    ] {
        let (_sim, home) = two_exports().await;
        let Some(journal) = Journal::new(&home).await else { return };
        let watcher = journal.start(&home, words, &run(&home, options));
        let stderr = settled(watcher, exit::EXPORTS_FAILED).await;
        let about = |line: &&String| line.contains("cannot reach systemd's journal");
        assert_eq!(stderr.iter().filter(about).count(), 1, "{stderr:#?}");
        assert!(about(&&stderr[0]) && stderr[0].contains("WARN"), "{stderr:#?}");
        let failed = stderr.iter().find(|line| line.contains("export failed; ")).expect("an error");
        assert!(failed.starts_with(&format!("{error}20")), "{failed}");
    }
}

#[tokio::test]
async fn faults_of_the_configuration_are_errors_to_the_journal() {
    let (_sim, home) = two_exports().await;
    let Some(journal) = Journal::new(&home).await else { return };
    let journal = journal.listen(&home);
    let home = home.with("[poll]\nmin_interval = \"soon\"\nmax_interval = \"later\"");
    let watcher = journal.start(&home, STDERR_IS_THE_JOURNAL, &run(&home, &[]));
    let stderr = settled(watcher, exit::CONFIGURATION).await;
    assert_eq!(stderr.len(), 2, "{stderr:#?}");
    assert!(
        stderr.iter().all(|line| line.starts_with("<3>") && line.contains("interval")),
        "{stderr:#?}"
    );
}

#[test]
fn an_entry_is_read_as_the_journal_reads_it() {
    let datagram = b"PRIORITY=6\nMESSAGE\n\x07\0\0\0\0\0\0\0two\nl=s\nEMPTY=\n";
    let entry = Entry::parse(datagram).expect("an entry");
    assert_eq!(fields(&entry, ["PRIORITY", "MESSAGE", "EMPTY", "NONE"]), ["6", "two\nl=s", "", ""]);
    assert_eq!(entry.names().collect::<Vec<_>>(), ["EMPTY", "MESSAGE", "PRIORITY"]);
    for cut in 1..datagram.len() {
        let whole_fields = [10 + 1, datagram.len() - 7];
        assert_eq!(Entry::parse(&datagram[..cut]).is_some(), whole_fields.contains(&cut), "{cut}");
    }
    let twice = Entry::parse(b"EXPORT=1\nEXPORT=2\n").expect("an entry");
    assert!(std::panic::catch_unwind(|| twice.field("EXPORT").len()).is_err());
}
