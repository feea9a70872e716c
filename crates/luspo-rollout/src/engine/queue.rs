//! What waits to be decoded: groups of answers to one prompt, in order.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use luspo_model::{KvCache, Sequence};

use super::{Job, JobId};
use crate::BatchLimits;

#[derive(Debug, Default)]
pub(super) struct Queue {
    groups: VecDeque<Group>,
}

/// Those answers to one prompt that have not started.
#[derive(Debug)]
pub(super) struct Group {
    pub id: JobId,
    pub job: Arc<Job>,
    pub prompt: Prompt,
    /// Without room yet.
    waiting: VecDeque<u32>,
    /// With room, and waiting for the prompt to be read.
    reserved: Vec<(u32, Sequence)>,
}

/// How far the reading of a prompt is.
#[derive(Debug)]
pub(super) enum Prompt {
    Waiting,
    /// Tokens up to `read` have been.
    Reading {
        sequence: Sequence,
        read: usize,
    },
    /// `logits`, `[vocab]`, are those of the first response token.
    Read {
        sequence: Sequence,
        logits: Vec<f32>,
    },
}

/// Part of a prompt that is read next.
pub(super) struct Part {
    /// The group's place in the queue.
    pub group: usize,
    pub job: Arc<Job>,
    pub sequence: Sequence,
    pub tokens: Range<usize>,
}

impl Part {
    /// Whether nothing of the prompt is left after it.
    pub fn is_last(&self) -> bool {
        self.tokens.end == self.job.prompt_ids.len()
    }
}

impl Group {
    pub fn new(id: JobId, job: Job) -> Self {
        let waiting = (0..job.samples).collect();
        Self { id, job: Arc::new(job), prompt: Prompt::Waiting, waiting, reserved: Vec::new() }
    }

    /// Places that the prompt and one answer take.
    fn needs(&self) -> usize {
        self.job.prompt_ids.len().saturating_add(self.job.room())
    }
}

impl Queue {
    pub fn push(&mut self, group: Group) {
        self.groups.push_back(group);
    }

    /// Answers without room.
    pub fn waiting(&self) -> usize {
        self.groups.iter().map(|group| group.waiting.len()).sum()
    }

    /// Answers with room whose prompt has not been read.
    pub fn reserved(&self) -> usize {
        self.groups.iter().map(|group| group.reserved.len()).sum()
    }

    /// Whether a prompt is being read.
    pub fn reading(&self) -> bool {
        self.groups.iter().any(|group| matches!(group.prompt, Prompt::Reading { .. }))
    }

    /// Places of a cache for all that waits.
    pub fn needs(&self, limits: &BatchLimits) -> usize {
        let all = |group: &Group| {
            group.job.prompt_ids.len().saturating_add(group.waiting.len().saturating_mul(group.job.room()))
        };
        let sum = self.groups.iter().fold(0, |sum: usize, group| sum.saturating_add(all(group)));
        limits.at_most(sum, self.groups.iter().map(Group::needs).max().unwrap_or(0))
    }

    /// Gives room to at most `places` answers. Where one has none, those behind it wait too.
    pub fn admit(&mut self, cache: &mut KvCache, mut places: usize) {
        for group in &mut self.groups {
            if places == 0 {
                return;
            }
            let (sequence, begun) = match group.prompt {
                Prompt::Reading { sequence, .. } | Prompt::Read { sequence, .. } => (sequence, false),
                Prompt::Waiting => match cache.begin(group.job.prompt_ids.len()) {
                    Some(sequence) => (sequence, true),
                    None => return,
                },
            };
            let before = group.reserved.len();
            while places > 0 && !group.waiting.is_empty() {
                let Some(own) = cache.fork(sequence, group.job.room()) else { break };
                let sample = group.waiting.pop_front().expect("it is not empty");
                group.reserved.push((sample, own));
                places -= 1;
            }
            if begun {
                if group.reserved.len() == before {
                    cache.end(sequence); // a prompt alone is of no use
                    return;
                }
                group.prompt = Prompt::Reading { sequence, read: 0 };
            }
            if !group.waiting.is_empty() {
                return;
            }
        }
    }

    /// Gives back the places of all prompts, which are then read again: the free places are one run after that, where
    /// nothing else has any.
    pub fn start_over(&mut self, cache: &mut KvCache) {
        for group in &mut self.groups {
            if let Prompt::Reading { sequence, .. } | Prompt::Read { sequence, .. } = group.prompt {
                cache.end(sequence);
                group.prompt = Prompt::Waiting;
            }
        }
    }

    /// What is read next: at most `tokens` tokens.
    pub fn parts(&self, mut tokens: usize) -> Vec<Part> {
        let mut parts = Vec::new();
        for (index, group) in self.groups.iter().enumerate() {
            let Prompt::Reading { sequence, read } = group.prompt else { continue };
            let to = group.job.prompt_ids.len().min(read.saturating_add(tokens));
            if to == read {
                break;
            }
            tokens -= to - read;
            parts.push(Part { group: index, job: group.job.clone(), sequence, tokens: read..to });
        }
        parts
    }

    /// These parts were read; the logits at the end of those prompts that are whole now, by the group's place.
    pub fn read(&mut self, parts: &[Part], logits: Vec<(usize, Vec<f32>)>) {
        for part in parts {
            self.groups[part.group].prompt = Prompt::Reading { sequence: part.sequence, read: part.tokens.end };
        }
        for (group, logits) in logits {
            let group = &mut self.groups[group];
            if let Prompt::Reading { sequence, .. } = group.prompt {
                group.prompt = Prompt::Read { sequence, logits };
            }
        }
    }

    /// A group whose prompt has been read, and its answers that can start.
    pub fn next_ready(&mut self) -> Option<(&Group, Vec<(u32, Sequence)>)> {
        let ready = |group: &&mut Group| matches!(group.prompt, Prompt::Read { .. }) && !group.reserved.is_empty();
        let group = self.groups.iter_mut().find(ready)?;
        let reserved = std::mem::take(&mut group.reserved);
        Some((group, reserved))
    }

    /// Removes the groups none of whose answers is left.
    pub fn leave(&mut self, mut cache: Option<&mut KvCache>) {
        self.groups.retain(|group| {
            let stays = !(group.waiting.is_empty() && group.reserved.is_empty());
            if let (false, Some(cache), Prompt::Reading { sequence, .. } | Prompt::Read { sequence, .. }) =
                (stays, &mut cache, &group.prompt)
            {
                cache.end(*sequence);
            }
            stays
        });
    }

    /// Drops answers.
    pub fn drop_where(&mut self, mut cache: Option<&mut KvCache>, dropped: impl Fn(JobId, u32) -> bool) {
        for group in &mut self.groups {
            let id = group.id;
            group.waiting.retain(|sample| !dropped(id, *sample));
            group.reserved.retain(|(sample, sequence)| {
                let drop = dropped(id, *sample);
                if let (true, Some(cache)) = (drop, &mut cache) {
                    cache.end(*sequence);
                }
                !drop
            });
        }
        self.leave(cache);
    }
}
