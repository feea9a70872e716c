//! An address that judges: one POST for each answer.

use std::time::Duration;

use serde_json::Value;
use ureq::Agent;

use super::failure::{Failure, FailureKind, quoted};

/// Asks an address, over a new connection each time: one that was kept might have been closed by the other side.
pub(super) struct Endpoint {
    agent: Agent,
    url: String,
    /// Bytes of the longest reply.
    output: usize,
    timeout: Duration,
}

impl Endpoint {
    pub fn new(url: &str, timeout: Duration, output: usize) -> Self {
        let config = Agent::config_builder()
            .timeout_global(Some(timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_connections(0)
            .user_agent(concat!("luspo/", env!("CARGO_PKG_VERSION")));
        Self { agent: config.build().into(), url: url.into(), output, timeout }
    }

    /// The text that the address answers a question with.
    pub fn ask(&self, question: &Value) -> Result<String, Failure> {
        let post = self.agent.post(&self.url).header("content-type", "application/json");
        let mut reply = post.send(question.to_string()).map_err(|error| self.failure(&error))?;
        let status = reply.status();
        let text = reply.body_mut().with_config().limit(self.output as u64 + 1).lossy_utf8(true).read_to_string();
        let text = text.map_err(|error| self.failure(&error))?;
        if !status.is_success() {
            let message = format!("{} answered with status {status}: {:?}", self.url, quoted(&text));
            return Err(Failure::new(FailureKind::Http, message));
        }
        if text.len() > self.output {
            return Err(self.flood());
        }
        Ok(text)
    }

    fn flood(&self) -> Failure {
        let message = format!("{} answered with more than {} bytes (output_limit)", self.url, self.output);
        Failure::new(FailureKind::Flood, message)
    }

    fn failure(&self, error: &ureq::Error) -> Failure {
        match error {
            ureq::Error::Timeout(_) => {
                let (url, seconds) = (&self.url, self.timeout.as_secs_f64());
                Failure::new(FailureKind::Timeout, format!("{url} took more than {seconds} s (timeout)"))
            }
            ureq::Error::BodyExceedsLimit(_) => self.flood(),
            error => Failure::new(FailureKind::Http, format!("{}: {error}", self.url)),
        }
    }
}
