use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use luspo_core::{Message, contain, read_file};
use rayon::prelude::*;
use serde_json::Value;
use tokenizers::Model;
use tokenizers::models::ModelWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use crate::chat_template::ChatTemplate;
use crate::{DataError, PromptText, Row, byte_level, growth};

const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
const TEMPLATE: &str = "chat_template.jinja";

/// What a tokenizer is made of; only the first file must exist.
const FILES: [&str; 4] = [TOKENIZER, CONFIG, TEMPLATE, "special_tokens_map.json"];

/// What to do about a damaged file.
const COPY: &str = "copy the file again from the model that it belongs to";

/// The special tokens that a chat template may name.
const SPECIAL_TOKENS: [&str; 4] = ["bos_token", "eos_token", "pad_token", "unk_token"];

/// Text to token ids and back, and conversations to text.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    chat_template: Option<ChatTemplate>,
    eos_token_id: Option<u32>,
    vocab_size: usize,
    /// The folder it was read from, for messages.
    origin: PathBuf,
    /// Names and contents of the files that [`save`](Self::save) writes.
    files: Vec<(&'static str, Vec<u8>)>,
}

impl Tokenizer {
    /// Reads the tokenizer of a Hugging Face folder: `tokenizer.json`, and where they exist `tokenizer_config.json`
    /// and `chat_template.jinja`, whose template goes before the one of the config.
    ///
    /// # Errors
    /// Where a file is missing or damaged, a template does not compile, `eos_token` is no token, or a byte-level
    /// vocabulary lacks a byte and would drop it.
    pub fn from_folder(dir: &Path) -> Result<Self, DataError> {
        let mut files = Vec::new();
        for name in FILES {
            match read_file(&dir.join(name)) {
                Ok(bytes) => files.push((name, bytes)),
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                    if name == TOKENIZER {
                        return Err(DataError::NoTokenizer { folder: dir.into() });
                    }
                }
                Err(source) => return Err(DataError::Io { path: dir.join(name), source }),
            }
        }
        Self::from_files(dir.into(), files)
    }

    /// Trains a byte-level BPE tokenizer: one token a byte, then the merges learned from `texts`, then the special
    /// tokens `<|endoftext|>` (end of an answer, and padding), `<|im_start|>` and `<|im_end|>`. Its chat template
    /// concatenates the messages' contents. Any text survives [`encode`](Self::encode) and [`decode`](Self::decode)
    /// unchanged, unless it spells a special token.
    ///
    /// `vocab_size` 259 means no merges; where the texts offer fewer merges than asked for, the vocabulary is smaller.
    /// Equal arguments give equal tokenizers.
    ///
    /// # Errors
    /// Where `vocab_size` is below 259.
    pub fn train_byte_level<'a>(texts: impl Iterator<Item = &'a str>, vocab_size: usize) -> Result<Self, DataError> {
        let trained = byte_level::train(texts, vocab_size).map_err(|problem| DataError::TrainTokenizer { problem })?;
        let files = vec![(TOKENIZER, trained.tokenizer.into_bytes()), (CONFIG, trained.config.into_bytes())];
        Self::from_files("the trained tokenizer".into(), files)
    }

    fn from_files(origin: PathBuf, files: Vec<(&'static str, Vec<u8>)>) -> Result<Self, DataError> {
        let contents = |name: &str| files.iter().find(|file| file.0 == name).map(|file| file.1.as_slice());
        let damaged = |name: &str, problem: String| DataError::TokenizerFile { file: origin.join(name), problem };

        let inner = parse(contents(TOKENIZER).unwrap_or_default(), &origin.join(TOKENIZER))
            .map_err(|problem| damaged(TOKENIZER, format!("not a usable tokenizer: {problem}; {COPY}")))?;
        let Some(vocab_size) = inner.get_vocab(true).values().max().map(|&largest| largest as usize + 1) else {
            return Err(damaged(TOKENIZER, format!("the vocabulary is empty; {COPY}")));
        };

        let config: Value = match contents(CONFIG) {
            Some(bytes) => serde_json::from_slice(bytes).map_err(|e| damaged(CONFIG, format!("{e}; {COPY}")))?,
            None => Value::Null,
        };
        let special_tokens: Vec<(String, String)> = SPECIAL_TOKENS
            .iter()
            .filter_map(|&name| special_token(&config[name]).map(|token| (name.to_owned(), token.to_owned())))
            .collect();
        let eos_token_id = match special_token(&config["eos_token"]) {
            None => None,
            Some(token) => Some(inner.token_to_id(token).ok_or_else(|| {
                damaged(CONFIG, format!("`eos_token` is {token:?}, which is no token of {TOKENIZER}"))
            })?),
        };
        let template = match contents(TEMPLATE) {
            Some(bytes) => Some(String::from_utf8(bytes.to_vec()).map_err(|e| damaged(TEMPLATE, e.to_string()))?),
            None => template_of_config(&config).map_err(|problem| damaged(CONFIG, problem))?,
        };
        let chat_template = template
            .map(|source| ChatTemplate::compile(&source, &special_tokens))
            .transpose()
            .map_err(|problem| DataError::ChatTemplate { origin: origin.clone(), problem })?;
        Ok(Self { inner, chat_template, eos_token_id, vocab_size, origin, files })
    }

    /// Writes `tokenizer.json`, `tokenizer_config.json` and what else the tokenizer was read from, byte for byte.
    ///
    /// # Errors
    /// Where the folder cannot be made or written.
    pub fn save(&self, dir: &Path) -> Result<(), DataError> {
        fs::create_dir_all(dir).map_err(|source| DataError::Io { path: dir.into(), source })?;
        for (name, bytes) in &self.files {
            fs::write(dir.join(name), bytes).map_err(|source| DataError::Io { path: dir.join(name), source })?;
        }
        Ok(())
    }

    /// The token ids of a text. No special tokens are added; those that the text spells are recognised.
    ///
    /// # Errors
    /// Where the tokenizer fails, as one does whose `unk_token` is missing from its vocabulary. A character without a
    /// token is no error: it becomes the unknown token, and where the tokenizer names none it is left out. A byte-level
    /// tokenizer that would leave out a byte is refused when it is read.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        self.contained(|| Ok(self.inner.encode_fast(text, false)?.get_ids().to_vec()))
    }

    /// The text of token ids; special tokens are left out, and so are ids beyond the vocabulary.
    ///
    /// # Errors
    /// Where the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String, DataError> {
        self.contained(|| self.inner.decode(ids, true))
    }

    /// The text of token ids, special tokens spelled out; ids beyond the vocabulary are left out.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn decode_with_special_tokens(&self, ids: &[u32]) -> Result<String, DataError> {
        self.contained(|| self.inner.decode(ids, false))
    }

    /// The conversation as the model reads it, up to where the assistant is to go on (`add_generation_prompt`).
    ///
    /// # Errors
    /// Where there is no chat template, or it refuses the conversation or does not come to an end.
    pub fn apply_chat_template(&self, messages: &[Message]) -> Result<String, DataError> {
        let Some(template) = &self.chat_template else {
            return Err(DataError::NoChatTemplate { origin: self.origin.clone() });
        };
        template.render(messages).map_err(|problem| DataError::ChatTemplate { origin: self.origin.clone(), problem })
    }

    /// The prompt as the model reads it: messages through the chat template, text as it is.
    ///
    /// # Errors
    /// As [`apply_chat_template`](Self::apply_chat_template).
    pub fn render_prompt(&self, prompt: &PromptText) -> Result<String, DataError> {
        match prompt {
            PromptText::Messages(messages) => self.apply_chat_template(messages),
            PromptText::Text(text) => Ok(text.clone()),
        }
    }

    /// The token ids of [`render_prompt`](Self::render_prompt).
    ///
    /// # Errors
    /// As [`apply_chat_template`](Self::apply_chat_template) and [`encode`](Self::encode).
    pub fn encode_prompt(&self, prompt: &PromptText) -> Result<Vec<u32>, DataError> {
        self.encode(&self.render_prompt(prompt)?)
    }

    /// [`encode_prompt`](Self::encode_prompt) of some rows of a file, given with their numbers, on all cores; an error
    /// names the row.
    pub(crate) fn encode_prompts(&self, file: &Path, rows: &[(usize, Row)]) -> Vec<Result<Vec<u32>, DataError>> {
        let render = |(row, read): &(usize, Row)| {
            self.render_prompt(&read.prompt).map_err(|error| match error {
                DataError::ChatTemplate { .. } => DataError::Value {
                    file: file.into(),
                    row: *row,
                    key: "prompt".into(),
                    problem: format!("cannot be rendered: {error}"),
                },
                other => other,
            })
        };
        let texts: Vec<_> = rows.iter().map(render).collect();
        texts.into_par_iter().map(|text| self.encode(&text?)).collect()
    }

    /// [`encode`](Self::encode) of many texts, on all cores.
    pub(crate) fn encode_all<'a>(
        &self,
        texts: impl ParallelIterator<Item = &'a str>,
    ) -> Result<Vec<Vec<u32>>, DataError> {
        texts.map(|text| self.encode(text)).collect()
    }

    /// The token that ends an answer: `eos_token` of the config.
    pub fn eos_token_id(&self) -> Option<u32> {
        self.eos_token_id
    }

    /// One more than the largest token id, added tokens included. The model's vocabulary may be larger.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// What ends an assistant's turn in training data: the end-of-sequence token; nothing where none is named.
    pub fn assistant_end(&self) -> Vec<u32> {
        self.eos_token_id.into_iter().collect()
    }

    /// Where it came from, for messages.
    pub(crate) fn origin(&self) -> &Path {
        &self.origin
    }

    /// Runs the tokenizers crate, which panics on some texts where its file is damaged.
    fn contained<T>(&self, f: impl FnOnce() -> Result<T, tokenizers::Error>) -> Result<T, DataError> {
        let problem = match contain(f) {
            Ok(result) => return result.map_err(|e| self.failed(e.to_string())),
            Err(panic) => format!("its tokenizer.json is damaged, the tokenizers crate panics on it ({panic})"),
        };
        Err(self.failed(problem))
    }

    fn failed(&self, problem: String) -> DataError {
        DataError::Tokenize { origin: self.origin.clone(), problem }
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("origin", &self.origin).field("vocab_size", &self.vocab_size).finish()
    }
}

