//! A reward of the user's own: asked about many answers at once, in bounded time and memory, whatever it does.
//!
//! A process that was asked before may be out of step: it ends, says nothing, floods, or replies to another question. It is
//! replaced then, and the answer asked again, once, of a fresh process. So whether an answer can be judged depends neither
//! on what a process was asked before nor on which process was asked. What a reply says by itself (an error, no score, one
//! that is not finite) counts as it is; addresses and Rust types are asked once.

mod endpoint;
mod failure;
mod program;
mod reply;
mod thread;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use endpoint::Endpoint;
pub(crate) use failure::Failure;
pub use failure::{FailureKind, Failures};
use program::{Limits, Process};
pub(crate) use reply::Reply;
use reply::request;
use thread::Judge;

use crate::{Answer, ComponentConfig, OnFailure, Reward, RewardError};

/// A component of the reward that is asked, with as many slots as answers are judged at once.
pub(crate) struct OwnReward {
    pub name: String,
    pub weight: f64,
    pub on_failure: OnFailure,
    source: Source,
    slots: Vec<Mutex<Slot>>,
    timeout: Duration,
    /// Questions so far. Their numbers tell a late reply from the one that is waited for.
    asked: AtomicU64,
}

enum Source {
    Program { command: Vec<String>, limits: Limits },
    Endpoint(Endpoint),
    Custom(Arc<dyn Reward>),
}

/// What judges one answer after the other; empty until it is needed, and after it failed.
#[derive(Default)]
enum Slot {
    #[default]
    Empty,
    Process(Process),
    Judge(Judge),
}

/// What is said of each answer, and how often a process was replaced on the way.
pub(crate) struct Judged {
    /// In the order of the answers.
    pub replies: Vec<Result<Reply, Failure>>,
    pub restarts: usize,
}

impl Judged {
    /// The same, where a score counts as none whose product with its weight is no f32.
    pub fn weighed_by(mut self, weight: f64) -> Self {
        for reply in &mut self.replies {
            if let Ok(Reply { score, .. }) = reply
                && !((weight * *score) as f32).is_finite()
            {
                *reply = Err(reply::not_finite(weight * *score));
            }
        }
        self
    }
}

impl OwnReward {
    /// The component of that name; `custom` is what the program brought along for it.
    pub fn new(name: &str, config: &ComponentConfig, custom: Option<Arc<dyn Reward>>) -> Result<Self, RewardError> {
        if let Some(problem) = missing(config) {
            return Err(RewardError::Component { name: name.into(), problem });
        }
        let timeout = Duration::from_secs_f64(config.timeout);
        let source = match (&config.url, custom) {
            (_, Some(custom)) => Source::Custom(custom),
            (Some(url), None) => Source::Endpoint(Endpoint::new(url, timeout, config.output_limit)),
            (None, None) => Source::Program {
                command: config.command.clone(),
                limits: Limits {
                    timeout,
                    memory: config.memory_limit.map(|mib| (mib as u64) << 20),
                    output: config.output_limit,
                },
            },
        };
        Ok(Self {
            name: name.into(),
            weight: config.weight,
            on_failure: config.on_failure,
            source,
            slots: (0..config.concurrency).map(|_| Mutex::default()).collect(),
            timeout,
            asked: AtomicU64::new(0),
        })
    }

