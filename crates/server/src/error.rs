//! What goes wrong, as the OpenAI error object. The one place where errors become HTTP statuses.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use engine::{Failure, InvalidRequest, SubmitError};
use serde_json::json;
use tokenizer::TemplateError;

use crate::fields::shown;

/// An answer that is an error.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: String,
    /// The field of the request at fault.
    param: Option<String>,
    /// A word that programs can act on.
    code: Option<&'static str>,
    retry_after: Option<Duration>,
}

/// For a moment of overload that passes by itself.
const RETRY_SOON: Duration = Duration::from_secs(1);

impl ApiError {
    /// An error of this status.
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code: None, retry_after: None }
    }

    /// 400 for a field: the message names its value and what is allowed.
    pub(crate) fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        let error = Self::new(StatusCode::BAD_REQUEST, message);
        Self { param: Some(param.into()), code: Some("invalid_value"), ..error }
    }

    /// 400 for something the API knows and this server does not do.
    pub(crate) fn unsupported(param: &str, message: impl Into<String>) -> Self {
        Self { code: Some("unsupported_parameter"), ..Self::invalid(param, message) }
    }

    /// 400 for a prompt that the context cannot hold.
    pub(crate) fn too_long(param: &str, message: impl Into<String>) -> Self {
        Self { code: Some("context_length_exceeded"), ..Self::invalid(param, message) }
    }

    /// 404 for a model that is not served.
    pub(crate) fn unknown_model(name: &str, served: &[&str]) -> Self {
        let message = format!("the model {} is not served; served: {}", shown(&name.into()), served.join(", "));
        let error = Self::new(StatusCode::NOT_FOUND, message);
        Self { param: Some("model".to_owned()), code: Some("model_not_found"), ..error }
    }

    /// 503 for a model that could not be loaded.
    pub(crate) fn not_loaded(name: &str, why: &str) -> Self {
        let error =
            Self::new(StatusCode::SERVICE_UNAVAILABLE, format!("the model {name:?} could not be loaded: {why}"));
        Self { param: Some("model".to_owned()), code: Some("model_not_loaded"), ..error }
    }

    /// 504 for a request whose deadline passed.
    pub(crate) fn deadline(limit: Duration) -> Self {
        Failure::Deadline { limit_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX) }.into()
    }

    /// 401.
    pub(crate) fn unauthorized(message: &str) -> Self {
        Self { code: Some("invalid_api_key"), ..Self::new(StatusCode::UNAUTHORIZED, message) }
    }

    /// 500 for a bug or a broken model: the details are in the log.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// The error as JSON, for a body or an SSE frame.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let kind = match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            400..500 => "invalid_request_error",
            _ => "server_error",
        };
        json!({ "error": { "message": self.message, "type": kind, "param": self.param, "code": self.code } })
    }

    /// The status of the answer.
    #[cfg(test)]
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.to_json().to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(after) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        response
    }
}

impl From<InvalidRequest> for ApiError {
    fn from(error: InvalidRequest) -> Self {
        Self::invalid(error.field, error.to_string())
    }
}

impl ApiError {
    /// A request that the engine does not take; `prompt` and `max_tokens` are the fields that hold these.
    pub(crate) fn not_submitted(error: SubmitError, prompt: &str, max_tokens_field: &str) -> Self {
        let message = error.to_string();
        match error {
            SubmitError::PromptTooLong { prompt_tokens, max_tokens, context } => {
                let error = if prompt_tokens < context {
                    let room = context - prompt_tokens;
                    let message = format!(
                        "{max_tokens_field} is {max_tokens}: the prompt has {prompt_tokens} tokens and the context {context}, \
                         so that allowed are integers from 1 to {room}"
                    );
                    Self::invalid(max_tokens_field, message)
                } else {
                    Self::invalid(prompt, message)
                };
                Self { code: Some("context_length_exceeded"), ..error }
            }
            SubmitError::QueueFull { retry_after, .. } => {
                let error = Self::new(StatusCode::TOO_MANY_REQUESTS, message);
                Self { code: Some("queue_full"), retry_after: Some(retry_after), ..error }
            }
            SubmitError::TenantFull { retry_after, .. } => {
                let error = Self::new(StatusCode::TOO_MANY_REQUESTS, message);
                Self { code: Some("key_full"), retry_after: Some(retry_after), ..error }
            }
            SubmitError::ShuttingDown => {
                let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, message);
                Self { code: Some("shutting_down"), retry_after: Some(RETRY_SOON), ..error }
            }
            SubmitError::Dead => {
                Self { code: Some("engine_dead"), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message) }
            }
        }
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        let (status, code) = match failure {
            Failure::QueueTimeout { .. } => (StatusCode::TOO_MANY_REQUESTS, "queue_timeout"),
            Failure::Deadline { .. } => (StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded"),
            Failure::SlowReader { .. } => (StatusCode::REQUEST_TIMEOUT, "slow_reader"),
            Failure::Shutdown => (StatusCode::SERVICE_UNAVAILABLE, "shutting_down"),
            Failure::Step { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "step_failed"),
            Failure::Sampling { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "sampling_failed"),
            Failure::EngineDead => (StatusCode::SERVICE_UNAVAILABLE, "engine_dead"),
        };
        let retry_after = (status == StatusCode::TOO_MANY_REQUESTS).then_some(RETRY_SOON);
        Self { code: Some(code), retry_after, ..Self::new(status, failure.to_string()) }
    }
}

impl From<TemplateError> for ApiError {
    fn from(error: TemplateError) -> Self {
        let param = if matches!(error, TemplateError::ReservedName(_)) { "chat_template_kwargs" } else { "messages" };
        Self::invalid(param, error.to_string())
    }
}