/// Reads `tokenizer.json`; `file` is for messages. The `tokenizers` crate panics on some damaged files.
fn parse(bytes: &[u8], file: &Path) -> Result<tokenizers::Tokenizer, String> {
    let parsed = contain(|| {
        let mut tokenizer = tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| e.to_string())?;
        // Lengths are the dataset's business: a tokenizer that truncates or pads would do it silently.
        tokenizer.with_truncation(None).map_err(|e| e.to_string())?;
        tokenizer.with_padding(None);
        // The tokens of a text are a function of it.
        if let ModelWrapper::BPE(model) = tokenizer.get_model()
            && let Some(dropout) = model.dropout.filter(|&dropout| dropout > 0.0)
        {
            log::info!("{}: `dropout` = {dropout} makes tokens random, it is switched off", file.display());
            let mut model = model.clone();
            model.dropout = None;
            tokenizer.with_model(model);
        }
        if let Some(missing) = missing_byte(&tokenizer) {
            return Err(format!(
                "the vocabulary of this byte-level tokenizer lacks {missing:?}, which would vanish from texts; all 256 \
                 characters of the byte-level alphabet must be in it"
            ));
        }
        growth::check(&tokenizer)?;
        // Other damage shows at the first use.
        tokenizer.encode_fast("a 1", false).map_err(|e| e.to_string())?;
        Ok(tokenizer)
    });
    parsed.unwrap_or_else(|panic| Err(format!("the tokenizers crate panics on it ({panic})")))
}

