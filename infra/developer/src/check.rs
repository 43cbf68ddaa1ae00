//! `./spine test`: everything CI runs, on servers of its own.

use std::{
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use developer::{lint, release, schema};
use local::{
    database,
    home::{self, Home},
    servers::{Postgres, Version},
    testbed::{self, Locale, Part},
};
use operator::env;
use sqlx::Connection;

use crate::{
    planted::{self, Wanted},
    report::{self, Timed},
};

/// How long each part of the tests took, in order.
struct Stages {
    begun: Instant,
    taken: Vec<(String, f64)>,
}

impl Stages {
    fn start() -> Self {
        Self { begun: Instant::now(), taken: Vec::new() }
    }

    /// Ends a part, which began when the one before it ended.
    fn done(&mut self, what: &str) {
        let before: f64 = self.taken.iter().map(|(_, seconds)| seconds).sum();
        self.taken.push((what.to_owned(), self.begun.elapsed().as_secs_f64() - before));
    }

    fn print(&self) {
        report::line("");
        for (what, seconds) in &self.taken {
            report::line(&format!("  {what:<52} {seconds:>6.1} s"));
        }
        report::line(&format!("  {:<52} {:>6.1} s", "in all", self.begun.elapsed().as_secs_f64()));
    }
}

/// Everything that CI runs; with `full`, every case of the tests of which CI takes a sample. Says at its end, however it ends, how long each
/// part took.
pub(crate) async fn test(full: bool) -> Result<ExitCode> {
    let mut stages = Stages::start();
    let outcome = stages_of_test(&mut stages, full).await;
    if outcome.is_err() {
        stages.done("what failed");
    }
    stages.print();
    outcome?;
    report::line("everything passed");
    Ok(ExitCode::SUCCESS)
}

async fn stages_of_test(stages: &mut Stages, full: bool) -> Result<()> {
    for variable in ["DATABASE_URL", "MONGODB_URI"] {
        if env(variable).is_some() {
            report::line(&format!("{variable} is set and not used: tests run on servers of their own"));
        }
    }
    let home = Home::open()?;
    let mut parts = Vec::new();
    let mut variables = vec![("SPINE_TEST_DIRECTORY", home.run.display().to_string())];
    if full {
        variables.push(("SPINE_TEST_FULL", "yes".to_owned()));
    }
    for part in Part::ALL {
        let part = part.start(&home).await?;
        variables.extend(part.variables.clone());
        parts.push(part);
    }
    let admin_url = variables.iter().find(|(name, _)| *name == "SPINE_TEST_DATABASE_URL");
    let admin_url = admin_url.map(|(_, value)| value.clone()).context("no Postgres was started")?;
    let template = testbed::template(&home.root, &admin_url, Locale::C).await?;
    let template = database::with_database(&admin_url, &template.name)?;
    stages.done("start the servers, migrate and seed a template");

    let here = home.root.join(release::HERE);
    report::line("\n== a bootstrap as it is deployed");
    release::bootstraps(&home.root, release::Arch::HOST, ["jobs"], &here, false)?;
    variables.push(("SPINE_TEST_BOOTSTRAP", here.join("jobs/bootstrap").display().to_string()));
    stages.done("a bootstrap as it is deployed");

    // The script has built them.
    variables.push(("SPINE_TEST_BUILT", "yes".to_owned()));
    let cargo_in = |locale: Option<&str>, what: &str, args: &[&str]| -> Result<()> {
        report::line(&format!("\n== {what}"));
        let status = Command::new("cargo")
            .args(args)
            .current_dir(&home.root)
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .envs(locale.map(|locale| ("SPINE_TEST_LOCALE", locale)))
            // A test is given its servers, and finds no other.
            .env_remove("DATABASE_URL")
            .env_remove("MONGODB_URI")
            .stdin(Stdio::null())
            .status()
            .context("cargo cannot be run")?;
        if !status.success() {
            bail!("{what} failed");
        }
        Ok(())
    };
    let cargo = |what: &str, args: &[&str]| cargo_in(None, what, args);
    for (tool, what, args) in [
        ("fmt", "format", ["fmt", "--all", "--check"].as_slice()),
        (
            "clippy",
            "lints",
            &["clippy", "--locked", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"],
        ),
    ] {
        if has(tool) {
            cargo(what, args)?;
        } else if env("CI").is_some() {
            bail!("cargo {tool} is not installed, and CI needs it");
        } else {
            report::line(&format!("cargo {tool} is not installed: {what} not checked"));
        }
        stages.done(what);
    }
    check_dependencies(&home)?;
    stages.done("dependencies");
    check_template(&home)?;
    stages.done("template.yaml");
    check_schema(&home, &template).await?;
    stages.done("migrations and their schema");
    check_queries(&home, &template)?;
    stages.done("queries against the schema");
    // Else each test's databases are in one locale or the other.
    let (in_c, in_c_utf8) = if full { (Some("c"), Some("c_utf8")) } else { (None, None) };
    for (locale, what, args) in [
        (None, "build of the tests", ["--no-run"].as_slice()),
        (None, "unit tests", &["--lib", "--bins"]),
        (in_c, "integration tests", &["--test", "*"]),
        (in_c_utf8, "integration tests in the other locale", &["--test", "*"]),
        (None, "examples in comments", &["--doc"]),
    ] {
        if what.ends_with("locale") && locale.is_none() {
            continue;
        }
        cargo_in(locale, what, &[["test", "--locked", "--workspace"].as_slice(), args].concat())?;
        stages.done(what);
    }
    report::line("\n== planted bugs");
    if !planted::plant(&home, &Wanted::of_test(full)?, &variables).await? {
        bail!("a planted bug survived");
    }
    stages.done("planted bugs");
    Ok(())
}

/// Runs what tests stand on until stopped, and says in a file where it is.
pub(crate) async fn servers() -> Result<ExitCode> {
    let home = Home::open()?;
    let mut announced = testbed::claim(&home.root)?;
    let mut parts = Vec::new();
    let mut variables = vec![("SPINE_TEST_DIRECTORY", home.run.display().to_string())];
    for part in Part::ALL {
        let timed = Timed::start(&format!("{part:?}"));
        let part = part.start(&home).await?;
        variables.extend(part.variables.clone());
        parts.push(part);
        timed.done();
    }
    let timed = Timed::start("migrate and seed a template on each Postgres");
    for (name, url) in &variables {
        if name.starts_with("SPINE_TEST_DATABASE_URL") {
            testbed::template(&home.root, url, Locale::C).await?;
        }
    }
    timed.done();
    announced.say(&variables)?;
    report::line("cargo test and an editor find these by themselves, until Ctrl-C");
    report::out(&format!("ready {}", announced.path.display()));
    std::future::pending::<()>().await;
    Ok(ExitCode::SUCCESS)
}

fn has(tool: &str) -> bool {
    let tried = Command::new("cargo").args([tool, "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
}

/// Has cargo-deny read what is compiled in, as deny.toml allows it.
fn check_dependencies(home: &Home) -> Result<()> {
    report::line("\n== dependencies");
    let status = Command::new(home::installed(&home.root, "checks")?.join("bin/cargo-deny"))
        .args(["--locked", "check", "bans", "licenses", "sources"])
        .current_dir(&home.root)
        .stdin(Stdio::null())
        .status()
        .context("cargo-deny cannot be run")?;
    if !status.success() {
        bail!("deny.toml refuses a dependency");
    }
    Ok(())
}

/// Has AWS's own linters read the template.
pub(crate) fn check_template(home: &Home) -> Result<()> {
    report::line("\n== template.yaml");
    for (tool, args) in [
        ("cfn-lint", ["template.yaml"].as_slice()),
        ("sam", &["validate", "--lint", "--template-file", "template.yaml"]),
    ] {
        let output = Command::new(home::installed(&home.root, "tools")?.join("bin").join(tool))
            .args(args)
            .current_dir(&home.root)
            // Read, not deployed: any region does, and nothing is told to anybody or kept at home.
            .env("AWS_DEFAULT_REGION", "eu-north-1")
            .env("SAM_CLI_TELEMETRY", "0")
            .env("__SAM_CLI_APP_DIR", &home.run)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("{tool} cannot be run"))?;
        if !output.status.success() {
            let told = [output.stdout, output.stderr].concat();
            bail!("{tool} refuses template.yaml:\n{}", String::from_utf8_lossy(&told));
        }
    }
    Ok(())
}

/// Has the migrations linted, and the schema that they have made.
async fn check_schema(home: &Home, url: &str) -> Result<()> {
    report::line("\n== migrations and their schema");
    let mut findings = lint::migrations(&home.root)?;
    findings.extend(lint_schema(url).await?);
    if !findings.is_empty() {
        bail!("{}", told(&findings));
    }
    let page = describe_schema(url).await?;
    if std::fs::read_to_string(home.root.join(schema::PAGE)).unwrap_or_default() != page {
        bail!("{} is not what the migrations say; run ./spine schema", schema::PAGE);
    }
    Ok(())
}

async fn describe_schema(url: &str) -> Result<String> {
    let mut conn = database::connect(url).await?;
    let page = schema::page(&mut conn).await?;
    conn.close().await?;
    Ok(page)
}

/// Rewrites the page that describes the schema.
pub(crate) async fn schema() -> Result<ExitCode> {
    let home = Home::open()?;
    let (_server, url) = migrated(&home).await?;
    std::fs::write(home.root.join(schema::PAGE), describe_schema(&url).await?)?;
    report::line(&format!("rewrote {}", schema::PAGE));
    Ok(ExitCode::SUCCESS)
}

async fn lint_schema(url: &str) -> Result<Vec<lint::Finding>> {
    let mut conn = database::connect(url).await?;
    let findings = lint::schema(&mut conn).await?;
    conn.close().await?;
    Ok(findings)
}

fn told(findings: &[lint::Finding]) -> String {
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    format!("{} to put right:\n{}", findings.len(), lines.join("\n"))
}

/// Lints the migrations, then the schema that they make on a server of its own.
pub(crate) async fn lint() -> Result<ExitCode> {
    let home = Home::open()?;
    let mut findings = lint::migrations(&home.root)?;
    let (_server, url) = migrated(&home).await.inspect_err(|_| {
        if !findings.is_empty() {
            report::out(&told(&findings));
        }
    })?;
    findings.extend(lint_schema(&url).await?);
    if findings.is_empty() {
        report::line("migrations and schema are as they should be");
        return Ok(ExitCode::SUCCESS);
    }
    report::out(&told(&findings));
    Ok(ExitCode::FAILURE)
}

/// A server with a database that has just been migrated.
async fn migrated(home: &Home) -> Result<(Postgres, String)> {
    let server = Postgres::start(home, Version::V18, None).await?;
    let url = database::create(&server.admin_url, "migrated", None).await?;
    database::migrate(&home.root, &url).await?;
    Ok((server, url))
}

/// Has every query checked by the migrated schema, and the answers in `.sqlx` compared with what the server says now.
fn check_queries(home: &Home, url: &str) -> Result<()> {
    report::line("\n== queries against the schema");
    let fresh = home.run.join("sqlx");
    describe(home, url, &fresh)?;
    let differs = Command::new("diff").args(["-rq"]).arg(home.root.join(".sqlx")).arg(&fresh).output()?;
    if !differs.status.success() {
        bail!(
            ".sqlx is not what the migrations say; run ./spine prepare:\n{}",
            String::from_utf8_lossy(&differs.stdout)
        );
    }
    Ok(())
}

/// Rewrites `.sqlx` from the migrated schema.
pub(crate) async fn prepare() -> Result<ExitCode> {
    let home = Home::open()?;
    let (_server, url) = migrated(&home).await?;
    let kept = home.root.join(".sqlx");
    let _ = std::fs::remove_dir_all(&kept);
    describe(&home, &url, &kept)?;
    report::line("rewrote .sqlx");
    Ok(ExitCode::SUCCESS)
}

/// Compiles `shared` with a database to ask; the macros leave each query's description in `to`.
fn describe(home: &Home, url: &str, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    let cargo = |args: &[&str]| -> Result<bool> {
        let status = Command::new("cargo")
            .args(args)
            .current_dir(&home.root)
            .env("DATABASE_URL", url)
            .env("SQLX_OFFLINE", "false")
            .env("SQLX_OFFLINE_DIR", to)
            // Its own, so that the ordinary build stays as it is.
            .env("CARGO_TARGET_DIR", home.root.join("target/describe"))
            .stdin(Stdio::null())
            .status()?;
        Ok(status.success())
    };
    // What cargo takes for fresh it does not compile, and then the macros leave nothing.
    cargo(&["clean", "--locked", "-p", "shared"])?;
    if !cargo(&["check", "--locked", "-p", "shared", "--all-features"])? {
        bail!("a query does not fit the schema");
    }
    Ok(())
}
