//! Chat templates: Jinja as transformers renders it.

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use luspo_core::{Message, contain};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, State, Value, context};
use minijinja_contrib::pycompat;

/// Instructions and data a template may use on one conversation; megabytes of prompt stay far below it, and a template
/// that loops without end stops within a second.
const FUEL: u64 = 4_000_000;

/// Longest template, in bytes; those of the model hub stay below a tenth of it.
const LONGEST: usize = 256 << 10;

/// Stack for templates, in bytes of address space. The engine recurses once for each operator of a chain (`1+1+1…`) and
/// for each level of a nested list: what [`LONGEST`] and [`FUEL`] allow takes about half of it.
const STACK: usize = 512 << 20;

/// How long a template may take, in wall time: nearly all of what takes long runs out of [`FUEL`], but not what is done
/// with lists that hold themselves many times over.
const PATIENCE: Duration = Duration::from_secs(10);

const UNENDING: &str = "stopped: it did not come to an end";

const NAME: &str = "chat_template";

/// A compiled chat template.
#[derive(Clone)]
pub(crate) struct ChatTemplate {
    environment: Arc<Environment<'static>>,
}

impl ChatTemplate {
    /// Compiles a template, with the special tokens that it may name (`eos_token` and the like).
    pub(crate) fn compile(source: &str, special_tokens: &[(String, String)]) -> Result<Self, String> {
        if source.len() > LONGEST {
            return Err(format!("it has {} bytes, more than {LONGEST}", source.len()));
        }
        let (source, special_tokens) = (source.to_owned(), special_tokens.to_vec());
        deep(move || Self::compile_here(&source, &special_tokens))
    }

    fn compile_here(source: &str, special_tokens: &[(String, String)]) -> Result<Self, String> {
        let mut environment = Environment::new();
        // transformers' settings: block tags leave no trace of their line.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(describe)?;
        environment.set_syntax(syntax);
        environment.set_unknown_method_callback(python_method);
        environment.set_fuel(Some(FUEL));
        environment.add_function("raise_exception", refuse);
        for (name, token) in special_tokens {
            environment.add_global(name.clone(), token.clone());
        }
        environment.add_template_owned(NAME, source.to_owned()).map_err(describe)?;
        Ok(Self { environment: Arc::new(environment) })
    }

    /// The conversation as the model reads it, up to where the assistant is to go on.
    pub(crate) fn render(&self, messages: &[Message]) -> Result<String, String> {
        let (template, messages) = (self.clone(), messages.to_vec());
        deep(move || template.render_here(&messages))
    }

    fn render_here(&self, messages: &[Message]) -> Result<String, String> {
        let messages: Vec<Value> = messages
            .iter()
            .map(|message| context! { role => message.role.as_str(), content => message.content.as_str() })
            .collect();
        let none = || Value::from(());
        let context =
            context! { messages => messages, add_generation_prompt => true, tools => none(), documents => none() };
        self.environment.get_template(NAME).and_then(|template| template.render(context)).map_err(describe)
    }
}

/// Runs the template engine where it has [`STACK`]; with less, a template could overflow it, which ends the process. An
/// engine that takes longer than [`PATIENCE`] is left alone, because nothing can stop it.
fn deep<T: Send + 'static>(f: impl Fn() -> Result<T, String> + Send + Sync + 'static) -> Result<T, String> {
    let (done, result) = mpsc::channel();
    let f = Arc::new(f);
    let start = |stack| {
        let (f, done) = (f.clone(), done.clone());
        thread::Builder::new().stack_size(stack).spawn(move || done.send(contain(|| f())))
    };
    // Where address space is short, what honest templates need must do.
    let engine = start(STACK).or_else(|_| start(STACK / 64));
    engine.map_err(|e| format!("no thread for the template engine: {e}"))?;
    result.recv_timeout(PATIENCE).unwrap_or_else(|_| Err(UNENDING.into()))?
}

/// Python's methods of text, lists and dictionaries.
fn python_method(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str().filter(|_| method == "format") {
        // The engine charges for the result of every other method.
        state.consume_fuel(formatted_bytes(text, args) / BYTES_PER_FUEL)?;
    }
    pycompat::unknown_method_callback(state, value, method, args)
}

/// What the engine takes for a unit of fuel.
const BYTES_PER_FUEL: u64 = 64;

/// The most bytes that `text.format(args)` can have: every field all the arguments, padded to every width.
fn formatted_bytes(text: &str, args: &[Value]) -> u64 {
    let fields = text.matches('{').count() as u64;
    let args: u64 = args.iter().map(|arg| arg.as_str().map_or(0, str::len) as u64).sum();
    let numbers = text.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let widths = numbers.map(|digits| digits.parse().unwrap_or(u64::MAX)).fold(0, u64::saturating_add);
    fields.saturating_mul(args).saturating_add(widths)
}

/// `raise_exception(message)`: how a template refuses a conversation.
fn refuse(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

fn describe(error: Error) -> String {
    match error.kind() {
        ErrorKind::OutOfFuel => UNENDING.into(),
        // A template may put line breaks into what it raises.
        _ => error.to_string().replace('\n', " "),
    }
}
