//! Models by their name at a hub: a server of our own serves one, and the command fetches it.

mod hub_server;
mod support;

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use hub_server::{COMMIT, Fault, HubServer, OTHER_COMMIT, REPOSITORY};
use serde_json::json;
use tempfile::TempDir;

/// What fetches and scores.
const SCORE: &str = "score --model owner/tiny --input score.jsonl";

/// A working directory with a model to serve (in one file, or in shards), data, and a cache beside it.
struct Ground {
    dir: TempDir,
    server: HubServer,
}

impl Ground {
    fn lay(sharded: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        support::train(dir.path(), "made", &["total_training_steps=1", "sft.steps=1"]);
        let shards = if sharded { "20KB" } else { "5GB" };
        let export = ["export", "runs/made", "--out", "served", "--max-shard-size", shards];
        support::luspo(dir.path()).args(export).assert().success();
        fs::write(dir.path().join("served/pytorch_model.bin"), "of no use here").unwrap();
        fs::write(dir.path().join("score.jsonl"), "{\"token_ids\": [5, 6, 7, 8]}\n").unwrap();
        let server = HubServer::start(dir.path().join("served"));
        Self { dir, server }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The command, in an environment in which the hub is our server.
    fn luspo(&self, line: &str) -> Command {
        let mut command = support::luspo(self.dir.path());
        for variable in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE"] {
            command.env_remove(variable);
        }
        for variable in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env_remove(variable);
        }
        command.env("HF_ENDPOINT", self.server.url()).env("HF_HOME", self.path("home")).args(line.split(' '));
        command
    }

    /// Standard output of a command that succeeds.
    fn done(&self, mut command: Command) -> String {
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The message of a command that fails, as it does, in one sentence.
    fn refused(&self, mut command: Command) -> String {
        let output = command.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        let error = stderr.lines().filter(|line| line.starts_with("error: ")).collect::<Vec<_>>();
        assert!(error.len() == 1 && !stderr.contains("panicked"), "{stderr}");
        error[0].to_string()
    }

    fn snapshot(&self, commit: &str) -> PathBuf {
        self.path("home/hub/models--owner--tiny/snapshots").join(commit)
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_model_is_fetched_once_and_scores_as_its_folder_does() {
    let ground = Ground::lay(false);
    let expected = ground.done(ground.luspo("score --model served --input score.jsonl"));
    assert_eq!(ground.server.requests().len(), 0, "a folder asks nobody");

    assert_eq!(ground.done(ground.luspo(SCORE)), expected);
    let fetched = names(&ground.snapshot(COMMIT));
    let wanted =
        ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    assert_eq!(fetched.iter().filter(|name| *name != "chat_template.jinja").collect::<Vec<_>>(), wanted.to_vec());
    for name in &fetched {
        let (here, there) = (ground.snapshot(COMMIT).join(name), ground.path("served").join(name));
        assert_eq!(fs::read(here).unwrap(), fs::read(there).unwrap(), "{name}");
    }
    assert_eq!(fs::read_to_string(ground.path("home/hub/models--owner--tiny/refs/main")).unwrap(), COMMIT);
    assert!(ground.server.requests().iter().all(|request| !request.contains("pytorch_model.bin")));

    // The second time only the commit is asked for.
    let before = ground.server.requests().len();
    assert_eq!(ground.done(ground.luspo(SCORE)), expected);
    let asked = ground.server.requests()[before..].to_vec();
    assert_eq!(asked, [format!("GET /api/models/{REPOSITORY}/revision/main")]);
}

#[test]
fn without_a_server_the_cache_is_enough() {
    let mut ground = Ground::lay(true);
    let expected = ground.done(ground.luspo(SCORE));
    let before = ground.server.requests().len();
    let mut offline = ground.luspo(SCORE);
    offline.env("HF_HUB_OFFLINE", "1");
    assert_eq!(ground.done(offline), expected);
    assert_eq!(ground.server.requests().len(), before, "offline means that nobody is asked");
    let pinned = SCORE.replace("owner/tiny", &format!("owner/tiny@{COMMIT}"));
    assert_eq!(ground.done(ground.luspo(&pinned)), expected);
    assert_eq!(ground.server.requests().len(), before, "a commit never changes");

    ground.server.stop();
    let output = ground.luspo(SCORE).output().unwrap();
    let warning = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    assert!(warning.contains("owner/tiny") && warning.contains(COMMIT), "{warning}");

    let mut unknown = ground.luspo("score --model owner/other --input score.jsonl");
    unknown.env("HF_HUB_OFFLINE", "1");
    let error = ground.refused(unknown);
    assert!(error.contains("owner/other") && error.contains("HF_HUB_OFFLINE"), "{error}");
}

#[test]
fn a_new_commit_brings_only_what_changed() {
    let ground = Ground::lay(false);
    ground.done(ground.luspo(SCORE));
    let before = ground.server.requests().len();
    ground.server.set_commit(OTHER_COMMIT);
    fs::write(ground.path("served/generation_config.json"), "{\"eos_token_id\": 1}").unwrap();
    ground.done(ground.luspo(SCORE));
    let bodies: Vec<String> =
        ground.server.requests()[before..].iter().filter(|r| r.starts_with("GET /owner")).cloned().collect();
    assert_eq!(bodies, [format!("GET /{REPOSITORY}/resolve/{OTHER_COMMIT}/generation_config.json")]);
    assert!(ground.snapshot(OTHER_COMMIT).join("model.safetensors").exists());
    // The commit before is still there under its own name.
    let pinned = SCORE.replace("owner/tiny", &format!("owner/tiny@{COMMIT}"));
    ground.done(ground.luspo(&pinned));
}

#[test]
fn the_cache_lies_where_the_environment_says() {
    let ground = Ground::lay(false);
    let mut command = ground.luspo(SCORE);
    command.env("HF_HUB_CACHE", ground.path("elsewhere"));
    ground.done(command);
    assert!(ground.path("elsewhere/models--owner--tiny/refs/main").is_file());
    assert!(!ground.path("home").exists());
}

#[test]
fn a_token_goes_to_the_hub_and_nowhere_else() {
    let ground = Ground::lay(false);
    ground.server.fault(Fault::Gated("secret"));
    let error = ground.refused(ground.luspo(SCORE));
    assert!(error.contains("owner/tiny") && error.contains("401") && error.contains("HF_TOKEN"), "{error}");
    let mut wrong = ground.luspo(SCORE);
    wrong.env("HF_TOKEN", "wrong");
    let error = ground.refused(wrong);
    assert!(error.contains("403") && error.contains("conditions"), "{error}");

    let mut right = ground.luspo(SCORE);
    right.env("HF_TOKEN", "secret");
    ground.done(right);
    // The weights come from a store that the hub leads to; its address is the pass.
    assert!(ground.server.requests().iter().any(|request| request.contains("/store/model.safetensors")));
    assert_eq!(ground.server.tokens_at_the_store(), 0);

    fs::remove_dir_all(ground.path("home")).unwrap();
    fs::create_dir(ground.path("home")).unwrap();
    fs::write(ground.path("home/token"), "secret\n").unwrap();
    ground.done(ground.luspo(SCORE));
}

#[test]
fn what_the_hub_does_not_have_is_named() {
    let ground = Ground::lay(false);
    for (model, words) in [
        ("owner/none", ["owner/none", "404", "no folder of that name"]),
        ("owner/tiny@v9", ["owner/tiny@v9", "404", "revision `v9`"]),
    ] {
        let error = ground.refused(ground.luspo(&format!("score --model {model} --input score.jsonl")));
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
    fs::remove_file(ground.path("served/model.safetensors")).unwrap();
    let error = ground.refused(ground.luspo(SCORE));
    assert!(error.contains("owner/tiny") && error.contains("no model.safetensors"), "{error}");
    fs::remove_dir_all(ground.path("served")).unwrap();
}

#[test]
fn what_breaks_off_is_never_taken_for_whole_and_goes_on_where_it_stopped() {
    let ground = Ground::lay(false);
    let expected = ground.done(ground.luspo("score --model served --input score.jsonl"));
    ground.server.fault(Fault::BreakOff("model.safetensors", 1000));
    let error = ground.refused(ground.luspo(SCORE));
    assert!(error.contains("model.safetensors broke off after 1000 of"), "{error}");
    assert!(!ground.snapshot(COMMIT).join("model.safetensors").exists());
    let mut offline = ground.luspo(SCORE);
    offline.env("HF_HUB_OFFLINE", "1");
    ground.refused(offline);

    ground.server.fault(Fault::None);
    assert_eq!(ground.done(ground.luspo(SCORE)), expected);
    assert_eq!(ground.server.ranges(), ["bytes=1000-"]);
}

#[test]
fn a_server_that_sends_everything_again_spoils_nothing() {
    let ground = Ground::lay(false);
    ground.server.fault(Fault::BreakOff("model.safetensors", 1000));
    ground.refused(ground.luspo(SCORE));
    ground.server.fault(Fault::NoRanges);
    ground.done(ground.luspo(SCORE));
    let (here, there) = (ground.snapshot(COMMIT).join("model.safetensors"), ground.path("served/model.safetensors"));
    assert_eq!(fs::read(here).unwrap(), fs::read(there).unwrap());
}

#[test]
fn contents_that_are_not_the_announced_ones_are_refused() {
    let ground = Ground::lay(false);
    ground.server.fault(Fault::Flipped("model.safetensors"));
    let error = ground.refused(ground.luspo(SCORE));
    assert!(error.contains("model.safetensors is not what"), "{error}");
    ground.server.fault(Fault::None);
    ground.done(ground.luspo(SCORE));
}

#[test]
fn a_server_that_fails_or_hangs_is_named() {
    let mut ground = Ground::lay(false);
    ground.server.fault(Fault::Status(503));
    let error = ground.refused(ground.luspo(SCORE));
    assert!(error.contains("status 503") && error.contains(&ground.server.url()), "{error}");

    ground.server.fault(Fault::Silent);
    let mut patient = ground.luspo(SCORE);
    patient.env("HF_HUB_DOWNLOAD_TIMEOUT", "0.5");
    let error = ground.refused(patient);
    assert!(error.contains("0.5 s") && error.contains("HF_HUB_DOWNLOAD_TIMEOUT"), "{error}");

    ground.server.fault(Fault::Stall("model.safetensors", 1000));
    let mut patient = ground.luspo(SCORE);
    patient.env("HF_HUB_DOWNLOAD_TIMEOUT", "0.5");
    let error = ground.refused(patient);
    assert!(error.contains("model.safetensors broke off after 1000 of"), "{error}");

    ground.server.fault(Fault::NotAHub);
    let error = ground.refused(ground.luspo(SCORE));
    assert!(error.contains("HF_ENDPOINT"), "{error}");

    ground.server.stop();
    let error = ground.refused(ground.luspo(SCORE));
    assert!(error.contains("check the connection"), "{error}");
}

#[test]
fn an_index_that_leads_elsewhere_is_refused_before_any_weights() {
    let ground = Ground::lay(true);
    let index = ground.path("served/model.safetensors.index.json");
    for shard in ["../../../stolen.safetensors", "/etc/passwd", "model-of-nobody.safetensors"] {
        fs::write(&index, json!({ "weight_map": { "model.norm.weight": shard } }).to_string()).unwrap();
        let before = ground.server.requests().len();
        let error = ground.refused(ground.luspo(SCORE));
        assert!(error.contains("model.safetensors.index.json") && error.contains(shard), "{error}");
        let asked = ground.server.requests()[before..].to_vec();
        assert!(asked.iter().all(|r| r.contains("/api/") || r.ends_with("model.safetensors.index.json")), "{asked:?}");
        fs::remove_dir_all(ground.path("home")).unwrap();
    }
}

#[test]
fn a_hash_or_a_commit_that_is_a_path_is_refused() {
    let ground = Ground::lay(false);
    for fault in [Fault::Hash("../../../stolen"), Fault::Hash("/tmp/stolen"), Fault::Commit("../../stolen")] {
        ground.server.fault(fault);
        let error = ground.refused(ground.luspo(SCORE));
        assert!(error.contains("owner/tiny") && error.contains("HF_ENDPOINT"), "{error}");
    }
}

#[test]
fn a_run_starts_from_a_name_and_goes_on_without_a_server() {
    let mut ground = Ground::lay(false);
    let data = "runs/made/data";
    let config = format!(
        "[run]\nname = \"hub\"\nthreads = 1\n[model]\npath = \"owner/tiny\"\n[data]\ntrain_files = \
         [\"{data}/train.parquet\"]\ntrain_batch_size = 4\nmax_prompt_length = 40\nmax_response_length = 16\n[rollout]\nn \
         = 2\n[algorithm]\nuse_kl_loss = true\n[trainer]\ntotal_training_steps = 1\nsave_freq = 1\n"
    );
    fs::write(ground.path("config.toml"), config).unwrap();
    let said = ground.done(ground.luspo("train config.toml"));
    assert!(said.contains("fetching owner/tiny: model.safetensors") && said.contains(COMMIT), "{said}");
    let kept = fs::read_to_string(ground.path("runs/hub/config.toml")).unwrap();
    assert!(kept.contains("path = \"owner/tiny\""), "{kept}");

    // Another commit is the newest now, and then nobody answers: the run keeps the one that it began with.
    ground.server.set_commit(OTHER_COMMIT);
    ground.done(ground.luspo(SCORE));
    ground.server.stop();
    let said = ground.done(ground.luspo("train config.toml --resume total_training_steps=2"));
    assert!(said.contains(&format!("commit {COMMIT}")), "{said}");
    ground.done(ground.luspo("replay runs/hub --step 2"));
}

#[test]
fn an_adapter_names_its_base_by_name_and_commit() {
    let mut ground = Ground::lay(false);
    let data = "runs/made/data";
    let config = format!(
        "[run]\nname = \"hub\"\nthreads = 1\n[model]\npath = \"owner/tiny\"\n[model.lora]\nrank = 2\n[data]\ntrain_files \
         = [\"{data}/train.parquet\"]\ntrain_batch_size = 4\nmax_prompt_length = 40\nmax_response_length = \
         16\n[rollout]\nn = 2\n[optimizer]\nlr = 1e-2\n[trainer]\ntotal_training_steps = 1\n"
    );
    fs::write(ground.path("config.toml"), config).unwrap();
    ground.done(ground.luspo("train config.toml"));
    let adapter = fs::read(ground.path("runs/hub/checkpoints/step_000001/policy/adapter_config.json")).unwrap();
    let adapter: serde_json::Value = serde_json::from_slice(&adapter).unwrap();
    assert_eq!([&adapter["base_model_name_or_path"], &adapter["revision"]], ["owner/tiny", COMMIT]);

    // Another commit is the newest now, and then nobody answers.
    ground.server.set_commit(OTHER_COMMIT);
    let score = "score --model runs/hub --input score.jsonl";
    let scored = ground.done(ground.luspo(score));
    ground.server.stop();
    assert_eq!(ground.done(ground.luspo(score)), scored);
    ground.done(ground.luspo("export runs/hub --out merged"));
    ground.done(ground.luspo("train config.toml --resume total_training_steps=2"));
}

#[test]
fn eval_generate_and_export_take_names_too() {
    let ground = Ground::lay(false);
    ground.done(ground.luspo("generate --model owner/tiny --prompt 1+1 --max-response-length 4 -q"));
    ground.done(ground.luspo("eval --model owner/tiny --data runs/made/data/val.parquet --max-response-length 4"));
    ground.done(ground.luspo("export owner/tiny --out copy"));
    let weights = |folder: &str| fs::read(ground.path(folder).join("model.safetensors")).unwrap();
    assert_eq!(weights("copy"), weights("served"));
}
