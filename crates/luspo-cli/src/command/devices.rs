//! `luspo devices`: what this build can compute on, here.

use std::io::Write;

use anyhow::Result;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use luspo::Backend;

use crate::args::Global;

pub fn run(global: &Global) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let backends = Backend::available();
    if global.json {
        for backend in &backends {
            writeln!(out, "{}", serde_json::to_string(backend)?)?;
        }
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(["backend", "in this build", "works here", "float types", ""]);
    let yes = |value: bool| if value { "yes" } else { "no" }.to_string();
    for backend in &backends {
        table.add_row([
            backend.name.clone(),
            yes(backend.compiled),
            yes(backend.usable),
            backend.dtypes.join(" "),
            backend.detail.clone(),
        ]);
    }
    writeln!(out, "{table}")?;
    Ok(())
}
