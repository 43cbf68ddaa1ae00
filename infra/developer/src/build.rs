//! `./spine build` and `./spine deploy`: what AWS gets.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result};
use developer::release::{Arch, bootstraps};
use local::{
    functions::FUNCTIONS,
    home::{self, Home},
};
use operator::{database::Migrations, env, restore::Dialect};

use crate::{check, expected, report};

/// The operator's program.
const OPERATOR: &str = "spine-operator";

/// The binaries there are, each once.
pub(crate) fn binaries() -> BTreeSet<&'static str> {
    FUNCTIONS.iter().map(|function| function.binary).collect()
}

/// Where the zips are that `template.yaml` names.
pub(crate) fn output() -> PathBuf {
    home::root().join("target/lambda")
}

pub(crate) async fn run(arch: Arch) -> Result<ExitCode> {
    let (home, to) = (Home::open()?, output());
    report::line("building each function alone, with thin LTO: minutes for the first, less for the others");
    bootstraps(&home.root, arch, binaries(), &to, true)?;
    let operator = operator_program(&home, arch, &to).await?;
    for line in sizes(&to)? {
        report::out(&line);
    }
    let megabytes = fs::metadata(&operator)?.len() as f64 / 1e6;
    report::out(&format!("{OPERATOR:<26} {megabytes:>6.2} MB  {}", operator.display()));
    Ok(ExitCode::SUCCESS)
}

/// The operator's program, beside the functions' zips, and with it what its `restore-check` compares with. Where it is.
async fn operator_program(home: &Home, arch: Arch, to: &Path) -> Result<PathBuf> {
    bootstraps(&home.root, arch, ["operator"], to, false)?;
    let folder = to.join(OPERATOR);
    let program = folder.join(OPERATOR);
    fs::rename(folder.join("bootstrap"), &program)?;
    let migrations = Migrations::of_checkout(&home.root).await?;
    for dialect in Dialect::ALL {
        expected::make(home, dialect).await?.write(&folder.join(dialect.file()), &migrations)?;
    }
    Ok(program)
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
    let home = Home::open()?;
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
    let status = Command::new(home::installed(&home.root, "tools")?.join("bin/sam"))
        .args(&command)
        .current_dir(&home.root)
        .env("SAM_CLI_TELEMETRY", "0")
        .status()
        .context("sam cannot be run")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
