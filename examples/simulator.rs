//! The simulated Batch API and object store as a program, which runs until SIGTERM or SIGINT. The
//! tests of the installed service use it (`tests/service`); a configuration can be tried with it by
//! hand.
//!
//! Prints the API's base URL as one line. With an address as its argument, such as `127.0.0.1:53`,
//! it also answers DNS there: every name is 127.0.0.1. Then signed links lead to the store by a
//! name.
//!
//! The project is `project_simulated`, its key `simulated-rest-api-key`.

use std::io::{self, Write as _};
use std::net::SocketAddr;

use batch_export_watcher::domain::checksum::Algorithm;
use batch_export_watcher::simulator::{
    ChecksumHeader, Script, SentChecksum, SimExport, SimFile, SimProject, Simulator, ViewStep,
};
use tokio::net::UdpSocket;
use tokio::signal::unix::{SignalKind, signal};

/// Made up; the simulator asks for it.
const KEY: &str = "simulated-rest-api-key";
/// Made up.
const PROJECT: &str = "project_simulated";
/// The store's name, for links with a name.
const STORE_NAME: &str = "store.test";
/// Longest question; DNS over UDP has no longer ones.
const MAX_QUESTION_BYTES: usize = 512;

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let dns =
        std::env::args().nth(1).map(|text| text.parse::<SocketAddr>().map_err(io::Error::other));
    let dns = match dns.transpose()? {
        Some(address) => Some(UdpSocket::bind(address).await?),
        None => None,
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let simulator = Simulator::start(script()).await?;
    if dns.is_some() {
        simulator
            .set_link_origin(&format!("http://{STORE_NAME}:{}", simulator.store_address().port()));
    }
    writeln!(io::stdout().lock(), "{}", simulator.api_base_url())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        result = answer_names(dns) => result?,
    }
    simulator.stop().await;
    Ok(())
}

/// Exports of many small files and of few large ones, one that is never ready, one that takes
/// minutes, one that fails.
fn script() -> Script {
    let file = |name: &str, part: u64, bytes: u64| {
        let md5 = SentChecksum::correct(ChecksumHeader::ContentMd5, Algorithm::Md5);
        SimFile::generated(&format!("file_{name}_{part}"), part, bytes).with_checksum(md5)
    };
    let small = (1..=64).map(|part| file("small", part, 50_000)).collect();
    let large = (1..=4).map(|part| file("large", part, 20_000_000)).collect();
    let slow = [20_000_000, 10_000_000];
    let slow = (1..)
        .zip(slow)
        .map(|(part, bytes)| file("slow", part, bytes).with_bytes_per_second(100_000));
    let exports = vec![
        SimExport::succeeding("export_small", small),
        SimExport::finished("export_large", large),
        SimExport::finished("export_slow", slow.collect()),
        SimExport::new("export_pending", vec![ViewStep::status("PENDING")]),
        SimExport::failing("export_broken"),
    ];
    Script::new(vec![SimProject::new(PROJECT, KEY, exports)])
}

/// Answers 127.0.0.1 for every name. Without a socket it waits for ever.
async fn answer_names(socket: Option<UdpSocket>) -> io::Result<()> {
    let Some(socket) = socket else { return std::future::pending().await };
    let mut question = [0; MAX_QUESTION_BYTES];
    loop {
        let (bytes, client) = socket.recv_from(&mut question).await?;
        if let Some(answer) = answer_to(&question[..bytes]) {
            // A client that is gone has asked again or given up.
            let _ = socket.send_to(&answer, client).await;
        }
    }
}

/// The answer to a message with one question; `None` for anything else.
fn answer_to(message: &[u8]) -> Option<Vec<u8>> {
    let (header, rest) = message.split_at_checked(12)?;
    let name_bytes = rest.iter().position(|byte| *byte == 0)? + 1;
    // The name, its type and its class; what follows, such as EDNS, is not repeated.
    let question = rest.get(..name_bytes + 4)?;
    let asks_for_ipv4 = question[name_bytes..name_bytes + 2] == [0, 1];
    let mut answer = header[..2].to_vec();
    // A response, authoritative, recursion desired and available, no error; one question, one
    // answer or none.
    answer.extend([0x85, 0x80, 0, 1, 0, u8::from(asks_for_ipv4), 0, 0, 0, 0]);
    answer.extend(question);
    if asks_for_ipv4 {
        // The question's name, A, IN, no time to live, four bytes of address.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1]);
    }
    Some(answer)
}
