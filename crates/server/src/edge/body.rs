//! A request's body: bounded in bytes, time and nesting, and JSON.

use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use serde_json::Value;

use crate::config::RequestLimits;
use crate::error::ApiError;
use crate::fields::json_depth;

/// Reads a JSON body.
pub(crate) async fn read_json(request: Request, limits: &RequestLimits) -> Result<Value, ApiError> {
    let max = limits.max_body_bytes;
    check_head(request.headers(), max)?;
    let reading = tokio::time::timeout(limits.body_timeout, to_bytes(request.into_body(), max)).await;
    let bytes = match reading {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) if is_length_limit(&error) => return Err(too_large(&format!("more than {max}"), max)),
        Ok(Err(_)) => return Err(ApiError::new(StatusCode::BAD_REQUEST, "the body ended before it was complete")),
        Err(_) => {
            let message = format!("the body did not arrive within {:?}", limits.body_timeout);
            return Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, message));
        }
    };
    let depth = json_depth(&bytes);
    if depth > limits.max_json_depth {
        let message = format!("the body nests {depth} levels deep: at most {} are allowed", limits.max_json_depth);
        return Err(ApiError::invalid("body", message));
    }
    serde_json::from_slice(&bytes).map_err(|error| ApiError::invalid("body", format!("the body is not JSON: {error}")))
}

/// Refuses what need not be read.
fn check_head(headers: &HeaderMap, max_bytes: usize) -> Result<(), ApiError> {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    // Browsers send other types across origins without asking first; JSON makes them ask, and we do not consent.
    let media_type = header(CONTENT_TYPE).unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case("application/json") {
        let message = format!("content-type is {media_type:?}: must be application/json");
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    match header(CONTENT_LENGTH).and_then(|value| value.parse::<u64>().ok()) {
        Some(length) if length > max_bytes as u64 => Err(too_large(&length.to_string(), max_bytes)),
        _ => Ok(()),
    }
}

fn too_large(size: &str, max: usize) -> ApiError {
    let message = format!("the body has {size} bytes: at most {max} are allowed");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
}

fn is_length_limit(error: &axum::Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if error.to_string() == "length limit exceeded" {
            return true;
        }
        cause = error.source();
    }
    false
}
