//! What is compiled in: each crate alone as in the whole workspace, so that `cargo test -p CRATE` compiles no dependency twice; and
//! nothing that nobody uses.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use local::home;
use serde_json::Value;

/// Third-party packages, each with the features that it is compiled with.
fn compiled(selection: &[&str]) -> BTreeSet<String> {
    let output = Command::new("cargo")
        .args(["tree", "--locked", "--offline", "--prefix", "none", "--format", "{p} [{f}]"])
        .args(selection)
        .current_dir(home::root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().map(|line| line.trim_end_matches(" (*)"));
    // The workspace's own are given by their paths.
    lines.filter(|line| !line.contains(" (/") && !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn a_crate_alone_compiles_its_dependencies_as_the_whole_workspace_does() {
    let all = compiled(&["--workspace"]);
    assert!(all.iter().any(|line| line.starts_with("tokio v") && line.contains("process")), "{all:?}");
    let functions = std::fs::read_dir(home::root().join("functions")).unwrap().flatten();
    let functions = functions.filter(|entry| entry.path().is_dir());
    let mut crates: Vec<String> = functions.map(|folder| folder.file_name().into_string().unwrap()).collect();
    crates.extend(["shared", "sandbox", "local", "developer", "operator", "integration-tests"].map(str::to_owned));
    for name in crates {
        let other: Vec<String> = compiled(&["--package", &name]).difference(&all).cloned().collect();
        assert!(
            other.is_empty(),
            "{name}: add what is missing to infra/workspace-hack, or workspace-hack to its dev-dependencies: {other:#?}"
        );
    }
    // What the tests run was compiled before them, and not for them alone.
    let programs = compiled(&["--workspace", "--exclude", "soak", "--edges", "normal,build"]);
    assert_eq!(programs.difference(&all).collect::<Vec<_>>(), Vec::<&String>::new());
}

/// The source of a package, without that of packages in folders below it.
fn source(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.join("Cargo.toml").exists() && !path.ends_with("target") {
            text += &source(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text += &fs::read_to_string(&path).unwrap();
        }
    }
    text
}

#[test]
fn every_dependency_that_is_declared_is_used() {
    let output = Command::new("cargo")
        .args(["metadata", "--locked", "--offline", "--no-deps", "--format-version", "1"])
        .current_dir(home::root())
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let mut declared = BTreeSet::new();
    for package in packages {
        let folder = Path::new(package["manifest_path"].as_str().unwrap()).parent().unwrap();
        let source = source(folder);
        for dependency in package["dependencies"].as_array().unwrap() {
            let name = dependency["name"].as_str().unwrap();
            declared.insert(name);
            // It is there for the features of others, and nothing of it is called.
            if name == "workspace-hack" || package["name"] == "workspace-hack" {
                continue;
            }
            // The one whose library has another name.
            let module = if name == "kamadak-exif" { "exif".to_owned() } else { name.replace('-', "_") };
            let uses = source.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == module);
            assert!(uses, "{} declares {name} and does not use it", package["name"]);
        }
    }
    let manifest = fs::read_to_string(home::root().join("Cargo.toml")).unwrap();
    let (_, shared) = manifest.split_once("[workspace.dependencies]").unwrap();
    let (shared, _) = shared.split_once("\n[").unwrap();
    for line in shared.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_alphabetic())) {
        let name = line.split([' ', '=']).next().unwrap();
        assert!(declared.contains(name), "no crate uses {name} of the workspace's dependencies");
    }
}
