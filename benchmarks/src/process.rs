//! What this process has used, from Linux's `/proc`. The peer in Rust measures itself by this file too.

use anyhow::Context;

/// Processor time of this process so far.
pub fn cpu_seconds() -> anyhow::Result<f64> {
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
pub fn peak_memory() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("memory is read from Linux's /proc")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM in /proc/self/status")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes * 1024)
}
