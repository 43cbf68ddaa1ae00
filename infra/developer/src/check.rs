//! `./spine test`: everything CI runs, on servers of its own.

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use chrono::Utc;
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

/// A part of the tests: what it is, its seconds, and those that it has kept processors at work, where the system counts them.
type Stage = (String, f64, Option<f64>);

/// How long each part of the tests took, in order.
struct Stages {
    begun: Instant,
    /// What processors had worked when the part that goes on began.
    worked: Option<f64>,
    taken: Vec<Stage>,
}

impl Stages {
    /// The script's own parts come first: it hands over in the same process.
    fn start() -> Self {
        let worked = worked();
        let seconds = env("SPINE_BUILT_IN").and_then(|seconds| seconds.parse().ok());
        let built = seconds.map(|seconds| ("installation, and build of the functions".to_owned(), seconds, worked));
        Self { begun: Instant::now(), worked, taken: built.into_iter().collect() }
    }

    /// Ends a part, which began when the one before it ended.
    fn done(&mut self, what: &str) {
        let worked = worked();
        let cpu = worked.zip(self.worked).map(|(now, before)| now - before);
        self.taken.push((what.to_owned(), self.begun.elapsed().as_secs_f64(), cpu));
        (self.begun, self.worked) = (Instant::now(), worked);
    }

    fn print(&self) {
        report::line("");
        let line = |what: &str, seconds: f64, cpu: Option<f64>| {
            let cpu = cpu.map(|cpu| format!("{cpu:>8.1} s of processors")).unwrap_or_default();
            report::line(&format!("  {what:<52} {seconds:>6.1} s{cpu}"));
        };
        for (what, seconds, cpu) in &self.taken {
            line(what, *seconds, *cpu);
        }
        let all = self.taken.iter().fold((0.0, None), |(sum, cpus), (_, seconds, cpu)| {
            (sum + seconds, cpu.map(|cpu| cpus.unwrap_or(0.0) + cpu))
        });
        line("in all", all.0, all.1);
    }
}

/// The seconds that processors have worked for this process and for those it has waited for; servers that still run are not among them.
fn worked() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // After the name, which may have spaces: the times are the 14th to 17th field, in hundredths.
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks: Option<Vec<f64>> = fields.split_whitespace().skip(11).take(4).map(|field| field.parse().ok()).collect();
    ticks.map(|ticks| ticks.iter().sum::<f64>() / 100.0)
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

    // The script has built them.
    variables.push(("SPINE_TEST_BUILT", "yes".to_owned()));
    let run = |what: &str, cargo: &mut Command| -> Result<()> {
        report::line(&format!("\n== {what}"));
        let status = cargo.current_dir(&home.root).stdin(Stdio::null()).status().context("cargo cannot be run")?;
        if !status.success() {
            bail!("{what} failed");
        }
        Ok(())
    };
    for tool in ["fmt", "clippy"] {
        if !has(tool) {
            bail!("cargo {tool} is not installed. Try: rustup component add rustfmt clippy");
        }
    }
    run("format", Command::new("cargo").args(["fmt", "--all", "--check"]))?;
    stages.done("format");
    check_dependencies(&home)?;
    stages.done("dependencies");
    check_template(&home)?;
    stages.done("template.yaml");
    check_schema(&home, &template).await?;
    stages.done("migrations and their schema");
    let described = Described::of(&home.root)?;
    run("lints, and queries against the schema", described.asking(&template, Command::new("cargo").args(LINTS)))?;
    described.compare(&home.root)?;
    stages.done("lints, and queries against the schema");

    let test = |locale: Option<&str>, args: &[&str]| -> Command {
        let mut cargo = Command::new("cargo");
        cargo
            .args(["test", "--locked", "--workspace"])
            .args(args)
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .envs(locale.map(|locale| ("SPINE_TEST_LOCALE", locale)))
            // A test is given its servers, and finds no other.
            .env_remove("DATABASE_URL")
            .env_remove("MONGODB_URI");
        cargo
    };
    run("build of the tests", &mut test(None, &["--no-run"]))?;
    stages.done("build of the tests");
    run("unit tests", &mut test(None, &["--lib", "--bins"]))?;
    stages.done("unit tests");

    let here = home.root.join(release::HERE);
    report::line("\n== a bootstrap as it is deployed");
    release::bootstraps(&home.root, release::Arch::HOST, ["jobs"], &here, false)?;
    let bootstrap = ("SPINE_TEST_BOOTSTRAP", here.join("jobs/bootstrap").display().to_string());
    stages.done("a bootstrap as it is deployed");
    // Else each test's databases are in one locale or the other.
    let (in_c, in_c_utf8) = if full { (Some("c"), Some("c_utf8")) } else { (None, None) };
    for (locale, what) in [(in_c, "integration tests"), (in_c_utf8, "integration tests in the other locale")] {
        if what.ends_with("locale") && locale.is_none() {
            continue;
        }
        let (name, value) = &bootstrap;
        run(what, test(locale, &["--test", "*"]).env(name, value))?;
        stages.done(what);
    }
    run("examples in comments", &mut test(None, &["--doc"]))?;
    stages.done("examples in comments");
    report::line("\n== planted bugs");
    if !planted::plant(&home, &Wanted::of_test(full)?, &variables).await? {
        bail!("a planted bug survived");
    }
    stages.done("planted bugs");
    Ok(())
}

/// The lints of everything there is.
const LINTS: [&str; 8] =
    ["clippy", "--locked", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"];

/// What the macros of `shared` have left of each query, as they were compiled for the lints with a database to ask. It stays beside the
/// compiled, since what cargo takes for fresh it does not compile, and then the macros leave nothing.
struct Described {
    folder: PathBuf,
    /// Different for another schema or other queries: an argument with this has cargo compile again.
    mark: String,
}

impl Described {
    /// Those of this schema and these queries, or an empty folder for them.
    fn of(root: &Path) -> Result<Self> {
        let all = env("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from).join("described");
        let asked = testbed::digest(root, &["infra/postgres", "migrations", "shared/src", "Cargo.lock"])?;
        let known = std::fs::read_dir(&all).ok().into_iter().flatten().flatten();
        let known = known.filter_map(|entry| entry.file_name().into_string().ok());
        let mark = match known.into_iter().find(|name| name.starts_with(&asked)) {
            Some(mark) => mark,
            None => {
                let _ = std::fs::remove_dir_all(&all);
                // Never the same again: a folder that was removed is not refilled by what was compiled before.
                format!("{asked}-{}", Utc::now().timestamp_micros())
            }
        };
        let folder = all.join(&mark);
        std::fs::create_dir_all(&folder)?;
        Ok(Self { folder, mark })
    }

    /// Has a run of clippy ask the database at `url`.
    fn asking<'a>(&self, url: &str, clippy: &'a mut Command) -> &'a mut Command {
        clippy
            .args(["--cfg", &format!("described=\"{}\"", self.mark)])
            .env("DATABASE_URL", url)
            .env("SQLX_OFFLINE", "false")
            .env("SQLX_OFFLINE_DIR", &self.folder)
    }

    /// Compares with what is kept.
    fn compare(&self, root: &Path) -> Result<()> {
        let differs = Command::new("diff").args(["-rq"]).arg(root.join(".sqlx")).arg(&self.folder).output()?;
        if !differs.status.success() {
            bail!(
                ".sqlx is not what the migrations say; run ./spine prepare:\n{}",
                String::from_utf8_lossy(&differs.stdout)
            );
        }
        Ok(())
    }
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
