//! `./spine bench`: what docs/BENCHMARKS.md claims, measured in one run on one machine, each beside its budget.
//!
//! Functions are the bootstraps that are deployed, built for this machine's processor. What row-level security and vector search take
//! is measured in [`isolation`], which needs no functions.

mod isolation;
mod leads;
mod photos;
mod results;
mod social;
mod social_lists;
mod stripe;

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use developer::release::{self, Arch};
use local::{
    database,
    functions::{FUNCTIONS, Function},
    gateway,
    home::Home,
    lambda::{Environment, Lambda},
    pooler::{self, PgBouncer},
    stack::{self, Stack, StackConfig},
};
use reqwest::{
    Method,
    header::{HeaderMap, HeaderValue},
};
use sandbox::{Moment, Tap, Verdict, auth::User};
use serde_json::{Value, json};
use shared::{
    config::Env,
    db::Database,
    jobs::{self, Claim, End},
    limits::{self, Amounts, Counted},
    secrets::Secrets,
};
use sqlx::{AssertSqlSafe, Executor, PgConnection};
use uuid::Uuid;

use self::results::{Budget, Results};
use crate::{build, platform, report};

const ORG: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001);
const OTHER_ORG: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0002);
const PROJECT: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_00a1);
const DORA: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0103);

/// How often each cold start is made.
const STARTS: usize = 25;
/// How many requests are admitted.
const ADMISSIONS: usize = 600;
/// How many jobs are claimed and completed.
const JOBS: usize = 20_000;
const JOBS_IN_A_BATCH: usize = 10;
/// How many workers and callers there are at once, on two cores.
const ABREAST: usize = 4;
/// How many reservations and renders are timed.
const RESERVATIONS: usize = 400;
const RENDERS: usize = 30;

/// What a wire showed, and when.
type Seen = (&'static str, Moment, Instant);

/// A part that can be measured alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Row-level security at a million rows, and vector search at a hundred thousand.
    Isolation,
    /// Scoring a hundred thousand leads, and ranking people for them.
    Leads,
    /// The largest photo of each format: memory and time of the worker.
    Photos,
    /// The inbox at a million messages, and the intake of deliveries beside a Node receiver.
    Social,
    /// Events of Stripe's: how many a second, CPU, memory and round trips.
    Stripe,
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

pub(crate) async fn run(part: Option<Part>, json: bool) -> Result<ExitCode> {
    if !matches!(part, Some(Part::Isolation | Part::Leads)) && !cfg!(target_os = "linux") {
        bail!("functions are built for Linux, so they are measured on Linux");
    }
    if operator::env("DATABASE_URL").or(operator::env("MONGODB_URI")).is_some() {
        let why =
            "bench fills and empties tables: unset DATABASE_URL and MONGODB_URI, and it starts servers of its own";
        return Err(platform::Refused(why.to_owned()).into());
    }
    let home = Home::open()?;
    let mut results = Results { json, missed: Vec::new() };
    let machine = machine();
    if json {
        report::out(
            &json!({ "measure": "machine", "value": machine, "unit": "", "budget": null, "met": null }).to_string(),
        );
    } else {
        report::out(&format!("machine: {machine}\n"));
    }
    // On the heap: nested, their futures are deeper than the compiler looks.
    match part {
        None => Box::pin(deployed(&home, &mut results)).await?,
        Some(Part::Stripe) => Box::pin(stripe::measure_alone(&home, &mut results)).await?,
        Some(Part::Photos) => Box::pin(photos::measure_alone(&home, &mut results)).await?,
        Some(Part::Isolation | Part::Leads | Part::Social) => {}
    }
    if matches!(part, None | Some(Part::Social)) {
        Box::pin(social::measure(&home, &mut results)).await?;
    }
    if matches!(part, None | Some(Part::Isolation)) {
        isolation::measure(&home, &mut results).await?;
    }
    if matches!(part, None | Some(Part::Leads)) {
        leads::measure(&home, &mut results).await?;
    }

    if !json && !results.missed.is_empty() {
        report::out(&format!("\nmissed: {}", results.missed.join("; ")));
    }
    Ok(ExitCode::SUCCESS)
}

/// What is deployed, on databases of its own.
async fn deployed(home: &Home, results: &mut Results) -> Result<()> {
    let built = home.root.join(release::HERE);
    report::line("building what is deployed, and the peers it is measured beside: ten minutes the first time");
    release::bootstraps(
        &home.root,
        Arch::HOST,
        build::binaries().into_iter().chain(["benches", "bench_stripe"]),
        &built,
        false,
    )?;
    let zips = home.run.join("zips");
    release::bootstraps(&home.root, Arch::HOST, build::binaries(), &zips, true)?;

    let databases = platform::Databases::start(home, None, platform::Given::default()).await?;
    for (binary, budget) in
        FUNCTIONS.map(|function| (function.binary, function.zipped_mb)).into_iter().collect::<BTreeSet<_>>()
    {
        let size = build::size(&zips, binary)? as f64 / 1e6;
        results.measure(&format!("size of {binary}, zipped"), size, "MB", Budget::AtMost(budget.into()));
    }

    let bench = Bench::prepare(home, &databases, &built).await?;
    bench.cold_starts(results).await?;
    bench.round_trips(results).await?;
    bench.admissions(results).await?;
    let reserved = bench.reservations(results).await?;
    bench.jobs(results).await?;
    bench.ai_overhead(results, reserved).await?;
    bench.photos(results).await?;
    bench.stripe(results).await
}

/// Processor, cores, memory and kernel.
fn machine() -> String {
    let read = |path: &str, name: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.split_once(':').map(|(_, value)| value.trim().to_owned()))
            .unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = read("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse::<f64>().unwrap_or_default() / 1e6;
    format!(
        "{}, {cores} cores, {memory:.0} GB, {} {}",
        read("/proc/cpuinfo", "model name"),
        std::env::consts::OS,
        std::env::consts::ARCH
    )
}

struct Bench<'a> {
    home: &'a Home,
    databases: &'a platform::Databases,
    database_url: String,
    binaries: PathBuf,
    release: &'a std::path::Path,
}

