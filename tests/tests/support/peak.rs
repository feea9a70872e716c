//! The memory of a process.

use std::fs;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

/// The most memory that a process has until it ends, in bytes. (The kernel keeps the peak, so that none falls between two
/// looks.)
pub fn peak(mut process: Child) -> f64 {
    let status = Path::new("/proc").join(process.id().to_string()).join("status");
    let mut peak = 0.0;
    loop {
        // Nothing is left to read of a process that has ended.
        let text = fs::read_to_string(&status).unwrap_or_default();
        if let Some(line) = text.lines().find_map(|line| line.strip_prefix("VmHWM:")) {
            peak = line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0;
        }
        if let Some(status) = process.try_wait().unwrap() {
            assert!(status.success());
            return peak;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
