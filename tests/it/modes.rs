//! Which users can read the downloads: real users, whom the kernel tells apart.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use batch_export_watcher::simulator::{Content, Serving, SimExport, SimFile, ViewStep};

use super::support::process::{Watcher, copy_program};
use super::support::solo::{SHOP, Solo};
use super::support::{eventually, look};

/// A user with one group. No name of this machine is needed: the kernel knows numbers.
#[derive(Debug, Clone, Copy)]
struct User {
    uid: u32,
    gid: u32,
}

const SERVICE: User = User { uid: 41_001, gid: 42_001 };
const READER: User = User { uid: 41_002, gid: 42_002 };
const STRANGER: User = User { uid: 41_003, gid: 42_003 };

const SHARED: &str = "[download]\nfile_mode = \"0640\"\ndir_mode = \"0750\"";
/// Large enough for a working file with a name.
const LARGE: u64 = 17_000_000;

impl User {
    fn is_gone(self) -> std::io::Result<()> {
        let output = self.command("id", &["-u"]).output()?;
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), self.uid.to_string());
        let output = self.command("id", &["-G"]).output()?;
        assert_eq!(
            String::from_utf8_lossy(&output.stdout).trim(),
            self.gid.to_string(),
            "root's groups stay behind"
        );
        Ok(())
    }

    /// By another program: to change the user itself, the standard library copies this process,
    /// which is large beside other tests.
    fn command(self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command.args([format!("--reuid={}", self.uid), format!("--regid={}", self.gid)]);
        command.args(["--clear-groups", "--", program]).args(arguments).current_dir("/");
        command
    }

    /// What a shell that is this user's says, where it succeeds; `$1` is the path.
    fn does(self, words: &str, path: &Path) -> Option<Vec<u8>> {
        let mut command = self.command("sh", &["-c", words, "sh"]);
        let output = command.arg(path).output().expect("a shell");
        output.status.success().then_some(output.stdout)
    }

    fn owns(self, path: &Path) -> std::io::Result<()> {
        chown(path, Some(self.uid), Some(self.gid))
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}

/// Whether this process can become somebody else; where it cannot, it says so.
fn can_change_users() -> bool {
    let tried = tempfile::tempdir().and_then(|folder| {
        [SERVICE, READER, STRANGER]
            .iter()
            .try_for_each(|user| user.owns(folder.path()).and_then(|()| user.is_gone()))
    });
    if let Err(error) = &tried {
        // Not `eprintln!`, which a test that passes keeps to itself.
        let skipped = format!(
            "SKIPPED: this test needs to be root, to run programs of three users: {error}\n"
        );
        std::io::stderr().write_all(skipped.as_bytes()).expect("stderr");
    }
    tried.is_ok()
}

/// A home that the service's user owns, in which an administrator has made the download directory
/// for the readers' group.
fn set_up(solo: &Solo) {
    SERVICE.owns(solo.home.path()).expect("root may do that");
    // Everybody may pass, so that it is the downloads' own modes that count.
    set_mode(solo.home.path(), 0o711);
    let downloads = solo.home.downloads();
    fs::create_dir(&downloads).expect("a folder");
    chown(&downloads, Some(SERVICE.uid), Some(READER.gid)).expect("root may do that");
    set_mode(&downloads, 0o2750);
}

/// Starts this copy of the program as the service's user, under a umask. It is not in the readers'
/// group.
fn start_as_service(solo: &Solo, program: &Path, umask: &str) -> Watcher {
    let plain = solo.home.command("run", &["--exit-when-settled"]);
    for name in ["config.toml", "shop.key"] {
        SERVICE.owns(&solo.home.path().join(name)).expect("root may do that");
    }
    let mut command = SERVICE.command("sh", &["-c", &format!("umask {umask}; exec \"$0\" \"$@\"")]);
    command.arg(program).args(plain.as_std().get_args()).current_dir(solo.home.path()).env_clear();
    Watcher::spawn(command.into())
}

