use std::path::PathBuf;

/// What can go wrong with data: each message says what, where and what to do. Rows are counted from 0 in each file.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file or folder cannot be opened, read or made.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file is not Parquet, or a damaged one.
    #[error("{}: not a readable Parquet file ({problem}); write or copy it again", file.display())]
    NotParquet {
        /// The file.
        file: PathBuf,
        /// What the Parquet reader says.
        problem: String,
    },
    /// A line of a JSON Lines file is no JSON object.
    #[error("{}: line {line} {problem}; a .jsonl file has one JSON object a line", file.display())]
    NotJson {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// A column holds bytes where text belongs.
    #[error("{}: column `{column}` holds bytes that are no text: {problem}; write text as UTF-8", file.display())]
    NotText {
        /// The file.
        file: PathBuf,
        /// The column, without the fields inside it.
        column: String,
        /// Where the bytes stop being text.
        problem: String,
    },
    /// A column that every dataset needs is not there.
    #[error("{}: no column `{column}` among {found}; verl's schema has data_source, prompt, ability, reward_model and \
             extra_info", file.display())]
    MissingColumn {
        /// The file.
        file: PathBuf,
        /// The column.
        column: &'static str,
        /// The columns that are there.
        found: String,
    },
    /// A value is missing or of a form that cannot be used.
    #[error("{}: row {row}: `{key}` {problem}", file.display())]
    Value {
        /// The file.
        file: PathBuf,
        /// The row, from 0.
        row: usize,
        /// The key, dotted.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// There is not one row.
    #[error("no rows in {files}; name at least one file with rows")]
    Empty {
        /// The files.
        files: String,
    },
    /// A prompt is longer than allowed, and `data.prompt_overlong = "error"`.
    #[error("{}: row {row}: `prompt` has {tokens} tokens, more than data.max_prompt_length = {max}; raise it, or set \
             data.prompt_overlong to \"filter\", \"truncate_left\" or \"truncate_right\"", file.display())]
    PromptTooLong {
        /// The file.
        file: PathBuf,
        /// The row, from 0.
        row: usize,
        /// Its length.
        tokens: usize,
        /// The limit.
        max: usize,
    },
    /// Every row was left out because it could not be used, and `data.filter_invalid = true`.
    #[error("none of the {rows} rows of {files} can be used; the first: {first}")]
    AllInvalid {
        /// The files.
        files: String,
        /// How many rows there were.
        rows: usize,
        /// What is wrong with the first.
        first: String,
    },
    /// The prompts do not fit where they are kept while a run lasts.
    #[error("cannot keep the prompts in a temporary file in {}: {source}; make room there, or set TMPDIR to another \
             folder", std::env::temp_dir().display())]
    Spool {
        /// What the system says.
        source: std::io::Error,
    },
    /// Every row was dropped for its length.
    #[error("all {rows} rows of {files} are longer than {max} tokens, the shortest has {shortest}; raise {key}")]
    AllTooLong {
        /// The files.
        files: String,
        /// How many rows there were.
        rows: usize,
        /// The limit.
        max: usize,
        /// Tokens of the shortest row.
        shortest: usize,
        /// What sets the limit, a key of the config's `[data]` or an option of a command.
        key: &'static str,
    },
    /// Rows that no Parquet file of verl's schema can hold.
    #[error("{}: cannot write `{key}`: {problem}", file.display())]
    NotWritable {
        /// The file to be written.
        file: PathBuf,
        /// The key, dotted.
        key: String,
        /// Why not.
        problem: String,
    },
    /// There is no tokenizer where one is to be read.
    #[error("{}: no tokenizer.json there; name a folder that holds a model's tokenizer.json and tokenizer_config.json",
            folder.display())]
    NoTokenizer {
        /// The folder.
        folder: PathBuf,
    },
    /// A tokenizer's file is damaged or contradicts itself.
    #[error("{}: {problem}", file.display())]
    TokenizerFile {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Text could not be tokenised, or tokens not be turned into text.
    #[error("the tokenizer of {} failed: {problem}", origin.display())]
    Tokenize {
        /// Where the tokenizer came from.
        origin: PathBuf,
        /// What it says.
        problem: String,
    },
    /// A tokenizer could not be trained.
    #[error("cannot train a tokenizer: {problem}")]
    TrainTokenizer {
        /// Why not.
        problem: String,
    },
    /// Messages are to be rendered and the tokenizer has no chat template.
    #[error("{}: the tokenizer has no chat template, and the prompts are messages; put a chat_template.jinja into the \
             folder, or a chat_template into its tokenizer_config.json, or give prompts as plain text", origin.display())]
    NoChatTemplate {
        /// Where the tokenizer came from.
        origin: PathBuf,
    },
    /// The chat template does not compile, or refused a conversation.
    #[error("chat template of {}: {problem}", origin.display())]
    ChatTemplate {
        /// Where the tokenizer came from.
        origin: PathBuf,
        /// What the template engine says.
        problem: String,
    },
    /// Worked answers must end, and the tokenizer does not say how.
    #[error("{}: the tokenizer names no `eos_token`, so that an answer could not end; add it to tokenizer_config.json",
            origin.display())]
    NoEos {
        /// Where the tokenizer came from.
        origin: PathBuf,
    },
    /// No built-in task has this name.
    #[error("no built-in task `{name}`; there is: {known}")]
    UnknownTask {
        /// The name.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A built-in task cannot be generated as configured.
    #[error("task {task}: `{key}` {problem}")]
    TaskConfig {
        /// The task's name.
        task: &'static str,
        /// The key of `[data.task]`.
        key: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

/// The names of files, for a message.
pub(crate) fn names(files: &[PathBuf]) -> String {
    match files {
        [] => "an empty list of files".into(),
        files => files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", "),
    }
}
