//! An API that speaks HTTP/2 and misbehaves frame by frame: each fault costs one call at most, and
//! a connection that is of no use any more is not used again.

use std::net::SocketAddr;
use std::time::Duration;

use batch_export_watcher::simulator::{SimExport, SimFile};
use futures::future::join_all;
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use hyper::body::Bytes;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Request, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::stage::{Scheme, Stage};
use crate::support::home::Home;
use crate::support::process::Output;
use crate::support::raw::{RawServer, Scripts};
use crate::support::scene::{project_key, rest_key, told};
use crate::support::tls_front::Authority;
use crate::support::turns::in_a_crowd;
use crate::support::{PATIENCE, eventually};

const SHOP: &str = "shop";
/// An export that is whole without a file, once a second view agrees.
const WHOLE: &str = r#"{"id":"export_1","status":"SUCCESS","files":[]}"#;
const RUNNING: &str = r#"{"id":"export_1","status":"RUNNING"}"#;

/// What becomes of a connection, from its first request on. The connections after the last are
/// healthy.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// An answer, then GOAWAY and the end.
    GoAwayAtRest,
    /// GOAWAY that promises an answer, and the end in its place.
    GoAwayInMidCall,
    /// GOAWAY that says that the request was not looked at, and why.
    GoAwayUnseen(Reason),
    /// A good answer with so many bytes of headers.
    Headers(usize),
    /// The connection is closed in place of an answer.
    Closed,
    /// A reset of the stream, for this reason.
    Reset(Reason),
    /// Half an answer, then a reset of the stream.
    ResetInMidBody,
    /// Half an answer, then the end of the connection.
    CutInMidBody,
    /// A length that the body does not have.
    WrongLength,
    /// No header, ever; the connection itself is alive.
    NoHeaders,
    /// An answer, and from then on nothing at all: no answer, no acknowledgement, no end.
    DeadAtRest,
    /// Bytes that are no frame.
    Garbage,
}

#[derive(Debug, Clone, Default)]
struct Seen {
    connections: usize,
    requests: usize,
}

struct Api {
    address: SocketAddr,
    seen: watch::Receiver<Seen>,
    _tasks: JoinSet<()>,
}

impl Api {
    async fn start(acceptor: TlsAcceptor, faults: Vec<Fault>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port on loopback");
        let address = listener.local_addr().expect("a bound listener has an address");
        let (sender, seen) = watch::channel(Seen::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let fault = faults.get(sender.borrow().connections).copied();
                sender.send_modify(|seen| seen.connections += 1);
                let (acceptor, sender) = (acceptor.clone(), sender.clone());
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    assert_eq!(
                        stream.get_ref().1.alpn_protocol(),
                        Some(b"h2".as_slice()),
                        "HTTP/2 was agreed on"
                    );
                    // Most of these conversations end in a fault.
                    let _ = converse(stream, fault, &sender).await;
                });
            }
        });
        Self { address, seen, _tasks: tasks }
    }
}

type Wire = TlsStream<TcpStream>;
type Asked = (Request<RecvStream>, SendResponse<Bytes>);

async fn next(
    connection: &mut Connection<Wire, Bytes>,
    seen: &watch::Sender<Seen>,
) -> Result<Asked, h2::Error> {
    let asked = connection.accept().await.ok_or(h2::Error::from(Reason::NO_ERROR))??;
    assert!(asked.0.uri().path().ends_with("/exports/view"), "{}", asked.0.uri());
    seen.send_modify(|seen| seen.requests += 1);
    Ok(asked)
}

fn answer(asked: &mut Asked, body: &'static str) -> Result<(), h2::Error> {
    let head = Response::builder().header("content-length", body.len()).body(()).expect("a head");
    asked.1.send_response(head, false)?.send_data(Bytes::from_static(body.as_bytes()), true)
}

