//! A journal of a test's own: a mount namespace in which the journal's socket is the test's, and
//! what comes over it.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;

use tokio::net::UnixDatagram;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::PATIENCE;
use super::home::Home;
use super::process::Watcher;

/// In the namespace nothing of the machine's own `/run` is to be seen: $1 is the folder to be the
/// journal's.
const MOUNTS: &str = "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal && \
    mount --bind \"$1\" /run/systemd/journal && shift";

/// The fields of an entry; a name may come more than once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    fields: BTreeMap<String, Vec<String>>,
}

impl Entry {
    /// Parses a datagram of the journal's native protocol: `NAME=value`, or the name and the length
    /// of any value.
    pub(crate) fn parse(mut datagram: &[u8]) -> Option<Self> {
        let mut entry = Self::default();
        while !datagram.is_empty() {
            let end = datagram.iter().position(|byte| *byte == b'\n')?;
            let (line, rest) = (&datagram[..end], &datagram[end + 1..]);
            let (name, value, rest) = match line.iter().position(|byte| *byte == b'=') {
                Some(equals) => (&line[..equals], &line[equals + 1..], rest),
                None => {
                    let (length, rest) = rest.split_first_chunk()?;
                    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
                    let (value, rest) = rest.split_at_checked(length)?;
                    (line, value, rest.strip_prefix(b"\n")?)
                }
            };
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
            entry.fields.entry(text(name)?).or_default().push(text(value)?);
            datagram = rest;
        }
        Some(entry)
    }

    /// The only value of a field; `""` where the entry has no such field.
    pub(crate) fn field(&self, name: &str) -> &str {
        match self.fields.get(name).map(Vec::as_slice) {
            None => "",
            Some([value]) => value,
            Some(values) => panic!("{name} has several values: {values:?}"),
        }
    }

    /// The names of its fields.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.fields.keys().map(String::as_str)
    }
}

/// The journal; without a socket until [`Journal::listen`].
#[derive(Debug)]
pub(crate) struct Journal {
    unshare: Vec<&'static str>,
    datagrams: watch::Sender<Vec<Vec<u8>>>,
    reader: JoinSet<()>,
}

impl Journal {
    /// Prints why and gives `None` if no namespace can be made.
    pub(crate) async fn new(home: &Home) -> Option<Self> {
        std::fs::create_dir(folder(home)).expect("a folder for the socket");
        let mut refusals = Vec::new();
        // Who is not root may be it in a user namespace of its own.
        for unshare in [vec!["--mount"], vec!["--mount", "--user", "--map-root-user"]] {
            let journal =
                Self { unshare, datagrams: watch::Sender::default(), reader: JoinSet::new() };
            let tried = journal.shell(home, "true").output().await;
            if tried.as_ref().is_ok_and(|output| output.status.success()) {
                return Some(journal);
            }
            refusals.push(tried);
        }
        let skipped = format!(
            "SKIPPED: this test needs a mount namespace, and may not have one: {refusals:?}\n"
        );
        // Not `eprintln`: that is held back while the test passes.
        std::io::stderr().write_all(skipped.as_bytes()).expect("stderr");
        None
    }

    /// Opens the socket and reads what comes.
    pub(crate) fn listen(mut self, home: &Home) -> Self {
        let socket =
            UnixDatagram::bind(folder(home).join("socket")).expect("a socket of the test's own");
        let datagrams = self.datagrams.clone();
        self.reader.spawn(async move {
            let mut buffer = vec![0; 1 << 20];
            while let Ok(length) = socket.recv(&mut buffer).await {
                datagrams.send_modify(|datagrams| datagrams.push(buffer[..length].to_vec()));
            }
        });
        self
    }

    /// Starts this command where the journal is this one, after a shell has run `words`.
    pub(crate) fn start(&self, home: &Home, words: &str, command: &Command) -> Watcher {
        let plain = command.as_std();
        let mut inside = self.shell(home, &format!("{words} exec \"$@\""));
        inside.env_clear();
        inside.arg(plain.get_program()).args(plain.get_args()).current_dir(home.path());
        inside.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Watcher::spawn(inside)
    }

    fn shell(&self, home: &Home, words: &str) -> Command {
        let mut command = Command::new("unshare");
        command.args(&self.unshare).args(["--propagation", "private", "--", "sh", "-c"]);
        command.arg(format!("{MOUNTS} && {{ {words}; }}")).arg("sh").arg(folder(home));
        command
    }

    /// What came, as it came.
    pub(crate) fn datagrams(&self) -> Vec<Vec<u8>> {
        self.datagrams.borrow().clone()
    }

    /// What came, without the empty datagram by which a sender sees whether somebody listens.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        entries(&self.datagrams.borrow())
    }

    /// Waits for an entry; one that came before counts.
    pub(crate) async fn wait_for(&self, wanted: impl Fn(&Entry) -> bool) -> Entry {
        let mut datagrams = self.datagrams.subscribe();
        let found =
            |datagrams: &Vec<Vec<u8>>| entries(datagrams).into_iter().find(|entry| wanted(entry));
        let waiting = datagrams.wait_for(|datagrams| found(datagrams).is_some());
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(Ok(datagrams)) => found(&datagrams).expect("it is there"),
            _ => panic!("no such entry within {PATIENCE:?}; there are {:#?}", self.entries()),
        }
    }
}

fn folder(home: &Home) -> PathBuf {
    home.path().join("journal")
}

fn entries(datagrams: &[Vec<u8>]) -> Vec<Entry> {
    let full = datagrams.iter().filter(|datagram| !datagram.is_empty());
    full.map(|datagram| Entry::parse(datagram).unwrap_or_else(|| panic!("no entry: {datagram:?}")))
        .collect()
}
