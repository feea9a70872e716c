//! What crates.io and docs.rs ask of a crate that is published.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The crates of this workspace that are published.
fn published() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--manifest-path"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap().clone();
    packages.into_iter().filter(|package| package["publish"].is_null()).collect()
}

fn words(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect()
}

#[test]
fn every_published_crate_is_described_as_crates_io_wants_it() {
    let crates = published();
    assert_eq!(crates.len(), 9, "{:?}", crates.iter().map(|package| &package["name"]).collect::<Vec<_>>());
    for package in &crates {
        let name = package["name"].as_str().unwrap();
        for key in ["description", "license", "repository", "homepage", "rust_version"] {
            assert!(package[key].is_string(), "{name}: {key}");
        }
        let folder = Path::new(package["manifest_path"].as_str().unwrap()).parent().unwrap();
        for file in [package["readme"].as_str().unwrap(), "LICENSE-MIT", "LICENSE-APACHE"] {
            assert!(std::fs::metadata(folder.join(file)).unwrap().len() > 0, "{name}: {file}");
        }
        let keywords = words(&package["keywords"]);
        assert!((1..=5).contains(&keywords.len()), "{name}: {keywords:?}");
        for keyword in keywords {
            let allowed = |c: char| c.is_ascii_alphanumeric() || "_-+".contains(c);
            assert!(keyword.len() <= 20 && keyword.starts_with(char::is_alphabetic), "{name}: {keyword}");
            assert!(keyword.chars().all(allowed), "{name}: {keyword}");
        }
        // Slugs of crates.io/category_slugs.
        let slugs = ["science", "mathematics", "command-line-utilities"];
        let categories = words(&package["categories"]);
        assert!(!categories.is_empty() && categories.iter().all(|slug| slugs.contains(slug)), "{name}: {categories:?}");
        assert!(package["metadata"]["docs"]["rs"].is_object(), "{name}: package.metadata.docs.rs");
    }
}

#[test]
fn a_dependency_on_another_of_our_crates_has_a_path_and_a_version() {
    for package in published() {
        let own = package["dependencies"].as_array().unwrap().iter().filter(|dependency| {
            // A development dependency by path alone is left out of the package.
            dependency["path"].is_string() && (dependency["kind"] != "dev" || dependency["req"] != "*")
        });
        for dependency in own {
            let version = package["version"].as_str().unwrap();
            assert_eq!(dependency["req"], format!("^{version}"), "{}: {}", package["name"], dependency["name"]);
        }
    }
}