/// A byte, as its character of the byte-level alphabet, that this tokenizer would silently drop.
fn missing_byte(tokenizer: &tokenizers::Tokenizer) -> Option<char> {
    let ModelWrapper::BPE(model) = tokenizer.get_model() else { return None };
    let drops = model.unk_token.is_none() && !model.byte_fallback;
    if !drops || !tokenizer.get_pre_tokenizer().is_some_and(is_byte_level) {
        return None;
    }
    ByteLevel::alphabet().into_iter().filter(|byte| model.token_to_id(&byte.to_string()).is_none()).min()
}

fn is_byte_level(pre_tokenizer: &PreTokenizerWrapper) -> bool {
    match pre_tokenizer {
        PreTokenizerWrapper::ByteLevel(_) => true,
        PreTokenizerWrapper::Sequence(steps) => steps.as_ref().iter().any(is_byte_level),
        _ => false,
    }
}

/// A special token is given as text or as an object with its `content`.
fn special_token(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}

/// `chat_template` is one template or a list of named ones, of which `default` is meant for conversations.
fn template_of_config(config: &Value) -> Result<Option<String>, String> {
    let named = match &config["chat_template"] {
        Value::Null => return Ok(None),
        Value::String(template) => return Ok(Some(template.clone())),
        Value::Array(named) => named,
        _ => return Err("`chat_template` is neither text nor a list of named templates".into()),
    };
    let chosen = named.iter().find(|entry| entry["name"] == "default").or(match named.as_slice() {
        [only] => Some(only),
        _ => None,
    });
    let template = chosen.and_then(|entry| entry["template"].as_str());
    let template = template.ok_or("`chat_template` lists several templates and none named \"default\"")?;
    Ok(Some(template.to_owned()))
}
