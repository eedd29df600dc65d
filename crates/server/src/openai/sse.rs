//! Server-sent events: frames of JSON, an error as the last frame where something fails, `[DONE]` at the end.

use std::convert::Infallible;
use std::pin::Pin;
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::Response;
use futures_util::stream::unfold;
use futures_util::{Stream, StreamExt};
use serde::Serialize;
use serde_json::Value;

use crate::error::ApiError;

/// The last frame of a complete stream.
pub(super) const DONE: &str = "data: [DONE]\n\n";

/// A frame that holds this.
pub(super) fn frame(value: &impl Serialize) -> String {
    let json = serde_json::to_string(value).expect("answers are plain data");
    format!("data: {json}\n\n")
}

/// The last frame of a stream that failed.
pub(super) fn error_frame(error: &ApiError) -> String {
    frame(&error.to_json())
}

/// How long a client that streams waits for a word.
const PATIENCE: Duration = Duration::from_secs(10);
/// A comment, which clients pass over.
const KEEP_ALIVE: &str = ": the answer is being prepared\n\n";

/// Whether a request's body asks for a stream.
pub(super) fn is_asked_for(body: &Value) -> bool {
    body.get("stream").and_then(Value::as_bool).unwrap_or(false)
}

/// Waits for an answer. A stream that takes long to begin (its model is being loaded) begins with comments, so that
/// neither the client nor a proxy between gives up; an error is then its last frame.
pub(super) async fn patiently(
    is_stream: bool,
    answer: impl Future<Output = Result<Response, ApiError>> + Send + 'static,
) -> Result<Response, ApiError> {
    let mut answer = Box::pin(answer);
    if !is_stream {
        return answer.await;
    }
    match tokio::time::timeout(PATIENCE, &mut answer).await {
        Ok(answer) => answer,
        Err(_) => Ok(sse_body(Body::from_stream(unfold(Wait::Answer(answer), Wait::next)))),
    }
}

/// The state of a stream whose answer is not ready yet.
enum Wait<A> {
    Answer(Pin<Box<A>>),
    Rest(BodyDataStream),
    End,
}

impl<A: Future<Output = Result<Response, ApiError>>> Wait<A> {
    /// The next bytes: a comment, the answer's own, or its error.
    async fn next(self) -> Option<(Result<Bytes, axum::Error>, Self)> {
        match self {
            Wait::Answer(mut answer) => match tokio::time::timeout(PATIENCE, &mut answer).await {
                Err(_) => Some((Ok(Bytes::from_static(KEEP_ALIVE.as_bytes())), Wait::Answer(answer))),
                Ok(Ok(response)) => {
                    let mut rest = response.into_body().into_data_stream();
                    Some((rest.next().await?, Wait::Rest(rest)))
                }
                Ok(Err(error)) => Some((Ok(Bytes::from(error_frame(&error))), Wait::End)),
            },
            Wait::Rest(mut rest) => Some((rest.next().await?, Wait::Rest(rest))),
            Wait::End => None,
        }
    }
}

/// An answer made of frames.
pub(super) fn response(frames: impl Stream<Item = String> + Send + 'static) -> Response {
    let chunks = frames.map(|frame| Ok::<_, Infallible>(Bytes::from(frame)));
    sse_body(Body::from_stream(chunks))
}

fn sse_body(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Keeps nginx from collecting the stream.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn text(response: Response) -> String {
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    /// An answer that takes so many seconds.
    async fn after(seconds: u64, result: Result<&'static str, ApiError>) -> Result<Response, ApiError> {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        result.map(|text| response(futures_util::stream::iter([text.to_owned()])))
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_is_long_in_coming_begins_with_comments() {
        for (seconds, comments) in [(1, 0), (15, 0), (35, 2)] {
            let answer = patiently(true, after(seconds, Ok("data: x\n\n"))).await.unwrap();
            assert_eq!(text(answer).await, KEEP_ALIVE.repeat(comments) + "data: x\n\n", "after {seconds} s");
        }
        assert!(patiently(true, after(1, Err(ApiError::internal("no")))).await.is_err(), "early errors have a status");
        let late = patiently(true, after(25, Err(ApiError::internal("no")))).await.unwrap();
        let late = text(late).await;
        assert!(late.starts_with(KEEP_ALIVE) && late.contains("\"message\":\"no\""), "{late}");
        assert!(patiently(false, after(100, Err(ApiError::internal("no")))).await.is_err());
    }
}
