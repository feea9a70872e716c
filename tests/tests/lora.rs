//! `[model.lora]`: adapters are trained, saved, loaded and merged; the base stays as it is, and is there once.

#[cfg(target_os = "linux")]
#[path = "support/peak.rs"]
mod peak;
mod support;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use support::{TINY, luspo, repository, train};

/// Adapters everywhere, and enough of a warm-up to see them learn.
const LORA: [&str; 5] =
    ["model.lora.rank=4", "sft.steps=60", "sft.lr=1e-2", "sft.lr_warmup_steps=0", "sft.lr_schedule=constant"];

/// A prompt of the task, in the tokenizer's ids.
const TOKENS: [u32; 12] = [15, 22, 10, 15, 22, 10, 15, 16, 28, 16, 20, 256];

fn lora<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&LORA[..], more].concat()
}

fn log_probs(dir: &Path, model: &str) -> Vec<f64> {
    fs::write(dir.join("in.jsonl"), json!({ "token_ids": TOKENS }).to_string()).unwrap();
    let output = luspo(dir).args(["score", "--model", model, "--input", "in.jsonl"]).assert().success();
    let scored: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    scored["log_probs"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

fn difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn bytes(file: &Path) -> u64 {
    fs::metadata(file).unwrap().len()
}

fn lines(file: &Path) -> Vec<Value> {
    fs::read_to_string(file).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn adapters_learn_and_the_base_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), "full", &lora(&["use_kl_loss=true"])[1..]);
    train(dir.path(), "lora", &lora(&["use_kl_loss=true"]));
    train(dir.path(), "untrained", &["model.lora.rank=2", "sft.steps=0", "total_training_steps=0"]);
    let runs = dir.path().join("runs");
    let sft = |run: &str| -> Vec<f64> {
        lines(&runs.join(run).join("sft_metrics.jsonl")).iter().map(|l| l["sft/loss"].as_f64().unwrap()).collect()
    };
    let (full, losses) = (sft("full"), sft("lora"));
    // From that of the same random weights down, though embedding and head stay as random as they were.
    assert!((losses[0] - full[0]).abs() < 1e-6, "{} {}", losses[0], full[0]);
    assert!(losses[59] < losses[0] - 0.5 && full[59] < losses[59], "{losses:?}");

    let base = |run: &str| fs::read(runs.join(run).join("base/model.safetensors")).unwrap();
    assert!(base("lora") == base("untrained"), "the base changed");
    let steps = lines(&runs.join("lora/metrics.jsonl"));
    let kl: Vec<f64> = steps.iter().filter_map(|step| step["actor/kl_loss"].as_f64()).collect();
    assert!(kl.len() == 3 && kl[0] < kl[2] && kl[2] > 0.0, "{kl:?}");

    // What a checkpoint holds: an adapter, and the moments of its numbers.
    let last = |run: &str| runs.join(run).join("checkpoints/step_000003");
    let files = names(&last("lora").join("policy"));
    assert!(files.contains(&"adapter_model.safetensors".into()) && files.contains(&"tokenizer.json".into()));
    assert!(!files.contains(&"model.safetensors".into()) && !files.contains(&"config.json".into()), "{files:?}");
    let full = bytes(&last("full").join("policy/model.safetensors"));
    let adapter = bytes(&last("lora").join("policy/adapter_model.safetensors"));
    assert!(adapter < full, "{adapter} of {full}");
    // Two numbers for each that is trained, and the names.
    let moments = |run: &str| bytes(&last(run).join("optimizer.safetensors"));
    assert!(moments("lora") < 2 * adapter + 10_000 && moments("full") > 2 * full - 10_000);

    let policy = "runs/lora/checkpoints/step_000003/policy";
    let found = log_probs(dir.path(), policy);
    assert!(difference(&found, &log_probs(dir.path(), "runs/lora/base")) > 0.1);
    for same in ["runs/lora", "runs/lora/checkpoints/step_000003"] {
        assert_eq!(log_probs(dir.path(), same), found, "{same}");
    }
    // The run is one folder, wherever it is.
    fs::create_dir(dir.path().join("else")).unwrap();
    fs::rename(runs.join("lora"), dir.path().join("else/where")).unwrap();
    assert_eq!(log_probs(dir.path(), "else/where"), found);
    luspo(dir.path()).args(["replay", "else/where", "--step", "2"]).assert().success();
    luspo(dir.path()).args(["generate", "--model", "else/where", "--prompt", "1+2="]).assert().success();
}

