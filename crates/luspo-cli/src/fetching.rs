//! What is said while a model comes from the hub.

use luspo::model::hub::Download;

use crate::args::Global;
use crate::live_line::{LiveLine, tell};

/// Tells of every file that is fetched: a line on standard error, and in a terminal how far it is.
pub fn watch(global: &Global) -> impl FnMut(&Download) {
    let (quiet, json) = (global.quiet, global.json);
    let mut line = None;
    move |download| {
        if quiet {
            return;
        }
        if download.done == 0 {
            tell(&download.to_string());
        }
        if !json {
            let line = line.get_or_insert_with(LiveLine::show);
            line.measure(download.file.clone(), download.done as usize, download.total as usize, None);
        }
    }
}
