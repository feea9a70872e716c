//! Tokenizers and chat templates.

use std::fs;

use luspo_core::Message;
use luspo_data::{DataError, PromptText, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

const TEXTS: [&str; 3] = ["the cat sat on the mat", "the hat, the bat; the 12 rats", "größer — 12 und 12"];

fn bytes_only() -> Tokenizer {
    Tokenizer::train_byte_level(std::iter::empty(), 259).unwrap()
}

/// A folder with a byte tokenizer and this configuration.
fn folder(config: &Value) -> TempDir {
    let dir = TempDir::new().unwrap();
    bytes_only().save(dir.path()).unwrap();
    fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    dir
}

/// Changes the folder's `tokenizer.json`.
fn edit(dir: &TempDir, change: impl FnOnce(&mut Value)) {
    let file = dir.path().join("tokenizer.json");
    let mut tokenizer = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    change(&mut tokenizer);
    fs::write(file, tokenizer.to_string()).unwrap();
}

fn with_template(template: &str) -> Result<Tokenizer, DataError> {
    let config = json!({ "chat_template": template, "eos_token": "<|im_end|>" });
    Tokenizer::from_folder(folder(&config).path())
}

fn render(template: &str, messages: &[(&str, &str)]) -> Result<String, DataError> {
    let messages: Vec<Message> = messages.iter().map(|(role, content)| Message::new(*role, *content)).collect();
    with_template(template)?.apply_chat_template(&messages)
}

proptest! {
    #[test]
    fn a_trained_tokenizer_gives_any_text_back(text: String) {
        for tokenizer in [bytes_only(), Tokenizer::train_byte_level(TEXTS.into_iter(), 280).unwrap()] {
            let ids = tokenizer.encode(&text).unwrap();
            prop_assert_eq!(tokenizer.decode(&ids).unwrap(), text.clone());
            prop_assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
        }
    }
}

#[test]
fn without_merges_a_token_is_a_byte() {
    let tokenizer = bytes_only();
    assert_eq!(tokenizer.vocab_size(), 259);
    assert_eq!(tokenizer.encode("größer 12").unwrap().len(), "größer 12".len());
    assert!(tokenizer.encode("größer 12").unwrap().iter().all(|&id| id < 256));
    assert_eq!(tokenizer.encode("<|endoftext|><|im_start|><|im_end|>").unwrap(), [256, 257, 258]);
    assert_eq!((tokenizer.eos_token_id(), tokenizer.assistant_end()), (Some(256), vec![256]));
    assert_eq!(tokenizer.decode(&tokenizer.encode("a<|endoftext|>b").unwrap()).unwrap(), "ab");
    assert_eq!(tokenizer.encode("").unwrap(), [] as [u32; 0]);
}

#[test]
fn merges_shorten_what_they_were_learned_from() {
    let tokenizer = Tokenizer::train_byte_level(TEXTS.into_iter(), 265).unwrap();
    assert_eq!(tokenizer.vocab_size(), 265);
    assert_eq!(tokenizer.encode("the").unwrap().len(), 1);
    assert_eq!(tokenizer.eos_token_id(), Some(262));
}

#[test]
fn digits_never_merge() {
    let tokenizer = Tokenizer::train_byte_level(["12 12 12 12 a12 12,"; 9].into_iter(), 300).unwrap();
    assert_eq!(tokenizer.encode("12").unwrap(), bytes_only().encode("12").unwrap());
    assert_eq!(tokenizer.encode(" 12").unwrap().len(), 3);
}

#[test]
fn a_vocabulary_is_no_larger_than_the_texts_allow() {
    assert_eq!(Tokenizer::train_byte_level(["aaaa"].into_iter(), 5000).unwrap().vocab_size(), 261);
}

#[test]
fn a_vocabulary_without_room_for_the_bytes_is_refused() {
    let error = Tokenizer::train_byte_level(TEXTS.into_iter(), 258).unwrap_err().to_string();
    assert!(error.contains("vocab_size = 258 is too small") && error.contains("259"), "{error}");
}

#[test]
fn training_is_deterministic() {
    let texts: Vec<String> = (0..500u64).map(|i| format!("word{} {:x}", i % 7, i * i * 2_654_435_761)).collect();
    let files = |_| {
        let dir = TempDir::new().unwrap();
        Tokenizer::train_byte_level(texts.iter().map(String::as_str), 400).unwrap().save(dir.path()).unwrap();
        fs::read(dir.path().join("tokenizer.json")).unwrap()
    };
    let first = files(0);
    assert!((1..10).map(files).all(|again| again == first));
}

#[test]
fn a_saved_folder_is_the_one_that_was_read() {
    let config = json!({ "eos_token": "<|im_end|>", "unknown_key": [1, 2], "chat_template": "from the config" });
    let read = folder(&config);
    fs::write(read.path().join("chat_template.jinja"), "from the file").unwrap();
    let written = TempDir::new().unwrap();
    Tokenizer::from_folder(read.path()).unwrap().save(&written.path().join("policy")).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        let bytes = |dir: &std::path::Path| fs::read(dir.join(name)).unwrap();
        assert_eq!(bytes(read.path()), bytes(&written.path().join("policy")), "{name}");
    }
    let again = Tokenizer::from_folder(&written.path().join("policy")).unwrap();
    assert_eq!(again.apply_chat_template(&[]).unwrap(), "from the file");
}