impl<'a> Bench<'a> {
    async fn prepare(home: &'a Home, databases: &'a platform::Databases, release: &'a std::path::Path) -> Result<Self> {
        local::database::migrate(&home.root, &databases.admin_url).await?;
        local::database::seed(&home.root, &databases.admin_url).await?;
        let database_url = local::database::functions_url(&databases.admin_url).await?;
        // By name, as the local stack looks for them.
        let binaries = home.run.join("release");
        fs::create_dir_all(&binaries)?;
        for binary in build::binaries() {
            let link = binaries.join(binary);
            if !link.is_symlink() {
                std::os::unix::fs::symlink(release.join(binary).join("bootstrap"), link)?;
            }
        }
        // Nothing here is about being limited.
        database::connect(&databases.admin_url).await?.execute("delete from public.agent_limits").await?;
        stack::prepare_documents(&databases.mongodb_uri, "bench").await?;
        Ok(Self { home, databases, database_url, binaries, release })
    }

    /// A back office; `wired` to count and time what passes, else with nothing in between.
    async fn stack(&self, wired: bool, overrides: &[(&str, &str)]) -> Result<Stack> {
        Stack::start(StackConfig {
            database_url: self.database_url.clone(),
            mongodb_uri: self.databases.mongodb_uri.clone(),
            mongodb_database: "bench".to_owned(),
            binaries: self.binaries.clone(),
            directory: self.home.run.join("bench"),
            port: 0,
            visibility: Duration::from_secs(30),
            worker_timeout: None,
            wired,
            overrides: overrides.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        })
        .await
    }

    async fn admin(&self) -> Result<PgConnection> {
        database::connect(&self.databases.admin_url).await
    }

    fn token(stack: &Stack) -> Result<String> {
        stack.sandbox.auth.sign_in(&User { id: DORA, email: "dora@atelier-nord.example".to_owned() }, Some(ORG))
    }

