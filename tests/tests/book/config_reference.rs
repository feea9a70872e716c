//! The chapter on the configuration, written from the JSON schema of the configuration's types.

use std::fmt::Write;

use luspo::algo::{LOSS_MODES, LossOptions};
use luspo::trainer::Config;
use serde_json::{Value, json};

const HEAD: &str = "\
# Configuration reference

<!-- Written from the configuration's types by a test; see the end of this page. Do not edit it by hand. -->

Every key of a configuration, with its type and default. `–` stands for no value: the key may be left out, and what
happens then stands beside it. An unknown key is an error that names the nearest known one. Paths are relative to the
working directory.

On the command line, `KEY=VALUE` behind the file changes a key: `algorithm.loss_mode=gspo`, or `loss_mode=gspo` where one
section alone has the key. `config.toml` in a run folder is the configuration of that run with every default filled in.
";

const TAIL: &str = "
---

This page is generated from the documentation of the types in `luspo-trainer`, `luspo-reward` and `luspo-data`. After a
change there,

```sh,dry
LUSPO_BLESS=1 cargo test -p luspo-tests --test book
```

writes it again; without the variable, the same test fails while it is out of date.
";

/// A table of the configuration, by its dotted name.
pub struct Section {
    pub name: String,
    pub doc: String,
    pub keys: Vec<Key>,
}

/// One key of a section.
pub struct Key {
    pub name: String,
    kind: String,
    default: String,
    doc: String,
}

/// The page.
pub fn page() -> String {
    let mut page = HEAD.to_string();
    for Section { name, doc, keys } in sections().iter().filter(|section| !section.keys.is_empty()) {
        write!(page, "\n## `[{name}]`\n\n{doc}\n\n| key | type | default | |\n|---|---|---|---|\n").unwrap();
        for Key { name, kind, default, doc } in keys {
            writeln!(page, "| `{name}` | {kind} | {default} | {} |", doc.replace('|', "\\|")).unwrap();
        }
        if name == "algorithm" {
            page += &objectives();
        }
    }
    page + TAIL
}

/// What the keys of `[algorithm]` and `[algorithm.policy_loss]` are for each objective where they are absent.
fn objectives() -> String {
    let mut table =
        "\nWhere they are left out, these follow `loss_mode`; – stands for a key that the objective does not \
                     read, and refuses. The last column has its keys of `[algorithm.policy_loss]`:\n\n\
                     | `loss_mode` | `loss_agg_mode` | `clip_ratio_low` | `clip_ratio_high` | `clip_ratio_c` | \
                     `log_ratio_clamp` | others |\n|---|---|---|---|---|---|---|\n"
            .to_string();
    for loss_mode in LOSS_MODES {
        // Where nothing stands for them, these two have to be given.
        let given = LossOptions { dro_beta: (loss_mode == "dro").then_some(1.0), ..LossOptions::default() };
        let given = given.or_loss_scale_factor(loss_mode, 1.0);
        let options = given.resolved(loss_mode).unwrap();
        let number = |value: Option<f64>| value.map_or("–".into(), |value| format!("`{}`", toml(&value.into())));
        let (low, high) = (number(options.clip_ratio_low), number(options.clip_ratio_high));
        let (c, clamp) = (number(options.clip_ratio_c), number(options.log_ratio_clamp));
        let others: Vec<String> = OWN_KEYS
            .into_iter()
            .filter_map(|(key, of)| {
                let default = if key == "dro_beta" { None } else { *of(&mut options.clone()) };
                let mut asked = given.clone();
                *of(&mut asked) = Some(default.unwrap_or(1.5));
                let read = asked.resolved(loss_mode).is_ok();
                read.then(|| default.map_or(format!("`{key}`"), |value| format!("`{key} = {}`", toml(&value.into()))))
            })
            .collect();
        let others = if others.is_empty() { "–".into() } else { others.join(", ") };
        let aggregation = options.loss_agg_mode.unwrap();
        writeln!(table, "| `{loss_mode}` | `{aggregation}` | {low} | {high} | {c} | {clamp} | {others} |").unwrap();
    }
    table + "\n`delta` and `cispo_max_ratio` are off where they are absent, and `dro_beta` has to be given.\n"
}

