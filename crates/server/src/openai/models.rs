//! `GET /v1/models` and `GET /v1/models/{name}`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::Uri;
use serde_json::{Value, json};

use crate::app::App;
use crate::error::ApiError;
use crate::fields::shown;
use crate::fleet::Slot;
use crate::ids::unix_seconds;

pub(super) async fn list(State(app): State<Arc<App>>) -> Json<Value> {
    let data: Vec<Value> = app.fleet.slots().iter().map(|slot| entry(slot)).collect();
    Json(json!({ "object": "list", "data": data }))
}

pub(super) async fn one(
    State(app): State<Arc<App>>,
    uri: Uri,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    // The framework says no more than that it cannot decode it: the name is shown as it came.
    let Path(name) = name.map_err(|_| {
        let sent = uri.path().strip_prefix("/v1/models/").unwrap_or(uri.path());
        ApiError::invalid("model", format!("model is {}: must be percent-encoded UTF-8", shown(&sent.into())))
    })?;
    Ok(Json(entry(app.fleet.slot(Some(&name))?)))
}

/// What a model that is not in memory can do is not known until it is.
fn entry(slot: &Slot) -> Value {
    let model = slot.model();
    json!({
        "id": slot.name,
        "object": "model",
        "created": model.as_ref().map_or_else(unix_seconds, |model| model.created),
        "owned_by": "frontier",
        "max_model_len": model.as_ref().map(|model| model.engine.limits().context),
    })
}
