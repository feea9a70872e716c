//! `luspo data`: look at datasets, write built-in tasks.

use anyhow::Result;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use luspo::data::task::{self, TaskConfig};
use luspo::data::{Inspection, Tokenizer, inspect};

use crate::args::{DataCommand, Global, UsageError};

pub fn run(command: DataCommand, global: &Global) -> Result<()> {
    match command {
        DataCommand::Inspect { files, tokenizer } => {
            let tokenizer = tokenizer.map(|dir| Tokenizer::from_folder(&dir)).transpose()?;
            let inspection = inspect(&files, tokenizer.as_ref())?;
            if global.json {
                println!("{}", serde_json::to_string(&inspection)?);
            } else {
                print(&inspection);
            }
        }
        DataCommand::Generate { task, out } => {
            let config = TaskConfig::named(&task).map_err(|e| UsageError(e.to_string()))?;
            let files = task::generate(&config, &out, global.seed.unwrap_or(0))?;
            for file in [&files.train, &files.val, &files.sft] {
                println!("{}", file.display());
            }
        }
    }
    Ok(())
}

fn print(inspection: &Inspection) {
    println!("rows               {}", inspection.rows);
    println!("distinct prompts   {}", inspection.distinct_prompts);
    println!("exact duplicates   {}", inspection.exact_duplicates);
    println!("conflicting golds  {}", inspection.conflicting_golds);
    println!("empty golds        {}", inspection.empty_golds);
    for (source, rows) in &inspection.data_sources {
        println!("data source        {source}: {rows} rows");
    }

    let mut lengths = Table::new();
    lengths.load_style(UTF8_FULL_CONDENSED).set_header(["prompt length", "min", "mean", "p50", "p90", "p99", "max"]);
    let rows = [("characters", Some(inspection.prompt_chars)), ("tokens", inspection.prompt_tokens)];
    for (unit, l) in rows.into_iter().filter_map(|(unit, lengths)| Some((unit, lengths?))) {
        let cells = [l.min, l.mean.round() as usize, l.p50, l.p90, l.p99, l.max].map(|n| n.to_string());
        lengths.add_row(std::iter::once(unit.to_string()).chain(cells));
    }
    println!("\n{lengths}\n");

    let mut columns = Table::new();
    columns.load_style(UTF8_FULL_CONDENSED).set_header(["column", "Parquet type"]);
    for column in &inspection.columns {
        columns.add_row([&column.path, &column.parquet_type]);
    }
    println!("{columns}");

    for (number, example) in inspection.examples.iter().enumerate() {
        println!("\n── example {} ({}) ──\n{}", number + 1, example.data_source, example.prompt);
        println!("gold: {}", example.ground_truth);
        if !example.extra_info.is_null() {
            println!("extra_info: {}", example.extra_info);
        }
    }
}
