//! What the server answers to.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Bytes, HttpBody};
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::Shared;
use super::answer::{answer, gone, send};
use super::failure::Failure;
use super::reply::Kind;
use super::request::Asked;
use super::worker::Command;

/// Bytes that a request may have: a prompt of half a million token ids.
const LARGEST: usize = 4 << 20;
/// How long a request's body may take to arrive.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn router(shared: Arc<Shared>) -> Router {
    let guarded = Router::new()
        .route("/v1/models", get(models))
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chat_completions))
        .route("/update_weights_from_disk", post(reload))
        .route_layer(middleware::from_fn_with_state(shared.clone(), with_token));
    Router::new()
        .route("/health", get(|| async { Json(json!({ "status": "ok" })) }))
        .merge(guarded)
        .fallback(|request: Request| async move {
            Failure::new(StatusCode::NOT_FOUND, format!("there is no `{}` here", request.uri().path()))
        })
        .method_not_allowed_fallback(|request: Request| async move {
            let message = format!("`{}` is not answered to {}", request.uri().path(), request.method());
            Failure::new(StatusCode::METHOD_NOT_ALLOWED, message)
        })
        .layer(DefaultBodyLimit::max(LARGEST))
        .with_state(shared)
}

/// Lets requests through that bring the token, if there is one.
async fn with_token(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    if let Some(token) = &shared.options.token {
        let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        if !equal(given.as_bytes(), token.as_bytes()) {
            let message = "the bearer token is missing or wrong";
            return Failure::new(StatusCode::UNAUTHORIZED, message).into_response();
        }
    }
    next.run(request).await
}

/// Compares in a time that does not tell where the first difference is.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
}

/// The body of a JSON request. Pages in a browser cannot send that type to another host unasked.
async fn body(request: Request) -> Result<Bytes, Failure> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.starts_with("application/json") {
        return Err(Failure::bad(None, "the request needs the header `Content-Type: application/json`"));
    }
    // What says that it is too long need not be waited for.
    if request.body().size_hint().lower() > LARGEST as u64 {
        let message = format!("the request has more than {LARGEST} bytes");
        return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, message));
    }
    match tokio::time::timeout(PATIENCE, Bytes::from_request(request, &())).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(rejected)) => Err(Failure::new(rejected.status(), rejected.body_text())),
        Err(_) => Err(Failure::new(StatusCode::REQUEST_TIMEOUT, "the request did not arrive in time")),
    }
}

async fn models(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let model = json!({
        "id": shared.name, "object": "model", "created": 0, "owned_by": "luspo", "max_model_len": shared.max_length
    });
    Json(json!({ "object": "list", "data": [model] }))
}

async fn completions(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Failure> {
    let asked = Asked::completion(&body(request).await?, &shared.name)?;
    answer(shared, Kind::Completion, asked).await
}

async fn chat_completions(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Failure> {
    let asked = Asked::chat(&body(request).await?, &shared.name)?;
    answer(shared, Kind::Chat, asked).await
}

/// Takes new weights, as SGLang's server does: `{"model_path": "FOLDER"}`, a folder on this machine.
async fn reload(State(shared): State<Arc<Shared>>, request: Request) -> Result<Json<Value>, Failure> {
    let body: Value = serde_json::from_slice(&body(request).await?)
        .map_err(|error| Failure::bad(None, format!("the body is no JSON object: {error}")))?;
    let folder = body.get("model_path").and_then(Value::as_str);
    let folder = PathBuf::from(folder.ok_or_else(|| Failure::bad("model_path", "`model_path` is missing"))?);
    let (done, loaded) = oneshot::channel();
    send(&shared, Command::Reload { folder, done })?;
    loaded.await.map_err(|_| gone())?.map_err(|error| Failure::bad("model_path", error))?;
    Ok(Json(json!({ "success": true, "message": "the new weights are served" })))
}