    /// Asks about all answers, as many at once as there are slots. With [`OnFailure::Stop`], what has not begun when an
    /// answer fails is not asked any more and has no reply.
    pub fn judge(&self, answers: &[Answer<'_>]) -> Judged {
        let (next, stopped, restarts) = (AtomicUsize::new(0), AtomicBool::new(false), AtomicUsize::new(0));
        let first = self.asked.fetch_add(answers.len() as u64, Ordering::Relaxed);
        let replies: Vec<_> = answers.iter().map(|_| Mutex::new(None)).collect();
        std::thread::scope(|scope| {
            for slot in self.slots.iter().take(answers.len()) {
                let (next, stopped, restarts, replies) = (&next, &stopped, &restarts, &replies);
                scope.spawn(move || {
                    let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
                    while !stopped.load(Ordering::Relaxed) {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(answer) = answers.get(index) else { break };
                        let reply = self.ask(&mut slot, first + index as u64, answer, restarts);
                        if reply.is_err() && self.on_failure == OnFailure::Stop {
                            stopped.store(true, Ordering::Relaxed);
                        }
                        *replies[index].lock().unwrap_or_else(PoisonError::into_inner) = Some(reply);
                    }
                });
            }
        });
        let not_asked = || Err(Failure::new(FailureKind::Error, "it was not asked any more"));
        let replies = replies
            .into_iter()
            .map(|reply| reply.into_inner().unwrap_or_else(PoisonError::into_inner).unwrap_or_else(not_asked));
        Judged { replies: replies.collect(), restarts: restarts.into_inner() }
    }

    /// Asks about one answer; where a process may be out of step that was asked before, a fresh one.
    fn ask(&self, slot: &mut Slot, id: u64, answer: &Answer<'_>, restarts: &AtomicUsize) -> Result<Reply, Failure> {
        match &self.source {
            Source::Endpoint(endpoint) => {
                let text = endpoint.ask(&request(id, answer))?;
                Reply::parse(&text, id, false)
            }
            Source::Custom(reward) => {
                let judge = match std::mem::take(slot) {
                    Slot::Judge(judge) => judge,
                    _ => Judge::start(reward.clone()),
                };
                let reply = judge.ask(answer, self.timeout);
                let busy = matches!(&reply, Err(failure) if failure.kind == FailureKind::Timeout);
                if !busy {
                    *slot = Slot::Judge(judge);
                }
                reply
            }
            Source::Program { command, limits } => {
                let used = matches!(slot, Slot::Process(process) if process.used);
                let mut ask = || ask_program(slot, command, limits, id, answer, restarts);
                match ask() {
                    Err(failure) if used && failure.kind.breaks_process() => {
                        log::debug!("reward `{}`: {failure}; asking a fresh process", self.name);
                        restarts.fetch_add(1, Ordering::Relaxed);
                        ask()
                    }
                    reply => reply,
                }
            }
        }
    }
}

impl Drop for OwnReward {
    /// Lets programs end by themselves, for a moment; then they are killed.
    fn drop(&mut self) {
        let slots = self.slots.iter_mut().map(|slot| slot.get_mut().unwrap_or_else(PoisonError::into_inner));
        let mut processes: Vec<&mut Process> =
            slots.filter_map(|slot| if let Slot::Process(process) = slot { Some(process) } else { None }).collect();
        processes.iter_mut().for_each(|process| process.no_more_questions());
        let end = Instant::now() + Duration::from_secs(1);
        for process in processes {
            process.wait(end.saturating_duration_since(Instant::now()));
        }
    }
}

/// Asks the slot's process, or one that is started for it; one that cannot be relied on is ended.
fn ask_program(
    slot: &mut Slot,
    command: &[String],
    limits: &Limits,
    id: u64,
    answer: &Answer<'_>,
    restarts: &AtomicUsize,
) -> Result<Reply, Failure> {
    let mut process = match std::mem::take(slot) {
        Slot::Process(process) => process,
        _ => Process::start(command, limits)?,
    };
    let (line, more) = process.ask(request(id, answer).to_string())?;
    let reply = Reply::parse(&line, id, true);
    let broken = matches!(&reply, Err(failure) if failure.kind.breaks_process());
    if more && !broken {
        log::debug!("{command:?} said more than one line about one answer, and is started again");
        restarts.fetch_add(1, Ordering::Relaxed);
    } else if !broken {
        *slot = Slot::Process(process);
    }
    reply
}

/// What a component needs and is not there, in a sentence. Starts nothing.
pub(crate) fn missing(config: &ComponentConfig) -> Option<String> {
    let (program, arguments) = config.command.split_first()?;
    if !is_program(program) {
        return Some(format!(
            "there is no program `{program}`; name one that PATH leads to, or a file that may be run"
        ));
    }
    // An interpreter would start without its script, and end.
    let name = Path::new(program).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let interprets = ["python", "sh", "bash", "perl", "ruby", "node"].iter().any(|known| {
        let version = name.strip_prefix(known);
        version.is_some_and(|version| version.chars().all(|c| c.is_ascii_digit() || c == '.'))
    });
    let script = arguments.first().filter(|word| interprets && !word.starts_with('-'))?;
    (!Path::new(script).is_file()).then(|| format!("there is no file {script}, which `command` names"))
}

/// Whether a name leads to a file that may be run, by itself or along PATH.
fn is_program(name: &str) -> bool {
    if Path::new(name).components().count() > 1 {
        return is_executable(Path::new(name));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let with = |folder: std::path::PathBuf, ending: &str| is_executable(&folder.join(format!("{name}{ending}")));
    std::env::split_paths(&path).any(|folder| with(folder.clone(), "") || (cfg!(windows) && with(folder, ".exe")))
}

#[cfg(unix)]
fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;

    file.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_executable(file: &Path) -> bool {
    file.is_file()
}
