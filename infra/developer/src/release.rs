//! Programs as they are deployed, or run by an operator: built alone, with thin LTO.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use local::home;
use operator::{env, report};

/// Where release binaries for this machine are.
pub const HERE: &str = "target/lambda-here";

/// A processor that Lambda has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// As Graviton has it.
    Arm64,
    /// As Intel and AMD have it.
    X86_64,
}

impl Arch {
    /// This machine's.
    pub const HOST: Self = if cfg!(target_arch = "aarch64") { Self::Arm64 } else { Self::X86_64 };

    fn flag(self) -> &'static str {
        match self {
            Self::Arm64 => "--arm64",
            Self::X86_64 => "--x86-64",
        }
    }

    /// As `template.yaml` calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Arm64 => "arm64",
            Self::X86_64 => "x86_64",
        }
    }
}

/// Cargo, without what another cargo tells a program that it runs, such as a test: a build script that looks at those variables would run
/// again, and everything that stands on it would be compiled twice.
#[must_use]
pub fn cargo() -> Command {
    let mut cargo = Command::new("cargo");
    for (name, _) in std::env::vars_os() {
        let is_set_by_cargo = name.to_str().is_some_and(|name| {
            ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
        });
        if is_set_by_cargo {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// Builds `packages` as they are deployed, each alone so that it links nothing that only another needs. With `zip`, as
/// `<to>/<package>/bootstrap.zip`, else as `<to>/<package>/bootstrap`.
///
/// # Errors
/// If one does not build.
pub fn bootstraps<'a>(
    root: &Path,
    arch: Arch,
    packages: impl IntoIterator<Item = &'a str>,
    to: &Path,
    zip: bool,
) -> Result<()> {
    for package in packages {
        let begun = Instant::now();
        let format = if zip { "zip" } else { "binary" };
        let tools = home::installed(root, "build")?.join("bin");
        let path = format!("{}:{}", tools.display(), env("PATH").unwrap_or_default());
        let built = cargo()
            .args(["lambda", "build", "--quiet", "--locked", "--release", arch.flag(), "--output-format", format])
            .args(["--package", package, "--lambda-dir"])
            .arg(to)
            .current_dir(root)
            .env("PATH", path)
            .stdin(Stdio::null())
            .status()
            .context("cargo lambda cannot be run")?;
        if !built.success() {
            bail!("{package} does not build for {}", arch.name());
        }
        report::line(&format!("  built {package} for {} in {:.0} s", arch.name(), begun.elapsed().as_secs_f64()));
    }
    Ok(())
}
