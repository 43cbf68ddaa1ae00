//! What an event of Stripe's takes: ledger, effect and audit entry in one transaction, beside the same statements by `pgbench` and the
//! best-known sync engine, which does the upsert alone.
//!
//! Three ways: the deployed function behind the local runtime API, whose own work shares the processors; the same code in a process of its
//! own; and `pgbench`, which reads prepared events from a table, since it cannot make any.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use chrono::Utc;
use developer::release;
use local::{
    gateway,
    home::Home,
    lambda::Lambda,
    pooler::{self, PgBouncer},
    stack::Stack,
};
use reqwest::{
    Method,
    header::{HeaderMap, HeaderValue},
};
use sandbox::stripe::{self, CURRENT, InvoiceFacts, InvoiceStatus, LineFacts, PriceFacts, Shape};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::Executor;

use super::{Bench, Budget, Results};
use crate::{platform, report};

/// How many organisations pay.
const CUSTOMERS: usize = 200;
/// How many events are timed, one after the other and by eight at once.
const IN_TURN: usize = 3000;
const AT_ONCE: usize = 8000;
/// How many processes or connections there are then.
const LANES: usize = 8;
/// How many events each of them warms up with: three of an invoice, as all.
const WARM: usize = 30;
/// `@supabase/stripe-sync-engine` on Node 24 on a machine like that of docs/BENCHMARKS.md, measured once: events a second on one and on
/// eight connections, and CPU for each. It is not run here.
const PEER: (f64, f64, Duration) = (831.0, 1525.0, Duration::from_micros(550));

/// As Stripe posts it.
#[derive(Serialize)]
struct Delivery {
    signature: String,
    body: String,
}

/// What handling events took.
struct Took {
    rate: f64,
    /// Of the function, for each event.
    cpu_us: f64,
    peak: u64,
}

/// Builds the function, starts databases, and measures.
pub(super) async fn measure_alone(home: &Home, results: &mut Results) -> Result<()> {
    let built = home.root.join(release::HERE);
    report::line("building the function as it is deployed");
    release::bootstraps(&home.root, release::Arch::HOST, ["stripe_webhook", "bench_stripe"], &built, false)?;
    let databases = platform::Databases::start(home, None, platform::Given::default()).await?;
    Bench::prepare(home, &databases, &built).await?.stripe(results).await
}

