//! `./spine demo`: a room photo becomes a finished render, a lead finds somebody, figures become words, an organisation subscribes and
//! pays, and every step is checked.

mod agents;
mod billing;

use std::{
    fs,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use local::{home::Home, stack::Stack};
use process_render_request::photo;
use reqwest::{Client, StatusCode};
use sandbox::auth::User;
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};
use uuid::Uuid;

use crate::{platform, report};

const ORG: &str = "01900000-0000-7000-8000-000000000001";
const OTHER_ORG: &str = "01900000-0000-7000-8000-000000000002";
const PROJECT: &str = "01900000-0000-7000-8000-0000000000a1";
const DESIGNER: (&str, &str) = ("01900000-0000-7000-8000-000000000103", "dora@atelier-nord.example");
const OWNER: (&str, &str) = ("01900000-0000-7000-8000-000000000101", "olga@atelier-nord.example");
const STRANGER: (&str, &str) = ("01900000-0000-7000-8000-000000000203", "dan@brick-and-beam.example");

/// How long the render may take.
const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) async fn run(json: bool, given: platform::Given) -> Result<ExitCode> {
    given.check().await?;
    let begun = Instant::now();
    let home = Home::open()?;
    let databases = platform::Databases::start(&home, None, given).await?;
    let (_login, stack) = platform::bring_up(&home, &databases, home.run.clone(), 0).await?;
    let pictures = home.state.join("demo");
    fs::create_dir_all(&pictures)?;
    let mut steps = Steps { json, failed: 0 };
    let demo = Demo {
        client: shared::http_client(Duration::from_secs(30))?,
        stack: &stack,
        admin_url: &databases.admin_url,
        mongodb_uri: &databases.mongodb_uri,
        pictures: &pictures,
    };
    let finished = demo.tell(&mut steps).await;
    if let Err(error) = &finished {
        steps.step("demo", Err(anyhow::anyhow!("{error:#}")));
        report::line(&format!("logs of the functions:\n{}", logs(&stack)));
    }
    if !json {
        report::out(&format!("\nbefore  {}", pictures.join("before.jpg").display()));
        report::out(&format!("after   {}", pictures.join("after.png").display()));
        report::out(&format!(
            "{} in {:.1} s",
            if steps.failed == 0 { "all good" } else { "failed" },
            begun.elapsed().as_secs_f64()
        ));
    }
    Ok(if steps.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn logs(stack: &Stack) -> String {
    let files = fs::read_dir(&stack.logs).into_iter().flatten().flatten();
    files.filter_map(|file| fs::read_to_string(file.path()).ok()).collect()
}

/// A line of `--json`.
#[derive(serde::Serialize)]
struct Step<'a> {
    step: &'a str,
    ok: bool,
    detail: &'a str,
}

/// Tells of each step as it is done.
struct Steps {
    json: bool,
    failed: usize,
}

impl Steps {
    fn step(&mut self, name: &str, outcome: Result<String>) {
        let ok = outcome.is_ok();
        self.failed += usize::from(!ok);
        let detail = outcome.unwrap_or_else(|error| format!("{error:#}"));
        if self.json {
            report::out(&serde_json::to_string(&Step { step: name, ok, detail: &detail }).unwrap_or_default());
        } else {
            report::out(&format!("{} {name:<18} {detail}", if ok { "ok " } else { "BAD" }));
        }
    }
}

struct Demo<'a> {
    client: Client,
    stack: &'a Stack,
    admin_url: &'a str,
    mongodb_uri: &'a str,
    pictures: &'a std::path::Path,
}

