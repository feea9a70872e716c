//! Sharded folders in bf16, from here to transformers and back.

mod reference;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use luspo_core::{Purpose, RandomKey};
use luspo_model::{
    Backend, PassOptions, Pretrained, Qwen2Config, Qwen2ForCausalLM, ResponseBatch, SaveOptions, WeightDtype,
};
use reference::{host, max_difference, read_safetensors};
use serde_json::{Value, json};

const READ: &str = r#"
import json, sys
import torch
from transformers import AutoModelForCausalLM

ours, theirs, tokens = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
model, about = AutoModelForCausalLM.from_pretrained(ours, dtype="auto", output_loading_info=True)
keys = {key: sorted(map(str, about[key])) for key in ["missing_keys", "unexpected_keys", "mismatched_keys"]}
model.save_pretrained(theirs, max_shard_size="20KB")
dtype, tied = str(model.dtype), model.config.tie_word_embeddings
with torch.no_grad():
    logits = model.float().eval()(torch.tensor([tokens])).logits[0]
scores = logits.log_softmax(-1)[torch.arange(len(tokens) - 1), torch.tensor(tokens[1:])]
print(json.dumps({"keys": keys, "dtype": dtype, "tied": tied, "eos": model.generation_config.eos_token_id,
                  "log_probs": scores.tolist()}))
"#;

fn load_as(dir: &Path, dtype: WeightDtype) -> Pretrained {
    Pretrained::load_as(dir, &Backend::Flex.device().unwrap(), dtype).unwrap()
}

/// The first token is the prompt.
fn log_probs(model: &Qwen2ForCausalLM, tokens: &[u32]) -> Vec<f32> {
    host(model.response_stats(&ResponseBatch::new(&[(&tokens[..1], &tokens[1..])]), &PassOptions::default()).log_probs)
}

fn shards(dir: &Path) -> BTreeSet<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".safetensors")).collect()
}

#[test]
#[ignore = "needs LUSPO_TEST_PYTHON"]
fn python_transformers_reads_a_sharded_bf16_folder_and_its_own_is_read() {
    let python = std::env::var_os("LUSPO_TEST_PYTHON").expect("LUSPO_TEST_PYTHON names a Python with transformers");
    let tokens: Vec<u32> = (0..40).map(|i| i * 37 % 500).collect();
    for tied in [false, true] {
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let config = Qwen2Config::new(500, 32, 48, 2, 4, 2).with_tie_word_embeddings(tied).with_rope_theta(5e5);
        let device = Backend::Flex.device().unwrap();
        let model = Qwen2ForCausalLM::init(&config, RandomKey::new(5, Purpose::Init), &device).cast(WeightDtype::Bf16);
        let options = SaveOptions { dtype: None, max_shard_bytes: 20_000 };
        Pretrained { model, config, eos_token_ids: vec![2, 7] }.save_with(ours.path(), &options).unwrap();
        assert!(shards(ours.path()).len() > 2);

        let output = Command::new(&python)
            .env("HF_HUB_OFFLINE", "1")
            .args(["-c", READ])
            .args([ours.path().as_os_str(), theirs.path().as_os_str(), json!(tokens).to_string().as_ref()])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(seen["keys"], json!({ "missing_keys": [], "unexpected_keys": [], "mismatched_keys": [] }));
        assert_eq!((&seen["dtype"], &seen["tied"]), (&json!("torch.bfloat16"), &json!(tied)));
        assert_eq!(seen["eos"], json!([2, 7]));
        let read = load_as(ours.path(), WeightDtype::F32);
        let found = log_probs(&read.model, &tokens);
        let expected: Vec<f32> = serde_json::from_value(seen["log_probs"].clone()).unwrap();
        // Both compute in f32 from the same bf16 weights; log-probs are about −6, of which f32 has steps of 5e-7.
        assert!(max_difference(&found, &expected) < 1e-5, "{found:?} {expected:?}");

        // What transformers writes of it: the same tensors, the same model.
        assert!(shards(theirs.path()).len() > 2, "{:?}", shards(theirs.path()));
        let back = load_as(theirs.path(), WeightDtype::F32);
        assert_eq!(log_probs(&back.model, &tokens), found);
        assert_eq!((back.eos_token_ids, back.config.rope_theta), (vec![2, 7], 5e5));
        let (again, whole) = (tempfile::tempdir().unwrap(), SaveOptions { dtype: None, max_shard_bytes: u64::MAX });
        load_as(theirs.path(), WeightDtype::Bf16).save_with(again.path(), &whole).unwrap();
        let joined = read_safetensors(&again.path().join("model.safetensors"));
        let parts = shards(theirs.path()).into_iter().flat_map(|shard| read_safetensors(&theirs.path().join(shard)));
        let mut count = 0;
        for (name, tensor) in parts {
            assert!(joined[&name].values == tensor.values, "{name}");
            count += 1;
        }
        assert_eq!(count, joined.len());
    }
}