/// Lets what was said go out, and answers whatever else comes on this connection.
async fn attend(
    mut connection: Connection<Wire, Bytes>,
    seen: &watch::Sender<Seen>,
) -> Result<(), h2::Error> {
    loop {
        let mut asked = next(&mut connection, seen).await?;
        answer(&mut asked, WHOLE)?;
    }
}

async fn converse(
    mut stream: Wire,
    fault: Option<Fault>,
    seen: &watch::Sender<Seen>,
) -> Result<(), h2::Error> {
    if matches!(fault, Some(Fault::Garbage)) {
        // Whether the client still listens does not matter.
        let _ = stream.write_all(&[0xff; 64]).await;
        let _ = stream.shutdown().await;
        return Ok(());
    }
    if let Some(Fault::GoAwayUnseen(reason)) = fault {
        // Whether the client still listens does not matter.
        let _ = go_away_unseen(&mut stream, reason, seen).await;
        return Ok(());
    }
    let mut connection = h2::server::handshake(stream).await?;
    let mut asked = next(&mut connection, seen).await?;
    let half =
        || Response::builder().header("content-length", WHOLE.len()).body(()).expect("a head");
    let first_bytes = Bytes::from_static(&WHOLE.as_bytes()[..20]);
    match fault {
        None => {
            answer(&mut asked, WHOLE)?;
            attend(connection, seen).await
        }
        Some(Fault::GoAwayAtRest) => {
            answer(&mut asked, RUNNING)?;
            connection.graceful_shutdown();
            attend(connection, seen).await
        }
        Some(Fault::GoAwayInMidCall) => {
            connection.abrupt_shutdown(Reason::NO_ERROR);
            attend(connection, seen).await
        }
        Some(Fault::Closed | Fault::Garbage | Fault::GoAwayUnseen(_)) => Ok(()),
        Some(Fault::Headers(bytes)) => {
            let lines = 200;
            let mut head = half();
            for line in 0..lines {
                let name = HeaderName::from_bytes(format!("x-hop-{line}").as_bytes());
                let value = HeaderValue::from_str(&"x".repeat(bytes / lines));
                head.headers_mut().insert(name.expect("a name"), value.expect("a value"));
            }
            let body = Bytes::from_static(WHOLE.as_bytes());
            asked.1.send_response(head, false)?.send_data(body, true)?;
            attend(connection, seen).await
        }
        Some(Fault::Reset(reason)) => {
            asked.1.send_reset(reason);
            attend(connection, seen).await
        }
        Some(Fault::ResetInMidBody) => {
            let mut body = asked.1.send_response(half(), false)?;
            body.send_data(first_bytes, false)?;
            // The data has to go out before the reset, which would overtake it.
            let _ = tokio::time::timeout(Duration::from_millis(50), connection.accept()).await;
            body.send_reset(Reason::INTERNAL_ERROR);
            attend(connection, seen).await
        }
        Some(Fault::CutInMidBody) => {
            asked.1.send_response(half(), false)?.send_data(first_bytes, false)?;
            let _ = tokio::time::timeout(Duration::from_millis(50), connection.accept()).await;
            Ok(())
        }
        Some(Fault::WrongLength) => {
            let head = Response::builder().header("content-length", 7).body(()).expect("a head");
            asked
                .1
                .send_response(head, false)?
                .send_data(Bytes::from_static(WHOLE.as_bytes()), true)?;
            attend(connection, seen).await
        }
        Some(Fault::NoHeaders) => {
            let held = asked;
            let attended = attend(connection, seen).await;
            drop(held);
            attended
        }
        Some(Fault::DeadAtRest) => {
            answer(&mut asked, RUNNING)?;
            let _ = tokio::time::timeout(Duration::from_millis(50), connection.accept()).await;
            // Nobody reads from it and nobody closes it.
            std::future::pending().await
        }
    }
}

