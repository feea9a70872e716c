//! A program outside this workspace builds with `luspo` by path, default features, and runs.

use std::path::Path;

use assert_cmd::Command;

#[test]
fn a_crate_outside_the_workspace_computes_a_loss() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = tests.join("outside/Cargo.toml");
    // The same versions as here: nothing is downloaded that the workspace has not downloaded already.
    std::fs::copy(tests.join("../Cargo.lock"), tests.join("outside/Cargo.lock")).unwrap();
    let output = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--manifest-path"])
        .arg(manifest)
        .env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("outside"))
        .assert()
        .success();
    assert_eq!(String::from_utf8_lossy(&output.get_output().stdout), "luspo loss -0.7510\n");
}
