//! `/health`, `/health/live`, `/health/ready`, `/version`, `/metrics`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use engine::Readiness;
use serde_json::json;

use crate::app::App;

pub(crate) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/health", get(ready))
        .route("/health/ready", get(ready))
        .route("/health/live", get(live))
        .route("/version", get(version))
        .route("/metrics", get(metrics))
}

/// 200 while every model delivers, else 503; the body says what is the matter.
async fn ready(State(app): State<Arc<App>>) -> Response {
    let mut all_ready = !app.is_draining();
    let models: Vec<serde_json::Value> = app
        .fleet
        .slots()
        .iter()
        .map(|slot| {
            let Some(model) = slot.model() else {
                return json!({ "model": slot.name, "state": "unloaded" });
            };
            let (health, stats) = (model.engine.health(), model.engine.stats());
            all_ready &= health.readiness == Readiness::Ready;
            json!({
                "model": model.name,
                "state": health.readiness.name(),
                "device": model.device,
                "running": stats.running_requests,
                "waiting": stats.waiting_requests,
                "last_delivery_age_seconds": health.last_delivery_age.as_secs_f64(),
            })
        })
        .collect();
    let status = if all_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = match (all_ready, app.is_draining()) {
        (true, _) => "ok",
        (false, true) => "draining",
        (false, false) => "unavailable",
    };
    (status, Json(json!({ "status": word, "models": models }))).into_response()
}

/// 200 as long as the process answers at all.
async fn live() -> Json<serde_json::Value> {
    Json(json!({ "status": "ok" }))
}

async fn version() -> Json<serde_json::Value> {
    Json(json!({ "name": "frontier", "version": env!("CARGO_PKG_VERSION") }))
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, OPENMETRICS)], app.metrics.encode()).into_response()
}
