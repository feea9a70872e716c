//! `luspo data`: look at datasets, write built-in tasks.

use std::io::Write;

use anyhow::{Result, ensure};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use luspo::data::task::{self, TaskConfig, TaskFiles};
use luspo::data::{Inspection, Tokenizer, inspect};

use crate::args::{DataCommand, Global, UsageError};

pub fn run(command: DataCommand, global: &Global) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match command {
        DataCommand::Inspect { files, tokenizer } => {
            let tokenizer = tokenizer.map(|dir| Tokenizer::from_folder(&dir)).transpose()?;
            let inspection = inspect(&files, tokenizer.as_ref())?;
            if global.json {
                writeln!(out, "{}", serde_json::to_string(&inspection)?)?;
            } else {
                print(&inspection, &mut out)?;
            }
        }
        DataCommand::Generate { task, out: dir } => {
            let config = TaskConfig::named(&task).map_err(|e| UsageError(e.to_string()))?;
            let TaskFiles { train, val, sft } = task::files(&dir);
            for file in [train, val, sft] {
                ensure!(!file.exists(), "{}: already there; choose another folder, or delete it", file.display());
            }
            let files = task::generate(&config, &dir, global.seed.unwrap_or(0))?;
            if global.json {
                writeln!(out, "{}", serde_json::json!({ "train": files.train, "val": files.val, "sft": files.sft }))?;
                return Ok(());
            }
            for file in [&files.train, &files.val, &files.sft] {
                writeln!(out, "{}", file.display())?;
            }
        }
    }
    Ok(())
}

fn print(inspection: &Inspection, out: &mut impl Write) -> Result<()> {
    writeln!(out, "rows               {}", inspection.rows)?;
    writeln!(out, "distinct prompts   {}", inspection.distinct_prompts)?;
    writeln!(out, "exact duplicates   {}", inspection.exact_duplicates)?;
    writeln!(out, "conflicting golds  {}", inspection.conflicting_golds)?;
    writeln!(out, "empty golds        {}", inspection.empty_golds)?;
    for (source, rows) in &inspection.data_sources {
        writeln!(out, "data source        {source}: {rows} rows")?;
    }

    let mut lengths = Table::new();
    lengths.load_style(UTF8_FULL_CONDENSED).set_header(["prompt length", "min", "mean", "p50", "p90", "p99", "max"]);
    let rows = [("characters", Some(inspection.prompt_chars)), ("tokens", inspection.prompt_tokens)];
    for (unit, l) in rows.into_iter().filter_map(|(unit, lengths)| Some((unit, lengths?))) {
        let cells = [l.min, l.mean.round() as usize, l.p50, l.p90, l.p99, l.max].map(|n| n.to_string());
        lengths.add_row(std::iter::once(unit.to_string()).chain(cells));
    }
    writeln!(out, "\n{lengths}\n")?;

    let mut columns = Table::new();
    columns.load_style(UTF8_FULL_CONDENSED).set_header(["column", "Parquet type"]);
    for column in &inspection.columns {
        columns.add_row([&column.path, &column.parquet_type]);
    }
    writeln!(out, "{columns}")?;

    for (number, example) in inspection.examples.iter().enumerate() {
        writeln!(out, "\n── example {} ({}) ──\n{}", number + 1, example.data_source, example.prompt)?;
        writeln!(out, "gold: {}", example.ground_truth)?;
        if !example.extra_info.is_null() {
            writeln!(out, "extra_info: {}", example.extra_info)?;
        }
    }
    Ok(())
}