/// A key of `[algorithm.policy_loss]` and its place in the options.
type OwnKey = (&'static str, fn(&mut LossOptions) -> &mut Option<f64>);

const OWN_KEYS: [OwnKey; 14] = [
    ("delta", |options| &mut options.delta),
    ("tau_pos", |options| &mut options.tau_pos),
    ("tau_neg", |options| &mut options.tau_neg),
    ("cispo_max_ratio", |options| &mut options.cispo_max_ratio),
    ("clip_cov_ratio", |options| &mut options.clip_cov_ratio),
    ("clip_cov_lb", |options| &mut options.clip_cov_lb),
    ("clip_cov_ub", |options| &mut options.clip_cov_ub),
    ("kl_cov_ratio", |options| &mut options.kl_cov_ratio),
    ("ppo_kl_coef", |options| &mut options.ppo_kl_coef),
    ("dro_beta", |options| &mut options.dro_beta),
    ("vespo_k_pos", |options| &mut options.vespo_k_pos),
    ("vespo_lambda_pos", |options| &mut options.vespo_lambda_pos),
    ("vespo_k_neg", |options| &mut options.vespo_k_neg),
    ("vespo_lambda_neg", |options| &mut options.vespo_lambda_neg),
];

/// Every section, in the order of the types; the first is the root.
pub fn sections() -> Vec<Section> {
    let schema = schemars::schema_for!(Config).to_value();
    let mut sections = Vec::new();
    collect(&schema, &schema, "", "", &mut sections);
    sections
}

fn collect(root: &Value, table: &Value, name: &str, doc: &str, sections: &mut Vec<Section>) {
    let place = sections.len();
    sections.push(Section { name: name.into(), doc: doc.into(), keys: Vec::new() });
    for (key, property) in table["properties"].as_object().unwrap() {
        let schema = resolve(root, property);
        let path = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
        let doc = property["description"].as_str().or(schema["description"].as_str()).map(plain).unwrap_or_default();
        let of_any_name = schema.get("additionalProperties").filter(|any| any.is_object());
        if let Some(any) = of_any_name {
            let (path, any) = (format!("{path}.NAME"), resolve(root, any));
            collect(root, any, &path, &about(&path, any).unwrap_or(doc), sections);
        } else if schema["properties"].is_object() {
            collect(root, schema, &path, &about(&path, schema).unwrap_or(doc), sections);
        } else if let Some(choices) = schema["oneOf"].as_array().filter(|choices| choices[0]["properties"].is_object())
        {
            // A choice by `name`; the other keys are its own, and some choices have the same.
            let mut tables: Vec<(Value, Vec<Value>)> = Vec::new();
            for choice in choices {
                let mut keys = choice["properties"].clone();
                let name = keys.as_object_mut().unwrap().shift_remove("name").unwrap();
                let name = json!({ "const": name["const"], "description": choice["description"] });
                match tables.iter_mut().find(|(others, _)| *others == keys) {
                    Some((_, names)) => names.push(name),
                    None => tables.push((keys, vec![name])),
                }
            }
            for (mut keys, names) in tables {
                let name = json!({ "description": "Which one:", "oneOf": names });
                keys.as_object_mut().unwrap().shift_insert(0, "name".into(), name);
                collect(root, &json!({ "properties": keys }), &path, &doc, sections);
            }
        } else {
            let kind = kind(schema);
            let default = property.get("default").filter(|value| !value.is_null());
            let default = default.map_or("–".into(), |value| format!("`{}`", toml(value)));
            sections[place].keys.push(Key { name: key.clone(), kind, default, doc: doc + &choices(schema) });
        }
    }
}

/// What a table's type says of it beside its name, as in `[name]: what it is`.
fn about(name: &str, schema: &Value) -> Option<String> {
    let doc = plain(schema["description"].as_str()?);
    let mut letters = doc.strip_prefix(&format!("`[{name}]`: "))?.chars();
    let first = letters.next()?.to_uppercase();
    Some(first.chain(letters).collect())
}

/// What a property is, behind references and `Option`.
fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    if let Some(path) = schema["$ref"].as_str() {
        return resolve(root, pointed(root, path));
    }
    match schema["anyOf"].as_array() {
        Some(options) => resolve(root, options.iter().find(|option| option["type"] != "null").unwrap()),
        None => schema,
    }
}

/// What a reference such as `#/$defs/Styles` points at.
fn pointed<'a>(root: &'a Value, path: &str) -> &'a Value {
    root.pointer(path.trim_start_matches('#')).unwrap()
}

fn kind(schema: &Value) -> String {
    let name = |schema: &Value| match schema["type"].as_str() {
        Some("array") => unreachable!("no list of lists"),
        Some(name) => name.to_string(),
        None => "string".into(), // a choice of names
    };
    match &schema["type"] {
        Value::Array(names) => names[0].as_str().unwrap().into(),
        Value::String(array) if array == "array" => match schema["minItems"].as_u64() {
            Some(items) => format!("{items} {}s", name(&schema["items"])),
            None => format!("list of {}s", name(&schema["items"])),
        },
        _ => name(schema),
    }
}

/// The names that a choice may have, and what they mean.
fn choices(schema: &Value) -> String {
    let meaning = |option: &Value| {
        let name = option["const"].as_str().unwrap();
        let doc = option["description"].as_str().map(plain).unwrap_or_default();
        format!("`\"{name}\"`: {}", doc.trim_end_matches('.'))
    };
    match schema["oneOf"].as_array() {
        Some(options) => format!(" {}.", options.iter().map(meaning).collect::<Vec<_>>().join("; ")),
        None => String::new(),
    }
}

/// A value as a configuration has it.
fn toml(value: &Value) -> String {
    match value {
        Value::Number(number) if number.is_f64() => {
            let number = number.as_f64().unwrap();
            let short = number != 0.0 && !(1e-3..1e5).contains(&number.abs());
            if short { format!("{number:e}") } else { format!("{number:?}") }
        }
        Value::Array(items) => format!("[{}]", items.iter().map(toml).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// Documentation without what only rustdoc reads: links to items become their names.
fn plain(doc: &str) -> String {
    let mut plain = String::new();
    let mut rest = doc;
    while let Some((before, link)) = rest.split_once("[`") {
        let Some((name, after)) = link.split_once("`]") else { break };
        write!(plain, "{before}`{name}`").unwrap();
        rest = match after.strip_prefix('(').and_then(|target| target.split_once(')')) {
            Some((_, after)) => after,
            None => after,
        };
    }
    (plain + rest).split_whitespace().collect::<Vec<_>>().join(" ")
}
