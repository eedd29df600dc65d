//! A request's body: bounded in bytes, time and nesting, and JSON.

use axum::body::BodyDataStream;
use axum::extract::Request;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use axum::http::{HeaderMap, StatusCode};
use futures_util::StreamExt;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use crate::config::RequestLimits;
use crate::error::ApiError;
use crate::fields::json_depth;

/// Reads a JSON body.
pub(crate) async fn read_json(request: Request, limits: &RequestLimits) -> Result<Value, ApiError> {
    check_media_type(request.headers())?;
    let bytes = read_bytes(request, limits).await?;
    let depth = json_depth(&bytes);
    if depth > limits.max_json_depth {
        let message = format!("the body nests {depth} levels deep: at most {} are allowed", limits.max_json_depth);
        return Err(ApiError::invalid("body", message));
    }
    serde_json::from_slice(&bytes).map_err(|error| ApiError::invalid("body", format!("the body is not JSON: {error}")))
}

fn check_media_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let header = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    // Browsers send other types across origins without asking first; JSON makes them ask, and we do not consent.
    let media_type = header.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let message = format!("content-type is {media_type:?}: must be application/json");
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message))
}

/// A body that is too large is read to its end before the answer, if it is no more than so many times too large: a
/// client that still writes when the connection closes sees that, and not the answer.
const READ_TO_THE_END: u64 = 4;

/// All of a body.
async fn read_bytes(request: Request, limits: &RequestLimits) -> Result<Vec<u8>, ApiError> {
    let max = limits.max_body_bytes;
    let deadline = Instant::now() + limits.body_timeout;
    let (head, body) = request.into_parts();
    let length = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let mut rest = body.into_data_stream();
    if let Some(length) = length.filter(|length| *length > max as u64) {
        // Who asks before sending has sent nothing.
        if length <= READ_TO_THE_END * max as u64 && !head.headers.contains_key(EXPECT) {
            timeout_at(deadline, discard(&mut rest, length)).await.ok();
        }
        return Err(too_large(&length.to_string(), max));
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = timeout_at(deadline, rest.next()).await.map_err(|_| too_slow(limits))? {
        let incomplete = |_| ApiError::new(StatusCode::BAD_REQUEST, "the body ended before it was complete");
        let chunk = chunk.map_err(incomplete)?;
        if chunk.len() > max - bytes.len() {
            timeout_at(deadline, discard(&mut rest, (READ_TO_THE_END - 1) * max as u64)).await.ok();
            return Err(too_large(&format!("more than {max}"), max));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Reads on to the end, or until `most` bytes have come.
async fn discard(rest: &mut BodyDataStream, most: u64) {
    let mut left = most;
    while let Some(Ok(chunk)) = rest.next().await {
        match left.checked_sub(chunk.len() as u64) {
            Some(after) => left = after,
            None => return,
        }
    }
}

fn too_slow(limits: &RequestLimits) -> ApiError {
    let message = format!("the body did not arrive within {:?}", limits.body_timeout);
    ApiError::new(StatusCode::REQUEST_TIMEOUT, message)
}

fn too_large(size: &str, max: usize) -> ApiError {
    let message = format!("the body has {size} bytes: at most {max} are allowed");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
}
