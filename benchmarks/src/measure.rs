//! Times and memory of repeated work.

use std::process::Command;
use std::time::Instant;

use anyhow::Context;
use luspo::Backend;
use serde_json::{Value, json};

use crate::Args;
use crate::process::{cpu_seconds, peak_memory};

/// What repeated runs of the same work cost.
pub struct Figures {
    /// Wall time of each run, in seconds, ascending.
    seconds: Vec<f64>,
    /// Processor time of a run on average, all threads together, in seconds.
    cpu_seconds: f64,
    /// Most memory that the process ever held, in bytes.
    peak_memory: u64,
    /// The device's memory in use after the runs, by all its programs, in bytes, where it has its own. Burn keeps what it
    /// has asked for, so that it is the most that was in use.
    device_memory: Option<u64>,
    /// Tokens that one run works on.
    tokens: usize,
}

impl Figures {
    /// Does `work` once to warm up, and then as often as the arguments say.
    pub fn of(args: &Args, tokens: usize, mut work: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Self> {
        let runs = usize::from(args.runs);
        work()?;
        let cpu_before = cpu_seconds()?;
        let mut seconds = Vec::with_capacity(runs);
        for _ in 0..runs {
            let start = Instant::now();
            work()?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        let cpu_seconds = (cpu_seconds()? - cpu_before) / runs as f64;
        seconds.sort_by(f64::total_cmp);
        let device_memory = device_memory(args.backend)?;
        Ok(Self { seconds, cpu_seconds, peak_memory: peak_memory()?, device_memory, tokens })
    }

    fn median(&self) -> f64 {
        let middle = self.seconds.len() / 2;
        match self.seconds.len() % 2 {
            0 => (self.seconds[middle - 1] + self.seconds[middle]) / 2.0,
            _ => self.seconds[middle],
        }
    }

    pub fn to_json(&self) -> Value {
        json!({
            "seconds": self.median(),
            "cpu_seconds": self.cpu_seconds,
            "tokens_per_second": self.tokens as f64 / self.median(),
            "peak_memory_bytes": self.peak_memory,
            "device_memory_bytes": self.device_memory,
            "runs": self.seconds,
        })
    }
}

/// As NVIDIA's own tool says; of other devices nothing is known.
fn device_memory(backend: Backend) -> anyhow::Result<Option<u64>> {
    let Backend::Cuda(index) = backend else { return Ok(None) };
    let query = ["--query-gpu=memory.used", "--format=csv,noheader,nounits"];
    let said = Command::new("nvidia-smi").args(query).args(["--id", &index.to_string()]).output()?;
    let mebibytes: u64 = String::from_utf8(said.stdout)?.trim().parse().context("what nvidia-smi says")?;
    Ok(Some(mebibytes << 20))
}
