//! Connections that do not come about or die: names that lead nowhere, ports that refuse or
//! swallow, certificates that are no good, proxies in between. Each is a passing fault, told once,
//! and work goes on when it is over.

use std::net::SocketAddr;
use std::time::Duration;

use batch_export_watcher::simulator::{Content, LinkStep, SimExport, SimFile, ViewStep};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::stage::{SHOP, Scheme, Stage, assert_paused};
use crate::support::process::Watcher;
use crate::support::raw::{Answer, RawServer, Scripts};
use crate::support::scene::{project_key, rest_key, told};
use crate::support::tls_front::Authority;
use crate::support::{PATIENCE, home::Home};

fn file() -> SimFile {
    SimFile::new("file_1", 1, "[1]")
}

fn export() -> SimExport {
    SimExport::finished("export_1", vec![file()])
}

fn content() -> Content {
    "[1]".into()
}

/// An address that takes no connection and does not refuse one either, for as long as this lives.
struct BlackHole {
    address: SocketAddr,
    _listener: TcpListener,
    _queued: Vec<TcpStream>,
}

impl BlackHole {
    async fn dig() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("a free port on loopback");
        let listener = socket.listen(1).expect("a short queue");
        let address = listener.local_addr().expect("a bound listener has an address");
        let mut queued = Vec::new();
        // Once the queue is full, the kernel drops what comes.
        while let Ok(Ok(stream)) =
            tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await
        {
            queued.push(stream);
        }
        Self { address, _listener: listener, _queued: queued }
    }
}

/// A port on which nobody listens, and nobody else can while this lives.
struct ClosedPort {
    address: SocketAddr,
    _bound: TcpSocket,
}

impl ClosedPort {
    fn take() -> Self {
        let bound = TcpSocket::new_v4().expect("a socket");
        bound.bind(([127, 0, 0, 1], 0).into()).expect("a free port on loopback");
        let address = bound.local_addr().expect("a bound socket has an address");
        Self { address, _bound: bound }
    }
}

/// A watcher whose API is at this URL: it says these words once, keeps asking with pauses, and
/// obeys a signal.
async fn assert_retries_an_api_at(base_url: &str, words: &str) {
    let home = Home::new(base_url)
        .project(SHOP, &project_key(SHOP), &rest_key(SHOP), &["export_1", "export_2"])
        .with("[api]\nconnect_timeout = \"300ms\"\nrequest_timeout = \"2s\"");
    let mut watcher = home.start(&[]);
    for export in ["export_1", "export_2"] {
        let told = |line: &str| {
            line.contains("will be repeated") && line.contains(export) && line.contains(words)
        };
        watcher.wait_for_log(told).await;
    }
    // What was told is not told again.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let output = watcher.output();
    assert_eq!(told(&output, "WARN", "will be repeated").len(), 2, "{:#?}", output.stderr);
    assert_eq!(told(&output, "ERROR", ""), [""; 0]);
    watcher.signal(rustix::process::Signal::TERM);
    assert_eq!(watcher.wait().await.0, 0);
}

#[tokio::test]
async fn an_api_whose_port_refuses_is_retried_quietly() {
    let port = ClosedPort::take();
    assert_retries_an_api_at(&format!("http://{}/2.11", port.address), "no answer from the API")
        .await;
}

#[tokio::test]
async fn an_api_that_swallows_connections_is_retried_quietly() {
    let hole = BlackHole::dig().await;
    assert_retries_an_api_at(&format!("http://{}/2.11", hole.address), "connecting timed out")
        .await;
}

#[tokio::test]
async fn an_api_that_speaks_no_tls_is_retried_quietly() {
    let plain = Stage::new(Scheme::Http, vec![export()], Scripts::new(), Scripts::new()).await;
    let base_url = format!("{}/2.11", plain.api.origin().replace("http://", "https://"));
    assert_retries_an_api_at(&base_url, "no answer from the API").await;
    assert!(plain.sim.requests().is_empty());
}

