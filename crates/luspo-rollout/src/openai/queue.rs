//! Which request is tried next, and where.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use luspo_core::Rollout;

use super::OpenAiError;

/// What a server waits after its first failure in a row; twice as long after each further one.
const PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Requests that are waiting, under way, and answered.
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    retries: u32,
}

struct State {
    waiting: VecDeque<usize>,
    under_way: usize,
    answers: Vec<Option<Vec<Rollout>>>,
    /// How often each request failed at each server.
    failures: Vec<Vec<u32>>,
    /// Failures in a row of each server; those of requests that were under way together count once.
    in_a_row: Vec<u32>,
    /// The newest failure that may pass.
    last: Option<OpenAiError>,
    /// What ends the batch.
    failed: Option<OpenAiError>,
}

/// A request that a server is to be asked.
pub(super) struct Task {
    pub index: usize,
    server: usize,
    /// Failures in a row when it began.
    in_a_row: u32,
}

impl Queue {
    pub fn new(requests: usize, servers: usize, retries: u32) -> Self {
        let state = State {
            waiting: (0..requests).collect(),
            under_way: 0,
            answers: vec![None; requests],
            failures: vec![vec![0; servers]; requests],
            in_a_row: vec![0; servers],
            last: None,
            failed: None,
        };
        Self { state: state.into(), changed: Condvar::new(), retries }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next request for this server; none when there is nothing left that it could do.
    pub fn take(&self, server: usize) -> Option<Task> {
        let mut state = self.lock();
        loop {
            if state.failed.is_some() || state.is_out(server, self.retries) {
                return None;
            }
            let fit = state.waiting.iter().position(|index| state.failures[*index][server] <= self.retries);
            if let Some(index) = fit.and_then(|place| state.waiting.remove(place)) {
                state.under_way += 1;
                let in_a_row = state.in_a_row[server];
                drop(state);
                if let Some(doublings) = in_a_row.checked_sub(1) {
                    std::thread::sleep(PAUSE.saturating_mul(1 << doublings.min(16)).min(LONGEST_PAUSE));
                }
                return Some(Task { index, server, in_a_row });
            }
            if state.under_way == 0 {
                return None;
            }
            // One that is under way may fail, and wait again.
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What became of a task.
    pub fn settle(&self, task: Task, answers: Result<Vec<Rollout>, OpenAiError>) {
        let Task { index, server, in_a_row } = task;
        let mut state = self.lock();
        state.under_way -= 1;
        match answers {
            Ok(answers) => {
                state.in_a_row[server] = 0;
                state.answers[index] = Some(answers);
            }
            Err(error) if !error.is_passing() => state.failed = Some(error),
            Err(error) => {
                log::warn!("{error}");
                state.last = Some(error);
                state.failures[index][server] += 1;
                state.waiting.push_back(index);
                if state.in_a_row[server] == in_a_row {
                    state.in_a_row[server] += 1;
                    if state.is_out(server, self.retries) {
                        log::warn!("it failed {} times in a row and gets no more of this batch", in_a_row + 1);
                    }
                }
            }
        }
        self.changed.notify_all();
    }

    /// All answers, or why there are not all.
    pub fn finish(self) -> Result<Vec<Vec<Rollout>>, OpenAiError> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let State { answers, failed, last, failures, in_a_row, .. } = state;
        if let Some(error) = failed {
            return Err(error);
        }
        let given_up = |index: usize| OpenAiError::GaveUp {
            tries: failures[index].iter().sum(),
            servers: in_a_row.len(),
            last: last.clone().expect("what was not answered has failed").into(),
        };
        answers.into_iter().enumerate().map(|(index, answers)| answers.ok_or_else(|| given_up(index))).collect()
    }
}

impl State {
    fn is_out(&self, server: usize, retries: u32) -> bool {
        self.in_a_row[server] > retries
    }
}
