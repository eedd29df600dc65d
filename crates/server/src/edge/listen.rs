//! The socket: accepts connections within limits, serves HTTP/1.1 on each, and ends them in order.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tower::ServiceExt;

use super::timed::{Phase, Timed, Timeouts};
use crate::config::ConnectionLimits;

/// Pause after a failed accept: such failures (no file descriptors left) pass when connections end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// After the last request was answered, time for the bytes to leave.
const FLUSH_TIME: Duration = Duration::from_secs(2);

/// A bound socket.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: TcpListener,
    limits: ConnectionLimits,
}

/// A socket that could not be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct ListenError {
    address: SocketAddr,
    source: std::io::Error,
}

impl ListenError {
    /// What the system says.
    pub fn cause(&self) -> &std::io::Error {
        &self.source
    }
}

impl Listener {
    pub(crate) async fn bind(address: SocketAddr, limits: ConnectionLimits) -> Result<Self, ListenError> {
        let socket = TcpListener::bind(address).await.map_err(|source| ListenError { address, source })?;
        Ok(Self { socket, limits })
    }

    /// The address, with the port that was given out where 0 was asked for.
    pub(crate) fn address(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves until `stop` becomes true, then lets each connection finish its answer.
    pub(crate) async fn serve(self, router: Router, mut stop: watch::Receiver<bool>) {
        let most = self.limits.max_connections;
        let slots = Arc::new(Semaphore::new(most));
        loop {
            let slot = tokio::select! {
                slot = Arc::clone(&slots).acquire_owned() => slot.expect("the semaphore is never closed"),
                () = stopped(&mut stop) => break,
            };
            let stream = tokio::select! {
                accepted = self.socket.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!("cannot accept a connection: {error}");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
                () = stopped(&mut stop) => break,
            };
            let connection = serve_connection(stream, router.clone(), self.limits.clone(), stop.clone());
            tokio::spawn(async move {
                connection.await;
                drop(slot);
            });
        }
        drop(self.socket);
        let all = u32::try_from(most).unwrap_or(u32::MAX);
        if tokio::time::timeout(FLUSH_TIME, slots.acquire_many(all)).await.is_err() {
            tracing::warn!("connections were still open {FLUSH_TIME:?} after the last answer");
        }
    }
}

async fn serve_connection(
    stream: TcpStream,
    router: Router,
    limits: ConnectionLimits,
    mut stop: watch::Receiver<bool>,
) {
    // Tokens are small and each matters: no waiting for more.
    stream.set_nodelay(true).ok();
    let phase = Phase::new();
    let timeouts = Timeouts { head: limits.header_timeout, idle: limits.idle_timeout, write: limits.write_timeout };
    let io = TokioIo::new(Timed::new(stream, phase.clone(), timeouts));
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        phase.busy();
        let answering = Answering(phase.clone());
        let router = router.clone();
        async move {
            let response = router.oneshot(request.map(Body::new)).await;
            response.map(|response| response.map(|body| PhasedBody { body, _answering: answering }))
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_buf_size(limits.max_header_bytes.max(MIN_BUFFER_BYTES))
        // The buffer's bound alone depends on how the head was cut into packets.
        .max_header_size(limits.max_header_bytes)
        .max_headers(limits.max_headers)
        .serve_connection(io, service);
    let mut connection = std::pin::pin!(connection);
    let stopping = tokio::select! {
        ended = connection.as_mut() => {
            log_end(ended);
            false
        }
        () = stopped(&mut stop) => true,
    };
    if stopping {
        connection.as_mut().graceful_shutdown();
        log_end(connection.await);
    }
}

/// Returns once `stop` is true, or can never become so.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// The least that the HTTP library accepts.
const MIN_BUFFER_BYTES: usize = 8192;

fn log_end(ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        tracing::debug!("connection ended: {error}");
    }
}

/// While it lives, an answer is on its way; afterwards the connection is idle.
struct Answering(Phase);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.idle();
    }
}

/// A body that marks the end of the answer when it is dropped.
struct PhasedBody {
    body: Body,
    _answering: Answering,
}

impl HttpBody for PhasedBody {
    type Data = <Body as HttpBody>::Data;
    type Error = <Body as HttpBody>::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