    /// Process start to first answer, beside the smallest functions there can be.
    async fn cold_starts(&self, results: &mut Results) -> Result<()> {
        let stack = self.stack(false, &[]).await?;
        let token = Self::token(&stack)?;
        let job = admitted(&stack, &token, &upload(&stack, &token).await?).await?["job"]["id"].clone();
        let job = job.as_str().context("no job")?.to_owned();
        let function = find("Jobs")?;
        let own = stack.environment.clone();
        let mut plain: Environment = own.iter().filter(|(name, _)| name != "SECRETS_ARN").cloned().collect();
        plain.push(("DATABASE_URL".to_owned(), self.database_url.clone()));
        let read = request(Method::GET, &format!("/v1/jobs/{job}"), Some(&token), &Value::Null)?;
        let hello = request(Method::GET, "/", None, &Value::Null)?;
        let peer = |name: &str| self.release.join(name).join("bootstrap");
        let cases = [
            ("hello", peer("peer_hello"), &plain, &hello),
            ("query", peer("peer_query"), &plain, &hello),
            ("deployed", peer("jobs"), &own, &read),
            ("environment", peer("jobs"), &plain, &read),
        ];
        let mut times: Vec<Vec<f64>> = vec![Vec::new(); cases.len()];
        let mut memory = vec![0; cases.len()];
        // In turn, so that whatever else the machine does meets all of them.
        for round in 0..=STARTS {
            for (index, (name, binary, environment, event)) in cases.iter().enumerate() {
                let lambda = Lambda::new(function, binary.clone(), (*environment).clone(), &stack.logs);
                let begun = Instant::now();
                let answer = lambda.invoke((*event).clone()).await.with_context(|| format!("{name} failed"))?;
                let took = milliseconds(begun);
                ensure!(answer["statusCode"] == 200, "{name} answered {answer}");
                // The first round warms the disk's cache.
                if round > 0 {
                    times[index].push(took);
                    memory[index] = memory[index].max(lambda.peak_memory().unwrap_or_default());
                }
            }
        }
        let mut medians = times.into_iter().map(median);
        let mut next = || medians.next().unwrap_or(f64::NAN);
        let (hello, query, deployed, environment) = (next(), next(), next(), next());
        results.measure("cold start, bare lambda_http hello", hello, "ms", Budget::None);
        results.measure("cold start, smallest lambda_http + sqlx query", query, "ms", Budget::None);
        results.measure("cold start, jobs: token, key set, policies; secrets given", environment, "ms", Budget::None);
        results.measure("cold start, jobs: the same, secrets from Secrets Manager", deployed, "ms", Budget::None);
        results.measure(
            "cold start, jobs beside the query, secrets given",
            environment / query,
            "x",
            Budget::AtMost(1.5),
        );
        results.measure("cold start, jobs beside the query, as deployed", deployed / query, "x", Budget::AtMost(1.5));
        results.measure("peak memory, smallest query", memory[1] as f64 / 1e6, "MB", Budget::None);
        results.measure("peak memory, jobs as deployed", memory[2] as f64 / 1e6, "MB", Budget::None);
        Ok(())
    }

    /// Counted on the wire to the database, warm.
    async fn round_trips(&self, results: &mut Results) -> Result<()> {
        let direct = self.stack(true, &[]).await?;
        self.count_round_trips(results, "direct", &direct, 3.0).await?;
        match pooler::find(self.home) {
            Ok(program) => {
                let pooler = PgBouncer::start(self.home, &program, &self.database_url, None, 2).await?;
                let overrides = [("DATABASE_URL", pooler.url.as_str()), ("DATABASE_MODE", "transaction_pooler")];
                let pooled = self.stack(true, &overrides).await?;
                self.count_round_trips(results, "pooled", &pooled, 4.0).await?;
            }
            Err(error) => report::line(&format!("not measured through a pooler: {error:#}")),
        }
        Ok(())
    }

