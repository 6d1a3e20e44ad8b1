//! A start that waits for a disk, as a running program would, and says so to whoever asks.

use std::path::Path;

use tokio::sync::watch;
use tokio::time::Instant;

use super::StartError;
use crate::control::{Answer, ControlSocket};
use crate::engine::DISK_INTERVAL;
use crate::process::service;
use crate::web::StatusServer;

/// Starts as soon as the disk lets it. While it waits, the control socket and the page say what for,
/// if the state directory can hold a socket.
pub(super) async fn while_told<T>(
    state_directory: &Path,
    page: Option<&StatusServer>,
    start: impl AsyncFn() -> Result<T, StartError>,
) -> Result<T, StartError> {
    let (words, mut said) = watch::channel(String::new());
    let answering = async {
        // The sender lives as long as this.
        let _ = said.wait_for(|words| !words.is_empty()).await;
        answer(state_directory, page, said).await;
    };
    tokio::select! {
        done = patiently(&words, start) => done,
        () = answering => unreachable!("it answers until it is dropped"),
    }
}

/// Starts as soon as the disk lets it. `words` say what it waits for, and are empty before.
pub(super) async fn patiently<T>(
    words: &watch::Sender<String>,
    start: impl AsyncFn() -> Result<T, StartError>,
) -> Result<T, StartError> {
    let (began, interval) = (Instant::now(), DISK_INTERVAL.as_secs());
    let mut told = None;
    let mut attempts = 0_u64;
    loop {
        let cause = match start().await {
            Err(error) if error.is_passing() => error.to_string(),
            done => {
                if told.is_some() {
                    tracing::info!(event = "start_continued", "the disk works, the start goes on");
                }
                return done;
            }
        };
        attempts += 1;
        service::waiting(&format!("The start waits for the disk: {cause}"), 6 * DISK_INTERVAL);
        words.send_replace(format!(
            "it is starting and waits for the disk, attempt {attempts} after {} s, tried every \
             {interval} s: {cause}",
            began.elapsed().as_secs()
        ));
        if told.as_ref() != Some(&cause) {
            tracing::error!(
                event = "start_waits",
                cause,
                "the start waits for the disk, and is tried again every {interval} s: {cause}"
            );
            told = Some(cause);
        }
        tokio::time::sleep(DISK_INTERVAL).await;
    }
}

async fn answer(
    state_directory: &Path,
    page: Option<&StatusServer>,
    said: watch::Receiver<String>,
) {
    let on_the_socket = async {
        let words = said.clone();
        let answer = move |_| {
            let cause = words.borrow().clone();
            async { Answer::Unavailable { cause } }
        };
        match ControlSocket::listen(state_directory) {
            Ok(socket) => socket.serve(answer).await,
            // The log says what is waited for, too.
            Err(_) => std::future::pending().await,
        }
    };
    let on_the_page = async {
        match page {
            Some(page) => page.say(said.clone()).await,
            None => std::future::pending().await,
        }
    };
    tokio::join!(on_the_socket, on_the_page);
}