#[test]
fn special_tokens_are_text_or_objects() {
    for eos in [json!("<|im_end|>"), json!({ "content": "<|im_end|>", "lstrip": false })] {
        let template = "{{ messages[0].content }}{{ eos_token }}{{ bos_token }}";
        let dir = folder(&json!({ "eos_token": eos, "chat_template": template }));
        let tokenizer = Tokenizer::from_folder(dir.path()).unwrap();
        assert_eq!(tokenizer.eos_token_id(), Some(258));
        assert_eq!(tokenizer.apply_chat_template(&[Message::new("user", "hi")]).unwrap(), "hi<|im_end|>");
    }
}

#[test]
fn an_end_of_sequence_that_is_no_token_is_refused() {
    let dir = folder(&json!({ "eos_token": "</s>" }));
    let error = Tokenizer::from_folder(dir.path()).unwrap_err().to_string();
    assert!(error.contains("tokenizer_config.json") && error.contains("\"</s>\""), "{error}");
}

#[test]
fn of_several_templates_the_default_one_is_used() {
    let named = |names: &[&str]| -> Value {
        names.iter().map(|name| json!({ "name": name, "template": format!("the {name} one") })).collect()
    };
    let load = |names: &[&str]| Tokenizer::from_folder(folder(&json!({ "chat_template": named(names) })).path());
    assert_eq!(load(&["tool_use", "default"]).unwrap().apply_chat_template(&[]).unwrap(), "the default one");
    assert_eq!(load(&["rag"]).unwrap().apply_chat_template(&[]).unwrap(), "the rag one");
    assert!(load(&["rag", "tool_use"]).unwrap_err().to_string().contains("none named \"default\""));
}

#[test]
fn messages_without_a_template_say_what_to_do_and_plain_text_needs_none() {
    let dir = folder(&json!({}));
    let tokenizer = Tokenizer::from_folder(dir.path()).unwrap();
    let error = tokenizer.encode_prompt(&PromptText::Messages(vec![Message::new("user", "hi")])).unwrap_err();
    assert!(error.to_string().contains("chat_template.jinja"), "{error}");
    assert_eq!(tokenizer.encode_prompt(&PromptText::Text("hi".into())).unwrap().len(), 2);
    assert_eq!((tokenizer.eos_token_id(), tokenizer.assistant_end()), (None, vec![]));
}

#[test]
fn block_tags_leave_no_trace_of_their_line() {
    let template = "{% for m in messages %}\n    {% if m.role == 'user' %}\nQ: {{ m.content }}\n    {% endif %}\n{% endfor %}\n{% if add_generation_prompt %}\nA:{% endif %}\n";
    assert_eq!(render(template, &[("user", "one"), ("system", "x"), ("user", "two")]).unwrap(), "Q: one\nQ: two\nA:");
}

#[test]
fn templates_speak_python() {
    let messages = [("user", "  Hi there "), ("assistant", "a</think>b")];
    for (template, expected) in [
        ("{{ messages[0].content.strip() }}", "Hi there"),
        ("{{ messages[0]['content'] | trim | upper }}", "HI THERE"),
        ("{{ messages[1].content.split('</think>')[-1] }}", "b"),
        ("{{ messages[1].content.startswith('a') }}", "True"),
        ("{{ messages[0].get('tool_calls', 'none') }}", "none"),
        ("{% for m in messages[::-1] %}{{ m.role[0] }}{% endfor %}", "au"),
        ("{% for m in messages[1:] %}{{ m.role }}{% endfor %}", "assistant"),
        ("{% for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}{{ m.role }}{% endfor %}", "user"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "2"),
        ("{% if tools %}tools{% endif %}{% if tools is none %}no tools{% endif %}", "no tools"),
        ("{% macro turn(m) %}[{{ m.role }}]{% endmacro %}{{ turn(messages[0]) }}", "[user]"),
        ("{% if messages[0].content is string and messages[0].name is not defined %}ok{% endif %}", "ok"),
        ("{{ '<|im_start|>' + messages[1].role + '\\n' }}", "<|im_start|>assistant\n"),
        ("{{ messages[1].content }}", "a</think>b"),
    ] {
        assert_eq!(render(template, &messages).unwrap(), expected, "{template}");
    }
}

