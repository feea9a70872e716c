//! Tokenizer files, many of which the tokenizers crate does not survive, and chat templates.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::ground::{edit, put};
use crate::{Case, refused};

const GENERATE: &str = "generate --model model --prompt a1 --max-response-length 4";
const CHAT: &str = "generate --model model --chat a1 --max-response-length 4";

fn tokenizer(dir: &Path, change: impl FnOnce(&mut Value)) {
    edit(dir.join("model/tokenizer.json"), change);
}

/// Replaces the vocabulary and how text is cut before it is looked up.
fn model(dir: &Path, model: Value) {
    tokenizer(dir, |tokenizer| {
        tokenizer["model"] = model;
        tokenizer["pre_tokenizer"] = Value::Null;
        tokenizer["added_tokens"] = json!([]);
    });
    // Without the added tokens there is no end-of-sequence token, which would be the first thing said.
    edit(dir.join("model/tokenizer_config.json"), |config| config["eos_token"] = Value::Null);
}

fn template(dir: &Path, source: &str) {
    edit(dir.join("model/tokenizer_config.json"), |config| config["chat_template"] = json!(source));
}

pub fn cases() -> Vec<Case> {
    [files(), parts(), vocabularies(), templates()].into_iter().flatten().collect()
}

fn files() -> Vec<Case> {
    vec![
        refused("no tokenizer", 1, GENERATE)
            .after(|dir| fs::remove_file(dir.join("model/tokenizer.json")).unwrap())
            .says(&["model", "no tokenizer.json there"]),
        refused("no tokenizer to train with", 1, "train config.toml")
            .after(|dir| fs::remove_file(dir.join("model/tokenizer.json")).unwrap())
            .says(&["model", "no tokenizer.json there"]),
        refused("a tokenizer of no bytes", 1, GENERATE)
            .after(|dir| put(dir.join("model/tokenizer.json"), ""))
            .says(&["model/tokenizer.json"]),
        refused("garbage for a tokenizer", 1, GENERATE)
            .after(|dir| put(dir.join("model/tokenizer.json"), [0xff; 64]))
            .says(&["model/tokenizer.json"]),
        refused("an empty object for a tokenizer", 1, GENERATE)
            .after(|dir| put(dir.join("model/tokenizer.json"), "{}"))
            .says(&["model/tokenizer.json"]),
        refused("a tokenizer nested too deeply", 1, GENERATE)
            .after(|dir| put(dir.join("model/tokenizer.json"), "[".repeat(100_000)))
            .says(&["model/tokenizer.json"]),
        refused("a folder in place of the tokenizer", 1, GENERATE)
            .after(|dir| {
                fs::remove_file(dir.join("model/tokenizer.json")).unwrap();
                fs::create_dir(dir.join("model/tokenizer.json")).unwrap();
            })
            .says(&["model/tokenizer.json", "directory"]),
        refused("a tokenizer config that is no JSON", 1, GENERATE)
            .after(|dir| put(dir.join("model/tokenizer_config.json"), "{\"eos_token\": "))
            .says(&["model/tokenizer_config.json"]),
        refused("an end of sequence that is no token", 1, GENERATE)
            .after(|dir| edit(dir.join("model/tokenizer_config.json"), |config| config["eos_token"] = json!("</s>")))
            .says(&["model/tokenizer_config.json", "`eos_token`", "</s>"]),
        refused("a tokenizer of another model", 2, GENERATE)
            .after(|dir| {
                tokenizer(dir, |tokenizer| {
                    let mut token = tokenizer["added_tokens"][0].clone();
                    token["id"] = json!(1000);
                    token["content"] = json!("<new>");
                    tokenizer["model"]["vocab"]["<new>"] = json!(1000);
                    tokenizer["added_tokens"].as_array_mut().unwrap().push(token);
                });
            })
            .says(&["model", "1001 ids", "259 rows"]),
        refused("a token with the largest id there is", 2, GENERATE)
            .after(|dir| tokenizer(dir, |tokenizer| tokenizer["model"]["vocab"]["<new>"] = json!(u32::MAX)))
            .says(&["model", "4294967296 ids", "259 rows"]),
        refused("a file for a folder with a tokenizer", 1, "data inspect val.parquet --tokenizer config.toml")
            .says(&["config.toml", "no tokenizer.json there"]),
    ]
}

