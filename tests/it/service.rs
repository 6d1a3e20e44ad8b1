//! What the service manager hears, and what answers over the control socket.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

use batch_export_watcher::exit;
use batch_export_watcher::simulator::{SimExport, SimFile, ViewStep};
use rustix::process::Signal;

use super::support::PATIENCE;
use super::support::process::{Output, Watcher};
use super::support::solo::Solo;

fn pending(id: &str) -> SimExport {
    SimExport::new(id, vec![ViewStep::status("RUNNING")])
}

/// A service manager's end of the notification socket.
struct Manager {
    path: PathBuf,
    socket: tokio::net::UnixDatagram,
}

impl Manager {
    fn new(solo: &Solo) -> Self {
        let path = solo.home.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket in the home");
        socket.set_nonblocking(true).expect("a flag");
        Self { path, socket: tokio::net::UnixDatagram::from_std(socket).expect("a runtime") }
    }

    /// Starts the daemon as its service.
    fn start(&self, solo: &Solo, environment: &[(&str, &str)]) -> Watcher {
        let mut command = solo.home.command("run", &[]);
        command.env("NOTIFY_SOCKET", &self.path).envs(environment.iter().copied());
        Watcher::spawn(command)
    }

    /// The next words.
    async fn told(&self) -> String {
        let mut buffer = [0; 2048];
        let received = tokio::time::timeout(PATIENCE, self.socket.recv(&mut buffer)).await;
        let length = received.expect("a word in time").expect("a datagram");
        String::from_utf8_lossy(&buffer[..length]).trim_end().to_owned()
    }

    /// The next words that do not begin with these.
    async fn told_but(&self, prefix: &str) -> String {
        loop {
            let told = self.told().await;
            if !told.starts_with(prefix) {
                return told;
            }
        }
    }

    /// The next status that says this.
    async fn status(&self, wanted: &str) -> String {
        self.status_that(|status| status.contains(wanted)).await
    }