#[test]
fn a_template_may_refuse_a_conversation() {
    let template = "{% if messages[0].role != 'system' %}{{ raise_exception('a system message first') }}{% endif %}";
    let error = render(template, &[("user", "hi")]).unwrap_err().to_string();
    assert!(error.contains("a system message first"), "{error}");
    assert_eq!(render(template, &[("system", "hi")]).unwrap(), "");
}

#[test]
fn a_template_that_does_not_end_is_stopped() {
    let endless = "{% for a in range(10000) %}{% for b in range(10000) %}{{ b }}{% endfor %}{% endfor %}";
    let error = render(endless, &[]).unwrap_err().to_string();
    assert!(error.contains("did not come to an end"), "{error}");
    assert!(render("{{ 'x' * 10000000000 }}", &[]).is_err());
}

#[test]
fn a_template_cannot_overflow_the_stack() {
    // With the 8 MB of a main thread, 30 000 operators or 20 000 nested lists end the process.
    let operators = format!("{{{{ {} 1 }}}}", "-".repeat(250_000));
    assert_eq!(render(&operators, &[]).unwrap(), "1");
    let lists = "{% set ns = namespace(x=[]) %}{% for a in range(400) %}{% for b in range(1000) %}{% set ns.x = [ns.x] %}\
                 {% endfor %}{% endfor %}{{ ns.x }}";
    assert_eq!(render(lists, &[]).unwrap().len(), 800_002);
    assert!(render(&"-".repeat(300_000), &[]).unwrap_err().to_string().contains("300000 bytes"));
}

#[test]
fn a_long_conversation_is_within_the_fuel() {
    let long = "word ".repeat(400_000);
    let template = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content.strip() }}{% endfor %}";
    assert!(render(template, &[("user", &long), ("assistant", &long)]).unwrap().len() > 3_900_000);
}

#[test]
fn a_template_that_does_not_compile_is_refused_when_read() {
    let error = with_template("{% for m in messages %}").unwrap_err();
    assert!(matches!(error, DataError::ChatTemplate { .. }), "{error}");
}

#[test]
fn damaged_files_are_refused_by_name() {
    let dir = folder(&json!({}));
    let file = dir.path().join("tokenizer.json");
    let whole = fs::read_to_string(&file).unwrap();
    let with = |key: &str, value: Value| {
        let mut tokenizer: Value = serde_json::from_str(&whole).unwrap();
        *tokenizer.pointer_mut(key).unwrap() = value;
        tokenizer.to_string()
    };
    let damaged = [
        String::new(),
        "{}".into(),
        whole[..whole.len() / 2].to_owned(),
        with("/model/merges", json!([["a", "no such token"]])),
        with("/model/type", json!("none")),
        with("/model/vocab", json!([])),
        // The crate panics on these, on the last two only when it tokenises.
        with("/normalizer", json!({ "type": "Precompiled", "precompiled_charsmap": "" })),
        with("/normalizer", json!({ "type": "Replace", "pattern": { "String": "" }, "content": "x" })),
        with("/pre_tokenizer", json!({ "type": "FixedLength", "length": 0 })),
    ];
    for content in damaged {
        fs::write(&file, content).unwrap();
        let error = Tokenizer::from_folder(dir.path()).unwrap_err();
        assert!(matches!(&error, DataError::TokenizerFile { file, .. } if file.ends_with("tokenizer.json")), "{error}");
    }
    fs::write(&file, whole).unwrap();
    fs::write(dir.path().join("tokenizer_config.json"), "{").unwrap();
    assert!(Tokenizer::from_folder(dir.path()).unwrap_err().to_string().contains("tokenizer_config.json"));
}