impl Bench<'_> {
    pub(super) async fn stripe(&self, results: &mut Results) -> Result<()> {
        self.add_customers().await?;
        self.stripe_round_trips(results).await?;

        let deployed = [self.deployed("one", 1, IN_TURN).await?, self.deployed("eight", LANES, AT_ONCE).await?];
        let alone = [self.alone("one", 1, IN_TURN).await?, self.alone("eight", LANES, AT_ONCE).await?];
        let bare = [self.pgbench("one", 1, IN_TURN).await?, self.pgbench("eight", LANES, AT_ONCE).await?];
        for (name, took) in ["one", "eight"].iter().zip(&deployed) {
            results.measure(
                &format!("Stripe events through the runtime API, {name}"),
                took.rate,
                "a second",
                Budget::None,
            );
            results.measure(&format!("CPU of the function for each, {name}"), took.cpu_us, "us", Budget::None);
            results.measure(
                &format!("peak memory of the function, {name}"),
                took.peak as f64 / 1e6,
                "MB",
                Budget::None,
            );
        }
        for ((name, took), peer) in ["one", "eight"].iter().zip(&alone).zip([PEER.0, PEER.1]) {
            results.measure(&format!("Stripe events handled, {name}"), took.rate, "a second", Budget::None);
            let beside = took.rate / peer;
            results.measure(&format!("the same beside Node's {peer:.0}, {name}"), beside, "x", Budget::AtLeast(3.0));
            results.measure(&format!("CPU for each, {name}"), took.cpu_us, "us", Budget::None);
            let beside = took.cpu_us / (PEER.2.as_secs_f64() * 1e6);
            results.measure(&format!("the same beside Node's 550 us, {name}"), beside, "x", Budget::AtMost(0.25));
        }
        for ((name, bare), took) in ["one", "eight"].iter().zip(bare).zip(&alone) {
            results.measure(&format!("the same statements by pgbench, {name}"), bare, "a second", Budget::None);
            results.measure(&format!("events handled beside pgbench, {name}"), took.rate / bare, "x", Budget::None);
        }
        Ok(())
    }

    async fn add_customers(&self) -> Result<()> {
        sqlx::query(
            "insert into public.organizations (name, slug, stripe_customer_id)
             select 'Bench ' || n, 'bench-' || n, 'cus_bench_' || n from generate_series(0, $1 - 1) n",
        )
        .bind(i32::try_from(CUSTOMERS)?)
        .execute(&mut self.admin().await?)
        .await?;
        Ok(())
    }

    /// Counted on the wire to the database, warm.
    async fn stripe_round_trips(&self, results: &mut Results) -> Result<()> {
        let direct = self.stack(true, &[]).await?;
        count(results, "direct", &direct, 3.0).await?;
        match pooler::find(self.home) {
            Ok(program) => {
                let pooler = PgBouncer::start(self.home, &program, &self.database_url, None, 2).await?;
                let overrides = [("DATABASE_URL", pooler.url.as_str()), ("DATABASE_MODE", "transaction_pooler")];
                count(results, "pooled", &self.stack(true, &overrides).await?, 4.0).await
            }
            Err(error) => {
                report::line(&format!("not measured through a pooler: {error:#}"));
                Ok(())
            }
        }
    }

    /// By processes of the deployed function, each fed through a runtime API of this process.
    async fn deployed(&self, name: &str, lanes: usize, events: usize) -> Result<Took> {
        let stack = self.stack(false, &[]).await?;
        let lambda = stack.function("StripeWebhookHttp").context("no such function")?;
        let prepared: Vec<Vec<Value>> =
            deliveries(&format!("deployed{name}"), lanes, events, &stack.sandbox.stripe.secrets())?
                .iter()
                .map(|lane| lane.iter().map(request).collect())
                .collect();
        let hand = async |lane: &[Value]| -> Result<()> {
            for event in lane {
                applied(lambda, event).await?;
            }
            Ok(())
        };
        futures::future::try_join_all(prepared.iter().map(|lane| hand(&lane[..WARM]))).await?;
        let (begun, cpu) = (Instant::now(), lambda.cpu().context("the system does not tell CPU times")?);
        futures::future::try_join_all(prepared.iter().map(|lane| hand(&lane[WARM..]))).await?;
        let (took, cpu) = (begun.elapsed(), lambda.cpu().unwrap_or_default() - cpu);
        ensure!(lambda.started() == lanes, "{} processes were started", lambda.started());
        Ok(Took {
            rate: events as f64 / took.as_secs_f64(),
            cpu_us: cpu.as_secs_f64() * 1e6 / events as f64,
            peak: lambda.peak_memory().unwrap_or_default(),
        })
    }

    /// By processes that call the function's handler themselves.
    async fn alone(&self, name: &str, lanes: usize, events: usize) -> Result<Took> {
        let stack = self.stack(false, &[]).await?;
        let secrets = stack.sandbox.stripe.secrets();
        let folder = self.home.run.join(format!("alone-{name}"));
        fs::create_dir_all(&folder)?;
        let mut environment = stack.environment.clone();
        environment.retain(|(name, _)| name != "SECRETS_ARN");
        environment.extend([
            ("DATABASE_URL".to_owned(), self.database_url.clone()),
            ("STRIPE_WEBHOOK_SECRETS_TEST".to_owned(), secrets.join(" ")),
        ]);
        let mut processes = Vec::new();
        for (number, lane) in deliveries(&format!("alone{name}"), lanes, events, &secrets)?.iter().enumerate() {
            let file = folder.join(format!("{number}.jsonl"));
            let lines: Vec<String> = lane.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
            fs::write(&file, lines.join("\n"))?;
            let program = self.release.join("bench_stripe/bootstrap");
            processes.push(Alone::start(&program, &file, &environment, &folder.join(format!("{number}.log")))?);
        }
        // Their work is theirs alone: nothing of this process runs beside it.
        let (took, ended) = tokio::task::spawn_blocking(move || -> Result<(Duration, Vec<Ended>)> {
            for process in &mut processes {
                process.wait_until_ready()?;
            }
            let begun = Instant::now();
            for process in &mut processes {
                process.go()?;
            }
            let ended = processes.iter_mut().map(Alone::end).collect::<Result<Vec<_>>>()?;
            Ok((begun.elapsed(), ended))
        })
        .await??;
        drop(stack);
        let cpu: u64 = ended.iter().map(|process| process.cpu_ns).sum();
        Ok(Took {
            rate: events as f64 / took.as_secs_f64(),
            cpu_us: cpu as f64 / 1e3 / events as f64,
            peak: ended.iter().map(|process| process.peak).max().unwrap_or_default(),
        })
    }

    /// The same statements in the same messages: begin, role and owner; record; commit. Transactions a second.
    async fn pgbench(&self, name: &str, lanes: usize, events: usize) -> Result<f64> {
        let psql = self.databases.psql.as_ref().context("the embedded server is not ours")?;
        let (program, now) = (psql.with_file_name("pgbench"), Utc::now().timestamp());
        let mut admin = self.admin().await?;
        admin
            .execute(
                "drop table if exists public.bench_events;
                 create table public.bench_events (n integer primary key, object text, refs jsonb, p jsonb, raw bytea);
                 grant select on public.bench_events to spine_service",
            )
            .await?;
        let mut n = 0_i32;
        for delivery in deliveries(&format!("pgbench{name}"), lanes, events, &[])?.iter().flatten() {
            let read = stripe_webhook::event::read(delivery.body.as_bytes(), now).observation;
            n += 1;
            sqlx::query("insert into public.bench_events values ($1, $2, $3, $4, $5)")
                .bind(n)
                .bind(&read.object_id)
                .bind(json!(read.refs))
                .bind(serde_json::to_value(&read)?)
                .bind(delivery.body.as_bytes())
                .execute(&mut admin)
                .await?;
        }
        admin.execute("vacuum analyze public.bench_events").await?;
        let each = events / lanes + WARM;
        let script = self.home.run.join("stripe.pgbench");
        let text = "\\set i :i + 1\n\\set n :client_id * :each + :i\n\
            begin \\; select set_config('role', 'spine_service', true) \\; \
            select app.enter_stripe(e.object, e.refs) from public.bench_events e where e.n = :n;\n\
            select r.* from public.bench_events e cross join lateral app.record_stripe_event(e.p, e.raw) r where e.n = :n;\n\
            commit;\n";
        fs::write(&script, text)?;
        let run = |first: usize, transactions: usize| -> Result<f64> {
            let output = Command::new(&program)
                .args(["--no-vacuum", "--protocol=simple", "--jobs=1", "--file"])
                .arg(&script)
                .arg(format!("--client={lanes}"))
                .arg(format!("--transactions={transactions}"))
                .args(["--define".to_owned(), format!("i={first}"), "--define".to_owned(), format!("each={each}")])
                .arg(&self.database_url)
                .stdin(Stdio::null())
                .output()
                .with_context(|| format!("{} cannot be run", program.display()))?;
            let said = String::from_utf8_lossy(&output.stdout);
            let rate = said.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
            rate.filter(|_| output.status.success())
                .with_context(|| format!("pgbench failed: {said}{}", String::from_utf8_lossy(&output.stderr)))
        };
        run(0, WARM)?;
        let rate = run(WARM, events / lanes)?;
        let done: i64 = sqlx::query_scalar(
            "select count(*) from public.webhook_events w join public.bench_events e on w.event_id = e.p ->> 'event_id' where w.status = 'applied'",
        )
        .fetch_one(&mut admin)
        .await?;
        ensure!(done == i64::from(n), "only {done} of {n} events were applied");
        admin.execute("drop table public.bench_events").await?;
        Ok(rate)
    }
}

