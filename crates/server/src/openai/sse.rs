//! Server-sent events: frames of JSON, an error as the last frame where something fails, `[DONE]` at the end.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::Response;
use futures_util::{Stream, StreamExt};
use serde::Serialize;

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

/// An answer made of frames.
pub(super) fn response(frames: impl Stream<Item = String> + Send + 'static) -> Response {
    let chunks = frames.map(|frame| Ok::<_, Infallible>(Bytes::from(frame)));
    let mut response = Response::new(Body::from_stream(chunks));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Keeps nginx from collecting the stream.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