    async fn count_round_trips(&self, results: &mut Results, how: &str, stack: &Stack, most: f64) -> Result<()> {
        const TIMES: usize = 20;
        stack.renders.pause();
        let token = Self::token(stack)?;
        let photo = upload(stack, &token).await?;
        let first = admitted(stack, &token, &photo).await?;
        let job = first["job"]["id"].as_str().context("no job")?;
        let read = request(Method::GET, &format!("/v1/jobs/{job}"), Some(&token), &Value::Null)?;
        let lambda = stack.function("Jobs").context("no Jobs")?;
        lambda.invoke(read.clone()).await?;
        let wire = stack.wire("postgres")?;
        let before = wire.exchanges();
        for _ in 0..TIMES {
            ensure!(lambda.invoke(read.clone()).await?["statusCode"] == 200, "a read failed");
        }
        let each = (wire.exchanges() - before) as f64 / TIMES as f64;
        results.measure(&format!("round trips of a signed-in read, {how}"), each, "round trips", Budget::AtMost(most));
        let before = wire.exchanges();
        for _ in 0..TIMES {
            admitted(stack, &token, &photo).await?;
        }
        let each = (wire.exchanges() - before) as f64 / TIMES as f64;
        results.measure(&format!("round trips of an admission, {how}"), each, "round trips", Budget::None);
        Ok(())
    }

    /// Requests admitted a second by four processes: two transactions, a look into storage and a message each.
    async fn admissions(&self, results: &mut Results) -> Result<()> {
        let stack = self.stack(false, &[]).await?;
        stack.renders.pause();
        let token = Self::token(&stack)?;
        let photo = upload(&stack, &token).await?;
        let warm = (0..ABREAST).map(|_| admitted(&stack, &token, &photo));
        futures::future::try_join_all(warm).await?;
        let begun = Instant::now();
        let lane = async || -> Result<()> {
            for _ in 0..ADMISSIONS / ABREAST {
                admitted(&stack, &token, &photo).await?;
            }
            Ok(())
        };
        futures::future::try_join_all((0..ABREAST).map(|_| lane())).await?;
        let rate = ADMISSIONS as f64 / begun.elapsed().as_secs_f64();
        results.measure("render requests admitted, four processes", rate, "a second", Budget::None);
        Ok(())
    }

    fn database(&self) -> Result<Database> {
        let env = Env::from_iter([("DATABASE_URL", self.database_url.as_str())]);
        Ok(Database::from_env(&env, Arc::new(Secrets::from_env(&env)?))?)
    }

    async fn add_jobs(&self, org: Uuid, count: usize) -> Result<Vec<Uuid>> {
        let mut admin = self.admin().await?;
        let made = sqlx::query_scalar(
            "insert into public.jobs (org_id, job_type) select $1, 'bench' from generate_series(1, $2) returning id",
        )
        .bind(org)
        .bind(i64::try_from(count)?)
        .fetch_all(&mut admin)
        .await?;
        admin.execute("analyze public.jobs").await?;
        Ok(made)
    }

    /// A reservation in a warm transaction, beside an update of one row in another.
    async fn reservations(&self, results: &mut Results) -> Result<f64> {
        let ids = self.add_jobs(ORG, RESERVATIONS).await?;
        let mut admin = self.admin().await?;
        admin
            .execute(
                "create table public.bench (id integer primary key, n bigint); insert into public.bench values (1, 0)",
            )
            .await?;
        // A limit for each whom a reservation is counted against.
        admin
            .execute(AssertSqlSafe(format!(
                "insert into public.agent_limits (org_id, agent, scope, period, max_requests)
                 values ('{ORG}', 'bench', 'user', 'day', 1000000), ('{ORG}', 'bench', 'project', 'month', 1000000),
                        ('{ORG}', 'bench', 'agent', 'month', 1000000)"
            )))
            .await?;
        let database = self.database()?;
        let counted = Counted { agent: "bench", user_id: Some(DORA), project_id: Some(PROJECT) };
        let amounts = Amounts { requests: 1, tokens: 10, cost_micro_usd: 10 };
        let (mut reserved, mut updated) = (Vec::new(), Vec::new());
        for id in &ids {
            let mut tx = database.service_tx(ORG).await?;
            let begun = Instant::now();
            limits::reserve(&mut tx, *id, counted, amounts).await?;
            reserved.push(milliseconds(begun));
            tx.commit().await?;
            admin.execute("begin").await?;
            let begun = Instant::now();
            sqlx::query("update public.bench set n = n + $1 where id = $2")
                .bind(1_i64)
                .bind(1)
                .execute(&mut admin)
                .await?;
            updated.push(milliseconds(begun));
            admin.execute("commit").await?;
        }
        admin.execute("drop table public.bench").await?;
        let (reserved, updated) = (median(reserved), median(updated));
        results.measure("a reservation against three limits, one round trip", reserved, "ms", Budget::None);
        results.measure("an update of one row", updated, "ms", Budget::None);
        results.measure("a reservation beside the update", reserved / updated, "x", Budget::AtMost(1.5));
        Ok(reserved)
    }

