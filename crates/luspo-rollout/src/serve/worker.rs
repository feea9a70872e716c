//! The thread that owns the model and decodes.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, TryRecvError};

use burn::module::Module;
use luspo_core::contain;
use luspo_model::{Pretrained, Qwen2Config, Qwen2ForCausalLM, release_memory};
use tokio::sync::{mpsc, oneshot};

use crate::{BatchLimits, Engine, Event, Job, JobId, RolloutError};

/// A token, or why there will be no more.
pub(super) type Token = Result<Event, String>;

/// What the thread is asked to do.
pub(super) enum Command {
    /// Sample; `tokens` has room for all that can come.
    Submit { job: Job, tokens: mpsc::Sender<Token>, accepted: oneshot::Sender<Result<JobId, RolloutError>> },
    /// Give up one answer, whose text has ended.
    CancelSample(JobId, u32),
    /// Take the weights in a folder, once the open answers have ended. New ones wait for it.
    Reload { folder: PathBuf, done: oneshot::Sender<Result<(), String>> },
}

/// Where a job's tokens go.
struct Reader {
    tokens: mpsc::Sender<Token>,
    open: HashSet<u32>,
}

pub(super) struct Worker {
    model: Qwen2ForCausalLM,
    config: Qwen2Config,
    engine: Engine,
    readers: HashMap<JobId, Reader>,
    reload: Option<(PathBuf, oneshot::Sender<Result<(), String>>)>,
}

impl Worker {
    pub fn new(model: Qwen2ForCausalLM, config: Qwen2Config, limits: BatchLimits) -> Result<Self, RolloutError> {
        let mut engine = Engine::new(limits)?;
        if let Some(tokens) = limits.max_tokens_in_cache {
            engine.allocate(&model, tokens)?;
        }
        Ok(Self { model, config, engine, readers: HashMap::new(), reload: None })
    }

    /// Decodes until nobody can ask any longer.
    pub fn run(mut self, commands: &Receiver<Command>) {
        while self.listen(commands) {
            let gone: Vec<JobId> =
                self.readers.iter().filter(|(_, reader)| reader.tokens.is_closed()).map(|(job, _)| *job).collect();
            for job in gone {
                self.readers.remove(&job);
                self.engine.cancel(job);
            }
            if self.engine.open() == 0
                && let Some((folder, done)) = self.reload.take()
            {
                // Whoever asked may have gone; the weights are taken all the same.
                let _ = done.send(self.load(&folder));
            }
            self.step();
        }
    }

    /// Takes what it is asked to do, waiting for it if there is nothing else to do. False when nobody can ask any longer.
    fn listen(&mut self, commands: &Receiver<Command>) -> bool {
        loop {
            let idle = self.engine.open() + self.engine.waiting() == 0 && self.reload.is_none();
            let command =
                if idle { commands.recv().map_err(|_| TryRecvError::Disconnected) } else { commands.try_recv() };
            match command {
                Ok(command) => self.obey(command),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Submit { job, tokens, accepted } => {
                let samples = job.samples;
                let submitted = self.engine.submit(job, &self.model);
                if let Ok(job) = &submitted {
                    self.readers.insert(*job, Reader { tokens, open: (0..samples).collect() });
                }
                // Whoever asked and has gone is found by the closed channel.
                let _ = accepted.send(submitted);
            }
            Command::CancelSample(job, sample) => {
                self.engine.cancel_sample(job, sample);
                self.ended(job, sample);
            }
            Command::Reload { folder, done } => match self.reload {
                None => self.reload = Some((folder, done)),
                Some(_) => {
                    let _ = done.send(Err("another reload is under way; try again when it is done".into()));
                }
            },
        }
    }

    fn step(&mut self) {
        let (engine, model, admit) = (&mut self.engine, &self.model, self.reload.is_none());
        let stepped = contain(|| engine.step(model, admit).map_err(|error| error.to_string()));
        match stepped.unwrap_or_else(Err) {
            Ok(events) => {
                for event in events {
                    let (job, sample, finished) = (event.job, event.sample, event.finish.is_some());
                    if let Some(reader) = self.readers.get(&job) {
                        // There is room; a reader that has gone is cancelled before the next step.
                        let _ = reader.tokens.try_send(Ok(event));
                    }
                    if finished {
                        self.ended(job, sample);
                    }
                }
            }
            Err(error) => {
                log::error!("decoding failed: {error}");
                for (_, reader) in self.readers.drain() {
                    let _ = reader.tokens.try_send(Err(error.clone()));
                }
                self.engine.clear();
            }
        }
    }

    fn ended(&mut self, job: JobId, sample: u32) {
        if let Some(reader) = self.readers.get_mut(&job) {
            reader.open.remove(&sample);
            if reader.open.is_empty() {
                self.readers.remove(&job);
            }
        }
    }

    /// Takes the weights in a folder if they are of the same shape.
    fn load(&mut self, folder: &Path) -> Result<(), String> {
        let config = Qwen2Config::from_folder(folder).map_err(|error| error.to_string())?;
        if !same_shape(&config, &self.config) {
            return Err(format!(
                "{}: a model of another shape than the one being served; start a server of its own for it",
                folder.display()
            ));
        }
        let (device, dtype) = (self.model.device(), self.model.dtype());
        let loaded = contain(|| Pretrained::load_frozen(folder, &device, dtype).map_err(|error| error.to_string()));
        self.model = loaded.unwrap_or_else(Err)?.model.valid();
        release_memory(&self.model.device()); // that of the earlier weights
        Ok(())
    }
}

fn same_shape(a: &Qwen2Config, b: &Qwen2Config) -> bool {
    let numbers = |config: &Qwen2Config| {
        let heads = (config.num_attention_heads, config.num_key_value_heads, config.max_position_embeddings);
        (heads, config.rope_theta.to_bits(), config.rms_norm_eps.to_bits())
    };
    numbers(a) == numbers(b) && a.parameters().eq(b.parameters())
}