impl Demo<'_> {
    async fn tell(&self, steps: &mut Steps) -> Result<()> {
        let token = self.sign_in(DESIGNER, ORG)?;
        steps.step("sign-in", Ok(format!("{} of Atelier Nord has an ES256 token", DESIGNER.1)));

        let before = sandbox::photo::room_photo()?;
        fs::write(self.pictures.join("before.jpg"), &before)?;
        let upload =
            self.post("/v1/uploads", &token, &json!({ "content_type": "image/jpeg", "bytes": before.len() })).await?;
        let put = self
            .client
            .put(upload["url"].as_str().context("no upload URL")?)
            .header("content-type", "image/jpeg")
            .body(before.clone())
            .send()
            .await?;
        ensure!(put.status().is_success(), "the upload answered {}", put.status());
        steps.step("photo-upload", Ok(format!("{} KB, on its side, with a position in its EXIF", before.len() / 1024)));

        let wanted = json!({
            "project_id": PROJECT, "upload_id": upload["upload_id"],
            "parameters": {
                "style": "warm scandinavian", "walls": "oak panelling", "flooring": "woven rug over the boards",
                "lighting": "late afternoon sun",
            },
            "model": "gemini-2.5-flash-image", "variants": 1,
        });
        let admitted = self.post("/v1/render-requests", &token, &wanted).await?;
        let id = admitted["id"].as_str().context("no id")?.to_owned();
        steps.step("render-admitted", Ok(format!("202, job {}", admitted["job"]["status"].as_str().unwrap_or("?"))));

        let begun = Instant::now();
        let render = self.wait(&id, &token).await?;
        let result = &render["results"][0];
        let (tokens, cost) =
            (result["cost_tokens"].as_i64().unwrap_or(0), render["cost_micro_usd"].as_i64().unwrap_or(0));
        steps.step(
            "render-completed",
            Ok(format!(
                "{}x{} {} by {} in {:.1} s, {tokens} tokens, {:.4} USD, served by {}",
                result["width"],
                result["height"],
                result["mime"].as_str().unwrap_or("?"),
                result["model_used"].as_str().unwrap_or("?"),
                begun.elapsed().as_secs_f64(),
                cost as f64 / 1e6,
                result["served_by"].as_str().unwrap_or("?"),
            )),
        );

        let after = self
            .client
            .get(result["url"].as_str().context("no URL")?)
            .send()
            .await?
            .error_for_status()?
            .bytes()
            .await?;
        fs::write(self.pictures.join("after.png"), &after)?;
        steps.step("render-picture", check_picture(&before, &after));
        steps.step("render-cost", self.check_cost(&id, cost).await);
        steps.step("usage-settled", self.check_usage().await);
        steps.step("audit-trail", self.check_audit(&id).await);
        steps.step("mongo-document", self.check_document(&id).await);
        steps.step("isolation", self.check_isolation(&id).await);
        self.tell_agents(steps).await?;
        self.tell_billing(steps).await
    }

    fn sign_in(&self, (id, email): (&str, &str), org: &str) -> Result<String> {
        self.stack.sandbox.auth.sign_in(&User { id: id.parse()?, email: email.to_owned() }, Some(org.parse()?))
    }

    async fn post(&self, path: &str, token: &str, body: &Value) -> Result<Value> {
        let response = self
            .client
            .post(format!("{}{path}", self.stack.url))
            .bearer_auth(token)
            .header("idempotency-key", Uuid::new_v4().to_string())
            .json(body)
            .send()
            .await?;
        let status = response.status();
        let answer: Value = response.json().await?;
        ensure!(status.is_success(), "POST {path} answered {status}: {answer}");
        Ok(answer)
    }

    async fn get(&self, path: &str, token: &str) -> Result<(StatusCode, Value)> {
        let response = self.client.get(format!("{}{path}", self.stack.url)).bearer_auth(token).send().await?;
        Ok((response.status(), response.json().await?))
    }

    async fn wait(&self, id: &str, token: &str) -> Result<Value> {
        let begun = Instant::now();
        loop {
            let (status, render) = self.get(&format!("/v1/render-requests/{id}"), token).await?;
            ensure!(status.is_success(), "GET answered {status}: {render}");
            match render["status"].as_str() {
                Some("completed") => return Ok(render),
                Some("queued" | "running") if begun.elapsed() < PATIENCE => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                _ => bail!("the render did not complete: {render}"),
            }
        }
    }

    /// A connection that reads as a signed-in owner does through the Data API.
    async fn as_owner(&self) -> Result<PgConnection> {
        let mut conn = PgConnection::connect(self.admin_url).await?;
        conn.execute("begin").await?;
        sqlx::query("select set_config('request.jwt.claims', $1, true), set_config('role', 'authenticated', true)")
            .bind(json!({ "sub": OWNER.0, "org_id": ORG, "role": "authenticated" }).to_string())
            .execute(&mut conn)
            .await?;
        Ok(conn)
    }

    async fn check_cost(&self, id: &str, told: i64) -> Result<String> {
        let mut conn = self.as_owner().await?;
        // Computed anew from what the providers counted and what they charge.
        let (calls, cost): (i64, i64) = sqlx::query_as(
            "select count(*), sum(cost)::bigint from (
                 select ceil(sum(u.value::numeric * p.micro_usd_per_million) / 1000000) as cost
                   from public.provider_calls c
                   join public.render_requests r on r.org_id = c.org_id and r.job_id = c.job_id
                  cross join lateral jsonb_each_text(c.usage) u
                   join public.model_prices p on p.provider = c.provider and p.model = c.model and p.unit = u.key and p.tier = 0
                  where r.id = $1::uuid and c.outcome = 'ok' group by c.id) per_call",
        )
        .bind(id)
        .fetch_one(&mut conn)
        .await?;
        let billed: i64 = sqlx::query_scalar(
            "select sum(cost_micro_usd)::bigint from public.billing_events where source_id = $1::uuid",
        )
        .bind(id)
        .fetch_one(&mut conn)
        .await?;
        ensure!(calls == 2 && cost == told && billed == told, "usage x price is {cost}, told {told}, billed {billed}");
        Ok(format!("{cost} micro-USD over {calls} model calls = usage x price = what is billed"))
    }

    async fn check_usage(&self) -> Result<String> {
        let mut conn = self.as_owner().await?;
        let (used, reserved, active): (i64, i64, i64) = sqlx::query_as(
            "select sum(used_requests)::bigint, sum(reserved_requests)::bigint,
                    (select count(*) from public.usage_reservations where state = 'active')
               from public.agent_usage where scope = 'agent' and period = 'month'",
        )
        .fetch_one(&mut conn)
        .await?;
        ensure!(
            used >= 1 && reserved == 0 && active == 0,
            "used {used}, reserved {reserved}, {active} reservations open"
        );
        Ok(format!("{used} used this month, nothing left reserved"))
    }

    async fn check_audit(&self, id: &str) -> Result<String> {
        let mut conn = self.as_owner().await?;
        let (actions, entry): (Vec<String>, Value) = sqlx::query_as(
            "select array_agg(action order by occurred_at),
                    (array_agg(to_jsonb(a) order by occurred_at desc))[1] from public.audit_log a where record_id = $1",
        )
        .bind(id)
        .fetch_one(&mut conn)
        .await?;
        ensure!(actions == ["render.requested", "render.completed"], "the trail is {actions:?}");
        for part in ["input", "decision", "output"] {
            ensure!(entry[part].is_object(), "{part} is missing");
        }
        let text = entry.to_string();
        ensure!(!text.contains("oak panelling") && !text.contains("127.0.0.1"), "a personal value is readable");
        ensure!(entry["input"]["wishes"]["sealed"].is_string(), "the wishes are not sealed");
        Ok("requested, completed: input, decision and output, personal values sealed".to_owned())
    }

    async fn check_document(&self, id: &str) -> Result<String> {
        let find = || async { local::stack::find_document(self.mongodb_uri, "spine", ORG.parse()?, id.parse()?).await };
        let begun = Instant::now();
        let mut found = find().await?;
        // The worker gives MongoDB half a second; on a slow machine the sweep delivers, as it would in production.
        while found.is_none() && begun.elapsed() < PATIENCE {
            self.stack.sweep().await?;
            tokio::time::sleep(Duration::from_millis(500)).await;
            found = find().await?;
        }
        let document = found.context("it is not there")?;
        ensure!(document["org_id"] == ORG, "it is another organisation's");
        let other = local::stack::find_document(self.mongodb_uri, "spine", OTHER_ORG.parse()?, id.parse()?).await?;
        ensure!(other.is_none(), "another organisation finds it");
        Ok(document["path"].as_str().unwrap_or_default().to_owned())
    }

    async fn check_isolation(&self, id: &str) -> Result<String> {
        let token = self.sign_in(STRANGER, OTHER_ORG)?;
        let (status, problem) = self.get(&format!("/v1/render-requests/{id}"), &token).await?;
        ensure!(status == StatusCode::NOT_FOUND, "a stranger got {status}");
        Ok(format!("a designer of Brick & Beam gets 404 {}", problem["code"].as_str().unwrap_or("?")))
    }
}

/// A real picture, another than the photo, marked, and silent about where it was taken.
fn check_picture(before: &[u8], after: &[u8]) -> Result<String> {
    let exif = |bytes: &[u8]| exif::Reader::new().read_from_container(&mut std::io::Cursor::new(bytes)).ok();
    let place =
        |bytes: &[u8]| exif(bytes).and_then(|exif| exif.get_field(exif::Tag::GPSLatitude, exif::In::PRIMARY).cloned());
    ensure!(place(before).is_some(), "the photo has no position to lose");
    ensure!(place(after).is_none(), "the picture tells where it was taken");
    let checked = photo::check_render(after, 1600, 1200)?;
    ensure!(photo::sha256(before) != photo::sha256(after), "it is the photo");
    let mark = photo::read_mark(after).context("it is not marked as AI-generated")?;
    let kind = mark.rsplit('/').next().unwrap_or_default().to_owned();
    Ok(format!("{}x{}, upright, no position, marked {kind}", checked.width, checked.height))
}