#[test]
fn an_exported_run_computes_the_same_without_an_adapter() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), "a", &lora(&["total_training_steps=1"]));
    let found = log_probs(dir.path(), "runs/a");
    // f32 sums in another order, and 8 significant bits.
    for (words, tolerance) in [(&[][..], 1e-4), (&["--dtype", "bf16"], 0.1)] {
        let out = dir.path().join(format!("out{}", words.len()));
        luspo(dir.path()).args(["export", "runs/a", "--out"]).arg(&out).args(words).assert().success();
        let out = out.to_str().unwrap();
        let difference = difference(&log_probs(dir.path(), out), &found);
        assert!(difference < tolerance, "{words:?}: {difference}");
        for file in ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
            assert!(Path::new(out).join(file).exists(), "{file}");
        }
    }
    // It is a model like any other: what a run can begin with, and beside which it has adapters again.
    let more = ["model.path=out0", "model.lora.rank=2", "model.lora.target_modules=[\"q_proj\", \"down_proj\"]"];
    let config = fs::read_to_string(repository().join("configs/arithmetic.toml")).unwrap();
    let mut config: toml::Table = toml::from_str(&config).unwrap();
    config["model"].as_table_mut().unwrap().remove("init");
    fs::write(dir.path().join("b.toml"), toml::to_string(&config).unwrap()).unwrap();
    let tiny = TINY.into_iter().filter(|word| !word.contains("_size=") || word.contains("batch_size"));
    let tiny: Vec<&str> = tiny.chain(["sft.steps=0", "run.name=b"]).collect();
    luspo(dir.path()).args(["train", "b.toml"]).args(&tiny).args(more).assert().success();
    assert!(!dir.path().join("runs/b/base").exists(), "the base is where it was");
    let config = fs::read(dir.path().join("runs/b/checkpoints/step_000003/policy/adapter_config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(config["base_model_name_or_path"], "out0");
    assert_eq!(config["target_modules"], json!(["q_proj", "down_proj"]));
    assert!(difference(&log_probs(dir.path(), "runs/b"), &log_probs(dir.path(), "out0")) > 1e-4);

    // An adapter is on one base and on no other.
    let weights = dir.path().join("out0/model.safetensors");
    let mut changed = fs::read(&weights).unwrap();
    let last = changed.len() - 1;
    changed[last] ^= 1;
    fs::write(&weights, changed).unwrap();
    for words in [
        &["score", "--model", "runs/b", "--input", "in.jsonl"][..],
        &["export", "runs/b", "--out", "new"],
        &["train", "runs/b/config.toml", "total_training_steps=4", "--resume"],
    ] {
        let output = luspo(dir.path()).args(words).assert().failure();
        let said = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
        assert!(said.contains("out0") && said.contains("not those that the adapter"), "{said}");
    }
    assert!(!dir.path().join("new").exists());
    fs::remove_dir_all(dir.path().join("out0")).unwrap();
    let output = luspo(dir.path()).args(["score", "--model", "runs/b", "--input", "in.jsonl"]).assert().failure();
    let said = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
    assert!(said.contains("out0") && said.contains("the base of the adapter in"), "{said}");
}

#[test]
fn a_full_critic_learns_beside_adapters() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), "a", &lora(&["loss_mode=ppo", "adv_estimator=gae", "critic.lr=1e-3", "model.dtype=bf16"]));
    let run = dir.path().join("runs/a");
    assert!(lines(&run.join("metrics.jsonl")).iter().any(|step| step["critic/vf_loss"].as_f64() > Some(0.0)));
    let last = run.join("checkpoints/step_000003");
    // All of the base, and a head of 33 numbers.
    let [critic, base] =
        [last.join("critic/model.safetensors"), run.join("base/model.safetensors")].map(|file| bytes(&file));
    assert!(critic > base && critic < base + 1000, "{critic} {base}");
    assert!(last.join("policy/adapter_config.json").exists());
}

