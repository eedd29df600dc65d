//! The router, and what every request passes on its way in and out.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use engine::Draft;
use futures_util::StreamExt;
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;

use crate::config::ServerConfig;
use crate::edge::{Keys, guard};
use crate::error::ApiError;
use crate::fleet::{Fleet, Lease};
use crate::ids::new_id;
use crate::metrics::{HttpTimer, Metrics};
use crate::{health, openai};

const REQUEST_ID: &str = "x-request-id";
/// A client's own request id is kept when it is at most this long and plain.
const MAX_REQUEST_ID: usize = 128;

/// What the handlers share.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) config: ServerConfig,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) metrics: Arc<Metrics>,
    keys: Keys,
    /// Bounds how many texts are tokenized and rendered at a time.
    text_slots: Arc<Semaphore>,
    draining: AtomicBool,
}

impl App {
    pub(crate) fn new(config: ServerConfig, fleet: Arc<Fleet>, metrics: Arc<Metrics>) -> Self {
        let keys = Keys::new(&config.api_keys);
        let text_slots = Arc::new(Semaphore::new(config.requests.max_text_jobs.max(1)));
        Self { config, fleet, metrics, keys, text_slots, draining: AtomicBool::new(false) }
    }

    /// The model of this name, loaded if need be before the deadline; none given, and `default`, mean the first.
    pub(crate) async fn model(&self, name: Option<&str>, deadline: Option<Duration>) -> Result<Arc<Lease>, ApiError> {
        self.fleet.lease(name, deadline, &self.metrics).await
    }

    /// Runs work on text (tokenizing, rendering) off the async threads, a bounded number of jobs at a time, and counts
    /// the time for it against the request's deadline. A job that has begun runs to its end and keeps its place until
    /// then, even when nobody waits for it any more.
    pub(crate) async fn text_job<T: Send + 'static>(
        &self,
        draft: &mut Draft,
        job: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let (start, limit) = (Instant::now(), draft.deadline.unwrap_or(Duration::MAX));
        let left = limit.saturating_sub(draft.waited);
        let work = async {
            let slot = Arc::clone(&self.text_slots).acquire_owned().await.expect("the semaphore is never closed");
            let in_slot = move || {
                let _slot = slot;
                job()
            };
            let result = tokio::task::spawn_blocking(in_slot).await;
            result.unwrap_or_else(|_| Err(ApiError::internal("reading the text failed; the log has the details")))
        };
        let result = tokio::time::timeout(left, work).await.map_err(|_| ApiError::deadline(limit))??;
        draft.waited += start.elapsed();
        if draft.waited >= limit {
            return Err(ApiError::deadline(limit));
        }
        Ok(result)
    }

    /// From now on readiness fails, and nobody waits for a model that is not in memory.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.fleet.stop();
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

/// Every route. Layers also wrap the answers for routes that do not exist.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .merge(openai::routes())
        .merge(health::routes())
        .fallback(async |request: Request| {
            ApiError::new(
                StatusCode::NOT_FOUND,
                format!("no such route: {} {}", request.method(), request.uri().path()),
            )
        })
        .method_not_allowed_fallback(async |request: Request| {
            let message = format!("{} does not take {}", request.uri().path(), request.method());
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message)
        })
        .layer(CatchPanicLayer::custom(after_panic))
        .layer(from_fn_with_state(Arc::clone(&app), at_the_edge))
        .with_state(app)
}

/// Guards, numbers and times each request.
async fn at_the_edge(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let start = Instant::now();
    let id = request_id(&request);
    let route = request.extensions().get::<MatchedPath>().map_or("other", |path| path.as_str()).to_owned();
    let mut response = match guard(&request, &app.keys, &app.config.allowed_hosts) {
        Ok(tenant) => {
            request.extensions_mut().insert(tenant);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    };
    let status = response.status().as_u16();
    tracing::debug!("{id} {route} {status} after {:?}", start.elapsed());
    response.headers_mut().insert(REQUEST_ID, HeaderValue::from_str(&id).expect("request ids are plain ASCII"));
    let timer = HttpTimer { metrics: Arc::clone(&app.metrics), route, status, start };
    response.map(|body| until_end(body, timer))
}

/// The client's id where it is plain, so that it can stand in logs; else a new one.
fn request_id(request: &Request) -> String {
    let given = request.headers().get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let plain = |id: &&str| {
        (1..=MAX_REQUEST_ID).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':'))
    };
    given.filter(plain).map_or_else(|| new_id("req"), str::to_owned)
}