#[tokio::test]
async fn stores_that_cannot_be_reached_cost_attempts_of_their_own_parts_only() {
    let hole = BlackHole::dig().await;
    let refusing = ClosedPort::take();
    let at = |name: &str, origin: String| {
        let away = LinkStep::RedirectWith { status: 307, location: format!("{origin}{{path}}") };
        let part = SimFile::new(&format!("file_{name}"), 1, "[1]")
            .on_link(away)
            .on_link(LinkStep::Redirect);
        SimExport::finished(&format!("export_{name}"), vec![part])
    };
    let stage = Stage::new(
        Scheme::Http,
        vec![
            at("hole", format!("http://{}", hole.address)),
            at("refusing", format!("http://{}", refusing.address)),
            at("no_tls", "https://{authority}".to_owned()),
        ],
        Scripts::new(),
        Scripts::new(),
    )
    .await;
    let home = stage.home.with("[api]\nconnect_timeout = \"300ms\"");
    let stage = Stage { home, ..stage };
    let output = stage.settled(stage.start()).await;
    for (name, words) in
        [("hole", "connecting timed out"), ("refusing", "refused"), ("no_tls", "127.0.0.1")]
    {
        stage.home.assert_whole(SHOP, &format!("export_{name}"), &[&content()]);
        let told = told(&output, "WARN", words);
        assert!(
            told.iter().any(|line| line.contains(&format!("file_{name}"))),
            "{name}: {:#?}",
            output.stderr
        );
        assert_eq!(stage.api.asked_for(&format!("file_{name}")).len(), 2, "{name}");
    }
}

#[tokio::test]
async fn an_invalid_certificate_gets_neither_key_nor_link() {
    type Terms = fn(&mut rcgen::CertificateParams);
    let past: Terms = |terms| terms.not_after = rcgen::date_time_ymd(2000, 1, 1);
    let future: Terms = |terms| terms.not_before = rcgen::date_time_ymd(4000, 1, 1);
    let (trusted, stranger) = (Authority::new(), Authority::new());
    let cases = [
        ("expired", trusted.acceptor_with("127.0.0.1", &[], past)),
        ("not_yet_valid", trusted.acceptor_with("127.0.0.1", &[], future)),
        ("another_name", trusted.acceptor("api.batch.com.evil.example")),
        ("another_address", trusted.acceptor("127.0.0.2")),
        ("another_authority", stranger.acceptor("127.0.0.1")),
    ];
    for (name, acceptor) in cases {
        let stage = Stage::new(Scheme::Http, vec![export()], Scripts::new(), Scripts::new()).await;
        let api =
            RawServer::api(stage.sim.api_address(), Some(acceptor.clone()), Scripts::new()).await;
        let home = Home::new(&format!("{}/2.11", api.origin()))
            .project(SHOP, &project_key(SHOP), &rest_key(SHOP), &["export_1"])
            .with("[api]\nca_file = \"ca.pem\"");
        home.write("ca.pem", trusted.pem());
        let watcher = home.start(&[]);
        watcher
            .wait_for_log(|line| line.contains("poll failed") && line.contains("certificate"))
            .await;
        watcher.kill9().await;
        assert!(api.asked().is_empty(), "{name}: the api was asked");

        let store =
            RawServer::store(stage.sim.store_address(), Some(acceptor), Scripts::new()).await;
        stage.sim.set_link_origin(store.origin());
        let good = RawServer::api(
            stage.sim.api_address(),
            Some(trusted.acceptor("127.0.0.1")),
            Scripts::new(),
        )
        .await;
        let mut home = home;
        home.merge(&format!("[api]\nbase_url = \"{}/2.11\"", good.origin()));
        let watcher = home.start(&[]);
        watcher
            .wait_for_log(|line| line.contains("part failed") && line.contains("certificate"))
            .await;
        watcher.kill9().await;
        assert!(store.asked().is_empty(), "{name}: the store was asked");
    }
}

