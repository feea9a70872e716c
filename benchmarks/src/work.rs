//! What is measured, as it is written on the command line.

use std::fmt;
use std::str::FromStr;

use anyhow::Context;
use clap::ValueEnum;

/// A kind of work and how much of it.
#[derive(Clone, Debug)]
pub struct Work {
    pub phase: Phase,
    pub rows: usize,
    /// Tokens a row; of an answer, where answers are sampled.
    pub tokens: usize,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Phase {
    /// Forward, log-probs, LUSPO loss, backward, clipping and AdamW.
    TrainStep,
    /// The same without clipping and AdamW.
    Gradients,
    /// The forward pass and log-probs, without a graph.
    LogProbs,
    /// The LUSPO loss and its gradient by log-prob, apart from any model.
    Loss,
    /// An answer to each of some prompts of 32 tokens.
    Generation,
    /// An answer to each of some prompts of 32 tokens, of 8 tokens to as many as are said.
    Ragged,
    /// A whole RL step: groups of four answers to prompts of 33 tokens sampled, scored, compared, and learned from.
    RlvrStep,
}

impl FromStr for Work {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let parts = text.split_once(':').and_then(|(phase, size)| Some((phase, size.split_once('x')?)));
        let (phase, (rows, tokens)) = parts.context("work is written PHASE:ROWSxTOKENS, such as train_step:8x256")?;
        let phase = Phase::from_str(phase, false).map_err(|_| anyhow::anyhow!("no phase is called `{phase}`"))?;
        let number = |text: &str| text.parse::<std::num::NonZeroUsize>().map(usize::from).context("a size");
        Ok(Self { phase, rows: number(rows)?, tokens: number(tokens)? })
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = self.phase.to_possible_value().expect("no phase is hidden");
        write!(f, "{}:{}x{}", phase.get_name(), self.rows, self.tokens)
    }
}
