//! A Rust type that judges, in a thread that is left behind when it takes too long.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use luspo_core::{FinishReason, Prompt, contain};

use super::failure::{Failure, FailureKind};
use super::reply::Reply;
use crate::{Answer, Reward};

/// An answer that a thread can keep.
struct Question {
    prompt: Prompt,
    text: String,
    tokens: usize,
    finish: FinishReason,
}

/// A thread that asks a reward about one answer after the other.
pub(super) struct Judge {
    questions: SyncSender<Question>,
    replies: Receiver<Result<Reply, Failure>>,
}

impl Judge {
    pub fn start(reward: Arc<dyn Reward>) -> Self {
        let (questions, asked) = sync_channel::<Question>(1);
        let (tell, replies) = sync_channel(1);
        thread::spawn(move || {
            for Question { prompt, text, tokens, finish } in asked {
                let answer = Answer { prompt: &prompt, text: &text, tokens, finish };
                let said = match contain(|| reward.score(&answer)) {
                    Ok(Ok(verdict)) => Reply::of_verdict(verdict),
                    Ok(Err(error)) => Err(Failure::new(FailureKind::Error, format!("it said: {error}"))),
                    Err(panic) => Err(Failure::new(FailureKind::Panic, format!("it panicked: {panic}"))),
                };
                if tell.send(said).is_err() {
                    return;
                }
            }
        });
        Self { questions, replies }
    }

    /// What the reward says of an answer. After a timeout the thread is still busy: another one is to be started.
    pub fn ask(&self, answer: &Answer<'_>, timeout: Duration) -> Result<Reply, Failure> {
        let Answer { prompt, text, tokens, finish } = *answer;
        let question = Question { prompt: prompt.clone(), text: text.into(), tokens, finish };
        let gone = || Failure::new(FailureKind::Panic, "its thread has ended");
        self.questions.send(question).map_err(|_| gone())?;
        self.replies.recv_timeout(timeout).unwrap_or_else(|error| match error {
            RecvTimeoutError::Timeout => {
                let seconds = timeout.as_secs_f64();
                let message = format!("it took more than {seconds} s (timeout); its thread was left behind");
                Err(Failure::new(FailureKind::Timeout, message))
            }
            RecvTimeoutError::Disconnected => Err(gone()),
        })
    }
}
