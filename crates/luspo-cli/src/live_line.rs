//! The line at the bottom of a terminal that says what is going on, redrawn in place; everywhere else there is none.

use std::io::{IsTerminal, Write};
use std::sync::LazyLock;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// One terminal has one such line. Whatever else is printed, log messages included, has to go above it.
static LINE: LazyLock<ProgressBar> = LazyLock::new(ProgressBar::hidden);

/// How often the clock in it moves.
const TICK: Duration = Duration::from_secs(1);

/// The live line, for as long as this value lives.
pub struct LiveLine {
    measured: ProgressStyle,
    unmeasured: ProgressStyle,
}

impl LiveLine {
    /// Shows the line if standard output is a terminal that can redraw one.
    pub fn show() -> Self {
        let style = |template: &str| {
            ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("━╸ ")
                .with_key("clock", |state: &ProgressState, text: &mut dyn std::fmt::Write| {
                    let _ = text.write_str(&clock(state.elapsed()));
                })
        };
        if std::io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb") {
            LINE.set_draw_target(ProgressDrawTarget::stdout());
            LINE.enable_steady_tick(TICK);
        }
        Self { measured: style("{msg} {wide_bar:.cyan} {clock}{prefix}"), unmeasured: style("{msg} {clock}") }
    }

    /// Something whose end is not known has begun.
    pub fn begin(&mut self, what: &'static str) {
        LINE.set_style(self.unmeasured.clone());
        LINE.set_message(what);
        LINE.reset_elapsed();
    }

    /// `done` of `total` parts are done; `what` is going on, and may need `time_left` to its end.
    pub fn measure(&mut self, what: String, done: usize, total: usize, time_left: Option<Duration>) {
        LINE.set_style(self.measured.clone());
        LINE.set_length(total as u64);
        LINE.set_position(done as u64);
        LINE.set_prefix(time_left.map_or(String::new(), |left| format!(", eta {}", clock(left))));
        LINE.set_message(what);
    }

    /// Starts the line's clock again.
    pub fn restart_clock(&mut self) {
        LINE.reset_elapsed();
    }
}

impl Drop for LiveLine {
    fn drop(&mut self) {
        LINE.disable_steady_tick();
        LINE.finish_and_clear();
        LINE.set_draw_target(ProgressDrawTarget::hidden());
    }
}

/// A line for whoever watches, above the live line. A reader that went away must not end the run.
pub fn say(line: &str) {
    LINE.suspend(|| _ = writeln!(std::io::stdout(), "{line}"));
}

/// A line on standard error, above the live line. Nobody may be there to read it.
pub fn tell(line: &str) {
    let _ = AboveLiveLine.write_all(format!("{line}\n").as_bytes());
}

/// Standard error, above the live line: where the log goes.
pub struct AboveLiveLine;

impl Write for AboveLiveLine {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LINE.suspend(|| std::io::stderr().write_all(bytes)).map(|()| bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// Minutes and seconds, or hours and minutes.
pub fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
    }
}
