//! A crate alone is compiled with the features of the whole workspace, so that `cargo test -p CRATE` compiles no dependency twice.

use std::{collections::BTreeSet, process::Command};

use local::home;

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
