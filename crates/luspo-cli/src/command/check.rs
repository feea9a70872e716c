//! `luspo check`: what a configuration comes to, said before anything is loaded.

use std::io::Write;

use anyhow::{Result, bail};
use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use luspo::trainer::{Config, DataPlan, Disk, Held, Machine, Memory, Phase, Plan, Saving, size};
use serde_json::json;

use crate::args::{CheckArgs, Global};
use crate::command::train::all_overrides;

pub fn run(args: CheckArgs, global: &Global) -> Result<()> {
    let config = Config::load(&args.config, &all_overrides(args.overrides, global))?;
    let plan = Plan::of(&config)?;
    let here = Machine::here(config.run.backend);
    let machine = Machine { device: args.device_memory.or(here.device), host: args.host_memory.or(here.host) };
    let verdict = plan.check_memory(&machine);
    let disk = plan.disk.as_ref().map(|disk| (disk, args.disk_space.or(disk.available())));
    let data = DataPlan::of(&config);
    let read = data.as_ref().ok().and_then(Option::as_ref);

    let mut out = std::io::stdout().lock();
    match global.json {
        true => writeln!(out, "{}", as_json(&plan, &machine, verdict.is_ok(), disk, read)?)?,
        false => {
            write!(out, "{}", as_text(&plan, &machine, verdict.is_ok()))?;
            if let Some((disk, available)) = disk {
                writeln!(out, "\n{}", of_disk(disk, available))?;
            }
            if let Some(read) = read {
                writeln!(out, "\n{}", read.sentences().join("\n"))?;
            }
            write!(out, "{}", of_missing(&plan))?;
        }
    }
    drop(out);
    verdict?;
    disk.map_or(Ok(()), |(disk, available)| disk.check(available))?;
    data?;
    match plan.missing.len() {
        0 => Ok(()),
        1 => bail!("the run cannot start here: {}", plan.missing[0]),
        more => bail!("the run cannot start here: {}, and {} more of the above", plan.missing[0], more - 1),
    }
}

fn as_json(
    plan: &Plan,
    machine: &Machine,
    fits: bool,
    disk: Option<(&Disk, Option<u64>)>,
    data: Option<&DataPlan>,
) -> Result<serde_json::Value> {
    let mut object = serde_json::to_value(plan)?;
    if let Some(memory) = &plan.memory {
        let total = |phase: &Phase| json!({ "device": phase.device(), "host": phase.host() });
        for (phase, value) in memory.phases.iter().zip(object["memory"]["phases"].as_array_mut().into_iter().flatten())
        {
            value["total"] = total(phase);
        }
        object["memory"]["peak"] = json!({
            "device": memory.device_peak().map(Phase::device),
            "host": memory.host_peak().map(Phase::host),
        });
        object["memory"]["available"] = json!(machine);
        object["memory"]["fits"] = fits.into();
    }
    if let Some((disk, available)) = disk {
        object["disk"]["total"] = disk.total().into();
        object["disk"]["available"] = json!(available);
        object["disk"]["fits"] = disk.check(available).is_ok().into();
    }
    object["data"] = json!(data);
    Ok(object)
}

fn as_text(plan: &Plan, machine: &Machine, fits: bool) -> String {
    let mut text = String::new();
    if let Some(model) = &plan.model {
        text += &format!(
            "model: {:.1} M parameters in {} on {}, {} blocks of width {}, {} words ({})\n",
            model.parameters as f64 / 1e6,
            model.dtype,
            model.backend,
            model.num_hidden_layers,
            model.hidden_size,
            model.vocab_size,
            model.source
        );
    }
    for sentence in &plan.batches.words {
        text += &format!("{sentence}\n");
    }
    if let Some(memory) = &plan.memory {
        text += &format!("\n{}\n", table(memory));
        text += &format!("{}\n", verdict(memory, machine, fits));
        for Saving { setting, device, host } in &plan.savings {
            let saved = [(*device, "on the device"), (*host, if memory.own_memory { "in the host" } else { "" })];
            let saved =
                saved.iter().filter(|(bytes, _)| bytes.abs() >= 0.5e6).map(|(bytes, place)| match *bytes > 0.0 {
                    true => format!("{} less {place}", size(*bytes)),
                    false => format!("{} more {place}", size(-bytes)),
                });
            text += &format!("  {setting}: {}\n", saved.collect::<Vec<_>>().join(", ").trim_end());
        }
    }
    text
}

