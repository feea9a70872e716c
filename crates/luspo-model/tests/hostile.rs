//! Crafted folders: each is refused by name, at once, and before memory is taken for it.

mod reference;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use luspo_model::{Backend, Pretrained, Qwen2ForTokenClassification, export};
use reference::fixtures;
use serde_json::{Map, Value, json};

/// Counts what is allocated at once.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(now, Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What is allocated is counted for the whole process: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

const NAME: &str = "model.layers.1.self_attn.k_proj.bias";
const FILE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The largest file that is parsed has 16 MiB; as objects it takes a few times that.
const MOST: usize = 256 << 20;

/// Says why a folder is refused by all that read one.
fn refused(dir: &Path) -> String {
    let device = Backend::Flex.device().unwrap();
    let (begin, before) = (Instant::now(), NOW.load(Relaxed));
    PEAK.store(before, Relaxed);
    let error = Pretrained::load(dir, &device).unwrap_err().to_string();
    let (taken, time) = (PEAK.load(Relaxed) - before, begin.elapsed());
    assert!(taken < MOST, "{taken} bytes for: {error}");
    assert!(time < Duration::from_secs(20), "{time:?} for: {error}"); // a fraction of a second on an idle machine
    assert!(error.len() < 2000, "{error}");

    let to = tempfile::tempdir().unwrap();
    // (An export copies numbers and does not judge them.)
    if !error.contains("not finite") {
        assert_eq!(export(dir, to.path(), &Default::default()).unwrap_err().to_string(), error);
    }
    let key = luspo_core::RandomKey::new(0, luspo_core::Purpose::Init);
    assert!(Qwen2ForTokenClassification::load(dir, key, &device).is_err());
    error
}

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", FILE] {
        fs::copy(fixtures().join("tiny").join(file), dir.path().join(file)).unwrap();
    }
    dir
}

fn header_and_data() -> (Map<String, Value>, Vec<u8>) {
    let bytes = fs::read(fixtures().join("tiny").join(FILE)).unwrap();
    let (length, rest) = bytes.split_first_chunk().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    (serde_json::from_slice(header).unwrap(), data.to_vec())
}

fn write(path: &Path, header: &[u8], data: &[u8]) {
    fs::write(path, [&(header.len() as u64).to_le_bytes(), header, data].concat()).unwrap();
}

/// The tiny checkpoint with another header and other bytes.
fn tampered(change: impl FnOnce(&mut Map<String, Value>, &mut Vec<u8>)) -> tempfile::TempDir {
    let (mut header, mut data) = header_and_data();
    change(&mut header, &mut data);
    let dir = folder();
    write(&dir.path().join(FILE), Value::Object(header).to_string().as_bytes(), &data);
    dir
}

#[test]
fn a_header_that_lies_about_the_bytes_is_refused() {
    let _alone = alone();
    assert!(Pretrained::load(folder().path(), &Backend::Flex.device().unwrap()).is_ok(), "untouched, it is sound");
    type Change = fn(&mut Map<String, Value>, &mut Vec<u8>);
    let cases: [(&str, Change); 15] = [
        ("overlapping", |header, _| header[NAME]["data_offsets"] = header["model.norm.weight"]["data_offsets"].clone()),
        ("a hole", |header, _| drop(header.shift_remove(NAME))),
        ("too few bytes", |_, data| data.truncate(data.len() - 1)),
        ("too many bytes", |_, data| data.push(0)),
        ("beyond the end", |header, _| header[NAME]["data_offsets"] = json!([1_u64 << 40, (1_u64 << 40) + 128])),
        ("backwards", |header, _| header[NAME]["data_offsets"] = json!([128, 0])),
        ("wrapping", |header, _| header[NAME]["data_offsets"] = json!([u64::MAX - 3, u64::MAX])),
        ("negative", |header, _| header[NAME]["data_offsets"] = json!([-128, 0])),
        ("a fraction", |header, _| header[NAME]["data_offsets"] = json!([0.5, 128])),
        ("shape × type", |header, _| header[NAME]["dtype"] = json!("F64")),
        ("a larger shape", |header, _| header[NAME]["shape"] = json!([33])),
        ("2⁶³ numbers", |header, _| header[NAME]["shape"] = json!([1_u64 << 63])),
        ("2¹²⁸ numbers", |header, _| header[NAME]["shape"] = json!([u64::MAX, u64::MAX])),
        ("no such type", |header, _| header[NAME]["dtype"] = json!("F7")),
        ("no tensor", |header, _| header[NAME] = json!("none")),
    ];
    for (what, change) in cases {
        let error = refused(tampered(change).path());
        assert!(error.contains(FILE), "{what}: {error}");
    }
}

#[test]
fn a_shape_that_only_says_more_dimensions_is_refused_by_name() {
    let _alone = alone();
    for shape in [
        json!([32, 1]),
        json!([1, 32]),
        json!([4, 8]),
        json!(vec![1; 100_000].into_iter().chain([32]).collect::<Vec<_>>()),
    ] {
        let error = refused(tampered(|header, _| header[NAME]["shape"] = shape.clone()).path());
        assert!(error.contains(NAME) && error.contains("[32]"), "{error}");
    }
}

