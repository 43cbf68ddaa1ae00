//! `./spine mutants`: plants each bug of the list, and says which the tests named for it did not notice.
//!
//! Bugs in Rust are all compiled into one copy of the checkout, below `target/mutants`, and one of them is switched on at a time. Bugs in
//! SQL go into the template that tests' databases are copied from, those in files into the copy: they need no build of their own.

mod build;
mod copy;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use developer::mutants::{self, Mutant, Place};
use local::{
    database,
    home::Home,
    lambda::MUTANT,
    testbed::{self, Locale, MUTATION, Part, Running},
};
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use self::{build::Build, copy::Copy};
use crate::report;

/// How long the tests of one bug may take. A bug that keeps them longer is noticed.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long all of them may take together, without a bug.
const ALL: Duration = Duration::from_secs(3600);
/// How many bugs CI plants: those that need no build of their own take two minutes so.
const SAMPLE: usize = 12;
/// The package whose tests are named without it.
const INTEGRATION: &str = "integration-tests";

/// Which bugs are planted.
#[derive(Debug, clap::Args)]
pub(crate) struct Wanted {
    /// Only so many, drawn by the seed.
    #[arg(long)]
    sample: Option<usize>,
    /// What a sample is drawn with.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only this one; may be repeated.
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
    /// Only those in SQL and in files, which need no build of their own.
    #[arg(long)]
    without_build: bool,
    /// Prints the list, and plants nothing.
    #[arg(long)]
    list: bool,
}

impl Wanted {
    /// What `./spine test` plants: everything in a full run, else a sample of what needs no build of its own, drawn as those of tests are.
    pub(crate) fn of_test(full: bool) -> Result<Self> {
        let seed = operator::env("SPINE_TEST_SEED").map_or(Ok(1), |seed| seed.parse());
        let seed = seed.context("SPINE_TEST_SEED is a number")?;
        let sample = (!full).then_some(SAMPLE);
        Ok(Self { sample, seed, names: Vec::new(), without_build: !full, list: false })
    }

    fn choose<'a>(&self, all: &'a [Mutant]) -> Result<Vec<&'a Mutant>> {
        for name in &self.names {
            ensure!(all.iter().any(|mutant| mutant.name == *name), "no bug in {} is called {name}", mutants::LIST);
        }
        let mut chosen: Vec<&Mutant> = all
            .iter()
            .filter(|mutant| self.names.is_empty() || self.names.contains(&mutant.name))
            .filter(|mutant| !self.without_build || !matches!(mutant.place, Place::Rust(_)))
            .collect();
        if let Some(sample) = self.sample {
            // A sample is of what can be run in its time.
            chosen.retain(|mutant| !mutant.tests.is_empty() && !mutant.is_slow);
            chosen.shuffle(&mut StdRng::seed_from_u64(self.seed));
            chosen.truncate(sample);
            report::line(&format!("a sample of {}, drawn with --seed {}", chosen.len(), self.seed));
        }
        Ok(chosen)
    }
}

