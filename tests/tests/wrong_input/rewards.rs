//! Rewards of the user's own that are not described rightly, or not there.

use crate::ground::put;
use crate::{Case, refused};

/// Adds `[reward.components.mine]` with these lines to `config.toml`.
fn mine(dir: &std::path::Path, lines: &str) {
    let path = dir.join("config.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    put(path, format!("{text}\n[reward.components.mine]\n{lines}\n"));
}

pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        refused("a verifier that is no component either", 2, "train config.toml verifier=judge")
            .says(&["there is no verifier `judge`", "reward.components"]),
        refused("a component without its source", 2, "train config.toml reward.components.mine.weight=2").says(&[
            "[reward.components.mine]",
            "`command`",
            "`url`",
            "`custom`",
        ]),
        refused("a component with two sources", 2, "check config.toml reward.components.mine.url=http://h/")
            .after(|dir| mine(dir, "command = [\"true\"]"))
            .says(&["[reward.components.mine]", "one of"]),
        refused("a component twice", 2, "check config.toml")
            .after(|dir| {
                mine(dir, "command = [\"true\"]");
                mine(dir, "command = [\"false\"]");
            })
            .says(&["config.toml", "TOML parse error", "mine"]),
        refused(
            "a component with the name of a built-in one",
            2,
            "train config.toml reward.components.format.url=http://h/",
        )
        .says(&["[reward.components.format]", "built in"]),
        refused(
            "a component with the name of a verifier",
            2,
            "train config.toml reward.components.gsm8k.url=http://h/",
        )
        .says(&["[reward.components.gsm8k]", "built in"]),
        refused("an unknown key of a component", 2, "train config.toml")
            .after(|dir| mine(dir, "comand = [\"true\"]"))
            .says(&["`comand` in [reward.components.mine]", "did you mean `command`"]),
        refused("an unknown key of a component behind the file", 2, "train config.toml reward.components.mine.wait=3")
            .says(&["unknown key `reward.components.mine.wait`"]),
        refused("an unknown policy", 2, "train config.toml reward.components.mine.on_failure=ignore")
            .after(|dir| mine(dir, "command = [\"true\"]"))
            .says(&["ignore", "mask", "zero", "stop"]),
        refused("a program that is not there", 2, "train config.toml reward.components.mine.command=no-such-program")
            .says(&["[reward.components.mine]", "`no-such-program`", "PATH"]),
        refused("a program to check that is not there", 1, "check config.toml reward.components.mine.command=./none")
            .says(&["[reward.components.mine]", "`./none`"]),
        refused("a script that is not there", 2, "train config.toml")
            .after(|dir| mine(dir, "command = [\"sh\", \"nowhere.sh\"]"))
            .says(&["[reward.components.mine]", "nowhere.sh"]),
        refused("a type that no program brings along", 2, "train config.toml reward.components.mine.custom=true")
            .says(&["[reward.components.mine]", "train_with_custom"]),
        refused("no address", 2, "check config.toml reward.components.mine.url=localhost:80")
            .says(&["[reward.components.mine]", "localhost:80"]),
        refused("no time", 2, "check config.toml reward.components.mine.timeout=0")
            .after(|dir| mine(dir, "command = [\"true\"]"))
            .says(&["timeout = 0"]),
        refused("nobody to judge", 2, "check config.toml reward.components.mine.concurrency=0")
            .after(|dir| mine(dir, "command = [\"true\"]"))
            .says(&["concurrency = 0"]),
        refused(
            "a verifier with a weight of its own",
            2,
            "check config.toml verifier=mine reward.components.mine.weight=2",
        )
        .after(|dir| mine(dir, "command = [\"true\"]"))
        .says(&["[reward.components.mine]", "reward.accuracy_weight"]),
        refused("a reward that fails when it is to stop the run", 1, "train config.toml")
            .after(|dir| mine(dir, "command = [\"sh\", \"-c\", \"echo no model >&2; exit 4\"]\non_failure = \"stop\""))
            .says(&["reward `mine` failed", "exit status: 4", "no model"]),
    ];
    if !cfg!(feature = "hub") {
        let what = "an address that needs TLS";
        let case = refused(what, 2, "check config.toml reward.components.mine.url=https://h/");
        cases.push(case.says(&["[reward.components.mine]", "feature `hub`"]));
    }
    cases
}
