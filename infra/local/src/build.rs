//! `./spine build` and `./spine deploy`: what AWS gets.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use local::{functions::FUNCTIONS, home};

use crate::{check, platform::env, report};

/// A processor that Lambda has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arch {
    Arm64,
    X86_64,
}

impl Arch {
    /// This machine's.
    pub(crate) const HOST: Self = if cfg!(target_arch = "aarch64") { Self::Arm64 } else { Self::X86_64 };

    fn flag(self) -> &'static str {
        match self {
            Self::Arm64 => "--arm64",
            Self::X86_64 => "--x86-64",
        }
    }

    /// As `template.yaml` calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Arm64 => "arm64",
            Self::X86_64 => "x86_64",
        }
    }
}

/// The binaries there are, each once.
pub(crate) fn binaries() -> BTreeSet<&'static str> {
    FUNCTIONS.iter().map(|function| function.binary).collect()
}

/// Builds `packages` as they are deployed, each alone so that it links nothing that only another needs. With `zip`, as
/// `<to>/<package>/bootstrap.zip`, else as `<to>/<package>/bootstrap`.
pub(crate) fn bootstraps<'a>(
    root: &Path,
    arch: Arch,
    packages: impl IntoIterator<Item = &'a str>,
    to: &Path,
    zip: bool,
) -> Result<()> {
    for package in packages {
        let begun = Instant::now();
        let format = if zip { "zip" } else { "binary" };
        let tools = root.join(".spine/build/bin");
        let path = format!("{}:{}", tools.display(), env("PATH").unwrap_or_default());
        let built = Command::new("cargo")
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

/// Where the zips are that `template.yaml` names.
pub(crate) fn output() -> PathBuf {
    home::root().join("target/lambda")
}

pub(crate) fn run(arch: Arch) -> Result<ExitCode> {
    let (root, to) = (home::root(), output());
    report::line("building each function alone, with thin LTO: minutes for the first, less for the others");
    bootstraps(&root, arch, binaries(), &to, true)?;
    for line in sizes(&to)? {
        report::out(&line);
    }
    Ok(ExitCode::SUCCESS)
}

/// The size of a zip, in bytes.
pub(crate) fn size(to: &Path, binary: &str) -> Result<u64> {
    let zip = to.join(binary).join("bootstrap.zip");
    Ok(fs::metadata(&zip).with_context(|| format!("{} is not there; run ./spine build", zip.display()))?.len())
}

fn sizes(to: &Path) -> Result<Vec<String>> {
    binaries()
        .into_iter()
        .map(|binary| {
            let megabytes = size(to, binary)? as f64 / 1e6;
            Ok(format!("{binary:<26} {megabytes:>6.2} MB  {}", to.join(binary).join("bootstrap.zip").display()))
        })
        .collect()
}

pub(crate) fn deploy(arch: Arch, dry_run: bool, args: &[String]) -> Result<ExitCode> {
    let home = home::Home::open()?;
    check::check_template(&home)?;
    let to = output();
    if dry_run && binaries().iter().any(|binary| size(&to, binary).is_err()) {
        report::line("not built yet: ./spine build");
    } else if !dry_run {
        bootstraps(&home.root, arch, binaries(), &to, true)?;
    }
    let mut command: Vec<String> =
        ["deploy", "--template-file", "template.yaml", "--capabilities", "CAPABILITY_IAM"].map(str::to_owned).into();
    // The packages go to a bucket that SAM makes; a change is shown and confirmed before it is made.
    command.extend(["--resolve-s3", "--confirm-changeset"].map(str::to_owned));
    let named = |wanted: &[&str]| args.iter().any(|arg| wanted.contains(&arg.as_str()));
    if !home.root.join("samconfig.toml").exists() && !named(&["--guided", "-g", "--stack-name"]) {
        command.push("--guided".to_owned());
    }
    // Always told, since a stack remembers what it was told before; beside the user's own, as the flag may come once only.
    let architecture = format!("Architecture={}", arch.name());
    match args.iter().position(|arg| arg == "--parameter-overrides") {
        Some(place) => {
            command.extend_from_slice(&args[..=place]);
            command.push(architecture);
            command.extend_from_slice(&args[place + 1..]);
        }
        None => {
            command.extend_from_slice(args);
            command.extend(["--parameter-overrides".to_owned(), architecture]);
        }
    }
    report::line(&format!(
        "region: {}",
        env("AWS_REGION").or(env("AWS_DEFAULT_REGION")).unwrap_or("as your AWS profile says".to_owned())
    ));
    report::line(&format!("profile: {}", env("AWS_PROFILE").unwrap_or("default".to_owned())));
    report::line(&format!("processor: {}", arch.name()));
    for line in sizes(&to).unwrap_or_default() {
        report::line(&line);
    }
    report::line("migrations are not part of it: run ./spine migrate first, since functions expect the newest schema");
    report::line(&format!("sam {}", command.join(" ")));
    if dry_run {
        return Ok(ExitCode::SUCCESS);
    }
    let status = Command::new(home.state.join("tools/bin/sam"))
        .args(&command)
        .current_dir(&home.root)
        .env("SAM_CLI_TELEMETRY", "0")
        .status()
        .context("sam cannot be run")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
