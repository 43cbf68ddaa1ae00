//! A copy of the checkout, in which bugs are planted.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use developer::mutants::{self, Mutant, Place};

/// The checkout's files once more, with every bug in Rust behind its switch.
pub(super) struct Copy {
    pub(super) source: PathBuf,
    pub(super) target: PathBuf,
}

impl Copy {
    /// Writes what is not there yet as it should be, and so keeps what was built of it.
    pub(super) fn make(root: &Path, all: &[Mutant]) -> Result<Self> {
        let of_mutants = root.join("target/mutants");
        let copy = Self { source: of_mutants.join("source"), target: of_mutants.join("target") };
        let listed = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(root)
            .output()
            .context("git cannot be run")?;
        ensure!(listed.status.success(), "git does not list the checkout's files; a copy is made of those");
        let listed = String::from_utf8(listed.stdout)?;
        let mut files: BTreeSet<PathBuf> = BTreeSet::new();
        for name in listed.split('\0').filter(|name| !name.is_empty()) {
            // One that is tracked may have been removed.
            if root.join(name).is_file() {
                files.insert(PathBuf::from(name));
            }
        }
        let mut in_rust: BTreeMap<&str, Vec<&Mutant>> = BTreeMap::new();
        for mutant in all {
            match &mutant.place {
                Place::Rust(file) => in_rust.entry(file).or_default().push(mutant),
                Place::File(_) | Place::Sql(_) => {}
            }
        }
        for file in &files {
            let planted = file.to_str().and_then(|name| in_rust.remove(name));
            let text = match planted {
                Some(planted) => mutants::switched(&fs::read_to_string(root.join(file))?, &planted)?.into_bytes(),
                None => fs::read(root.join(file))?,
            };
            let to = copy.source.join(file);
            if !fs::read(&to).is_ok_and(|there| there == text) {
                fs::create_dir_all(to.parent().context("a file is nowhere")?)?;
                fs::write(&to, text)?;
                fs::set_permissions(&to, fs::metadata(root.join(file))?.permissions())?;
            }
        }
        if let Some((file, planted)) = in_rust.into_iter().next() {
            let by = planted.first().map(|mutant| mutant.listed.as_str()).unwrap_or_default();
            bail!("mend the list: {by} plants in {file}, which is no file of the checkout");
        }
        remove_others(&copy.source, Path::new(""), &files)?;
        // What is installed there is used from here.
        let state = copy.source.join(".spine");
        if state.symlink_metadata().is_err() {
            std::os::unix::fs::symlink(root.join(".spine"), &state)?;
        }
        Ok(copy)
    }
}

/// Removes files that are not in the checkout any more.
fn remove_others(source: &Path, folder: &Path, files: &BTreeSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(source.join(folder))?.flatten() {
        let path = folder.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            remove_others(source, &path, files)?;
        } else if kind.is_file() && !files.contains(&path) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