/// Parts come over HTTP/1.1. A store that refuses it is named as that.
#[tokio::test]
async fn a_store_that_speaks_http_2_only_is_named_as_that() {
    let authority = Authority::new();
    let export = SimExport::finished("export_1", vec![SimFile::new("file_1", 1, "[1]")]);
    let stage = Stage::new(Scheme::Https, vec![export], Scripts::new(), Scripts::new()).await;
    stage.home.write("both.pem", &format!("{}{}", stage.pem(), authority.pem()));
    let home = stage.home.with("[api]\nca_file = \"both.pem\"");
    let only_h2 = authority.acceptor_with("127.0.0.1", &[b"h2"], |_| {});
    let store = RawServer::store(stage.sim.store_address(), Some(only_h2), Scripts::new()).await;
    stage.sim.set_link_origin(store.origin());
    let mut watcher = home.start(&["--exit-when-settled"]);
    let words = "the server refuses HTTP/1.1, which downloads need";
    watcher.wait_for_log(|line| line.contains("part failed") && line.contains(words)).await;
    assert!(store.asked().is_empty());
    stage.sim.set_link_origin(stage.store.origin());
    let (code, output) = watcher.wait().await;
    assert_eq!(code, 0, "{}", output.stderr.join("\n"));
    home.assert_whole(SHOP, "export_1", &[&"[1]".into()]);
}

