//! What stands on the command line, and the lines of input files.

use crate::ground::put;
use crate::{Case, refused};

pub fn cases() -> Vec<Case> {
    [commands(), sampling(), evaluation(), scores(), verdicts(), exports(), data()].into_iter().flatten().collect()
}

fn commands() -> Vec<Case> {
    vec![
        refused("an unknown command", 2, "trian config.toml").says(&["trian", "train"]),
        refused("an unknown option", 2, "devices --fast").says(&["--fast"]),
        #[cfg(target_os = "linux")]
        refused("a file without lines to verify", 1, "verify --input /dev/zero --verifier exact")
            .says(&["/dev/zero: line 1", "bytes"]),
        refused("a word too many", 2, "devices all").says(&["all"]),
        refused("an unknown backend", 2, "devices --backend tpu").says(&["tpu", "flex"]),
        refused("a device that is no number", 2, "devices --backend cuda:x").says(&["cuda:x"]),
        refused("a backend outside the build", 2, "generate --model model --prompt a --backend wgpu")
            .says(&["`wgpu`", "--features wgpu"]),
        refused("a seed that is no number", 2, "devices --seed abc").says(&["--seed", "abc"]),
        refused("a seed below zero", 2, "devices --seed=-1").says(&["--seed", "-1"]),
        refused("loud and quiet at once", 2, "devices -q -v").says(&["--quiet", "--verbose"]),
        refused("no configuration", 2, "train").says(&["<CONFIG>"]),
    ]
}