    /// The next such status.
    async fn status_that(&self, wanted: impl Fn(&str) -> bool) -> String {
        let mut told = String::new();
        let waiting = async {
            while !(told.starts_with("STATUS=") && wanted(&told)) {
                told = self.told().await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("that status in time");
        told
    }
}

async fn ran(solo: &Solo, subcommand: &str, arguments: &[&str]) -> (i32, Output) {
    Watcher::spawn(solo.home.command(subcommand, arguments)).wait().await
}

#[tokio::test]
async fn the_service_manager_learns_of_the_start_and_of_the_stop() {
    let solo = Solo::new(vec![pending("export_1")]).await;
    let manager = Manager::new(&solo);
    let mut watcher = manager.start(&solo, &[]);
    assert_eq!(manager.told().await, "READY=1");
    for made in ["lock", "control.sock"] {
        assert!(solo.home.path().join("state").join(made).exists(), "{made} comes first");
    }
    let mut second = manager.start(&solo, &[]);
    assert_eq!(second.wait().await.0, i32::from(exit::UNFINISHED));
    watcher.signal(Signal::TERM);
    assert_eq!(
        manager.told_but("STATUS=").await,
        "STOPPING=1",
        "and nothing from the one that was refused"
    );
    assert_eq!(watcher.wait().await.0, i32::from(exit::DONE));
    assert!(!solo.home.path().join("state/control.sock").exists());
}

#[tokio::test]
async fn the_status_says_how_it_is_going() {
    let held = SimFile::generated("file_1", 1, 1000)
        .on_fetch(batch_export_watcher::simulator::Serving::well().held());
    let exports =
        vec![SimExport::finished("export_1", vec![held]), pending("export_2"), pending("export_3")];
    let solo = Solo::new(exports).await;
    let manager = Manager::new(&solo);
    let watcher = manager.start(&solo, &[]);
    let told = manager.status("watching 3 exports, 1 downloading, ").await;
    assert!(told.contains(", next poll in ") || told.contains(", polling now"), "{told}");
    solo.sim.release("file_1");
    watcher.wait_for_event(|event| event["message"] == "export whole").await;
    manager.status("watching 2 exports, 1 whole, ").await;
    let (code, output) = ran(&solo, "status", &[]).await;
    assert_eq!(code, 0, "{output:?}");
    assert!(output.stdout[0].starts_with("watching 2 exports, 1 whole, "), "{output:?}");
}

#[tokio::test]
async fn a_reload_is_announced_and_its_verdict_is_in_the_status() {
    let mut solo = Solo::new(vec![pending("export_1")]).await.with("[reload]\nwatch = false");
    let manager = Manager::new(&solo);
    let _watcher = manager.start(&solo, &[]);
    assert_eq!(manager.told().await, "READY=1");
    solo.home.merge("[poll]\nmax_interval = \"nonsense\"");
    let (code, _) = ran(&solo, "reload", &[]).await;
    assert_eq!(code, i32::from(exit::CONFIGURATION));
    let told = manager.told_but("STATUS=").await;
    assert!(told.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{told}");
    manager.status("the last reload was refused: ").await;
    assert_eq!(manager.told_but("STATUS=").await, "READY=1");
    solo.home.merge("[poll]\nmax_interval = \"1s\"");
    assert_eq!(ran(&solo, "reload", &[]).await.0, 0);
    assert!(manager.told_but("STATUS=").await.starts_with("RELOADING=1"));
    manager
        .status_that(|status| status.contains("watching 1 export") && !status.contains("refused"))
        .await;
}

#[tokio::test]
async fn the_watchdog_is_fed_by_the_loop_and_starves_with_it() {
    let solo = Solo::new(vec![pending("export_1")])
        .await
        .with("[poll]\nmax_interval = \"1h\"\nmin_interval = \"1h\"");
    let manager = Manager::new(&solo);
    let watcher = manager.start(&solo, &[("WATCHDOG_USEC", "200000")]);
    assert_eq!(manager.told().await, "READY=1");
    for _ in 0..5 {
        assert_eq!(manager.told_but("STATUS=").await, "WATCHDOG=1");
    }
    assert_eq!(ran(&solo, "status", &["--check"]).await.0, 0);
    // Whether it answers or not: it hangs.
    ran(&solo, "debug-hang", &[]).await;
    // What it said before lies in the socket still.
    let silence = Duration::from_millis(1000);
    while tokio::time::timeout(silence, manager.told()).await.is_ok() {}
    let (code, output) = ran(&solo, "status", &["--check"]).await;
    assert_eq!(code, i32::from(exit::UNHEALTHY), "{output:?}");
    watcher.kill9().await;
}

#[tokio::test]
async fn a_successful_health_probe_is_silent_and_needs_no_configuration() {
    let solo = Solo::new(vec![pending("export_1")]).await.with("[reload]\nwatch = false");
    let (code, output) = ran(&solo, "status", &["--check"]).await;
    assert_eq!(code, i32::from(exit::UNHEALTHY));
    assert!(
        output.stderr[0].contains("no daemon answers at")
            && output.stderr[0].contains("control.sock"),
        "{output:?}"
    );
    let watcher = solo.start();
    watcher.wait_for_event(|event| event["message"] == "running").await;
    let socket = solo.home.path().join("state/control.sock");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o7777, 0o600);
    let (code, output) = ran(&solo, "status", &["--check"]).await;
    assert_eq!((code, output.stdout.len(), output.stderr.len()), (0, 0, 0), "{output:?}");
    // Somebody is in the middle of an edit, and a key file is away.
    let mut probe = solo.home.command("status", &["--check"]);
    solo.home.write("config.toml", "[state]\ndirectory = \"state\"\n[[project]]\nname = \"");
    std::fs::remove_file(solo.home.path().join("shop.key")).unwrap();
    probe.env_remove("RUST_LOG");
    assert_eq!(Watcher::spawn(probe).wait().await.0, 0);
}