#[tokio::test]
async fn a_connection_that_died_while_idle_costs_no_attempt() {
    // Each connection is closed, or reset, after an answer that promised to keep it.
    let running = r#"{"id":"export_1","status":"RUNNING"}"#;
    let open = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{running}", running.len());
    let answers = vec![
        Answer::raw(open.clone()),
        Answer::raw(open.clone()).and_reset(),
        Answer::raw(open).and_cut(),
    ];
    let polls = answers.len();
    let scripts = Scripts::from([("export_1".to_owned(), answers)]);
    let stage = Stage::new(Scheme::Http, vec![export()], scripts, Scripts::new()).await;
    // The end of a connection has to arrive before the next poll, or it costs that poll.
    let home = stage.home.with("[poll]\nmin_interval = \"1s\"\nmax_interval = \"1s\"");
    let stage = Stage { home, ..stage };
    let output = stage.settled(stage.start()).await;
    stage.home.assert_whole(SHOP, "export_1", &[&content()]);
    assert_eq!(stage.api.asked_for("export_1").len(), polls + 1);
    assert_eq!(told(&output, "WARN", ""), [""; 0]);
}

#[tokio::test]
async fn a_connection_that_dies_during_a_request_costs_one_attempt_and_no_hidden_retry() {
    // The head of the request has arrived, so nobody but the retry policy may send it again.
    let running = r#"{"id":"export_1","status":"RUNNING"}"#;
    let open = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{running}", running.len());
    let answers = vec![
        Answer::raw(open).and_open(),
        Answer::raw("").and_reset(),
        Answer::raw(""),
        Answer::raw("").and_cut(),
    ];
    let calls = answers.len() + 1;
    // A third one would ask for a fresh view.
    let store = vec![Answer::raw("").and_reset(), Answer::raw("")];
    let fetches = store.len() + 1;
    let api = Scripts::from([("export_1".to_owned(), answers)]);
    let store = Scripts::from([("file_1".to_owned(), store)]);
    for scheme in [Scheme::Http, Scheme::Https] {
        let stage = Stage::new(scheme, vec![export()], api.clone(), store.clone()).await;
        let output = stage.settled(stage.start()).await;
        for (asked, count) in
            [(stage.api.asked_for("export_1"), calls), (stage.store.asked_for("file_1"), fetches)]
        {
            assert_eq!(asked.len(), count, "{scheme:?}: {:#?}", output.stderr);
            assert_paused(
                "a lost request",
                &asked.iter().map(|asked| asked.at).collect::<Vec<_>>(),
            );
        }
    }
}

/// A proxy that makes tunnels, and what it was asked for.
struct TunnelProxy {
    address: SocketAddr,
    heads: watch::Receiver<Vec<String>>,
    _tasks: JoinSet<()>,
}

impl TunnelProxy {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port on loopback");
        let address = listener.local_addr().expect("a bound listener has an address");
        let (sender, heads) = watch::channel(Vec::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut tunnels = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let sender = sender.clone();
                tunnels.spawn(async move {
                    // Either side may end the tunnel.
                    let _ = tunnel(client, &sender).await;
                });
            }
        });
        Self { address, heads, _tasks: tasks }
    }
}

async fn tunnel(mut client: TcpStream, heads: &watch::Sender<Vec<String>>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
    heads.send_modify(|heads| heads.push(head));
    let mut server = TcpStream::connect(target).await?;
    client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await?;
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}

#[tokio::test]
async fn the_proxy_of_the_environment_serves_both_origins_and_its_password_is_never_logged() {
    let proxy = TunnelProxy::start().await;
    let stage = Stage::new(Scheme::Https, vec![export()], Scripts::new(), Scripts::new()).await;
    let mut command = stage.home.command("run", &["--exit-when-settled"]);
    command
        // By another name than the stores': no link leads to the proxy itself.
        .env("HTTPS_PROXY", format!("http://agent:s3cr3t-word@localhost:{}", proxy.address.port()))
        .env("RUST_LOG", "trace");
    let output = stage.settled(Watcher::spawn(command)).await;
    stage.home.assert_whole(SHOP, "export_1", &[&content()]);
    let heads = proxy.heads.borrow().clone();
    for server in [&stage.api, &stage.store] {
        let target = server.origin().replace("https://", "connect ");
        let head =
            heads.iter().find(|head| head.starts_with(&target)).expect("a tunnel to each origin");
        // Base64 of agent:s3cr3t-word, in the lower case of the recorded head.
        assert!(head.contains("proxy-authorization: basic ywdlbnq6cznjcjn0lxdvcmq="), "{head}");
        assert!(!head.contains("signature") && !head.contains(&rest_key(SHOP)), "{head}");
    }
    let log = output.stderr.join("\n");
    assert!(!log.contains("s3cr3t-word") && !log.contains("YWdlbnQ6czNjcjN0LXdvcmQ"), "{log}");
}

