//! `./spine test`: everything CI runs, on servers of its own.

use std::{
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use local::{
    database,
    home::Home,
    lint, pooler, schema,
    servers::{Mongo, Moto, Postgres, Version},
};
use sqlx::Connection;

use crate::{
    build,
    platform::env,
    report::{self, Timed},
};

/// Where release binaries for this machine are.
pub(crate) const RELEASE: &str = "target/lambda-here";

/// What tests copy their databases from.
const TEMPLATE: &str = "spine_template";

pub(crate) async fn test(args: &[String]) -> Result<ExitCode> {
    let begun = Instant::now();
    for variable in ["DATABASE_URL", "MONGODB_URI"] {
        if env(variable).is_some() {
            report::line(&format!("{variable} is set and not used: tests run on servers of their own"));
        }
    }
    let home = Home::open()?;
    let timed = Timed::start("start Postgres 18 and 16, the MongoDB-wire server and moto");
    let newest = Postgres::start(&home, Version::V18, None).await?;
    let oldest = Postgres::start(&home, Version::V16, None).await?;
    let mongo = Mongo::start(&home, None).await?;
    let moto = Moto::start(&home).await?;
    timed.done();
    let timed = Timed::start("find PgBouncer, or fetch it");
    let pooler = match pooler::find(&home) {
        Ok(program) => Some(program),
        Err(error) if env("CI").is_some() => return Err(error.context("CI needs PgBouncer")),
        Err(error) => {
            report::line(&format!("  no PgBouncer, so nothing is tested through it: {error:#}"));
            None
        }
    };
    timed.done();
    let timed = Timed::start("migrate and seed a template on each");
    let mut functions_urls = Vec::new();
    for server in [&newest, &oldest] {
        let url = database::create(&server.admin_url, TEMPLATE, None).await?;
        database::migrate(&home.root, &url).await?;
        database::seed(&home.root, &url).await?;
        functions_urls.push(database::functions_url(&url).await?);
    }
    timed.done();
    let told = |path: Option<&Path>| path.map(|path| path.display().to_string()).unwrap_or_default();
    let bootstrap = home.root.join(RELEASE).join("jobs/bootstrap");
    let variables = [
        ("SPINE_TEST_BOOTSTRAP", told(Some(&bootstrap))),
        ("SPINE_TEST_AWS_URL", moto.url.clone()),
        ("SPINE_TEST_PGBOUNCER", told(pooler.as_ref().map(|program| program.path.as_path()))),
        ("SPINE_TEST_PGBOUNCER_LIBRARIES", told(pooler.as_ref().map(|program| program.libraries.as_path()))),
        ("SPINE_TEST_DATABASE_URL", newest.admin_url.clone()),
        ("SPINE_TEST_FUNCTIONS_URL", functions_urls[0].clone()),
        ("SPINE_TEST_POSTGRES_BIN", told(newest.psql.parent())),
        ("SPINE_TEST_DATABASE_LOG", newest.log.display().to_string()),
        ("SPINE_TEST_DATABASE_URL_16", oldest.admin_url.clone()),
        ("SPINE_TEST_FUNCTIONS_URL_16", functions_urls[1].clone()),
        ("SPINE_TEST_POSTGRES_BIN_16", told(oldest.psql.parent())),
        ("SPINE_TEST_TEMPLATE", TEMPLATE.to_owned()),
        ("SPINE_TEST_MONGODB_URI", mongo.uri.clone()),
        ("SPINE_TEST_DIRECTORY", home.run.display().to_string()),
    ];
    let cargo = |what: &str, args: &[&str]| -> Result<()> {
        report::line(&format!("\n== {what}"));
        let begun = Instant::now();
        let status = Command::new("cargo")
            .args(args)
            .current_dir(&home.root)
            .envs(variables.iter().map(|(name, value)| (name, value)))
            // A test is told where its servers are, and finds no other.
            .env_remove("DATABASE_URL")
            .env_remove("MONGODB_URI")
            .stdin(Stdio::null())
            .status()
            .context("cargo cannot be run")?;
        report::line(&format!("== {what}: {:.0} s", begun.elapsed().as_secs_f64()));
        if !status.success() {
            bail!("{what} failed");
        }
        Ok(())
    };
    // A filter that does not name it does without.
    if args.is_empty() || args.iter().any(|arg| arg.contains("release")) {
        report::line("\n== a bootstrap as it is deployed");
        build::bootstraps(&home.root, build::Arch::HOST, ["jobs"], &home.root.join(RELEASE), false)?;
    }
    if args.is_empty() {
        for (tool, what, command) in [
            ("fmt", "format", ["fmt", "--all", "--check"].as_slice()),
            (
                "clippy",
                "lints",
                &["clippy", "--locked", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"],
            ),
        ] {
            if has(tool) {
                cargo(what, command)?;
            } else if env("CI").is_some() {
                bail!("cargo {tool} is not installed, and CI needs it");
            } else {
                report::line(&format!("cargo {tool} is not installed: {what} not checked"));
            }
        }
        check_template(&home)?;
        check_schema(&home, &newest).await?;
        check_queries(&home, &newest).await?;
    }
    let mut tests = vec!["test", "--locked", "--workspace"];
    tests.extend(args.iter().map(String::as_str));
    cargo("tests", &tests)?;
    report::line(&format!("\neverything passed in {:.0} s", begun.elapsed().as_secs_f64()));
    Ok(ExitCode::SUCCESS)
}

fn has(tool: &str) -> bool {
    let tried = Command::new("cargo").args([tool, "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
}

/// Has AWS's own linters read the template.
pub(crate) fn check_template(home: &Home) -> Result<()> {
    report::line("\n== template.yaml");
    for (tool, args) in [
        ("cfn-lint", ["template.yaml"].as_slice()),
        ("sam", &["validate", "--lint", "--template-file", "template.yaml"]),
    ] {
        let output = Command::new(home.state.join("tools/bin").join(tool))
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
async fn check_schema(home: &Home, server: &Postgres) -> Result<()> {
    report::line("\n== migrations and their schema");
    let url = database::with_database(&server.admin_url, TEMPLATE)?;
    let mut findings = lint::migrations(&home.root)?;
    findings.extend(lint_schema(&url).await?);
    if !findings.is_empty() {
        bail!("{}", told(&findings));
    }
    let page = describe_schema(&url).await?;
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
    let url = database::create(&server.admin_url, TEMPLATE, None).await?;
    database::migrate(&home.root, &url).await?;
    Ok((server, url))
}

/// Has every query checked by the migrated schema, and the answers in `.sqlx` compared with what the server says now.
async fn check_queries(home: &Home, server: &Postgres) -> Result<()> {
    report::line("\n== queries against the schema");
    let fresh = home.run.join("sqlx");
    describe(home, &database::with_database(&server.admin_url, TEMPLATE)?, &fresh)?;
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