/// A process that handles the deliveries of a file.
struct Alone {
    child: Child,
    says: BufReader<ChildStderr>,
}

/// What it says at its end.
#[derive(Deserialize)]
struct Ended {
    cpu_ns: u64,
    peak: u64,
}

impl Alone {
    fn start(program: &Path, file: &Path, environment: &[(String, String)], log: &PathBuf) -> Result<Self> {
        let mut child = Command::new(program)
            .arg(file)
            .arg(WARM.to_string())
            .env_clear()
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(fs::File::create(log)?)
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} cannot be run", program.display()))?;
        let says = BufReader::new(child.stderr.take().context("it has no standard error")?);
        Ok(Self { child, says })
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.says.read_line(&mut line)?;
        Ok(line)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let line = self.line()?;
        ensure!(line == "ready\n", "a process could not handle its deliveries: {line}");
        Ok(())
    }

    fn go(&mut self) -> Result<()> {
        Ok(self.child.stdin.take().context("it has gone already")?.write_all(b"go\n")?)
    }

    fn end(&mut self) -> Result<Ended> {
        let line = self.line()?;
        self.child.wait()?;
        serde_json::from_str(&line).with_context(|| format!("a process could not handle its deliveries: {line}"))
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        // Ended already, unless something failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn count(results: &mut Results, how: &str, stack: &Stack, most: f64) -> Result<()> {
    const TIMES: usize = 30;
    let lambda = stack.function("StripeWebhookHttp").context("no such function")?;
    let lanes = deliveries(&format!("count{how}"), 1, TIMES, &stack.sandbox.stripe.secrets())?;
    let (warm, counted) = lanes.first().context("no lane")?.split_at(WARM);
    for delivery in warm {
        applied(lambda, &request(delivery)).await?;
    }
    let wire = stack.wire("postgres")?;
    let before = wire.exchanges();
    for delivery in counted {
        applied(lambda, &request(delivery)).await?;
    }
    let each = (wire.exchanges() - before) as f64 / TIMES as f64;
    results.measure(&format!("round trips of a Stripe event, {how}"), each, "round trips", Budget::AtMost(most));
    Ok(())
}

