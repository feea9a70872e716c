//! One server, over HTTP.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use ureq::http::Uri;
use ureq::{Agent, Body, RequestBuilder, http};

use super::OpenAiError;

/// Bytes of the longest reply: 128 answers of 32768 tokens, at 50 bytes a token, take a fifth of it.
const LARGEST: u64 = 1 << 30;
/// What is quoted of a server's error.
const QUOTED: usize = 300;

/// A server and the model that it is asked for.
#[derive(Debug)]
pub(super) struct Connection {
    agent: Agent,
    /// Up to and with `/v1`.
    url: String,
    token: Option<String>,
    model: String,
    /// Whether it has taken the newest weights that it was to take.
    current: AtomicBool,
}

impl Connection {
    /// Asks the server for its models: `model`, or the first.
    pub fn open(url: &str, token: Option<&str>, timeout: Duration, model: Option<&str>) -> Result<Self, OpenAiError> {
        let address = |problem: String| OpenAiError::Address { url: url.into(), problem };
        let parsed: Uri = url.parse().map_err(|error: http::uri::InvalidUri| address(error.to_string()))?;
        if !matches!(parsed.scheme_str(), Some("http" | "https")) {
            return Err(address("it does not begin with http:// or https://".into()));
        }
        let config = Agent::config_builder()
            .timeout_global(Some(timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_connections(0)
            .user_agent(concat!("luspo/", env!("CARGO_PKG_VERSION")));
        let (url, token) = (url.trim_end_matches('/').to_string(), token.map(str::to_string));
        let mut server = Self { agent: config.build().into(), url, token, model: String::new(), current: true.into() };
        let has = server.models()?;
        server.model = match model {
            None => has.first().cloned().ok_or_else(|| server.unusable("it lists no model"))?,
            Some(model) if has.iter().any(|name| name == model) => model.into(),
            Some(model) => return Err(OpenAiError::Model { url: server.url, model: model.into(), has }),
        };
        Ok(server)
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn model(&self) -> &str {
        &self.model
    }

    pub fn complete(&self, body: &Value) -> Result<Value, OpenAiError> {
        self.post(&format!("{}/completions", self.url), body)
    }

    pub fn is_current(&self) -> bool {
        self.current.load(Ordering::Relaxed)
    }

    pub fn update_weights(&self, body: &Value) -> Result<(), OpenAiError> {
        let updated = self.try_update_weights(body);
        self.current.store(updated.is_ok(), Ordering::Relaxed);
        updated
    }

    fn try_update_weights(&self, body: &Value) -> Result<(), OpenAiError> {
        let root = self.url.strip_suffix("/v1").unwrap_or(&self.url);
        let reply = self.post(&format!("{root}/update_weights_from_disk"), body)?;
        match reply.get("success").and_then(Value::as_bool) {
            Some(true) => Ok(()),
            _ => Err(self.unusable(&format!("it did not take the weights: {reply}"))),
        }
    }

    fn models(&self) -> Result<Vec<String>, OpenAiError> {
        let reply = self.read(self.authorized(self.agent.get(format!("{}/models", self.url))).call())?;
        let list = reply.get("data").and_then(Value::as_array);
        let list = list.ok_or_else(|| self.unusable("the list of models has no `data`"))?;
        Ok(list.iter().filter_map(|model| model.get("id")?.as_str().map(str::to_string)).collect())
    }

    fn post(&self, url: &str, body: &Value) -> Result<Value, OpenAiError> {
        let request = self.agent.post(url).header("content-type", "application/json");
        self.read(self.authorized(request).send(body.to_string()))
    }

    fn authorized<B>(&self, request: RequestBuilder<B>) -> RequestBuilder<B> {
        match &self.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    fn read(&self, reply: Result<http::Response<Body>, ureq::Error>) -> Result<Value, OpenAiError> {
        let failed = |error: ureq::Error| OpenAiError::Connection { url: self.url.clone(), problem: error.to_string() };
        let mut reply = reply.map_err(failed)?;
        let status = reply.status();
        let text = reply.body_mut().with_config().limit(LARGEST).lossy_utf8(true).read_to_string().map_err(failed)?;
        if !status.is_success() {
            let said: Option<Value> = serde_json::from_str(&text).ok();
            let message = said.as_ref().and_then(|said| said["error"]["message"].as_str()).unwrap_or(&text);
            let message = message.chars().take(QUOTED).collect();
            return Err(OpenAiError::Status { url: self.url.clone(), status: status.as_u16(), message });
        }
        serde_json::from_str(&text).map_err(|error| self.unusable(&format!("it is no JSON: {error}")))
    }

    fn unusable(&self, problem: &str) -> OpenAiError {
        OpenAiError::Reply { url: self.url.clone(), problem: problem.into() }
    }
}