    /// Ten jobs of one tenant claimed in one transaction and completed in another, by four workers, tenants in turn.
    async fn jobs(&self, results: &mut Results) -> Result<()> {
        let (own, other) = (self.add_jobs(ORG, JOBS / 2).await?, self.add_jobs(OTHER_ORG, JOBS / 2).await?);
        let batches: Vec<(Uuid, Vec<Uuid>)> = own
            .chunks(JOBS_IN_A_BATCH)
            .zip(other.chunks(JOBS_IN_A_BATCH))
            .flat_map(|(own, other)| [(ORG, own.to_vec()), (OTHER_ORG, other.to_vec())])
            .collect();
        let waiting = Arc::new(Mutex::new(batches));
        let begun = Instant::now();
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..ABREAST {
            let (database, waiting) = (self.database()?, Arc::clone(&waiting));
            workers.spawn(async move {
                let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
                while let Some((org, ids)) = next() {
                    complete(&database, org, &ids).await?;
                }
                Ok::<_, anyhow::Error>(())
            });
        }
        while let Some(ended) = workers.join_next().await {
            ended??;
        }
        let rate = JOBS as f64 / begun.elapsed().as_secs_f64();
        let mut admin = self.admin().await?;
        let done: i64 =
            sqlx::query_scalar("select count(*) from public.jobs where job_type = 'bench' and status = 'succeeded'")
                .fetch_one(&mut admin)
                .await?;
        ensure!(usize::try_from(done)? == JOBS, "only {done} were completed");
        results.measure("jobs claimed and completed, in tens, four workers", rate, "a second", Budget::AtLeast(5000.0));

        // A tenant with ten jobs beside one with a thousand: whose are the first twenty?
        self.add_jobs(ORG, 1000).await?;
        self.add_jobs(OTHER_ORG, 10).await?;
        admin.execute("delete from public.jobs where job_type = 'render'").await.ok();
        let mut tx = self.database()?.directory_tx().await?;
        let due = jobs::due(&mut tx, 20).await?;
        tx.rollback().await?;
        let small = due.iter().filter(|job| job.org_id == OTHER_ORG).count();
        results.measure(
            "share of the small tenant among the first twenty",
            small as f64 / 20.0,
            "",
            Budget::AtLeast(0.5),
        );
        Ok(())
    }

    /// What a call to a model takes beside the model: its rows before and after, lease and price. Timed on the wires, which add to it.
    async fn ai_overhead(&self, results: &mut Results, reserved: f64) -> Result<()> {
        let stack = self.stack(true, &[]).await?;
        let token = Self::token(&stack)?;
        let photo = upload(&stack, &token).await?;
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let writing = Arc::clone(&seen);
        let tap: Tap = Arc::new(move |name, moment| {
            writing.lock().unwrap_or_else(PoisonError::into_inner).push((name, moment, Instant::now()));
            Verdict::Pass
        });
        let mut overheads = Vec::new();
        for round in 0..RENDERS {
            stack.renders.pause();
            admitted(&stack, &token, &photo).await?;
            for (_, wire) in &stack.wires {
                wire.tap(Some(Arc::clone(&tap)));
            }
            seen.lock().unwrap_or_else(PoisonError::into_inner).clear();
            stack.renders.resume();
            stack.renders.drained().await;
            // The first has a process to start and connections to make.
            if round > 0 {
                let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                overheads.push(overhead(&seen).context("a render did not go as expected")?);
            }
        }
        let around = median(overheads);
        results.measure("lease, rows and price around an AI call, p50", around, "ms", Budget::None);
        let all = around + reserved;
        results.measure("overhead of an AI call, with its reservation, p50", all, "ms", Budget::AtMost(1.0));
        Ok(())
    }
}

