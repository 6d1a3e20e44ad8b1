//! A socket that tells whether everything written to it has been taken: a scripted cut has to know.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// A stream that notes when the socket's buffer is full.
#[derive(Debug)]
pub(super) struct Watched {
    stream: TcpStream,
    full: watch::Sender<bool>,
}

/// Waits for a [`Watched`] to have taken all there was.
#[derive(Debug, Clone)]
pub(super) struct Drained(watch::Receiver<bool>);

impl Watched {
    pub(super) fn new(stream: TcpStream) -> (Self, Drained) {
        let (full, receiver) = watch::channel(false);
        (Self { stream, full }, Drained(receiver))
    }

    fn note<T>(&self, outcome: Poll<T>) -> Poll<T> {
        let is_full = outcome.is_pending();
        self.full.send_if_modified(|full| std::mem::replace(full, is_full) != is_full);
        outcome
    }
}

impl Drained {
    /// For the body of an answer: hyper writes out its buffer whenever the body has nothing ready.
    /// So after one such pause either all is written, or the socket is full and says when it no
    /// longer is.
    pub(super) async fn wait(&mut self) {
        tokio::task::yield_now().await;
        // An error means that the connection is gone, and with it the reason to wait.
        let _ = self.0.wait_for(|full| !full).await;
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        self.note(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
