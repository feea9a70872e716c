//! Ctrl-C and SIGTERM: the first ends the run after its step, the second at once.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

use crate::live_line::tell;

/// The exit code of a process that was interrupted.
pub const EXIT_CODE: u8 = 130;

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Begins to listen for SIGINT, SIGTERM and SIGHUP.
pub fn listen() -> Result<()> {
    ctrlc::set_handler(|| {
        if REQUESTED.swap(true, Ordering::Relaxed) {
            std::process::exit(EXIT_CODE.into());
        }
        tell("stopping after this step, with a checkpoint; interrupt again to stop at once");
    })
    .context("the handler of SIGINT and SIGTERM cannot be installed")
}

/// Waits for SIGINT, SIGTERM or SIGHUP, whose handler it installs; a second one ends the process at once.
#[cfg(feature = "serve")]
pub fn wait() -> Result<()> {
    let (interrupted, waiting) = std::sync::mpsc::channel();
    ctrlc::set_handler(move || {
        if REQUESTED.swap(true, Ordering::Relaxed) {
            std::process::exit(EXIT_CODE.into());
        }
        let _ = interrupted.send(());
    })
    .context("the handler of SIGINT and SIGTERM cannot be installed")?;
    // The handler keeps the other end for as long as the process lives.
    let _ = waiting.recv();
    Ok(())
}

/// Whether the run has been asked to stop.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}