#[test]
fn what_is_no_adapter_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (words, says) in [
        (&["model.lora.rank=0"][..], "model.lora.rank = 0"),
        (&["model.lora.rank=33"], "model.lora.rank = 33 is above"),
        (&["model.lora.rank=4", "model.lora.alpha=0"], "alpha = 0"),
        (&["model.lora.alpha=nan"], "alpha = NaN"),
        (&["model.lora.target_modules=[]"], "no projection has an adapter"),
        (&["model.lora.target_modules=[\"qkv_proj\"]"], "`qkv_proj`"),
        (&["model.lora.ranks=4"], "did you mean"),
        (&["model.lora=4"], "`model.lora` is a section"),
    ] {
        let config = repository().join("configs/arithmetic.toml");
        let output = luspo(dir.path()).arg("train").arg(config).args(TINY).args(words).assert().code(2);
        let said = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
        assert!(said.contains(says) && !said.contains("panicked"), "{words:?}: {said}");
    }
    train(dir.path(), "a", &["model.lora.rank=4", "total_training_steps=1"]);
    let resume = ["train", "runs/a/config.toml", "total_training_steps=2", "--resume"];
    for (word, says) in [("model.lora.rank=5", "model.lora.rank"), ("model.lora.alpha=1", "model.lora.alpha")] {
        let output = luspo(dir.path()).args(resume).arg(word).assert().code(2);
        let said = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
        assert!(said.contains("keeps its own") && said.contains(says), "{said}");
    }
    // A run begins with a whole model.
    let policy = "model.path=runs/a/checkpoints/step_000001/policy";
    fs::write(dir.path().join("b.toml"), "[data.task]\nname = \"arithmetic\"").unwrap();
    let output = luspo(dir.path()).args(["train", "b.toml", policy]).assert().code(2);
    let said = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
    assert!(said.contains("is the folder of an adapter") && said.contains("luspo export"), "{said}");
    // Somebody else's adapter, and one that is damaged.
    let peft = dir.path().join("peft");
    fs::create_dir(&peft).unwrap();
    let read = |name: &str| fs::read(dir.path().join("runs/a/checkpoints/step_000001/policy").join(name)).unwrap();
    let (keys, weights) = (read("adapter_config.json"), read("adapter_model.safetensors"));
    fs::write(dir.path().join("in.jsonl"), json!({ "token_ids": TOKENS }).to_string()).unwrap();
    let folder = |key: &str, value: Value, weights: &[u8]| {
        let mut keys: Value = serde_json::from_slice(&keys).unwrap();
        keys["base_model_name_or_path"] = "runs/a/base".into();
        keys[key] = value;
        fs::write(peft.join("adapter_config.json"), keys.to_string()).unwrap();
        fs::write(peft.join("adapter_model.safetensors"), weights).unwrap();
    };
    folder("lora_dropout", json!(0.1), &weights);
    log_probs(dir.path(), "peft");
    for (key, value, weights, says) in [
        ("use_dora", json!(true), &weights[..], "use_dora = true is not supported"),
        ("r", json!(5), &weights, "has shape [4, 32]"),
        ("target_modules", json!(["q_proj"]), &weights, "belong to no projection"),
        ("base_model_name_or_path", json!("nowhere"), &weights, "the base of the adapter in peft"),
        ("base_model_name_or_path", json!("runs/a"), &weights, "the base of the adapter in peft"),
        ("revision", Value::Null, &weights[..weights.len() - 9], "adapter_model.safetensors"),
    ] {
        folder(key, value, weights);
        for words in [&["score", "--model", "peft", "--input", "in.jsonl"][..], &["export", "peft", "--out", "new"]] {
            let output = luspo(dir.path()).args(words).assert().code(1);
            let said = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
            assert!(said.contains(says) && !said.contains("panicked"), "{key}: {said}");
            assert!(!dir.path().join("new").exists());
        }
    }
    // A base that changed in the run's own folder.
    let weights = dir.path().join("runs/a/base/model.safetensors");
    let mut changed = fs::read(&weights).unwrap();
    let last = changed.len() - 1;
    changed[last] ^= 1;
    fs::write(&weights, changed).unwrap();
    let output = luspo(dir.path()).args(resume).assert().code(2);
    assert!(String::from_utf8_lossy(&output.get_output().stderr).contains("not those that the adapter"));
}