#[tokio::test]
async fn an_absent_proxy_is_retried_and_its_password_is_never_logged() {
    let stage = Stage::new(Scheme::Https, vec![export()], Scripts::new(), Scripts::new()).await;
    let mut command = stage.home.command("run", &[]);
    let proxy = ClosedPort::take();
    command
        .env("HTTPS_PROXY", format!("http://agent:s3cr3t-word@{}", proxy.address))
        .env("RUST_LOG", "trace");
    let watcher = Watcher::spawn(command);
    let failed = watcher.wait_for_log(|line| line.contains("poll failed")).await;
    let named = format!("through the proxy {}: no connection to the proxy", proxy.address);
    assert!(failed.contains(&named) && failed.contains("refused"), "{failed}");
    let log = watcher.kill9().await.stderr.join("\n");
    assert!(!log.contains("s3cr3t-word") && !log.contains("YWdlbnQ6czNjcjN0LXdvcmQ"), "{log}");
    assert!(stage.api.asked().is_empty(), "the API was asked past its proxy");
}

/// Whatever is wrong with a proxy, and whichever kind it is.
#[tokio::test]
async fn a_proxy_that_is_dead_silent_or_unknown_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port on loopback");
    let silent = listener.local_addr().expect("a bound listener has an address");
    let dead = ClosedPort::take();
    let mut stage = Stage::new(Scheme::Https, vec![export()], Scripts::new(), Scripts::new()).await;
    stage.home.merge("[api]\nconnect_timeout = \"300ms\"");
    for (scheme, address, words) in [
        ("socks5h", dead.address.to_string(), "no connection to the proxy"),
        ("socks5", dead.address.to_string(), "no connection to the proxy"),
        ("http", "proxy.invalid:3128".to_owned(), "name of the proxy could not be resolved"),
        ("http", silent.to_string(), "timed out"),
    ] {
        let mut command = stage.home.command("check", &["--probe"]);
        command.env("HTTPS_PROXY", format!("{scheme}://agent:s3cr3t-word@{address}"));
        let (code, output) = Watcher::spawn(command).wait().await;
        assert_eq!(code, 75, "{output:?}");
        let text = format!("{output:?}");
        assert!(text.contains(&format!("through the proxy {address}: ")), "{text}");
        assert!(text.contains(words) && !text.contains("s3cr3t-word"), "{text}");
    }
}

#[tokio::test]
async fn without_a_network_the_daemon_starts_answers_and_stops() {
    let mut home = Home::new("https://api.batch.invalid/2.11").project(
        SHOP,
        &project_key(SHOP),
        &rest_key(SHOP),
        &["export_1"],
    );
    home.merge("[api]\nrequest_timeout = \"5s\"");
    let plain = home.command("run", &[]);
    let Some(command) = crate::support::process::in_namespace(&plain, &["--net"], "") else {
        return;
    };
    let mut watcher = Watcher::spawn(command);
    watcher.wait_for_log(|line| line.contains("poll failed")).await;
    let (code, output) = Watcher::spawn(home.command("status", &["--check"])).wait().await;
    assert_eq!(code, 0, "{output:?}");
    watcher.signal(rustix::process::Signal::TERM);
    let (code, output) = watcher.wait_within(PATIENCE).await;
    assert_eq!(code, 0, "{output:?}");
    assert_eq!(told(&output, "WARN", "poll failed").len(), 1, "{:#?}", output.stderr);
}

#[tokio::test]
async fn a_poll_that_hangs_delays_only_its_own_export() {
    let views = vec![ViewStep::Held(Box::new(ViewStep::status("RUNNING")))];
    let hanging = SimExport::new("export_hanging", views);
    let stage =
        Stage::new(Scheme::Http, vec![hanging, export()], Scripts::new(), Scripts::new()).await;
    let home = stage.home.with("[api]\nrequest_timeout = \"1s\"");
    let watcher = home.start(&[]);
    watcher.wait_for_log(|line| line.contains("export whole")).await;
    watcher
        .wait_for_log(|line| {
            line.contains("export_hanging") && line.contains("did not answer within 1s")
        })
        .await;
}