/// The four exchanges before Anthropic is asked (begin, lease, row, commit) and the three after it has answered.
fn overhead(seen: &[Seen]) -> Option<f64> {
    let at = |name: &str, moment: Moment| seen.iter().position(|(n, m, _)| *n == name && *m == moment);
    let (asked, answered) = (at("anthropic", Moment::Asked)?, at("anthropic", Moment::Answered)?);
    let postgres = |moments: &[Seen], wanted: Moment| -> Vec<Instant> {
        moments
            .iter()
            .filter(|(name, moment, _)| *name == "postgres" && *moment == wanted)
            .map(|(_, _, at)| *at)
            .collect()
    };
    let before = postgres(&seen[..asked], Moment::Asked);
    let after = postgres(&seen[answered..], Moment::Answered);
    let begun = *before.get(before.len().checked_sub(4)?)?;
    let ended = *after.get(2)?;
    let around = (seen[asked].2 - begun) + (ended - seen[answered].2);
    Some(around.as_secs_f64() * 1000.0)
}

async fn complete(database: &Database, org: Uuid, ids: &[Uuid]) -> Result<()> {
    let mut tx = database.service_tx(org).await?;
    let mut held = Vec::new();
    for id in ids {
        match jobs::claim(&mut tx, org, *id, Uuid::now_v7(), chrono::TimeDelta::minutes(5)).await? {
            Claim::Held(job) => held.push(job),
            Claim::Nothing => bail!("a job was gone"),
        }
    }
    tx.commit().await?;
    let mut tx = database.service_tx(org).await?;
    for job in &held {
        if jobs::end(&mut tx, job, &End::Succeeded { result: json!({}), tokens: 0 }).await?.is_err() {
            bail!("a lease was stale");
        }
    }
    Ok(tx.commit().await?)
}

fn find(name: &str) -> Result<Function> {
    FUNCTIONS.into_iter().find(|function| function.name == name).context("no such function")
}

fn request(method: Method, path: &str, token: Option<&str>, body: &Value) -> Result<Value> {
    let mut headers = HeaderMap::new();
    headers.insert("host", HeaderValue::from_static("localhost"));
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    if let Some(token) = token {
        headers.insert("authorization", HeaderValue::from_str(&format!("Bearer {token}"))?);
    }
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    Ok(gateway::to_event(&method, path, None, &headers, &body.into(), ([127, 0, 0, 1], 9).into()))
}

/// A photo in storage. Its upload id.
async fn upload(stack: &Stack, token: &str) -> Result<Value> {
    upload_of(stack, token, &sandbox::photo::room_photo()?).await
}

async fn upload_of(stack: &Stack, token: &str, photo: &[u8]) -> Result<Value> {
    let client = shared::http_client(Duration::from_secs(30))?;
    let wanted = json!({ "content_type": "image/jpeg", "bytes": photo.len() });
    let made = client.post(format!("{}/v1/uploads", stack.url)).bearer_auth(token).json(&wanted).send().await?;
    let upload: Value = made.error_for_status()?.json().await?;
    client.put(upload["url"].as_str().context("no URL")?).body(photo.to_vec()).send().await?.error_for_status()?;
    Ok(upload["upload_id"].clone())
}

async fn admitted(stack: &Stack, token: &str, upload: &Value) -> Result<Value> {
    let body = json!({ "project_id": PROJECT, "upload_id": upload, "parameters": { "style": "japandi" } });
    let event = request(Method::POST, "/v1/render-requests", Some(token), &body)?;
    let lambda = stack.function("ProcessRenderRequestHttp").context("no such function")?;
    let answer = lambda.invoke(event).await?;
    ensure!(answer["statusCode"] == 202, "the admission answered {answer}");
    Ok(serde_json::from_str(answer["body"].as_str().unwrap_or_default())?)
}
