//! A connection that ends itself when its client dawdles.
//!
//! The HTTP library has one timeout for heads, which also runs while a connection is idle. Here the three cases are
//! apart: waiting for a request, reading a head, and writing to a client that does not read.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// What a connection is doing; shared between the stream and the HTTP service above it.
#[derive(Clone, Debug)]
pub(super) struct Phase(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    phase: AtomicU8,
    /// The stream's reader, which has no timer while an answer is on its way and needs one afterwards.
    reader: AtomicWaker,
}

const IDLE: u8 = 0;
const HEAD: u8 = 1;
const BUSY: u8 = 2;

impl Phase {
    /// A new connection is expected to send a head at once.
    pub(super) fn new() -> Self {
        Self(Arc::new(Shared { phase: AtomicU8::new(HEAD), reader: AtomicWaker::new() }))
    }

    /// A head was read; the request is being answered.
    pub(super) fn busy(&self) {
        self.0.phase.store(BUSY, Ordering::Release);
    }

    /// The answer is complete.
    pub(super) fn idle(&self) {
        self.0.phase.store(IDLE, Ordering::Release);
        self.0.reader.wake();
    }

    /// The phase now; its end wakes the reader.
    fn watch(&self, context: &Context<'_>) -> u8 {
        self.0.reader.register(context.waker());
        self.0.phase.load(Ordering::Acquire)
    }

    /// Bytes came.
    fn received(&self) {
        let _ = self.0.phase.compare_exchange(IDLE, HEAD, Ordering::AcqRel, Ordering::Relaxed);
    }
}

/// The times that a client has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    pub(super) head: Duration,
    pub(super) idle: Duration,
    pub(super) write: Duration,
}

/// A stream with deadlines.
pub(super) struct Timed<S> {
    stream: S,
    phase: Phase,
    timeouts: Timeouts,
    read: Deadline,
    /// The phase for which the read deadline was set.
    read_phase: u8,
    write: Deadline,
}

impl<S> Timed<S> {
    pub(super) fn new(stream: S, phase: Phase, timeouts: Timeouts) -> Self {
        Self { stream, phase, timeouts, read: Deadline::default(), read_phase: BUSY, write: Deadline::default() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Poll::Ready(result) = Pin::new(&mut this.stream).poll_read(context, buffer) {
            // The first byte of the next request starts the time for its head.
            this.phase.received();
            return Poll::Ready(result);
        }
        let phase = this.phase.watch(context);
        if phase != this.read_phase {
            this.read_phase = phase;
            this.read.clear();
        }
        match phase {
            HEAD => this.read.poll(context, this.timeouts.head, "no complete request head"),
            IDLE => this.read.poll(context, this.timeouts.idle, "no request"),
            _ => Poll::Pending,
        }
    }
}

impl<S: AsyncWrite + Unpin> Timed<S> {
    /// Passes on what a write came to; a client that takes nothing for too long is an error.
    fn written<T>(&mut self, context: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match result {
            Poll::Ready(result) => {
                self.write.clear();
                Poll::Ready(result)
            }
            Poll::Pending => match ready!(self.write.poll(context, self.timeouts.write, "the client does not read")) {
                Ok(()) => Poll::Pending,
                Err(error) => Poll::Ready(Err(error)),
            },
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.written(context, result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write_vectored(context, buffers);
        this.written(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_flush(context);
        this.written(context, result)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_shutdown(context);
        this.written(context, result)
    }
}

/// A timer that exists only while something is awaited.
#[derive(Default)]
struct Deadline(Option<Pin<Box<Sleep>>>);

impl Deadline {
    fn clear(&mut self) {
        self.0 = None;
    }

    /// Starts the timer if it does not run; an error once it has run out.
    fn poll(&mut self, context: &mut Context<'_>, limit: Duration, what: &str) -> Poll<io::Result<()>> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + limit)));
        ready!(sleep.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, format!("{what} within {limit:?}"))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    const TIMEOUTS: Timeouts =
        Timeouts { head: Duration::from_secs(10), idle: Duration::from_secs(75), write: Duration::from_secs(30) };

    /// Seconds of (virtual) time until a read of `timed` fails.
    async fn seconds_until_read_fails<S: AsyncRead + Unpin>(timed: &mut Timed<S>) -> u64 {
        let start = Instant::now();
        let error = timed.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        start.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn a_dribbled_head_ends_ten_seconds_after_it_began() {
        let (mut client, server) = duplex(64);
        let phase = Phase::new();
        let mut timed = Timed::new(server, phase.clone(), TIMEOUTS);
        client.write_all(b"G").await.unwrap();
        timed.read_u8().await.unwrap();
        let dribble = async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if client.write_all(b"x").await.is_err() {
                    return;
                }
            }
        };
        let read = async {
            let start = Instant::now();
            while timed.read_u8().await.is_ok() {}
            start.elapsed().as_secs()
        };
        let seconds = tokio::select! { () = dribble => unreachable!(), seconds = read => seconds };
        assert_eq!(seconds, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_says_nothing_ends_as_a_head_does() {
        let (_client, server) = duplex(64);
        assert_eq!(seconds_until_read_fails(&mut Timed::new(server, Phase::new(), TIMEOUTS)).await, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_lasts_longer_than_a_head() {
        let (_client, server) = duplex(64);
        let phase = Phase::new();
        let mut timed = Timed::new(server, phase.clone(), TIMEOUTS);
        phase.busy();
        phase.idle();
        assert_eq!(seconds_until_read_fails(&mut timed).await, 75);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_dropped() {
        let (_client, server) = duplex(4);
        let mut timed = Timed::new(server, Phase::new(), TIMEOUTS);
        let start = Instant::now();
        let error = timed.write_all(b"more than fits").await.unwrap_err();
        assert_eq!((error.kind(), start.elapsed().as_secs()), (io::ErrorKind::TimedOut, 30));
    }
}