#[test]
fn a_header_that_is_none_is_refused() {
    let _alone = alone();
    let deep = "[".repeat(1 << 20);
    let objects = r#"{"a":"#.repeat(1 << 18);
    for header in
        ["", "{", "[]", "7", "null", "\u{0}", &deep, &objects, r#"{"__metadata__":7}"#, r#"{"__metadata__":{"a":{}}}"#]
    {
        let dir = folder();
        write(&dir.path().join(FILE), header.as_bytes(), &[]);
        assert!(refused(dir.path()).contains(FILE));
    }
    let dir = folder();
    write(&dir.path().join(FILE), b"\xff\xfe\xfd", &[]);
    assert!(refused(dir.path()).contains(FILE));
}

#[test]
fn a_giant_header_is_refused_before_it_is_read() {
    let _alone = alone();
    // A sparse file that has all the bytes that it says.
    for (length, size) in [(1 << 40, 1_u64 << 41), (99 << 20, 1 << 30), ((16 << 20) + 1, 1 << 30)] {
        let dir = folder();
        let mut file = File::create(dir.path().join(FILE)).unwrap();
        file.set_len(size).unwrap();
        file.write_all(&u64::to_le_bytes(length)).unwrap();
        let error = refused(dir.path());
        assert!(error.contains(FILE) && error.contains(&length.to_string()), "{error}");
    }
    for length in [u64::MAX, i64::MAX as u64, 1 << 20] {
        let dir = folder();
        fs::write(dir.path().join(FILE), [&length.to_le_bytes()[..], b"{}"].concat()).unwrap();
        assert!(refused(dir.path()).contains(FILE));
    }
    for bytes in [&b""[..], b"\x02", b"\x02\0\0\0\0\0\0"] {
        let dir = folder();
        fs::write(dir.path().join(FILE), bytes).unwrap();
        assert!(refused(dir.path()).contains(FILE));
    }
}

#[test]
fn very_many_tensors_cost_no_more_than_their_header() {
    let _alone = alone();
    let header = |tensors: usize| -> String {
        let tensor = |i| format!(r#""t{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#);
        format!("{{{}}}", (0..tensors).map(tensor).collect::<Vec<_>>().join(","))
    };
    let dir = folder();
    write(&dir.path().join(FILE), header(1_000_000).as_bytes(), &[]);
    assert!(refused(dir.path()).contains("header of"));
    write(&dir.path().join(FILE), header(200_000).as_bytes(), &[]);
    let error = refused(dir.path());
    // The tiny checkpoint has 26.
    assert!(error.contains("`model.embed_tokens.weight`") && error.contains("and 18 more"), "{error}");
}

#[test]
fn a_name_that_stands_twice_in_a_header_does_not_hide_bytes() {
    let _alone = alone();
    let (header, mut data) = header_and_data();
    let text = Value::Object(header).to_string();
    let again =
        format!(r#","{NAME}":{{"dtype":"F32","shape":[32],"data_offsets":[{},{}]}}}}"#, data.len(), data.len() + 128);
    data.extend([0; 128]);
    let dir = folder();
    write(&dir.path().join(FILE), (text[..text.len() - 1].to_string() + &again).as_bytes(), &data);
    assert!(refused(dir.path()).contains(FILE));
}

#[test]
fn numbers_that_are_none_are_refused_by_name() {
    let _alone = alone();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let dir = tampered(|header, data| {
            let start = header[NAME]["data_offsets"][0].as_u64().unwrap() as usize;
            data[start + 4..start + 8].copy_from_slice(&bad.to_le_bytes());
        });
        let error = refused(dir.path());
        assert!(error.contains(NAME) && error.contains(&bad.to_string()) && error.contains("not finite"), "{error}");
    }
}

/// The tiny checkpoint in two shards, `a` with every other tensor and `b` with the rest.
fn sharded(change: impl FnOnce(&mut Map<String, Value>)) -> tempfile::TempDir {
    let (header, data) = header_and_data();
    let dir = folder();
    fs::remove_file(dir.path().join(FILE)).unwrap();
    let mut map = Map::new();
    for (half, file) in ["a.safetensors", "b.safetensors"].into_iter().enumerate() {
        let (mut part, mut bytes) = (Map::new(), Vec::new());
        let tensors = header.iter().filter(|(name, _)| *name != "__metadata__");
        for (name, info) in tensors.skip(half).step_by(2) {
            let [from, to] = [0, 1].map(|end| info["data_offsets"][end].as_u64().unwrap() as usize);
            let mut info = info.clone();
            info["data_offsets"] = json!([bytes.len(), bytes.len() + to - from]);
            bytes.extend(&data[from..to]);
            part.insert(name.clone(), info);
            map.insert(name.clone(), json!(file));
        }
        write(&dir.path().join(file), Value::Object(part).to_string().as_bytes(), &bytes);
    }
    change(&mut map);
    fs::write(dir.path().join(INDEX), json!({ "weight_map": map }).to_string()).unwrap();
    dir
}

#[test]
fn an_index_leads_nowhere_else() {
    let _alone = alone();
    assert!(Pretrained::load(sharded(|_| {}).path(), &Backend::Flex.device().unwrap()).is_ok());
    let absolute = fixtures().join("tiny").join(FILE).canonicalize().unwrap();
    let outside = ["../a.safetensors", "/etc/passwd", "..", ".", "", "/", "./a.safetensors", "x/../a.safetensors"];
    for shard in outside.into_iter().chain([absolute.to_str().unwrap()]) {
        let error = refused(sharded(|map| map[NAME] = json!(shard)).path());
        assert!(error.contains(INDEX) && error.contains(NAME) && error.contains("plain file name"), "{error}");
    }
    // Plain names that are no weights.
    for shard in ["config.json", INDEX, "folder", "none", "device", "pipe", "a\0b"] {
        let dir = sharded(|map| map[NAME] = json!(shard));
        fs::create_dir(dir.path().join("folder")).unwrap();
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("/dev/zero", dir.path().join("device")).unwrap();
            assert!(std::process::Command::new("mkfifo").arg(dir.path().join("pipe")).status().unwrap().success());
        }
        assert!(refused(dir.path()).contains(shard), "{shard:?}");
    }
}

#[test]
fn a_tensor_is_in_one_shard() {
    let _alone = alone();
    // The index says the other file.
    let other = |map: &mut Map<String, Value>| {
        let file = if map[NAME] == "a.safetensors" { "b.safetensors" } else { "a.safetensors" };
        map[NAME] = json!(file);
    };
    let error = refused(sharded(other).path());
    assert!(error.contains(NAME) && error.contains("safetensors"), "{error}");
    // Both files have it, whether the index says which or not.
    for said in [true, false] {
        let dir = sharded(|map| {
            if !said {
                drop(map.shift_remove(NAME))
            }
        });
        for file in ["a.safetensors", "b.safetensors"] {
            let bytes = fs::read(dir.path().join(file)).unwrap();
            let (length, rest) = bytes.split_first_chunk().unwrap();
            let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
            let mut header: Map<String, Value> = serde_json::from_slice(header).unwrap();
            if !header.contains_key(NAME) {
                let end = data.len();
                header.insert(NAME.into(), json!({ "dtype": "F32", "shape": [32], "data_offsets": [end, end + 128] }));
                let data = [data, &[0; 128]].concat();
                write(&dir.path().join(file), Value::Object(header).to_string().as_bytes(), &data);
            }
        }
        let error = refused(dir.path());
        assert!(error.contains(NAME) && error.contains("a.safetensors") && error.contains("b.safetensors"), "{error}");
    }
}

#[test]
fn an_index_that_is_none_is_refused() {
    let _alone = alone();
    let deep = "[".repeat(1 << 20);
    let map = |value: &str| format!(r#"{{"weight_map":{value}}}"#);
    for text in ["", "[]", "{}", &map("7"), &map("[]"), &map(r#"{"a":7}"#), &map(r#"{"a":null}"#), &map(&deep)] {
        let dir = sharded(|_| {});
        fs::write(dir.path().join(INDEX), text).unwrap();
        assert!(refused(dir.path()).contains(INDEX));
    }
    let dir = sharded(|_| {});
    fs::write(dir.path().join(INDEX), map("{}")).unwrap();
    let error = refused(dir.path());
    assert!(error.contains(INDEX) && error.contains("`model.embed_tokens.weight`"), "{error}");
    // Sparse, and with a million tensors.
    let mut file = File::create(dir.path().join(INDEX)).unwrap();
    file.seek(SeekFrom::Start(900 << 20)).unwrap();
    file.write_all(b"}").unwrap();
    assert!(refused(dir.path()).contains("index of"));
    let tensors: Vec<_> = (0..1_000_000).map(|i| format!(r#""t{i}":"a.safetensors""#)).collect();
    fs::write(dir.path().join(INDEX), map(&format!("{{{}}}", tensors.join(",")))).unwrap();
    assert!(refused(dir.path()).contains("index of"));
}

#[test]
fn sizes_that_no_machine_has_are_refused_by_name() {
    let _alone = alone();
    let keys = [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
    ];
    let sizes =
        [json!(0), json!(-1), json!(1_u64 << 63), json!(u64::MAX), json!(1e300), json!(0.5), json!("8"), json!([])];
    for (key, size) in keys.iter().flat_map(|key| sizes.iter().map(move |size| (*key, size))) {
        let dir = folder();
        let path = dir.path().join("config.json");
        let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        config[key] = size.clone();
        fs::write(&path, config.to_string()).unwrap();
        let error = refused(dir.path());
        assert!(error.contains("config.json") && error.contains(key), "{key} = {size}: {error}");
    }
    // Each below its limit, and together far beyond any machine.
    let dir = folder();
    let path = dir.path().join("config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    for (key, size) in [("vocab_size", 1 << 24), ("hidden_size", 1 << 20), ("intermediate_size", 1 << 22)] {
        config[key] = json!(size);
    }
    fs::write(&path, config.to_string()).unwrap();
    assert!(refused(dir.path()).contains("model.embed_tokens.weight"));
}