/// What became of a bug.
enum Outcome {
    Killed(String),
    Survived,
    NotRun(&'static str),
}

pub(crate) async fn run(wanted: Wanted) -> Result<ExitCode> {
    let home = Home::open()?;
    if wanted.list {
        for mutant in mutants::list(&home.root)? {
            report::out(&listed(&mutant));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut variables = vec![("SPINE_TEST_DIRECTORY", home.run.display().to_string())];
    let mut parts: Vec<Running> = Vec::new();
    // The others are started by the tests that ask for them.
    for part in [Part::Postgres18, Part::Postgres16, Part::Mongo] {
        let part = part.start(&home).await?;
        variables.extend(part.variables.clone());
        parts.push(part);
    }
    let noticed = plant(&home, &wanted, &variables).await?;
    Ok(if noticed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn listed(mutant: &Mutant) -> String {
    let place = match &mutant.place {
        Place::Rust(file) | Place::File(file) => file,
        Place::Sql(function) => function,
    };
    let tests = if mutant.tests.is_empty() { "no test named".to_owned() } else { mutant.tests.join(" ") };
    format!("{:<70} {place:<60} {tests}", mutant.name)
}

/// Plants what is wanted, on servers that `variables` name. False if a bug survived that should not.
pub(crate) async fn plant(home: &Home, wanted: &Wanted, variables: &[(&'static str, String)]) -> Result<bool> {
    let all = mutants::list(&home.root)?;
    let chosen = wanted.choose(&all)?;
    let admin_url = variables.iter().find(|(name, _)| *name == "SPINE_TEST_DATABASE_URL");
    let admin_url = admin_url.map(|(_, value)| value.as_str()).context("no Postgres was started")?;
    mutants::check(&home.root, &all)?;
    let statements = statements(&home.root, admin_url, &all).await?;
    let copy = Copy::make(&home.root, &all)?;
    let run: Vec<&Mutant> = chosen.iter().copied().filter(|mutant| !mutant.tests.is_empty()).collect();
    let begun = Instant::now();
    let build = Build::of(home, &copy, &run)?;
    report::line(&format!("built in {} s", begun.elapsed().as_secs()));
    let harness = Harness { home, copy: &copy, build, variables };
    harness.check_without_bugs(&run).await?;

    let (mut killed, mut survived, mut excused, mut not_run) = (0, Vec::new(), Vec::new(), Vec::new());
    for mutant in &chosen {
        let begun = Instant::now();
        let outcome = harness.outcome(mutant, statements.get(mutant.name.as_str()).map(String::as_str)).await?;
        let taken = begun.elapsed().as_secs_f64();
        match (outcome, &mutant.survives) {
            (Outcome::Killed(by), reason) => {
                killed += 1;
                report::line(&format!("  killed    {:<64} {taken:>5.1} s  by {by}", mutant.name));
                if reason.is_some() {
                    report::line(&format!("            {}: its reason to survive holds no more", mutant.listed));
                }
            }
            (Outcome::Survived, Some(reason)) => {
                excused.push(format!("{} ({reason})", mutant.name));
                report::line(&format!("  survived  {:<64} {taken:>5.1} s  as the list says: {reason}", mutant.name));
            }
            (Outcome::Survived, None) => {
                survived.push(mutant.name.clone());
                report::line(&format!("  SURVIVED  {:<64} {taken:>5.1} s  {}", mutant.name, mutant.listed));
            }
            (Outcome::NotRun(why), _) => not_run.push(format!("{} ({why})", mutant.name)),
        }
    }
    let all_survived = survived.len() + excused.len();
    report::out(&format!("killed {killed}, survived {all_survived}, not run {}", not_run.len()));
    for (what, names) in [("survived", &survived), ("survived with a reason", &excused), ("not run", &not_run)] {
        for name in names {
            report::out(&format!("{what}: {name}"));
        }
    }
    Ok(survived.is_empty())
}

/// The definition of a database function with its bug, by the bug's name; each is tried once.
async fn statements<'a>(root: &Path, admin_url: &str, all: &'a [Mutant]) -> Result<BTreeMap<&'a str, String>> {
    let template = testbed::template(root, admin_url, Locale::C).await?;
    let name = format!("mutants_{:08x}", rand::random::<u32>());
    let url = testbed::copy(admin_url, &template, &name).await?;
    let mut conn = database::connect(&url).await?;
    let (mut statements, mut misfits) = (BTreeMap::new(), Vec::new());
    for mutant in all {
        let Place::Sql(function) = &mutant.place else { continue };
        match statement(&mut conn, mutant, function).await {
            Ok(statement) => drop(statements.insert(mutant.name.as_str(), statement)),
            Err(misfit) => misfits.push(format!("{misfit:#}")),
        }
    }
    conn.close().await?;
    database::drop(admin_url, &name).await?;
    ensure!(misfits.is_empty(), "{}", misfits.join("\n"));
    Ok(statements)
}

async fn statement(conn: &mut PgConnection, mutant: &Mutant, function: &str) -> Result<String> {
    let statement = mutant.plant(&mutants::definition(conn, function).await.context(mutant.listed.clone())?)?;
    conn.execute("begin").await?;
    let tried = conn.execute(AssertSqlSafe(statement.clone())).await;
    conn.execute("rollback").await?;
    tried.with_context(|| format!("mend the list: {} plants what Postgres refuses", mutant.listed))?;
    Ok(statement)
}

fn read(root: &Path, file: &str) -> Result<String> {
    fs::read_to_string(root.join(file)).with_context(|| format!("mend the list: there is no {file}"))
}

/// What tests ran, and how it ended.
struct Ended {
    passed: bool,
    output: String,
}

impl Ended {
    /// The tests that failed, by libtest's own words.
    fn failed(&self) -> Vec<&str> {
        let lines = self.output.lines().filter_map(|line| line.strip_prefix("test "));
        lines.filter_map(|line| line.strip_suffix(" ... FAILED")).collect()
    }
}

/// Runs tests.
struct Harness<'a> {
    home: &'a Home,
    copy: &'a Copy,
    build: Build,
    variables: &'a [(&'static str, String)],
}

/// A bug while its tests run. What it changed is as it was when this is dropped.
#[derive(Default)]
struct Planted {
    variables: Vec<(&'static str, String)>,
    restored: Option<(PathBuf, String)>,
}

impl Drop for Planted {
    fn drop(&mut self) {
        if let Some((file, text)) = &self.restored {
            let _ = fs::write(file, text);
        }
    }
}

impl Harness<'_> {
    async fn outcome(&self, mutant: &Mutant, statement: Option<&str>) -> Result<Outcome> {
        if mutant.tests.is_empty() {
            return Ok(Outcome::NotRun("no test named"));
        }
        let mut planted = Planted::default();
        match &mutant.place {
            Place::Rust(_) => planted.variables.push((MUTANT, mutant.name.clone())),
            Place::Sql(_) => {
                let file = self.home.run.join("mutation.sql");
                fs::write(&file, statement.context("a statement is missing")?)?;
                planted.variables.push((MUTATION, file.display().to_string()));
            }
            Place::File(name) => {
                let (file, text) = (self.copy.source.join(name), read(&self.home.root, name)?);
                fs::write(&file, mutant.plant(&text)?)?;
                planted.restored = Some((file, text));
                planted.variables.push(("SPINE_ROOT", self.copy.source.display().to_string()));
            }
        }
        let mut outcome = Outcome::Survived;
        for (package, tests) in by_package(&mutant.tests) {
            let Some(ended) = self.run(&package, &tests, &planted.variables, PATIENCE).await? else {
                outcome = Outcome::Killed(format!("none of {} ending in {} s", tests.join(", "), PATIENCE.as_secs()));
                break;
            };
            if !ended.passed {
                let failed = ended.failed();
                // Neither is noticed by a program that cannot begin.
                ensure!(!failed.is_empty(), "the tests of {} did not run:\n{}", mutant.name, ended.output);
                outcome = Outcome::Killed(failed.join(", "));
                break;
            }
        }
        if let Some(statement) = statement {
            self.forget_templates(statement).await?;
        }
        Ok(outcome)
    }

    /// A failure says something of a bug only where there is none without it.
    async fn check_without_bugs(&self, run: &[&Mutant]) -> Result<()> {
        let tests: BTreeSet<String> = run.iter().flat_map(|mutant| mutant.tests.iter().cloned()).collect();
        for (package, tests) in by_package(&tests) {
            let known = self.program(&package)?.arg("--list").stderr(Stdio::null()).output()?;
            let known = String::from_utf8_lossy(&known.stdout).into_owned();
            let known: BTreeSet<&str> = known.lines().filter_map(|line| line.strip_suffix(": test")).collect();
            for test in &tests {
                ensure!(known.contains(test.as_str()), "mend the list: {package} has no test {test}");
            }
            let begun = Instant::now();
            let ended = self.run(&package, &tests, &[], ALL).await?.context("the tests do not end, without any bug")?;
            ensure!(ended.passed, "tests fail without any bug: {}\n{}", ended.failed().join(", "), ended.output);
            report::line(&format!(
                "  {} tests of {package} pass without any bug in {} s",
                tests.len(),
                begun.elapsed().as_secs()
            ));
        }
        Ok(())
    }

    fn program(&self, package: &str) -> Result<Command> {
        let program =
            self.build.tests.get(package).with_context(|| format!("mend the list: no package {package} has tests"))?;
        let root = if self.build.is_of_copy { &self.copy.source } else { &self.home.root };
        let mut command = Command::new(program);
        command.current_dir(root.join(if package == INTEGRATION { "tests" } else { "" }));
        Ok(command)
    }

    /// Runs tests of a package. None if they did not end in time.
    async fn run(
        &self,
        package: &str,
        tests: &[String],
        variables: &[(&'static str, String)],
        patience: Duration,
    ) -> Result<Option<Ended>> {
        let log = self.home.run.join("mutant.log");
        let out = fs::File::create(&log)?;
        let mut command = self.program(package)?;
        command
            .arg("--exact")
            .args(tests)
            .env("SPINE_ROOT", &self.home.root)
            // The build has them.
            .env("SPINE_TEST_BUILT", "yes")
            .env("INSTA_UPDATE", "no")
            .envs(self.variables.iter().chain(variables).map(|(name, value)| (*name, value)))
            // A test is given its servers, and finds no other.
            .env_remove("DATABASE_URL")
            .env_remove("MONGODB_URI")
            .env_remove("SPINE_TEST_FULL")
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .process_group(0);
        let mut child = tokio::process::Command::from(command).spawn().context("the tests cannot be run")?;
        // What a test started may outlast it.
        let _group = Group(child.id());
        let Ok(status) = tokio::time::timeout(patience, child.wait()).await else { return Ok(None) };
        let output = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        Ok(Some(Ended { passed: status?.success(), output }))
    }

    /// Drops the templates that have this bug.
    async fn forget_templates(&self, statement: &str) -> Result<()> {
        let suffix = testbed::mutated_suffix(statement);
        for (_, url) in self.variables.iter().filter(|(name, _)| name.starts_with("SPINE_TEST_DATABASE_URL")) {
            let mut admin = database::connect(url).await?;
            let names: Vec<String> =
                sqlx::query_scalar("select datname from pg_database where right(datname, length($1)) = $1")
                    .bind(&suffix)
                    .fetch_all(&mut admin)
                    .await?;
            admin.close().await?;
            for name in names {
                database::drop(url, &name).await?;
            }
        }
        Ok(())
    }
}

/// Ends every process of a group when this is dropped.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(id) = self.0 {
            let _ = Command::new("kill").args(["-KILL", "--", &format!("-{id}")]).stderr(Stdio::null()).status();
        }
    }
}

/// Names of tests, by the package that has them.
fn by_package<'a>(tests: impl IntoIterator<Item = &'a String>) -> BTreeMap<String, Vec<String>> {
    let mut packages: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for test in tests {
        let (package, path) = test.split_once('/').unwrap_or((INTEGRATION, test));
        packages.entry(package.to_owned()).or_default().push(path.to_owned());
    }
    packages
}
