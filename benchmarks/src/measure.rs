//! Times and memory of repeated work.

use std::time::Instant;

use anyhow::Context;
use serde_json::{Value, json};

/// What repeated runs of the same work cost.
pub struct Figures {
    /// Wall time of each run, in seconds, ascending.
    seconds: Vec<f64>,
    /// Processor time of a run on average, all threads together, in seconds.
    cpu_seconds: f64,
    /// Most memory that the process ever held, in bytes.
    peak_memory: u64,
    /// Tokens that one run works on.
    tokens: usize,
}

impl Figures {
    /// Runs `work` once to warm up, and then `runs` times.
    pub fn of(runs: usize, tokens: usize, mut work: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Self> {
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
        Ok(Self { seconds, cpu_seconds, peak_memory: peak_memory()?, tokens })
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
            "runs": self.seconds,
        })
    }
}

/// Processor time of this process so far.
fn cpu_seconds() -> anyhow::Result<f64> {
    /// What Linux counts these fields in, whatever the kernel's own clock.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").context("processor time is read from Linux's /proc")?;
    // The process's name, in brackets, may hold spaces; user and system time are the 12th and 13th field after it.
    let (_, fields) = stat.rsplit_once(')').context("/proc/self/stat")?;
    let ticks: f64 =
        fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<f64>()).sum::<Result<_, _>>()?;
    Ok(ticks / TICKS_PER_SECOND)
}

/// High-water mark of this process's memory.
fn peak_memory() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("memory is read from Linux's /proc")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM in /proc/self/status")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes * 1024)
}
