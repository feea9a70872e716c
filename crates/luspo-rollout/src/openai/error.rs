/// Why servers gave no answers.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum OpenAiError {
    /// No address.
    #[error("no server is named; give at least one address, such as http://127.0.0.1:8000/v1")]
    NoServer,
    /// An address that is none.
    #[error("`{url}` is no address of a server ({problem}); write it like http://127.0.0.1:8000/v1")]
    Address {
        /// What was given.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The server does not have the model.
    #[error("{url} does not have the model `{model}`; it has {}", list(.has))]
    Model {
        /// The server.
        url: String,
        /// The model asked for.
        model: String,
        /// What it has.
        has: Vec<String>,
    },
    /// A prompt that cannot be sent as text.
    #[error("prompt {prompt_id} cannot be sent as text: {problem}")]
    PromptText {
        /// The prompt.
        prompt_id: u64,
        /// Why not.
        problem: String,
    },
    /// No connection, one that broke off, or no reply in time.
    #[error("{url}: {problem}")]
    Connection {
        /// The server.
        url: String,
        /// What happened.
        problem: String,
    },
    /// The server answered with an error.
    #[error("{url} answered with status {status}: {message}")]
    Status {
        /// The server.
        url: String,
        /// HTTP's number.
        status: u16,
        /// What it said.
        message: String,
    },
    /// A reply that cannot be used.
    #[error("{url} sent a reply that cannot be used: {problem}")]
    Reply {
        /// The server.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A request that failed as often as it may be tried.
    #[error("{tries} tries to sample from {servers} server(s) failed; the last: {last}")]
    GaveUp {
        /// How often it was tried.
        tries: u32,
        /// At how many servers.
        servers: usize,
        /// The newest failure.
        last: Box<OpenAiError>,
    },
}

impl OpenAiError {
    /// Whether the same request may succeed later or elsewhere. What a server refuses it will refuse again.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Connection { .. } | Self::Reply { .. } => true,
            Self::Status { status, .. } => *status >= 500 || matches!(status, 408 | 429),
            _ => false,
        }
    }
}

fn list(names: &[String]) -> String {
    match names {
        [] => "none".into(),
        names => names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
    }
}
