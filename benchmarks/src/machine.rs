//! The machine that the figures are of.

use serde_json::{Value, json};

pub fn description(threads: usize) -> Value {
    json!({
        "cpu": cpu(),
        "cores": std::thread::available_parallelism().map(usize::from).ok(),
        "threads": threads,
        "os": std::env::consts::OS,
        "luspo": env!("CARGO_PKG_VERSION"),
    })
}

/// The processor's name and model number, where Linux tells them: virtual machines often hide the name alone.
fn cpu() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let field = |name: &str| {
        let line = info.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
        Some(line.split_once(':')?.1.trim().to_string())
    };
    let name = field("model name")?;
    Some(match (field("cpu family"), field("model")) {
        (Some(family), Some(model)) => format!("{name} (family {family}, model {model})"),
        _ => name,
    })
}
