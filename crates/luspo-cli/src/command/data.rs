//! `luspo data`: look at datasets, write built-in tasks.

use std::io::Write;

use anyhow::{Result, ensure};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use luspo::data::task::{self, TaskConfig, TaskFiles};
use luspo::data::{Inspection, Lengths, Tokenizer, inspect};

use crate::args::{DataCommand, Global, UsageError};

pub fn run(command: DataCommand, global: &Global) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match command {
        DataCommand::Inspect { files, tokenizer, val } => {
            let tokenizer = tokenizer.map(|dir| Tokenizer::from_folder(&dir)).transpose()?;
            let inspection = inspect(&files, &val, tokenizer.as_ref())?;
            if global.json {
                writeln!(out, "{}", serde_json::to_string(&inspection)?)?;
            } else {
                print(&inspection, &mut out)?;
            }
        }
        DataCommand::Generate { task, difficulty, out: dir } => {
            let config = TaskConfig::named(&task).map_err(|e| UsageError(e.to_string()))?;
            let config = match difficulty {
                Some(difficulty) => config.with_difficulty(difficulty)?,
                None => config,
            };
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

    if let Some(overlap) = &inspection.overlap {
        writeln!(out, "validation         {} of {} prompts are in these files", overlap.shared, overlap.val_prompts)?;
    }

    let mut lengths = Table::new();
    lengths.load_style(UTF8_FULL_CONDENSED).set_header(["prompt length", "min", "mean", "p50", "p90", "p99", "max"]);
    let units = [("characters", Some(&inspection.prompt_chars)), ("tokens", inspection.prompt_tokens.as_ref())];
    let units: Vec<_> = units.into_iter().filter_map(|(unit, lengths)| Some((unit, lengths?))).collect();
    for (unit, l) in &units {
        let cells = [l.min, l.mean.round() as usize, l.p50, l.p90, l.p99, l.max].map(|n| n.to_string());
        lengths.add_row(std::iter::once(unit.to_string()).chain(cells));
    }
    writeln!(out, "\n{lengths}\n")?;
    // Of tokens, where there is a tokenizer.
    if let Some((unit, lengths)) = units.last() {
        print_histogram(unit, lengths, out)?;
    }

    let mut columns = Table::new();
    columns.load_style(UTF8_FULL_CONDENSED).set_header(["column", "type"]);
    for column in &inspection.columns {
        columns.add_row([&column.path, &column.kind]);
    }
    writeln!(out, "{columns}")?;

    for (number, example) in inspection.examples.iter().enumerate() {
        writeln!(out, "\n── example {} ({}) ──\n{}", number + 1, example.data_source, example.prompt)?;
        writeln!(out, "gold: {}", example.ground_truth)?;
        if !example.extra_info.is_null() {
            writeln!(out, "extra_info: {}", example.extra_info)?;
        }
    }
    for conflict in &inspection.conflicts {
        writeln!(out, "\n── several golds ──\n{}", conflict.prompt)?;
        for (row, gold) in &conflict.golds {
            writeln!(out, "row {row}: {gold}")?;
        }
    }
    for prompt in inspection.overlap.iter().flat_map(|overlap| &overlap.examples) {
        writeln!(out, "\n── in the validation files too ──\n{prompt}")?;
    }
    Ok(())
}

/// Characters of the longest bar.
const WIDEST: usize = 40;

fn print_histogram(unit: &str, lengths: &Lengths, out: &mut impl Write) -> Result<()> {
    let most = lengths.histogram.iter().map(|bar| bar.rows).max().unwrap_or(1).max(1);
    for bar in &lengths.histogram {
        // Rounded up: a bar that has a row is seen.
        let width = (bar.rows * WIDEST).div_ceil(most);
        writeln!(
            out,
            "{:>16} {unit} {:<WIDEST$} {}",
            format!("{}–{}", bar.from, bar.to - 1),
            "█".repeat(width),
            bar.rows
        )?;
    }
    writeln!(out)?;
    Ok(())
}