/// Reads the preface and frames up to a request, which it says it has not looked at.
async fn go_away_unseen(
    stream: &mut Wire,
    reason: Reason,
    seen: &watch::Sender<Seen>,
) -> std::io::Result<()> {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const HEADERS: u8 = 1;
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await?;
    stream.write_all(&SETTINGS).await?;
    loop {
        let mut frame = [0; 9];
        stream.read_exact(&mut frame).await?;
        let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await?;
        if frame[3] == HEADERS {
            break;
        }
    }
    seen.send_modify(|seen| seen.requests += 1);
    let words = b"s3cr3t words";
    let mut frame = vec![0, 0, 20, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    frame.extend(u32::from(reason).to_be_bytes());
    frame.extend(words);
    stream.write_all(&frame).await?;
    stream.shutdown().await
}

/// Runs a watcher against an API whose connections have these faults; it has to bring its export
/// home.
async fn comes_home(faults: Vec<Fault>, request_timeout: &str) -> (Output, Seen) {
    let _turn = in_a_crowd().await;
    let authority = Authority::new();
    let acceptor = authority.acceptor_with("127.0.0.1", &[b"h2"], |_| {});
    let api = Api::start(acceptor, faults).await;
    let home = Home::new(&format!("https://{}/2.11", api.address))
        .project(SHOP, &project_key(SHOP), &rest_key(SHOP), &["export_1"])
        .with(&format!("[api]\nca_file = \"ca.pem\"\nrequest_timeout = \"{request_timeout}\""))
        // A reload, be it for nothing, makes new connections.
        .with("[reload]\nwatch = false");
    home.write("ca.pem", authority.pem());
    let mut watcher = home.start(&["--exit-when-settled"]);
    let (code, output) = watcher.wait_within(2 * PATIENCE).await;
    assert_eq!(code, 0, "{}", output.stderr.join("\n"));
    home.assert_whole(SHOP, "export_1", &[]);
    eventually("an end of the counting", || api.seen.borrow().connections > 0).await;
    let seen = api.seen.borrow().clone();
    (output, seen)
}

#[tokio::test]
async fn one_healthy_connection_is_enough() {
    let (output, seen) = comes_home(Vec::new(), "5s").await;
    assert_eq!((seen.connections, seen.requests), (1, 2), "{:#?}", output.stderr);
}

#[tokio::test]
async fn a_goaway_on_an_idle_connection_costs_no_attempt() {
    let (output, seen) = comes_home(vec![Fault::GoAwayAtRest; 3], "5s").await;
    assert_eq!((seen.connections, seen.requests), (4, 5));
    assert_eq!(told(&output, "WARN", "poll failed"), [""; 0]);
}

#[tokio::test]
async fn a_connection_that_ends_in_order_is_replaced_at_once_and_without_a_warning() {
    let (output, seen) = comes_home(vec![Fault::GoAwayUnseen(Reason::NO_ERROR)], "10s").await;
    assert_eq!((seen.connections, seen.requests), (2, 3), "{:#?}", output.stderr);
    assert_eq!(told(&output, "WARN", "poll failed"), [""; 0]);
}

#[tokio::test]
async fn what_ends_a_connection_or_a_call_is_told_in_words() {
    let cases = [
        // The second one in a row is a fault: nothing is sent a third time.
        (vec![Fault::GoAwayUnseen(Reason::NO_ERROR); 2], "closed the HTTP/2 connection in order"),
        (
            vec![Fault::GoAwayUnseen(Reason::ENHANCE_YOUR_CALM)],
            "closed the HTTP/2 connection (ENHANCE_YOUR_CALM)",
        ),
        (
            vec![Fault::Reset(Reason::REFUSED_STREAM)],
            "aborted the answer over HTTP/2 (REFUSED_STREAM)",
        ),
        (vec![Fault::ResetInMidBody], "aborted the answer over HTTP/2 (INTERNAL_ERROR)"),
        (vec![Fault::Headers(70_000)], "or its head is larger than 64 KiB"),
    ];
    let runs = cases.map(|(faults, words)| async move { (words, comes_home(faults, "10s").await) });
    for (words, (output, _)) in join_all(runs).await {
        let log = output.stderr.join("\n");
        assert_eq!(told(&output, "WARN", words).len(), 1, "{words}: {log}");
        assert!(!log.contains("s3cr3t"), "{log}");
    }
}

#[tokio::test]
async fn a_large_head_below_64_kib_is_read() {
    let (output, seen) = comes_home(vec![Fault::Headers(50_000)], "10s").await;
    assert_eq!((seen.connections, seen.requests), (1, 2), "{:#?}", output.stderr);
}

#[tokio::test]
async fn each_broken_conversation_costs_one_call_and_no_hidden_retry() {
    let faults = [
        Fault::GoAwayInMidCall,
        Fault::Closed,
        Fault::Reset(Reason::INTERNAL_ERROR),
        Fault::Reset(Reason::REFUSED_STREAM),
        Fault::Reset(Reason::CANCEL),
        Fault::Reset(Reason::ENHANCE_YOUR_CALM),
        Fault::ResetInMidBody,
        Fault::CutInMidBody,
        Fault::WrongLength,
        Fault::NoHeaders,
    ];
    let runs = faults.map(|fault| async move { (fault, comes_home(vec![fault], "10s").await) });
    for (fault, (output, seen)) in join_all(runs).await {
        let log = output.stderr.join("\n");
        assert_eq!(
            told(&output, "WARN", "poll failed, will be repeated").len(),
            1,
            "{fault:?}: {log}"
        );
        assert!(seen.requests >= 3 && seen.connections <= 2, "{fault:?}: {seen:?}: {log}");
        assert_eq!(told(&output, "ERROR", ""), [""; 0], "{fault:?}");
    }
}

#[tokio::test]
async fn bytes_that_are_no_frame_are_a_transient_fault() {
    let (output, seen) = comes_home(vec![Fault::Garbage; 2], "5s").await;
    // Told anew where the cause has other words: whether the connection or its call learns of it
    // first is a race.
    let told = told(&output, "WARN", "poll failed, will be repeated");
    assert!((1..=2).contains(&told.len()), "{:#?}", output.stderr);
    assert_eq!((seen.connections, seen.requests), (3, 2));
}

#[tokio::test]
async fn a_connection_that_died_silently_is_replaced_however_short_the_timeout_of_a_call() {
    let (output, seen) = comes_home(vec![Fault::DeadAtRest], "400ms").await;
    assert_eq!(seen.connections, 2, "{:#?}", output.stderr);
}