/// Every file and folder below this one, with its mode and group.
fn modes_below(folder: &Path) -> BTreeMap<PathBuf, (u32, u32)> {
    let found = look::below(folder).into_iter();
    found.map(|(path, metadata)| (path, (metadata.mode() & 0o7777, metadata.gid()))).collect()
}

#[tokio::test]
async fn the_group_of_a_setgid_directory_reads_and_nobody_else_does_anything() {
    if !can_change_users() {
        return;
    }
    // The folder of the build may be closed to other users.
    let place = tempfile::tempdir().unwrap();
    set_mode(place.path(), 0o711);
    let program = place.path().join("batch-export-watcher");
    copy_program(&program);
    set_mode(&program, 0o755);
    for umask in ["077", "000", "022"] {
        comes_home_for_the_group(&program, umask).await;
    }
}

async fn comes_home_for_the_group(program: &Path, umask: &str) {
    let small = SimFile::generated("file_1", 1, 50_000);
    let large = || SimFile::generated("file_2", 2, LARGE);
    let held = large().on_fetch(Serving::well().stall_after(1_000_000));
    let exports = vec![
        SimExport::finished("export_1", vec![small.clone(), held]),
        SimExport::failing("export_2"),
    ];
    let solo = Solo::new(exports).await.with(SHARED);
    set_up(&solo);
    let watcher = start_as_service(&solo, program, umask);
    let folder = solo.home.export(SHOP, "export_1");
    eventually("some of a large part", || watcher.partial_bytes(&folder).contains(&1_000_000))
        .await;
    let partial = fs::metadata(folder.join(".part-00002-file_2.json.partial")).expect("a partial");
    assert_eq!(
        (partial.mode() & 0o7777, partial.gid()),
        (0o640, READER.gid),
        "umask {umask}: the partial"
    );
    solo.sim.release("file_2");
    solo.settled(watcher, 1).await;

    let downloads = solo.home.downloads();
    let found = modes_below(&downloads);
    for name in [
        "part-00001-file_1.json",
        "part-00002-file_2.json",
        "manifest.json",
        "../export_2/failed.json",
    ] {
        assert!(folder.join(name).exists(), "umask {umask}: {name} in {found:#?}");
    }
    for (path, mode) in &found {
        let expected = match path.strip_prefix(&downloads).expect("in there").components().count() {
            // The marker and the lock are nobody's business.
            1 if path.is_file() => 0o600,
            _ if path.is_dir() => 0o2750,
            _ => 0o640,
        };
        assert_eq!(
            *mode,
            (expected, READER.gid),
            "umask {umask}: {} has {:o}",
            path.display(),
            mode.0
        );
    }
    let shared = found.iter().filter(|(_, (mode, _))| *mode != 0o600).map(|(path, _)| path);
    for path in shared.chain([&downloads]) {
        let look = if path.is_dir() { "ls -A \"$1\"" } else { "cat \"$1\"" };
        let seen = READER
            .does(look, path)
            .unwrap_or_else(|| panic!("umask {umask}: {} is shut", path.display()));
        if path.is_file() {
            assert!(
                seen == fs::read(path).expect("root reads it"),
                "umask {umask}: {} reads otherwise",
                path.display()
            );
        }
        let harm: &[&str] = if path.is_dir() {
            &[
                "touch \"$1\"/new",
                "mkdir \"$1\"/new",
                "chmod 777 \"$1\"",
                "rmdir \"$1\"",
                "mv \"$1\" \"$1\".old",
            ]
        } else {
            &[
                "echo >> \"$1\"",
                "rm -f \"$1\"",
                "chmod 666 \"$1\"",
                "mv \"$1\" \"$1\".old",
                "ln \"$1\" \"$1\".new",
            ]
        };
        for user in [READER, STRANGER] {
            for words in harm {
                assert_eq!(
                    user.does(words, path),
                    None,
                    "umask {umask}: {words} of {}",
                    path.display()
                );
            }
        }
        assert_eq!(
            STRANGER.does(look, path),
            None,
            "umask {umask}: {} is open to strangers",
            path.display()
        );
    }
    for user in [READER, STRANGER] {
        for (private, look) in [
            (downloads.join(".batch-export-watcher"), "cat \"$1\""),
            (downloads.join(".batch-export-watcher.lock"), "cat \"$1\""),
            (solo.home.path().join("state"), "ls \"$1\""),
            (solo.home.path().join("state/state.db"), "cat \"$1\""),
        ] {
            assert!(private.exists());
            assert_eq!(
                user.does(look, &private),
                None,
                "umask {umask}: {} is open",
                private.display()
            );
        }
    }
    assert_eq!(modes_below(&downloads), found, "umask {umask}: nothing has changed");
    solo.home.assert_whole(SHOP, "export_1", &[&small.content, &large().content]);
}

