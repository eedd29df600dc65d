//! The OpenAI API: one file an endpoint, what they share in `params` and `wire`.

mod chat;
mod completions;
mod messages;
mod models;
mod overflow;
mod params;
mod sse;
mod wire;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};

use crate::app::App;

pub(crate) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/chat/completions", post(chat::chat_completions))
        .route("/v1/completions", post(completions::completions))
        .route("/v1/models", get(models::list))
        // Names of models may have slashes in them.
        .route("/v1/models/{*name}", get(models::one))
}