/// What the checkpoints take, beside what there is.
fn of_disk(disk: &Disk, available: Option<u64>) -> String {
    let checkpoints = match disk.at_once {
        1 => "one checkpoint".to_string(),
        more => format!("at most {more} checkpoints"),
    };
    let start = match disk.start {
        0.0 => String::new(),
        start => format!(" and {} of the start", size(start)),
    };
    let available = match available {
        Some(available) => format!("there are {} free", size(available as f64)),
        None => "what there is is not known; say it with --disk-space".into(),
    };
    format!("disk: {checkpoints} of {}{start}, {} together; {available}", size(disk.checkpoint), size(disk.total()))
}

fn of_missing(plan: &Plan) -> String {
    let mut text = String::new();
    if !plan.missing.is_empty() {
        text += "\nnot here yet:\n";
        text.extend(plan.missing.iter().map(|missing| format!("  {missing}\n")));
    }
    text
}

/// One column for each phase; for device and host one row for all that is held, and one below it for each thing.
fn table(memory: &Memory) -> Table {
    let peak = memory.phases.iter().map(|phase| phase.device().max(phase.host())).fold(0.0, f64::max);
    let (unit, unit_name, decimals) = if peak < 10e9 { (1e6, "MB", 0) } else { (1e9, "GB", 1) };
    let number = |bytes: f64| match bytes {
        0.0 => "–".to_string(),
        bytes => format!("{:.decimals$}", bytes / unit),
    };
    let row = |name: String, bytes: &dyn Fn(&Phase) -> f64| {
        std::iter::once(name).chain(memory.phases.iter().map(|phase| number(bytes(phase)))).collect::<Vec<_>>()
    };
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(std::iter::once(unit_name).chain(memory.phases.iter().map(|phase| phase.name)));
    let of_device: (&str, fn(&Held) -> f64) = ("device", |held| held.device);
    let of_host: (&str, fn(&Held) -> f64) = (if memory.own_memory { "host" } else { "memory" }, |held| held.host);
    for (place, bytes) in memory.own_memory.then_some(of_device).into_iter().chain([of_host]) {
        table.add_row(row(place.into(), &|phase| phase.held.iter().map(bytes).sum()));
        let held = memory.phases.iter().flat_map(|phase| &phase.held).filter(|held| bytes(held) > 0.0);
        let mut things: Vec<&str> = Vec::new();
        held.for_each(|held| {
            if !things.contains(&held.what) {
                things.push(held.what)
            }
        });
        for what in things {
            let of_thing = |held: &&Held| held.what == what;
            table.add_row(row(format!("  {what}"), &|phase| phase.held.iter().filter(of_thing).map(bytes).sum()));
        }
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// The peaks beside what there is.
fn verdict(memory: &Memory, machine: &Machine, fits: bool) -> String {
    let beside = |phase: &Phase, bytes: f64, place: &str, available: Option<u64>| {
        let available = match available {
            Some(available) => format!("there are {}", size(available as f64)),
            None => "what there is is not known; say it with --device-memory".into(),
        };
        format!("{place}: {} at most ({}); {available}\n", size(bytes), phase.name)
    };
    let device = memory.device_peak().map(|phase| beside(phase, phase.device(), "device", machine.device));
    let place = if memory.own_memory { "host" } else { "memory" };
    let host = memory.host_peak().map(|phase| beside(phase, phase.host(), place, machine.host));
    let fits = if fits { "it fits" } else { "it does not fit" };
    device.into_iter().chain(host).collect::<String>() + fits
}
