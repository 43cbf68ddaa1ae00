//! Where things are: the checkout, `.spine/` in it, and a directory for this run alone.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, chown},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::process::Owner;

/// The directories of one run. Its own directory goes when this is dropped.
#[derive(Debug)]
pub struct Home {
    /// The checkout.
    pub root: PathBuf,
    /// `.spine/`.
    pub state: PathBuf,
    /// Where servers keep binaries and data: readable for whoever they run as.
    pub servers: PathBuf,
    /// This run's own directory.
    pub run: PathBuf,
    /// Whom servers run as, where we are root.
    pub owner: Option<Owner>,
}

impl Home {
    /// Makes a directory for this run, and clears away those of runs that are gone.
    ///
    /// # Errors
    /// If a directory cannot be made.
    pub fn open() -> Result<Self> {
        let root = root();
        let state = root.join(".spine");
        fs::create_dir_all(&state)?;
        let is_root =
            fs::metadata("/proc/self").map(|own| own.uid() == 0).unwrap_or_else(|_| id("-u", None) == Some(0));
        // Postgres refuses to run as root, and nobody else reaches into a home such as /root.
        let (servers, owner) = if is_root {
            let owner = Owner {
                uid: id("-u", Some("nobody")).context("there is no user `nobody` to run Postgres as")?,
                gid: id("-g", Some("nobody")).context("there is no user `nobody` to run Postgres as")?,
            };
            (PathBuf::from(format!("/var/tmp/spine-{:016x}", fingerprint(&root))), Some(owner))
        } else {
            (state.clone(), None)
        };
        fs::create_dir_all(&servers)?;
        let own = fs::metadata(&servers)?;
        if is_root && (own.uid() != 0 || own.mode() & 0o022 != 0) {
            // Binaries are run from there: it must be nobody else's to write.
            bail!("{} is not root's alone; remove it", servers.display());
        }
        fs::create_dir_all(servers.join("runs"))?;
        clear_stale(&servers.join("runs"));
        let run = servers.join("runs").join(format!("{}-{:08x}", std::process::id(), rand::random::<u32>()));
        fs::create_dir_all(&run)?;
        Ok(Self { root, state, servers, run, owner })
    }

    /// Makes `path` a directory that the servers' user owns and nobody else reads.
    ///
    /// # Errors
    /// If it cannot be made or given away.
    pub fn give(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)?;
        match self.owner {
            Some(owner) => chown(path, Some(owner.uid), Some(owner.gid)),
            None => Ok(()),
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.run);
    }
}

/// The checkout: as the launcher says, or as this crate was built.
#[must_use]
pub fn root() -> PathBuf {
    let root = std::env::var_os("SPINE_ROOT")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../.."));
    // One name for it, from which the servers' directory follows.
    root.canonicalize().unwrap_or(root)
}

/// Has `./spine` install a list of infra/python, unless that is done: `servers`, `build`, `tools`, `checks` or `node`. Where it is.
///
/// # Errors
/// If it cannot be installed; why, was printed.
pub fn installed(root: &Path, list: &str) -> Result<PathBuf> {
    let place = root.join(".spine").join(list);
    let wanted = hex::encode(Sha256::digest(fs::read(root.join("infra/python").join(list).with_extension("txt"))?));
    if !fs::read_to_string(place.join("installed.sha256")).is_ok_and(|done| done.trim() == wanted) {
        let status =
            Command::new(root.join("spine")).args(["install", list]).status().context("./spine cannot be run")?;
        if !status.success() {
            bail!("./spine install {list} failed");
        }
    }
    Ok(place)
}

/// Servers of a run that was killed end by themselves; what it left on disk goes here.
fn clear_stale(runs: &Path) {
    for entry in fs::read_dir(runs).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.split_once('-')).map(|(pid, _)| pid.to_owned());
        let alive = pid.is_some_and(|pid| {
            Command::new("kill")
                .args(["-0", &pid])
                .stderr(std::process::Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        });
        if !alive {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn id(flag: &str, user: Option<&str>) -> Option<u32> {
    let output = Command::new("id").arg(flag).args(user).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// FNV-1a: two checkouts must not share a directory; nothing depends on it being hard to find another.
fn fingerprint(path: &Path) -> u64 {
    path.as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