fn parts() -> Vec<Case> {
    vec![
        refused("an added token without text", 1, GENERATE)
            .after(|dir| tokenizer(dir, |t| drop(t["added_tokens"][0].as_object_mut().unwrap().remove("content"))))
            .says(&["model/tokenizer.json"]),
        refused("an added token with an id below zero", 1, GENERATE)
            .after(|dir| tokenizer(dir, |t| t["added_tokens"][0]["id"] = json!(-1)))
            .says(&["model/tokenizer.json"]),
        refused("a split at half a regular expression", 1, GENERATE)
            .after(|dir| {
                let split =
                    json!({ "type": "Split", "pattern": { "Regex": "(" }, "behavior": "Isolated", "invert": false });
                tokenizer(dir, |t| t["pre_tokenizer"] = split);
            })
            .says(&["model/tokenizer.json"]),
        refused("a replacement of half a regular expression", 1, GENERATE)
            .after(|dir| {
                tokenizer(dir, |t| {
                    t["normalizer"] = json!({ "type": "Replace", "pattern": { "Regex": "[" }, "content": "" })
                });
            })
            .says(&["model/tokenizer.json"]),
        refused("an unknown normalizer", 1, GENERATE)
            .after(|dir| tokenizer(dir, |t| t["normalizer"] = json!({ "type": "Shout" })))
            .says(&["model/tokenizer.json"]),
        refused("a character map that is no base64", 1, GENERATE)
            .after(|dir| {
                tokenizer(dir, |t| t["normalizer"] = json!({ "type": "Precompiled", "precompiled_charsmap": "%%" }));
            })
            .says(&["model/tokenizer.json"]),
        refused("a character map of no bytes", 1, GENERATE)
            .after(|dir| {
                tokenizer(dir, |t| t["normalizer"] = json!({ "type": "Precompiled", "precompiled_charsmap": "" }));
            })
            .says(&["model/tokenizer.json"]),
        refused("a character map that leads nowhere", 1, GENERATE)
            .after(|dir| {
                // One node, whose children are beyond the end.
                let map = json!({ "type": "Precompiled", "precompiled_charsmap": "BAAAAP////8=" });
                tokenizer(dir, |t| t["normalizer"] = map);
            })
            .says(&["model/tokenizer.json", "tokenizers crate"]),
        refused("a character map that fails on some texts only", 1, "generate --model model --prompt é")
            .after(|dir| {
                // A root that sends 'a', ' ' and '1' to empty nodes, and every byte from 0xbf beyond the end.
                let mut map = (0xbfu32 * 4).to_le_bytes().to_vec();
                map.resize(4 + 0xbf * 4, 0);
                tokenizer(dir, |t| {
                    t["normalizer"] = json!({ "type": "Precompiled", "precompiled_charsmap": base64(&map) })
                });
            })
            .says(&["model", "tokenizers crate"]),
        refused("a normalizer that doubles sixty times", 1, GENERATE)
            .after(|dir| {
                let double = json!({ "type": "Replace", "pattern": { "String": "a" }, "content": "aa" });
                tokenizer(dir, |t| t["normalizer"] = json!({ "type": "Sequence", "normalizers": vec![double; 60] }));
            })
            .says(&["model/tokenizer.json", "normalizer", "times as long"]),
        refused("a pre-tokenizer that doubles sixty times", 1, GENERATE)
            .after(|dir| {
                let double =
                    json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
                tokenizer(dir, |t| {
                    t["pre_tokenizer"] = json!({ "type": "Sequence", "pretokenizers": vec![double; 60] })
                });
            })
            .says(&["model/tokenizer.json", "pre_tokenizer", "times as long"]),
        refused("a decoder that doubles sixty times", 1, GENERATE)
            .after(|dir| {
                let double = json!({ "type": "Replace", "pattern": { "String": "a" }, "content": "aa" });
                tokenizer(dir, |t| t["decoder"] = json!({ "type": "Sequence", "decoders": vec![double; 60] }));
            })
            .says(&["model/tokenizer.json", "decoder", "times as long"]),
        refused("pieces of no length", 1, GENERATE)
            .after(|dir| tokenizer(dir, |t| t["pre_tokenizer"] = json!({ "type": "FixedLength", "length": 0 })))
            .says(&["model/tokenizer.json", "tokenizers crate"]),
        refused("a decoder without its parts", 1, GENERATE)
            .after(|dir| tokenizer(dir, |t| t["decoder"] = json!({ "type": "Strip" })))
            .says(&["model/tokenizer.json"]),
        refused("a padding of nonsense", 1, GENERATE)
            .after(|dir| tokenizer(dir, |t| t["padding"] = json!({ "strategy": { "Fixed": -1 } })))
            .says(&["model/tokenizer.json"]),
    ]
}