fn sampling() -> Vec<Case> {
    vec![
        refused("a temperature below zero", 2, "generate --model model --prompt a --temperature -1")
            .says(&["--temperature", "-1"]),
        refused("a temperature that is no number", 2, "generate --model model --prompt a --temperature nan")
            .says(&["--temperature", "nan"]),
        refused("an infinite temperature", 2, "generate --model model --prompt a --temperature inf")
            .says(&["--temperature", "inf"]),
        refused("a temperature too low for f32", 2, "generate --model model --prompt a --temperature 0.001")
            .says(&["--temperature", "0.01"]),
        refused("a warm temperature in words", 2, "generate --model model --prompt a --temperature warm")
            .says(&["--temperature", "warm"]),
        refused("an empty nucleus", 2, "generate --model model --prompt a --top-p 0").says(&["--top-p", "0"]),
        refused("a nucleus above one", 2, "generate --model model --prompt a --top-p 2").says(&["--top-p", "2"]),
        refused("a share above one", 2, "generate --model model --prompt a --min-p 1.5").says(&["--min-p", "1.5"]),
        refused("a rank below zero", 2, "generate --model model --prompt a --top-k -1").says(&["--top-k", "-1"]),
        refused("a penalty of nothing", 2, "generate --model model --prompt a --repetition-penalty 0")
            .says(&["--repetition-penalty", "0"]),
        refused("a stop string without text", 2, "generate --model model --prompt a --stop ''").says(&["--stop"]),
        refused(
            "answers longer than they may be",
            1,
            "generate --model model --prompt a --min-tokens 9 --max-response-length 8",
        )
        .says(&["min_tokens = 9", "8 tokens"]),
        refused(
            "a cache smaller than an answer",
            1,
            "generate --model model --prompt a --max-response-length 9 --max-tokens-in-cache 4",
        )
        .says(&["9 tokens", "max_tokens_in_cache"]),
        refused("no answers", 2, "generate --model model --prompt a --n 0").says(&["--n"]),
        refused("answers of no token", 2, "generate --model model --prompt a --max-response-length 0")
            .says(&["--max-response-length", "0"]),
        refused("answers longer than the model", 1, "generate --model model --prompt a --max-response-length 64")
            .says(&["64 response tokens", "max_position_embeddings of 64"]),
        refused(
            "answers as long as an integer can count",
            1,
            "generate --model model --prompt a --max-response-length 18446744073709551615",
        )
        .says(&["18446744073709551615", "64"]),
        refused("no prompt", 2, "generate --model model").says(&["--prompt"]),
        refused("two prompts", 2, "generate --model model --prompt a --chat b").says(&["--chat"]),
        refused("a prompt without text", 2, "generate --model model --prompt ''").says(&["--prompt"]),
        refused(
            "a prompt longer than the model",
            1,
            "generate --model model --prompt \
             aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        )
        .says(&["70 prompt tokens", "64"]),
        refused("no model", 2, "generate --prompt a").says(&["--model"]),
    ]
}

fn evaluation() -> Vec<Case> {
    vec![
        refused("nothing to evaluate on", 2, "eval --model model").says(&["--data"]),
        refused("no answers", 2, "eval --model model --data val.parquet --n 0").says(&["--n", "0"]),
        refused("four billion answers", 2, "eval --model model --data val.parquet --n 4294967295")
            .says(&["--n", "4294967295"]),
        refused("a batch of nothing", 2, "eval --model model --data val.parquet --max-batch-size 0")
            .says(&["--max-batch-size", "0"]),
        refused("rewards that are not there", 2, "eval --model model --data val.parquet --reward nowhere.toml")
            .says(&["nowhere.toml"]),
        refused("a verifier twice", 2, "eval --model model --data val.parquet --reward config.toml --verifier gsm8k")
            .says(&["--reward", "--verifier"]),
        refused("an unknown verifier", 2, "eval --model model --data val.parquet --verifier nonsense")
            .says(&["`nonsense`", "gsm8k"]),
        refused("a temperature below zero", 2, "eval --model model --data val.parquet --temperature -0.5")
            .says(&["--temperature", "-0.5"]),
        refused("answers of no token", 2, "eval --model model --data val.parquet --max-response-length 0")
            .says(&["--max-response-length", "0"]),
        refused("answers longer than the model", 1, "eval --model model --data val.parquet --max-response-length 63")
            .says(&["63 response tokens", "64"]),
    ]
}

fn scores() -> Vec<Case> {
    const SCORE: &str = "score --model model --input in.jsonl";
    vec![
        refused("a missing file to score", 1, SCORE).says(&["in.jsonl", "No such file"]),
        refused("a folder to score", 1, "score --model model --input model").says(&["model: a folder", "JSON lines"]),
        refused("a line that is no JSON", 1, SCORE)
            .after(|dir| put(dir.join("in.jsonl"), "{\"token_ids\": [1]}\nnope\n"))
            .says(&["in.jsonl: line 2", "token_ids"]),
        refused("a line with other keys", 1, SCORE)
            .after(|dir| put(dir.join("in.jsonl"), "{\"tokens\": [1]}\n"))
            .says(&["in.jsonl: line 1", "`tokens`"]),
        refused("a line with both forms", 1, SCORE)
            .after(|dir| put(dir.join("in.jsonl"), "{\"token_ids\": [1], \"prompt\": \"a\", \"response\": \"b\"}\n"))
            .says(&["in.jsonl: line 1", "a line is"]),
        refused("a prompt without a response", 1, SCORE)
            .after(|dir| put(dir.join("in.jsonl"), "{\"prompt\": \"a\"}\n"))
            .says(&["in.jsonl: line 1", "a line is"]),
        refused("a prompt without text", 1, SCORE)
            .after(|dir| put(dir.join("in.jsonl"), "{\"prompt\": \"\", \"response\": \"b\"}\n"))
            .says(&["in.jsonl: line 1", "`prompt` is empty"]),
        refused("no ids", 1, SCORE)
            .after(|dir| put(dir.join("in.jsonl"), "{\"token_ids\": []}\n"))
            .says(&["in.jsonl: line 1", "`token_ids` is empty"]),
        refused("an id beyond the vocabulary", 1, SCORE)
            .after(|dir| put(dir.join("in.jsonl"), "{\"token_ids\": [1, 259]}\n"))
            .says(&["in.jsonl: line 1", "259"]),
        refused("an id below zero", 1, SCORE)
            .after(|dir| put(dir.join("in.jsonl"), "{\"token_ids\": [-1]}\n"))
            .says(&["in.jsonl: line 1", "-1"]),
        refused("an id beyond 32 bits", 1, SCORE)
            .after(|dir| put(dir.join("in.jsonl"), "{\"token_ids\": [4294967296]}\n"))
            .says(&["in.jsonl: line 1", "4294967296"]),
        refused("more ids than the model reads", 1, SCORE)
            .after(|dir| put(dir.join("in.jsonl"), serde_json::json!({ "token_ids": vec![1; 65] }).to_string()))
            .says(&["in.jsonl: line 1", "65 tokens", "64"]),
        refused("bytes that are no text", 1, SCORE)
            .after(|dir| put(dir.join("in.jsonl"), b"{\"prompt\": \"\xff\", \"response\": \"b\"}\n"))
            .says(&["in.jsonl: line 1", "UTF-8"]),
        refused("text without a tokenizer", 1, SCORE)
            .after(|dir| {
                std::fs::remove_file(dir.join("model/tokenizer.json")).unwrap();
                put(dir.join("in.jsonl"), "{\"prompt\": \"a\", \"response\": \"b\"}\n");
            })
            .says(&["model", "no tokenizer.json"]),
    ]
}

fn verdicts() -> Vec<Case> {
    const VERIFY: &str = "verify --input in.jsonl";
    vec![
        refused("a missing file to verify", 1, VERIFY).says(&["in.jsonl", "No such file"]),
        refused("a folder to verify", 1, "verify --input model").says(&["model: a folder", "JSON lines"]),
        refused("an unknown verifier", 2, "verify --input in.jsonl --verifier nonsense").says(&["`nonsense`", "gsm8k"]),
        refused("an answer without a gold one", 1, VERIFY)
            .after(|dir| put(dir.join("in.jsonl"), "{\"prediction\": \"1\", \"data_source\": \"openai/gsm8k\"}\n"))
            .says(&["in.jsonl: line 1", "`gold`"]),
        refused("an answer of no source", 1, VERIFY)
            .after(|dir| put(dir.join("in.jsonl"), "{\"prediction\": \"1\", \"gold\": \"1\"}\n"))
            .says(&["in.jsonl: line 1", "data_source", "--verifier"]),
        refused("an answer of a source that nobody judges", 1, VERIFY)
            .after(|dir| {
                put(dir.join("in.jsonl"), "{\"prediction\": \"1\", \"gold\": \"1\", \"data_source\": \"my/own\"}\n");
            })
            .says(&["in.jsonl: line 1", "`my/own`", "--verifier"]),
        refused("an answer that is no text", 1, VERIFY)
            .after(|dir| put(dir.join("in.jsonl"), b"{\"prediction\": \"\xff\"}\n"))
            .says(&["in.jsonl: line 1", "UTF-8"]),
    ]
}

fn exports() -> Vec<Case> {
    vec![
        refused("nothing to export", 1, "export nowhere --out new").says(&["nowhere"]),
        refused("a file to export", 1, "export config.toml --out new").says(&["config.toml"]),
        refused(
            "a type that is not computed with",
            2,
            "generate --model model --prompt a --dtype bf16 --backend ndarray",
        )
        .says(&["bf16", "luspo devices"]),
        refused("an unknown type", 2, "export model --out new --dtype f8").says(&["f8", "bf16"]),
        refused("files of no size", 2, "export model --out new --max-shard-size 0").says(&["--max-shard-size", "0"]),
        refused("weights cut short", 1, "export model --out new")
            .after(|dir| {
                let whole = std::fs::read(dir.join("model/model.safetensors")).unwrap();
                put(dir.join("model/model.safetensors"), &whole[..whole.len() - 1]);
            })
            .says(&["model/model.safetensors", "not a sound safetensors file"]),
        refused("weights cut short for a folder below new ones", 1, "export model --out a/b/new")
            .after(|dir| put(dir.join("model/model.safetensors"), "none"))
            .says(&["model/model.safetensors", "not a sound safetensors file"]),
        refused("a folder in place of a file to copy", 1, "export model --out new")
            .after(|dir| std::fs::create_dir(dir.join("model/vocab.json")).unwrap())
            .says(&["model/vocab.json", "directory"]),
        refused("a run without a checkpoint", 1, "export runs/run --out new")
            .after(|dir| std::fs::create_dir_all(dir.join("runs/run/checkpoints")).unwrap())
            .says(&["runs/run/checkpoints", "no complete checkpoint"]),
    ]
}

fn data() -> Vec<Case> {
    vec![
        refused("no file to inspect", 2, "data inspect").says(&["<FILES>"]),
        refused("an unknown task", 2, "data generate chess --out new").says(&["`chess`", "arithmetic"]),
        refused("no folder for a task", 2, "data generate arithmetic").says(&["--out"]),
    ]
}