/// A body that drops `timer` at its end. Bodies whose length is known keep it.
fn until_end(body: Body, timer: HttpTimer) -> Body {
    use hyper::body::Body as _;
    if body.size_hint().exact().is_some() {
        return body;
    }
    let mut stream = body.into_data_stream();
    Body::from_stream(async_stream(timer, move |context| stream.poll_next_unpin(context)))
}

/// A stream of chunks from a poll function; `kept` lives as long as the stream.
fn async_stream<K>(
    kept: K,
    mut poll: impl FnMut(&mut std::task::Context<'_>) -> std::task::Poll<Option<Result<Bytes, axum::Error>>>,
) -> impl futures_util::Stream<Item = Result<Bytes, axum::Error>> {
    futures_util::stream::poll_fn(move |context| {
        let _ = &kept;
        poll(context)
    })
}

/// A bug in a handler costs its request only.
fn after_panic(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    tracing::error!("a request handler panicked: {}", text.unwrap_or("(no message)"));
    ApiError::internal("the server failed on this request; the log has the details").into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::config::{ConnectionLimits, RequestLimits};
    use crate::fleet::Models;

    /// An app that reads one text at a time.
    fn app() -> Arc<App> {
        let config = ServerConfig {
            address: ([127, 0, 0, 1], 0).into(),
            api_keys: Vec::new(),
            allowed_hosts: Vec::new(),
            strict: false,
            shutdown_timeout: Duration::ZERO,
            connections: ConnectionLimits::default(),
            requests: RequestLimits { max_text_jobs: 1, ..RequestLimits::default() },
        };
        let models = Models { on_demand: vec!["m".to_owned()], ..Models::default() };
        Arc::new(App::new(config, Arc::new(Fleet::new(models)), Arc::new(Metrics::new())))
    }

    #[tokio::test]
    async fn a_text_job_keeps_its_place_after_its_client_has_left() {
        let app = app();
        let (go, wait) = channel::<()>();
        let (began, begun) = tokio::sync::oneshot::channel();
        let first = Arc::clone(&app);
        let client = tokio::spawn(async move {
            let job = move || {
                began.send(()).ok();
                wait.recv().ok();
                Ok(())
            };
            first.text_job(&mut Draft::default(), job).await
        });
        begun.await.expect("it has begun");
        client.abort();
        assert!(client.await.is_err_and(|error| error.is_cancelled()));
        assert_eq!(app.text_slots.available_permits(), 0);
        drop(go);
        app.text_job(&mut Draft::default(), || Ok(())).await.expect("the place is free again");
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_a_text_counts_against_the_deadline() {
        let app = app();
        let _taken = Arc::clone(&app.text_slots).acquire_owned().await.expect("a free place");
        let mut draft = Draft { deadline: Some(Duration::from_millis(100)), ..Draft::default() };
        let error = app.text_job(&mut draft, || Ok(())).await.expect_err("nothing is read in time");
        assert_eq!(error.status(), StatusCode::GATEWAY_TIMEOUT);
    }

    #[tokio::test]
    async fn the_time_for_a_text_is_taken_off_the_deadline() {
        let limit = Duration::from_secs(60);
        let mut draft = Draft { deadline: Some(limit), ..Draft::default() };
        let read = || {
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(2) {}
            Ok(())
        };
        app().text_job(&mut draft, read).await.expect("it is read");
        assert!(draft.waited >= Duration::from_millis(2), "{:?}", draft.waited);
        assert_eq!(draft.deadline, Some(limit), "errors name it as it was said");
        draft.waited = limit;
        assert_eq!(app().text_job(&mut draft, || Ok(())).await, Err(ApiError::deadline(limit)));
        assert_eq!(app().text_job(&mut Draft::default(), || Ok(())).await, Ok(()));
    }
}