fn vocabularies() -> Vec<Case> {
    vec![
        refused("an unknown kind of vocabulary", 1, GENERATE)
            .after(|dir| model(dir, json!({ "type": "Magic", "vocab": {} })))
            .says(&["model/tokenizer.json"]),
        refused("merges of tokens that are not there", 1, GENERATE)
            .after(|dir| tokenizer(dir, |t| t["model"]["merges"] = json!([["yy", "zz"]])))
            .says(&["model/tokenizer.json", "yy"]),
        refused("a merge of one token", 1, GENERATE)
            .after(|dir| tokenizer(dir, |t| t["model"]["merges"] = json!(["a"])))
            .says(&["model/tokenizer.json"]),
        refused("a byte that has no token", 1, GENERATE)
            .after(|dir| tokenizer(dir, |t| drop(t["model"]["vocab"].as_object_mut().unwrap().remove("a"))))
            .says(&["model/tokenizer.json", "'a'"]),
        refused("an empty vocabulary", 1, GENERATE)
            .after(|dir| model(dir, json!({ "type": "BPE", "vocab": {}, "merges": [] })))
            .says(&["model/tokenizer.json", "vocabulary is empty"]),
        refused("words without the unknown one", 1, GENERATE)
            .after(|dir| model(dir, json!({ "type": "WordLevel", "vocab": {}, "unk_token": "[UNK]" })))
            .says(&["model/tokenizer.json"]),
        refused("word pieces without the unknown one", 1, GENERATE)
            .after(|dir| {
                let pieces = json!({
                    "type": "WordPiece",
                    "unk_token": "[UNK]",
                    "continuing_subword_prefix": "##",
                    "max_input_chars_per_word": 100,
                    "vocab": { "b": 0 },
                });
                model(dir, pieces);
            })
            .says(&["model/tokenizer.json", "[UNK]"]),
        refused("a unigram model without tokens", 1, GENERATE)
            .after(|dir| model(dir, json!({ "type": "Unigram", "unk_id": 0, "vocab": [] })))
            .says(&["model/tokenizer.json"]),
        refused("a unigram model whose unknown token is not there", 1, GENERATE)
            .after(|dir| model(dir, json!({ "type": "Unigram", "unk_id": 9, "vocab": [["a", -1.0]] })))
            .says(&["model/tokenizer.json"]),
        refused("a unigram model without an unknown token", 1, GENERATE)
            .after(|dir| model(dir, json!({ "type": "Unigram", "unk_id": null, "vocab": [["b", -1.0]] })))
            .says(&["model/tokenizer.json"]),
        refused("an unknown token that is not there", 1, "generate --model model --prompt é")
            .after(|dir| {
                model(
                    dir,
                    json!({ "type": "BPE", "vocab": { "a": 0, " ": 1, "1": 2 }, "merges": [], "unk_token": "?" }),
                )
            })
            .says(&["model"]),
        refused("an id that is a fraction", 1, GENERATE)
            .after(|dir| tokenizer(dir, |t| t["model"]["vocab"]["a"] = json!(0.5)))
            .says(&["model/tokenizer.json"]),
    ]
}

