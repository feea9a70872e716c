//! Chat templates: Jinja as transformers renders it.

use std::thread;

use luspo_core::{Message, contain};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value, context};

/// Instructions and data a template may use on one conversation; megabytes of prompt stay far below it, and a template
/// that loops without end stops within a second.
const FUEL: u64 = 4_000_000;

/// Longest template, in bytes; those of the model hub stay below a tenth of it.
const LONGEST: usize = 256 << 10;

/// Stack for templates, in bytes of address space. The engine recurses once for each operator of a chain (`1+1+1…`) and
/// for each level of a nested list: what [`LONGEST`] and [`FUEL`] allow takes about half of it.
const STACK: usize = 512 << 20;

const NAME: &str = "chat_template";

/// A compiled chat template.
#[derive(Clone)]
pub(crate) struct ChatTemplate {
    environment: Environment<'static>,
}

impl ChatTemplate {
    /// Compiles a template, with the special tokens that it may name (`eos_token` and the like).
    pub(crate) fn compile(source: &str, special_tokens: &[(String, String)]) -> Result<Self, String> {
        if source.len() > LONGEST {
            return Err(format!("it has {} bytes, more than {LONGEST}", source.len()));
        }
        deep(|| Self::compile_here(source, special_tokens))
    }

    fn compile_here(source: &str, special_tokens: &[(String, String)]) -> Result<Self, String> {
        let mut environment = Environment::new();
        // transformers' settings: block tags leave no trace of their line.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(describe)?;
        environment.set_syntax(syntax);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_fuel(Some(FUEL));
        environment.add_function("raise_exception", refuse);
        for (name, token) in special_tokens {
            environment.add_global(name.clone(), token.clone());
        }
        environment.add_template_owned(NAME, source.to_owned()).map_err(describe)?;
        Ok(Self { environment })
    }

    /// The conversation as the model reads it, up to where the assistant is to go on.
    pub(crate) fn render(&self, messages: &[Message]) -> Result<String, String> {
        deep(|| self.render_here(messages))
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

/// Runs the template engine where it has [`STACK`]; with less, a template could overflow it, which ends the process.
fn deep<T: Send>(f: impl Fn() -> Result<T, String> + Sync) -> Result<T, String> {
    thread::scope(|scope| {
        let start = |stack| thread::Builder::new().stack_size(stack).spawn_scoped(scope, || contain(&f));
        // Where address space is short, what honest templates need must do.
        let engine = start(STACK).or_else(|_| start(STACK / 64));
        let engine = engine.map_err(|e| format!("no thread for the template engine: {e}"))?;
        // `contain` leaves nothing to panic.
        engine.join().unwrap_or_else(|_| Err("the template engine failed".into()))?
    })
}

/// `raise_exception(message)`: how a template refuses a conversation.
fn refuse(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

fn describe(error: Error) -> String {
    match error.kind() {
        ErrorKind::OutOfFuel => "stopped: it did not come to an end".into(),
        // A template may put line breaks into what it raises.
        _ => error.to_string().replace('\n', " "),
    }
}