/// The most memory that a run takes, in bytes.
#[cfg(target_os = "linux")]
fn peak_of_run(overrides: &[&str]) -> f64 {
    let dir = tempfile::tempdir().unwrap();
    let run = std::process::Command::new(env!("CARGO_BIN_EXE_luspo-under-test"))
        .current_dir(dir.path())
        .args(["train", "-q"])
        .arg(repository().join("configs/arithmetic.toml"))
        .args(TINY)
        .args(["hidden_size=512", "intermediate_size=2048", "num_hidden_layers=6", "sft.steps=0", "run.threads=1"])
        .args(["total_training_steps=2", "rollout.n=2", "max_response_length=8", "overlong_buffer=4", "test_freq=0"])
        .args(["val_before_train=false"])
        .args(overrides)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    peak::peak(run)
}

#[test]
#[cfg(target_os = "linux")]
fn a_run_with_adapters_has_no_gradients_or_moments_of_the_base_and_no_second_base() {
    let parameters = 4.0 * luspo::model::Qwen2Config::new(259, 512, 2048, 6, 4, 2).num_params() as f64;
    let (full, adapters) = (peak_of_run(&[]), peak_of_run(&["model.lora.rank=4"]));
    let with_reference = peak_of_run(&["model.lora.rank=4", "use_kl_loss=true"]);
    println!("{parameters:.2e} bytes of parameters: {full:.2e} in full, {adapters:.2e}, {with_reference:.2e}");
    // Gradients and two moments make three times the parameters.
    assert!(full - adapters > 2.0 * parameters, "{full} {adapters}");
    assert!(adapters - parameters < parameters + 100e6, "{adapters}");
    assert!((with_reference - adapters).abs() < 0.3 * parameters, "{with_reference} {adapters}");
}

/// Loads an adapter with PEFT, prints log-probs and what was missing; trains nothing, changes B, saves it again.
const PEFT: &str = r#"
import json, sys, torch, transformers, peft
base, adapter, tokens, out = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), sys.argv[4]
model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
model = peft.PeftModel.from_pretrained(model, adapter)
report = model.load_adapter(adapter, "again")
def score():
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0].float()
    return logits.log_softmax(-1)[torch.arange(len(tokens) - 1), torch.tensor(tokens[1:])].tolist()
loaded = score()
with model.disable_adapter():
    without = score()
torch.manual_seed(0)
fresh = peft.LoraConfig(r=5, lora_alpha=7, target_modules=["k_proj", "gate_proj"], task_type="CAUSAL_LM", use_rslora=True)
model.add_adapter("fresh", fresh)
model.set_adapter("fresh")
for name, parameter in model.named_parameters():
    if "lora_B.fresh" in name:
        torch.nn.init.normal_(parameter, std=0.1)
made = score()
model.save_pretrained(out, selected_adapters=["fresh"])
print(json.dumps({
    "loaded": loaded, "without": without, "made": made,
    "missing": [key for key in report.missing_keys if ".again." in key], "unexpected": list(report.unexpected_keys),
}))
"#;

#[test]
#[ignore = "needs LUSPO_TEST_PYTHON"]
fn python_peft_reads_what_luspo_writes_and_writes_what_luspo_reads() {
    let python = std::env::var_os("LUSPO_TEST_PYTHON").expect("LUSPO_TEST_PYTHON names a Python with peft");
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), "a", &lora(&["total_training_steps=1"]));
    let policy = "runs/a/checkpoints/step_000001/policy";
    let output = assert_cmd::Command::new(python)
        .current_dir(dir.path())
        .env("HF_HUB_OFFLINE", "1")
        .args(["-c", PEFT, "runs/a/base", policy, &json!(TOKENS).to_string(), "made"])
        .assert()
        .success();
    let seen: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    assert_eq!((&seen["missing"], &seen["unexpected"]), (&json!([]), &json!([])));
    let of = |key: &str| -> Vec<f64> { seen[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect() };
    let found = log_probs(dir.path(), policy);
    println!("loaded {:.1e}", difference(&found, &of("loaded")));
    // Two f32 computations of log-probs of up to about 10.
    assert!(difference(&found, &of("loaded")) < 5e-5);
    assert!(difference(&of("without"), &of("loaded")) > 0.1);
    assert!(difference(&log_probs(dir.path(), "runs/a/base"), &of("without")) < 5e-5);
    let made = log_probs(dir.path(), "made/fresh");
    println!("made {:.1e}", difference(&made, &of("made")));
    assert!(difference(&made, &of("made")) < 5e-5 && difference(&made, &of("without")) > 0.01);
}