fn templates() -> Vec<Case> {
    vec![
        refused("half a chat template", 1, CHAT)
            .after(|dir| template(dir, "{% for message in messages %}"))
            .says(&["chat template of model"]),
        refused("a chat template that never comes to an end", 1, CHAT)
            .after(|dir| {
                template(dir, "{% for a in range(99999) %}{% for b in range(99999) %}{{ b }}{% endfor %}{% endfor %}");
            })
            .says(&["chat template of model", "did not come to an end"]),
        refused("a chat template that doubles its text", 1, CHAT)
            .after(|dir| {
                template(
                    dir,
                    "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
                );
            })
            .says(&["chat template of model", "did not come to an end"]),
        refused("a chat template that pads to four gigabytes", 1, CHAT)
            .after(|dir| template(dir, "{{ '{:>4000000000}'.format(1) }}"))
            .says(&["chat template of model", "did not come to an end"]),
        refused("a chat template with a list in a list, twice, sixty deep", 1, CHAT)
            .after(|dir| {
                template(
                    dir,
                    "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}\
                     {{ ns.x }}",
                );
            })
            .says(&["chat template of model", "did not come to an end"]),
        refused("a chat template that calls itself", 1, CHAT)
            .after(|dir| template(dir, "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}"))
            .says(&["chat template of model"]),
        refused("a chat template nested too deeply", 1, CHAT)
            .after(|dir| template(dir, &format!("{{{{ {}1{} }}}}", "(".repeat(50_000), ")".repeat(50_000))))
            .says(&["chat template of model"]),
        refused("a chat template of a megabyte", 1, CHAT)
            .after(|dir| template(dir, &"{{ 1 }}".repeat(150_000)))
            .says(&["chat template of model", "1050000 bytes"]),
        refused("a chat template that refuses", 1, CHAT)
            .after(|dir| template(dir, "{{ raise_exception('roles must alternate') }}"))
            .says(&["chat template of model", "roles must alternate"]),
        refused("a chat template with an unknown filter", 1, CHAT)
            .after(|dir| template(dir, "{{ messages | shout }}"))
            .says(&["chat template of model", "shout"]),
        refused("a chat template that divides by zero", 1, CHAT)
            .after(|dir| template(dir, "{{ 1 // 0 }}"))
            .says(&["chat template of model"]),
        refused("a chat template that is a number", 1, CHAT)
            .after(|dir| edit(dir.join("model/tokenizer_config.json"), |config| config["chat_template"] = json!(7)))
            .says(&["model/tokenizer_config.json", "`chat_template`"]),
        refused("a chat template that is no text", 1, CHAT)
            .after(|dir| put(dir.join("model/chat_template.jinja"), [0xff, 0xfe]))
            .says(&["model/chat_template.jinja", "utf-8"]),
        refused("a chat template that says nothing", 1, CHAT)
            .after(|dir| template(dir, "{# nothing #}"))
            .says(&["no tokens"]),
        refused("no chat template", 1, CHAT)
            .after(|dir| edit(dir.join("model/tokenizer_config.json"), |config| config["chat_template"] = Value::Null))
            .says(&["model", "no chat template", "chat_template.jinja"]),
    ]
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    assert!(bytes.len().is_multiple_of(3), "no padding here");
    let digit = |bits: u32| DIGITS[bits as usize & 63] as char;
    let three = |b: &[u8]| u32::from_be_bytes([0, b[0], b[1], b[2]]);
    bytes.chunks(3).map(three).flat_map(|n| [18, 12, 6, 0].map(|shift| digit(n >> shift))).collect()
}