async fn applied(lambda: &Lambda, event: &Value) -> Result<()> {
    let answer = lambda.invoke(event.clone()).await?;
    if !answer["body"].as_str().is_some_and(|body| body.contains("\"applied\"")) {
        bail!("a delivery was answered {answer}");
    }
    Ok(())
}

fn request(delivery: &Delivery) -> Value {
    let mut headers = HeaderMap::new();
    headers.insert("host", HeaderValue::from_static("localhost"));
    headers.insert("content-type", HeaderValue::from_static("application/json; charset=utf-8"));
    headers.extend(
        HeaderValue::from_str(&delivery.signature)
            .ok()
            .map(|value| (reqwest::header::HeaderName::from_static("stripe-signature"), value)),
    );
    let body = delivery.body.clone().into_bytes().into();
    gateway::to_event(&Method::POST, "/webhooks/stripe", None, &headers, &body, ([127, 0, 0, 1], 9).into())
}

/// Signed events for each lane: [`WARM`] and then its share of `events`. Every three tell of one invoice: made, finalized, paid.
fn deliveries(tag: &str, lanes: usize, events: usize, secrets: &[String]) -> Result<Vec<Vec<Delivery>>> {
    let now = Utc::now().timestamp();
    let each = events / lanes + WARM;
    ensure!(events.is_multiple_of(lanes), "the lanes have shares that differ");
    Ok((0..lanes)
        .map(|lane| {
            (0..each)
                .map(|number| {
                    let body = format!("{:#}", invoice_event(&format!("{tag}{lane}"), lane, number, now - 3600));
                    Delivery { signature: stripe::sign(body.as_bytes(), secrets, now), body }
                })
                .collect()
        })
        .collect())
}

fn invoice_event(tag: &str, lane: usize, number: usize, created: i64) -> Value {
    let (place, phase) = (number / 3, number % 3);
    let at = created + i64::try_from(phase).unwrap_or_default() * 60;
    let customer = (place * LANES + lane) % CUSTOMERS;
    let kind = ["invoice.created", "invoice.finalized", "invoice.paid"][phase];
    let line = LineFacts {
        id: format!("il_{tag}{place}"),
        amount: 12_500,
        description: "1 x Studio (at 125.00 kr / month)".to_owned(),
        price: Some(PriceFacts::new(stripe::PRICE, 12_500, created)),
        quantity: 1,
        period_start: created,
        period_end: created + 2_592_000,
        subscription_item: Some(format!("si_bench{customer}")),
        proration: false,
    };
    let invoice = InvoiceFacts {
        customer_email: Some("payer@sandbox.example".to_owned()),
        subscription: Some(format!("sub_bench{customer}")),
        status: [InvoiceStatus::Draft, InvoiceStatus::Open, InvoiceStatus::Paid][phase],
        lines: vec![line],
        amount_paid: if phase == 2 { 12_500 } else { 0 },
        attempt_count: u64::from(phase == 2),
        billing_reason: "subscription_cycle",
        number: (phase > 0).then(|| format!("BENCH-{place}")),
        finalized_at: (phase > 0).then_some(at),
        paid_at: (phase == 2).then_some(at),
        ..InvoiceFacts::new(format!("in_{tag}x{place}"), format!("cus_bench_{customer}"), created)
    };
    stripe::event(&format!("evt_{tag}x{number}"), kind, at, false, CURRENT, invoice.render(Shape::Current))
}