#[tokio::test]
async fn without_an_administrator_readers_reach_the_files_and_not_the_state() {
    for umask in ["000", "022", "077", "777"] {
        let pending = SimExport::new("export_pending", vec![ViewStep::status("RUNNING")]);
        let file = SimFile::new("file_1", 1, "[1,2,3]");
        let solo = Solo::new(vec![SimExport::finished("export_1", vec![file]), pending])
            .await
            .with(SHARED);
        let solo = solo
            .with("[download]\ndirectory = \"deep/exports\"\n[state]\ndirectory = \"deep/state\"");
        let watcher = solo.start_after(&format!("umask {umask}"), &[]);
        watcher.wait_for_log(|line| line.contains("export whole")).await;
        let deep = solo.home.path().join("deep");
        let state = modes_below(&deep.join("state"));
        assert!(state.contains_key(&deep.join("state/state.db-wal")), "{state:#?}");
        let mode = |path: &str| fs::metadata(deep.join(path)).unwrap().mode() & 0o7777;
        for (path, (mode, _)) in state {
            assert_eq!(mode, 0o600, "{} under umask {umask} has {mode:o}", path.display());
        }
        for (path, expected) in [
            (".", 0o750),
            ("state", 0o700),
            ("exports", 0o750),
            ("exports/.batch-export-watcher", 0o600),
            ("exports/.batch-export-watcher.lock", 0o600),
            ("exports/shop", 0o750),
            ("exports/shop/export_1", 0o750),
            ("exports/shop/export_1/part-00001-file_1.json", 0o640),
            ("exports/shop/export_1/manifest.json", 0o640),
        ] {
            assert_eq!(mode(path), expected, "{path} under umask {umask} has {:o}", mode(path));
        }
        watcher.kill9().await;
    }
}

#[tokio::test]
async fn files_that_exist_keep_their_mode() {
    let file = |number| SimFile::new(&format!("file_{number}"), number, "[1,2,3]");
    let exports = |id: &str| SimExport::finished(id, vec![file(1)]);
    let mut solo = Solo::new(vec![exports("export_1"), exports("export_2")]).await;
    solo.home.set_exports(SHOP, &["export_1"]);
    solo.settle(0).await;
    let before = solo.home.tree();
    solo.home.set_exports(SHOP, &["export_1", "export_2"]);
    let solo = solo.with(SHARED);
    let output = solo.settle(0).await;
    assert!(!output.stderr.iter().any(|line| line.contains("WARN")), "{output:#?}");
    let mut after = solo.home.tree();
    let new: Vec<_> = after.extract_if(.., |path, _| !before.contains_key(path)).collect();
    assert_eq!(after, before);
    let expected = [("", 0o750), ("/manifest.json", 0o640), ("/part-00001-file_1.json", 0o640)];
    assert_eq!(new, expected.map(|(name, mode)| (format!("shop/export_2{name}"), mode)));
    solo.home.assert_whole(SHOP, "export_2", &[&Content::from("[1,2,3]")]);
}
