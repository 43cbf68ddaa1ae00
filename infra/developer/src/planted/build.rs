//! The programs that run tests.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use developer::{
    mutants::{Mutant, Place},
    release,
};
use local::home::Home;
use serde_json::Value;

use super::{INTEGRATION, copy::Copy};
use crate::{platform, report};

/// The programs that run tests, by package.
pub(super) struct Build {
    pub(super) tests: BTreeMap<String, PathBuf>,
    /// Whether bugs in Rust are in it.
    pub(super) is_of_copy: bool,
}

impl Build {
    /// That of the copy if a bug in Rust is wanted, else the ordinary one.
    pub(super) fn of(home: &Home, copy: &Copy, run: &[&Mutant]) -> Result<Self> {
        let is_of_copy = run.iter().any(|mutant| matches!(mutant.place, Place::Rust(_)));
        let (source, target) = if is_of_copy {
            lend_dependencies(&home.root, &platform::binaries()?, &copy.target.join("debug"))?;
            (copy.source.as_path(), Some(copy.target.as_path()))
        } else {
            (home.root.as_path(), None)
        };
        let mut tests = BTreeMap::new();
        // Programs and tests in one go, so that nothing is compiled twice. The ordinary ones as `./spine test` has built them.
        let args: &[&str] = if is_of_copy {
            &["build", "--keep-going", "--workspace", "--exclude", "soak", "--bins", "--test", "it"]
        } else {
            &["test", "--no-run", "--workspace", "--test", "it"]
        };
        build(source, target, args, &mut tests)?;
        let packages: BTreeSet<&str> =
            run.iter().flat_map(|mutant| &mutant.tests).filter_map(|test| Some(test.split_once('/')?.0)).collect();
        for package in packages {
            build(source, target, &["test", "--no-run", "--all-features", "--lib", "--package", package], &mut tests)?;
        }
        Ok(Self { tests, is_of_copy })
    }
}

fn build(source: &Path, target: Option<&Path>, args: &[&str], tests: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let output = release::cargo()
        .args(args)
        .args(["--locked", "--message-format", "json"])
        .current_dir(source)
        .envs(target.map(|target| ("CARGO_TARGET_DIR", target)))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cargo cannot be run")?;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(message) = serde_json::from_str::<Value>(line) else { continue };
        // Not the warnings: of what a switch looks like.
        if let (Some("error"), Some(error)) =
            (message["message"]["level"].as_str(), message["message"]["rendered"].as_str())
        {
            report::line(error);
        }
        let Some(program) = message["executable"].as_str().filter(|_| message["profile"]["test"] == true) else {
            continue;
        };
        let package = if message["target"]["name"] == "it" {
            INTEGRATION
        } else {
            message["target"]["name"].as_str().unwrap_or_default()
        };
        tests.insert(package.to_owned(), PathBuf::from(program));
    }
    ensure!(output.status.success(), "{} does not build, and the reason is above", source.display());
    Ok(())
}

/// Gives a new build what the ordinary one has compiled of other packages; cargo checks itself whether it fits. Libraries are linked, since
/// they are never written in place; what cargo writes in place is copied.
fn lend_dependencies(root: &Path, from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        return Ok(());
    }
    let own = own_names(root)?;
    // A name as in `libserde-0123456789abcdef.rlib`.
    let is_own = |name: &str| {
        let crate_name = name.rsplit_once('-').map_or(name, |(before, _)| before).replace('-', "_");
        own.contains(&crate_name) || crate_name.strip_prefix("lib").is_some_and(|name| own.contains(name))
    };
    // Moved into place when it is whole.
    let aside = to.with_extension("aside");
    let _ = fs::remove_dir_all(&aside);
    for folder in [".fingerprint", "build", "deps"] {
        fs::create_dir_all(aside.join(folder))?;
        for entry in fs::read_dir(from.join(folder))?.flatten() {
            let name = entry.file_name().display().to_string();
            let is_library = [".rlib", ".rmeta", ".so", ".dylib", ".d"].iter().any(|end| name.ends_with(end));
            if is_own(&name) || (folder == "deps" && !is_library) {
                continue;
            }
            let (from, to) = (entry.path(), aside.join(folder).join(&name));
            if entry.file_type()?.is_dir() {
                copy_folder(&from, &to)?;
            } else if name.ends_with(".d") || fs::hard_link(&from, &to).is_err() {
                copy_file(&from, &to)?;
            }
        }
    }
    Ok(fs::rename(aside, to)?)
}

/// The names of the workspace's own crates and programs.
fn own_names(root: &Path) -> Result<BTreeSet<String>> {
    let output = release::cargo()
        .args(["metadata", "--locked", "--offline", "--no-deps", "--format-version", "1"])
        .current_dir(root)
        .output()
        .context("cargo cannot be run")?;
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().context("cargo names no packages")?;
    let names = packages.iter().flat_map(|package| {
        let targets = package["targets"].as_array().into_iter().flatten().map(|target| &target["name"]);
        targets.chain([&package["name"]]).filter_map(Value::as_str)
    });
    Ok(names.map(|name| name.replace('-', "_")).collect())
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)?.flatten() {
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() { copy_folder(&entry.path(), &to)? } else { copy_file(&entry.path(), &to)? }
    }
    Ok(())
}

/// With its time, which cargo compares.
fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    fs::copy(from, to)?;
    fs::File::options().write(true).open(to)?.set_modified(fs::metadata(from)?.modified()?)
}
