//! What a weight file holds beyond the model.

mod reference;

use std::fs;
use std::path::Path;
use std::sync::Mutex;

use log::{Level, Log, Metadata, Record};
use luspo_model::{Backend, Pretrained, WeightDtype, frozen_dtype};
use reference::{Values, fixtures, read_safetensors, write_tensors};
use safetensors::Dtype;

/// Keeps the warnings of this process.
struct Warnings(Mutex<Vec<String>>);

static WARNINGS: Warnings = Warnings(Mutex::new(Vec::new()));

impl Log for Warnings {
    fn enabled(&self, metadata: &Metadata) -> bool {
        metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record) {
        if self.enabled(record.metadata()) {
            self.0.lock().unwrap().push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

/// What is said of the tiny checkpoint with these tensors more.
fn warnings_about(names: &[&str]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(fixtures().join("tiny/config.json"), dir.path().join("config.json")).unwrap();
    let mut tensors = read_safetensors(&fixtures().join("tiny/model.safetensors"));
    let head = tensors["model.embed_tokens.weight"].clone();
    for name in names {
        let values =
            if *name == "lm_head.weight" { head.clone() } else { Values { shape: vec![2], values: vec![1.0; 2] } };
        tensors.insert(name.to_string(), values);
    }
    write_tensors(&dir.path().join("model.safetensors"), &tensors, Dtype::F32);
    load(dir.path());
    std::mem::take(&mut *WARNINGS.0.lock().unwrap())
}

fn load(dir: &Path) {
    frozen_dtype(dir, WeightDtype::F32, Backend::Flex).unwrap();
    Pretrained::load(dir, &Backend::Flex.device().unwrap()).unwrap();
}

#[test]
fn what_is_not_part_of_the_model_is_named_in_one_warning() {
    log::set_logger(&WARNINGS).unwrap();
    log::set_max_level(log::LevelFilter::Warn);

    assert_eq!(warnings_about(&[]), [""; 0]);
    // A tied model's head, and what can be computed from the configuration.
    let inv_freq = ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq", "lm_head.weight"];
    assert_eq!(warnings_about(&inv_freq), [""; 0]);

    let said = warnings_about(&["score.weight", "model.layers.2.input_layernorm.weight", "lm_head.weight"]);
    assert_eq!(said.len(), 1);
    for words in ["model.safetensors", "`score.weight`", "`model.layers.2.input_layernorm.weight`"] {
        assert!(said[0].contains(words), "{said:?}");
    }
    assert!(!said[0].contains("lm_head"), "{said:?}");

    let many: Vec<String> = (0..1000).map(|i| format!("extra.{i}")).collect();
    let said = warnings_about(&many.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(said.len() == 1 && said[0].contains("`extra.0`") && said[0].contains("992 more"), "{said:?}");
}
