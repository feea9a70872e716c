//! Configuration files and overrides.

use std::fs;
use std::path::Path;

use crate::ground::put;
use crate::{Case, refused};

/// Adds lines to `config.toml`.
fn add(dir: &Path, lines: &str) {
    let path = dir.join("config.toml");
    put(path.clone(), fs::read_to_string(path).unwrap() + lines);
}

/// Replaces a piece of `config.toml`.
fn replace(dir: &Path, from: &str, to: &str) {
    let path = dir.join("config.toml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from));
    put(path, text.replace(from, to));
}

pub fn cases() -> Vec<Case> {
    [files(), overrides(), words(), ranges(), sizes(), shapes()].into_iter().flatten().collect()
}

fn files() -> Vec<Case> {
    vec![
        refused("a configuration that is not there", 2, "train nowhere.toml").says(&["nowhere.toml", "No such file"]),
        refused("a folder for a configuration", 2, "train model").says(&["model", "directory"]),
        refused("an empty configuration", 2, "train empty.toml")
            .after(|dir| put(dir.join("empty.toml"), ""))
            .says(&["empty.toml", "[model] needs `path`"]),
        refused("bytes that are no text", 2, "train bytes.toml")
            .after(|dir| put(dir.join("bytes.toml"), [0xff, 0xfe, 0x00]))
            .says(&["bytes.toml", "UTF-8"]),
        refused("text that is no TOML", 2, "train config.toml").after(|dir| add(dir, "[eval\n")).says(&[
            "config.toml",
            "TOML parse error",
            "[eval",
        ]),
        refused("a Parquet file for a configuration", 2, "train train.parquet").says(&["train.parquet", "UTF-8"]),
        refused("a key twice", 2, "train config.toml").after(|dir| replace(dir, "n = 2", "n = 2\nn = 3")).says(&[
            "config.toml",
            "duplicate key",
            "n = 3",
        ]),
        refused("a misspelt key", 2, "train config.toml")
            .after(|dir| replace(dir, "train_batch_size", "train_batchsize"))
            .says(&["config.toml", "`train_batchsize` in [data]", "did you mean `train_batch_size`"]),
        refused("a misspelt section", 2, "train config.toml").after(|dir| add(dir, "[algoritm]\n")).says(&[
            "config.toml",
            "`algoritm`",
            "did you mean `algorithm`",
        ]),
        refused("a key that is like no other", 2, "train config.toml")
            .after(|dir| add(dir, "[eval]\nqqq = 1\n"))
            .says(&["`qqq` in [eval]", "val_n"]),
        refused("a value for a section", 2, "train config.toml")
            .after(|dir| put(dir.join("config.toml"), "run = 1\n"))
            .says(&["config.toml", "run = 1", "RunConfig"]),
        refused("text for a number", 2, "train config.toml").after(|dir| replace(dir, "n = 2", "n = \"two\"")).says(&[
            "config.toml",
            "n = \"two\"",
            "a whole number",
        ]),
        refused("a negative size", 2, "train config.toml").after(|dir| replace(dir, "n = 2", "n = -2")).says(&[
            "config.toml",
            "n = -2",
            "a whole number",
        ]),
        refused("a size beyond 64 bits", 2, "train config.toml")
            .after(|dir| replace(dir, "n = 2", "n = 99999999999999999999"))
            .says(&["config.toml", "n = 99999999999999999999"]),
        refused("a fraction for a size", 2, "train config.toml").after(|dir| replace(dir, "n = 2", "n = 2.5")).says(&[
            "config.toml",
            "n = 2.5",
            "a whole number",
        ]),
        refused("a name with a NUL", 2, "train config.toml")
            .after(|dir| replace(dir, "\"run\"", "\"a\\u0000b\""))
            .says(&["run.name", "one folder"]),
        refused("files and a task", 2, "train task.toml train_files=train.parquet").says(&[
            "task.toml",
            "[data.task]",
            "keep one",
        ]),
    ]
}

fn overrides() -> Vec<Case> {
    vec![
        refused("an override without =", 2, "train config.toml loss_mode").says(&["`loss_mode`", "KEY=VALUE"]),
        refused("an override of nothing", 2, "train config.toml =3").says(&["`=3`"]),
        refused("an override of a section", 2, "train config.toml rollout=3")
            .says(&["`rollout=3`", "`rollout` is a section"]),
        refused("an override of a section in a section", 2, "train task.toml model.init=model")
            .says(&["`model.init` is a section"]),
        refused("an override of a misspelt key", 2, "train config.toml los_mode=gspo")
            .says(&["did you mean `loss_mode`"]),
        refused("an override of a misspelt section", 2, "train config.toml rolout.n=2")
            .says(&["did you mean `rollout.n`"]),
        refused("an override of two keys at once", 2, "train config.toml lr=1e-4")
            .says(&["`sft.lr` or `critic.lr` or `optimizer.lr`"]),
        refused("an override of the wrong type", 2, "train config.toml rollout.n=many")
            .says(&["`rollout.n=many`", "a whole number"]),
        refused("an override with half a list", 2, "train config.toml optimizer.betas=[0.9")
            .says(&["optimizer.betas", "[0.9"]),
        refused("three betas", 2, "train config.toml optimizer.betas=[0.9,0.99,0.999]").says(&["optimizer.betas"]),
        refused("a seed beyond TOML's integers", 2, "train config.toml --seed 18446744073709551615")
            .says(&["--seed", "18446744073709551615"]),
        refused("an override in place of the file", 2, "train loss_mode=gspo").says(&["loss_mode=gspo"]),
    ]
}

fn words() -> Vec<Case> {
    vec![
        refused("an unknown number type", 2, "train config.toml model.dtype=f8").says(&["model.dtype=f8", "bf16"]),
        refused("training in f16", 2, "train config.toml model.dtype=f16").says(&["model.dtype", "f32 or bf16"]),
        refused("bf16 where there is none", 2, "train config.toml model.dtype=bf16 run.backend=ndarray").says(&[
            "model.dtype = \"bf16\"",
            "`ndarray`",
            "it is f32",
        ]),
        refused("a word for whether to offload", 2, "train config.toml optimizer.offload=host")
            .says(&["optimizer.offload=host", "boolean"]),
        refused("an unknown loss", 2, "train config.toml loss_mode=lupso").says(&["`lupso`", "luspo"]),
        refused("an unknown aggregation", 2, "train config.toml loss_mode=grpo loss_agg_mode=sum")
            .says(&["`sum`", "token-mean"]),
        refused("another aggregation for LUSPO", 2, "train config.toml loss_agg_mode=token-mean")
            .says(&["luspo", "seq-mean-token-sum"]),
        refused("an unknown KL estimator", 2, "train config.toml kl_loss_type=k9").says(&["`k9`", "low_var_kl"]),
        refused("an unknown advantage estimator", 2, "train config.toml adv_estimator=grop")
            .says(&["`grop`", "grpo", "gae"]),
        refused("an unknown verifier", 2, "train config.toml verifier=nonsense").says(&["`nonsense`", "gsm8k"]),
        refused("an unknown format check", 2, "train config.toml reward.format=nonsense").says(&["`nonsense`"]),
        refused("an unknown schedule", 2, "train config.toml optimizer.lr_schedule=step").says(&["step", "cosine"]),
        refused("an unknown source of old log-probs", 2, "train config.toml old_log_probs=magic")
            .says(&["magic", "sampler"]),
        refused("an unknown rule for long prompts", 2, "train config.toml prompt_overlong=drop")
            .says(&["drop", "filter"]),
        refused("an unknown task", 2, "train task.toml data.task.name=chess").says(&["chess", "arithmetic"]),
        refused("an unknown backend", 2, "train config.toml run.backend=tpu").says(&["tpu", "flex"]),
        refused("a backend outside the build", 2, "train config.toml --backend cuda").says(&["`cuda`", "--features"]),
        refused("a name with a slash", 2, "train config.toml run.name=a/b").says(&["run.name", "a/b", "run.dir"]),
        refused("a name that goes up", 2, "train config.toml run.name=..").says(&["run.name", ".."]),
        refused("no name", 2, "train config.toml run.name=").says(&["run.name"]),
        refused("a dataset without a name", 2, "train config.toml train_files=").says(&["data.train_files is empty"]),
        refused("a model without a name", 2, "train config.toml model.path=").says(&["model.path is empty"]),
        refused("a run folder without a name", 2, "train config.toml run.dir=").says(&["run.dir is empty"]),
        refused("a model and a new one", 2, "train task.toml model.path=model").says(&["[model]", "keep one"]),
    ]
}

fn ranges() -> Vec<Case> {
    vec![
        refused("no answers", 2, "train config.toml rollout.n=0").says(&["rollout.n = 0"]),
        refused("one answer to compare", 2, "train config.toml rollout.n=1").says(&["rollout.n = 1", "several"]),
        refused("a temperature below zero", 2, "train config.toml rollout.temperature=-1")
            .says(&["rollout.temperature = -1"]),
        refused("greedy training", 2, "train config.toml rollout.temperature=0").says(&["greedy"]),
        refused("a temperature too low for f32", 2, "train config.toml rollout.temperature=0.005").says(&["0.01"]),
        refused("an infinite temperature", 2, "train config.toml rollout.temperature=inf").says(&["inf"]),
        refused("an empty nucleus", 2, "train config.toml rollout.top_p=0").says(&["rollout.top_p = 0"]),
        refused("a nucleus above one", 2, "train config.toml eval.val_top_p=2").says(&["eval.val_top_p = 2"]),
        refused("a share below zero", 2, "train config.toml min_p=-0.5").says(&["rollout.min_p = -0.5"]),
        refused("a learning rate that is no number", 2, "train config.toml optimizer.lr=nan")
            .says(&["optimizer.lr = NaN"]),
        refused("an infinite learning rate", 2, "train config.toml optimizer.lr=inf").says(&["optimizer.lr = inf"]),
        refused("a learning rate below zero", 2, "train config.toml optimizer.lr=-1e-4")
            .says(&["optimizer.lr = -0.0001"]),
        refused("a learning rate below zero for the warm-up", 2, "sft config.toml sft.lr=-1").says(&["sft.lr = -1"]),
        refused("a beta of one", 2, "train config.toml optimizer.betas=[0.9,1.0]").says(&["optimizer.betas"]),
        refused("an eps of zero", 2, "train config.toml optimizer.eps=0").says(&["optimizer.eps = 0"]),
        refused("no gradient at all", 2, "train config.toml optimizer.grad_clip=0").says(&["optimizer.grad_clip = 0"]),
        refused("a clip range of one", 2, "train config.toml clip_ratio_low=1").says(&["clip_ratio_low = 1"]),
        refused("a setting of another objective", 2, "train config.toml tau_pos=1").says(&["tau_pos", "luspo"]),
        refused("an objective without its setting", 2, "train config.toml loss_mode=dro").says(&["dro_beta"]),
        refused("an objective that a program brings", 2, "train config.toml loss_mode=custom")
            .says(&["custom", "train_with"]),
        refused("a cap below the ratio's centre", 2, "train config.toml loss_mode=grpo algorithm.policy_loss.delta=-1")
            .says(&["delta = -1"]),
        refused("a discount above one", 2, "train config.toml adv_estimator=gae gamma=1.5").says(&["gamma = 1.5"]),
        refused("a discount that nothing reads", 2, "train config.toml gamma=0.9").says(&["gamma", "`grpo`"]),
        refused("a λ that nothing reads", 2, "train config.toml lam=0.9").says(&["lam", "`gae`"]),
        refused("a critic that is not asked for", 2, "train config.toml critic.lr=1e-3").says(&["[critic]", "`gae`"]),
        refused("a critic's warm-up without critic", 2, "train config.toml critic_warmup=1").says(&["critic_warmup"]),
        refused("a critic that is not there", 1, "train config.toml adv_estimator=gae critic.model_path=nowhere")
            .says(&["nowhere"]),
        refused("a critic's loss that is not there", 2, "train config.toml adv_estimator=gae value_agg_mode=mean")
            .says(&["critic.value_agg_mode", "token-mean"]),
        refused("a KL weight without a KL term", 2, "train config.toml kl_loss_coef=0.1")
            .says(&["kl_loss_coef", "use_kl_loss"]),
        refused("a filter that is off", 2, "train config.toml algorithm.filter_groups.metric=score")
            .says(&["filter_groups.enable"]),
        refused("a threshold of nothing", 2, "train config.toml rollout_is_threshold=3")
            .says(&["rollout_is_threshold", "rollout_is"]),
        refused("an unknown KL penalty", 2, "train config.toml use_kl_in_reward=true kl_penalty=k9")
            .says(&["kl_penalty", "`k9`"]),
        refused("an adaptive KL without horizon", 2, "train config.toml use_kl_in_reward=true type=adaptive horizon=0")
            .says(&["horizon"]),
        refused("a ratio without a KL term", 2, "train config.toml kl_loss_ratio=token").says(&["kl_loss_ratio"]),
        refused(
            "an entropy weight out of its bounds",
            2,
            "train config.toml algorithm.entropy_ctrl.max=0.1 entropy_coeff=0.5",
        )
        .says(&["entropy_coeff"]),
        refused("an unknown importance weight", 2, "train config.toml old_log_probs=trainer rollout_is=row")
            .says(&["`row`", "token"]),
        refused("a rule without its bound", 2, "train config.toml old_log_probs=trainer rollout_rs=token_k1")
            .says(&["rollout_rs_threshold"]),
        refused("nothing to correct", 2, "train config.toml old_log_probs=sampler rollout_is=token")
            .says(&["rollout_correction", "old_log_probs"]),
        refused("a share above one", 2, "train config.toml top_entropy_quantile=1.5").says(&["top_entropy_quantile"]),
        refused("no batch to filter", 2, "train config.toml max_num_gen_batches=0").says(&["max_num_gen_batches"]),
        refused("the weight of no format", 2, "train config.toml format_weight=2").says(&["reward.format_weight"]),
        refused("the penalty of no buffer", 2, "train config.toml overlong_buffer=0 overlong_penalty=1")
            .says(&["reward.overlong_penalty"]),
        refused("a floor that no answer reaches", 2, "train config.toml overlong_buffer=4 overlong_floor=true")
            .says(&["reward.overlong_floor", "overlong_max_length"]),
        refused("a maximum beyond the longest answer", 2, "check config.toml overlong_buffer=4 overlong_max_length=9")
            .says(&["reward.overlong_max_length = 9", "data.max_response_length = 8"]),
        refused("the penalty of no length", 2, "train config.toml length_penalty=1").says(&["reward.length_target"]),
        refused("a dual clip where there is none", 2, "train config.toml clip_ratio_c=3").says(&["clip_ratio_c"]),
        refused("a KL weight that is no number", 2, "train config.toml use_kl_loss=true kl_loss_coef=nan")
            .says(&["kl_loss_coef = NaN"]),
        refused("an entropy bonus below zero", 2, "train config.toml entropy_coeff=-1").says(&["entropy_coeff = -1"]),
        refused("a reward that is no number", 2, "train config.toml accuracy_weight=nan")
            .says(&["reward.accuracy_weight = NaN"]),
        refused("a buffer longer than the answer", 2, "train config.toml overlong_buffer=100").says(&["100", "8"]),
        refused("a task without prompts", 2, "train task.toml train_prompts=0").says(&["train_prompts", "0"]),
        refused("a task without styles", 2, "train task.toml terse=0 medium=0 long=0").says(&["styles"]),
        refused("fine-tuning without [sft]", 2, "sft task.toml").says(&["[sft]"]),
        refused("fine-tuning without steps", 2, "sft config.toml sft.steps=0").says(&["[sft]", "steps"]),
    ]
}

fn sizes() -> Vec<Case> {
    const HUGE: &str = "9223372036854775807";
    vec![
        refused("updates that do not divide a step", 2, "train config.toml ppo_mini_batch_size=3")
            .says(&["ppo_mini_batch_size = 3", "4 prompts"]),
        refused("micro-batches that do not divide an update", 2, "train config.toml ppo_micro_batch_size=3")
            .says(&["ppo_micro_batch_size = 3", "4 prompts × 2 answers = 8 rows"]),
        refused("more prompts a step than there are", 2, "train config.toml train_batch_size=9")
            .says(&["train_batch_size = 9", "8 training prompts"]),
        refused("lengths beyond the model", 2, "train config.toml max_prompt_length=60").says(&[
            "60",
            "8",
            "68 tokens",
            "64",
        ]),
        refused("as many answers as an integer can count", 2, "train config.toml rollout.n=9223372036854775807")
            .says(&["rollout.n", HUGE]),
        refused("as many prompts", 2, "train config.toml train_batch_size=9223372036854775807")
            .says(&["train_batch_size", HUGE]),
        refused("as many epochs", 2, "train config.toml ppo_epochs=9223372036854775807").says(&["ppo_epochs", HUGE]),
        refused("answers as long", 2, "train config.toml max_response_length=9223372036854775807")
            .says(&["max_response_length", HUGE]),
        refused("prompts as long", 2, "train config.toml max_prompt_length=9223372036854775807")
            .says(&["max_prompt_length", HUGE]),
        refused("as many validation answers", 2, "train config.toml val_n=9223372036854775807")
            .says(&["eval.val_n", HUGE]),
        refused("as many threads", 2, "train config.toml threads=9223372036854775807").says(&["run.threads", HUGE]),
        refused("a hundred million threads", 2, "train config.toml threads=100000000").says(&["run.threads"]),
        refused("a task of as many prompts", 2, "train task.toml train_prompts=9223372036854775807")
            .says(&["train_prompts", HUGE]),
        refused("a task of as many worked answers", 2, "train task.toml sft_examples=9223372036854775807")
            .says(&["sft_examples", HUGE]),
        refused("a batch of as many worked answers", 2, "sft config.toml sft.batch_size=9223372036854775807")
            .says(&["sft.batch_size", HUGE]),
        refused("chunks as long", 2, "train config.toml log_prob_chunk=9223372036854775807")
            .says(&["log_prob_chunk", HUGE]),
        refused("a float for a size", 2, "train config.toml rollout.n=1e30")
            .says(&["rollout.n=1e30", "a whole number"]),
        refused("a batch of no answers", 2, "train config.toml rollout.max_batch_size=0")
            .says(&["rollout.max_batch_size = 0"]),
        refused("a cache of no tokens", 2, "train config.toml rollout.max_tokens_in_cache=0")
            .says(&["rollout.max_tokens_in_cache = 0", "data.max_response_length"]),
        refused("prompts read nothing at a time", 2, "train config.toml rollout.prefill_chunk=0")
            .says(&["rollout.prefill_chunk = 0"]),
        refused("a batch of no prompts", 2, "train config.toml train_batch_size=0").says(&["train_batch_size = 0"]),
        refused("micro-batches of nothing", 2, "train config.toml ppo_micro_batch_size=0")
            .says(&["ppo_micro_batch_size = 0"]),
    ]
}

fn shapes() -> Vec<Case> {
    vec![
        refused("heads that do not divide the width", 2, "train task.toml num_attention_heads=3")
            .says(&["hidden_size = 16", "num_attention_heads = 3"]),
        refused("no heads", 2, "train task.toml num_attention_heads=0").says(&["num_attention_heads = 0"]),
        refused("a width of 10⁹", 2, "train task.toml hidden_size=1000000000").says(&["hidden_size = 1000000000"]),
        refused("more parameters than memory", 2, "train task.toml hidden_size=1048576 num_hidden_layers=1024")
            .says(&["parameters", "GB"]),
        refused("a vocabulary beyond memory", 2, "train task.toml vocab_size=1048576 hidden_size=1048576")
            .says(&["parameters", "GB"]),
        refused("as many ids as an integer can count", 2, "train task.toml vocab_size=9223372036854775807")
            .says(&["vocab_size = 9223372036854775807"]),
        refused("fewer ids than bytes", 2, "train task.toml vocab_size=10").says(&["vocab_size = 10", "259"]),
        refused("fewer ids than the tokenizer", 2, "train task.toml model.init.tokenizer=model vocab_size=258")
            .says(&["model.init.vocab_size = 258", "259"]),
        refused("a rotary base of zero", 2, "train task.toml rope_theta=0").says(&["rope_theta = 0"]),
        refused(
            "a cache beyond memory",
            2,
            "train task.toml num_hidden_layers=512 max_position_embeddings=2000000000 max_response_length=16000000",
        )
        .says(&["max_response_length", "GB"]),
        refused("a tokenizer that is not there", 1, "train task.toml model.init.tokenizer=nowhere")
            .says(&["nowhere", "tokenizer.json"]),
    ]
}