#[test]
fn a_folder_without_a_tokenizer_says_what_is_wanted() {
    let dir = folder(&json!({}));
    let file = dir.path().join("tokenizer.json");
    // The file in place of its folder is the other way to get it wrong.
    for wrong in [dir.path().join("no such folder"), file.clone()] {
        let error = Tokenizer::from_folder(&wrong).unwrap_err();
        assert!(matches!(&error, DataError::NoTokenizer { folder } if *folder == wrong), "{error}");
    }
    fs::remove_file(&file).unwrap();
    let error = Tokenizer::from_folder(dir.path()).unwrap_err().to_string();
    assert!(error.contains("a folder that holds a model's tokenizer.json and tokenizer_config.json"), "{error}");
}

#[test]
fn dropout_does_not_make_tokens_random() {
    let dir = TempDir::new().unwrap();
    let trained = Tokenizer::train_byte_level(TEXTS.into_iter(), 280).unwrap();
    trained.save(dir.path()).unwrap();
    edit(&dir, |tokenizer| tokenizer["model"]["dropout"] = json!(0.5));
    let read = Tokenizer::from_folder(dir.path()).unwrap();
    for _ in 0..20 {
        assert_eq!(read.encode(TEXTS[1]).unwrap(), trained.encode(TEXTS[1]).unwrap());
    }
}

#[test]
fn a_byte_level_vocabulary_that_drops_a_byte_is_refused() {
    let dir = folder(&json!({}));
    // "\u{120}" is the space; the trained tokenizer has its byte level inside a sequence.
    edit(&dir, |tokenizer| {
        tokenizer["model"]["vocab"].as_object_mut().unwrap().remove("\u{120}").unwrap();
    });
    for alone in [false, true] {
        if alone {
            edit(&dir, |tokenizer| {
                tokenizer["pre_tokenizer"] = tokenizer["pre_tokenizer"]["pretokenizers"][1].take();
                assert_eq!(tokenizer["pre_tokenizer"]["type"], "ByteLevel");
            });
        }
        let error = Tokenizer::from_folder(dir.path()).unwrap_err();
        assert!(matches!(&error, DataError::TokenizerFile { file, .. } if file.ends_with("tokenizer.json")), "{error}");
        assert!(error.to_string().contains("'\u{120}'"), "{error}");
    }

    edit(&dir, |tokenizer| tokenizer["model"]["unk_token"] = json!("a"));
    let tokenizer = Tokenizer::from_folder(dir.path()).unwrap();
    assert_eq!(tokenizer.encode(" ").unwrap(), tokenizer.encode("a").unwrap());
}

/// The value with this number, counted depth first, replaced; how many there were before it if there are fewer.
fn replace(value: &mut Value, number: usize, by: &Value) -> Result<(), usize> {
    if number == 0 {
        *value = by.clone();
        return Ok(());
    }
    let children: Vec<&mut Value> = match value {
        Value::Array(items) => items.iter_mut().collect(),
        Value::Object(object) => object.values_mut().collect(),
        _ => Vec::new(),
    };
    let mut before = 1;
    for child in children {
        match replace(child, number - before, by) {
            Ok(()) => return Ok(()),
            Err(inside) => before += inside,
        }
        if before > number {
            break;
        }
    }
    Err(before)
}

proptest! {
    #[test]
    fn a_crafted_tokenizer_never_panics(number in 0.0..1.0, by in 0usize..11) {
        let dir = folder(&json!({}));
        Tokenizer::train_byte_level(TEXTS.into_iter(), 280).unwrap().save(dir.path()).unwrap();
        let values = [
            json!(null), json!(0), json!(-1), json!(u64::MAX), json!(1e300), json!(""), json!("x"), json!([]), json!({}),
            json!(true), json!([["a", "b"], ["", ""]]),
        ];
        edit(&dir, |tokenizer| {
            let all = replace(tokenizer, usize::MAX, &Value::Null).unwrap_err();
            // Half of the replacements meet the settings, which stand before the vocabulary.
            let range = if by % 2 == 0 { all } else { 60 };
            let place = 1 + (number * (range - 1) as f64) as usize;
            replace(tokenizer, place, &values[by]).unwrap();
        });
        match Tokenizer::from_folder(dir.path()) {
            Ok(tokenizer) => {
                for text in TEXTS.into_iter().chain(["", "<|endoftext|>\u{0}\u{10ffff}"]) {
                    if let Ok(ids) = tokenizer.encode(text) {
                        let _ = tokenizer.decode(&ids);
                    }
                }
                let _ = tokenizer.decode(&[0, 1000, u32::MAX]);
            }
            Err(error) => prop_assert!(error.to_string().contains("tokenizer"), "{}", error),
        }
    }
}
