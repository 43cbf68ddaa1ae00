//! `./spine demo`: a room photo becomes a finished render, a lead is assigned, figures become words, another's agent logs what it did, an
//! organisation subscribes, pays and connects its Fortnox, what customers write comes into its inbox, and every step is checked.

mod actions;
mod agents;
mod billing;
mod fortnox;
mod judge;
mod mail;
mod social;
mod vouchers;

use std::{
    fs,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use local::{database, home::Home, stack::Stack};
use process_render_request::{mark, photo};
use reqwest::{Client, StatusCode};
use sandbox::auth::User;
use serde_json::{Value, json};
use sqlx::{Executor, PgConnection};
use url::Url;
use uuid::Uuid;

use crate::{platform, report};

const ORG: &str = "01900000-0000-7000-8000-000000000001";
const OTHER_ORG: &str = "01900000-0000-7000-8000-000000000002";
const PROJECT: &str = "01900000-0000-7000-8000-0000000000a1";
const DESIGNER: (&str, &str) = ("01900000-0000-7000-8000-000000000103", "dora@atelier-nord.example");
const OWNER: (&str, &str) = ("01900000-0000-7000-8000-000000000101", "olga@atelier-nord.example");
const STRANGER: (&str, &str) = ("01900000-0000-7000-8000-000000000203", "dan@brick-and-beam.example");

/// The model that is asked for.
const MODEL: &str = "gemini-3.1-flash-image";
/// What a render's audit trail must not show as it is: a wish, and where the request came from.
const PERSONAL: [&str; 2] = ["oak panelling", "127.0.0.1"];

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
    /// A step that is as its judge finds what it saw.
    fn judge(&mut self, name: &str, judge: fn(&Value) -> Result<String>, seen: Result<Value>) {
        self.step(name, seen.and_then(|seen| judge(&seen)));
    }

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

/// What the steps see, where all is well, whose judges are beside them.
#[cfg(test)]
fn examples() -> Vec<judge::Example> {
    [actions::examples(), mail::examples(), fortnox::examples(), vouchers::examples(), social::examples()].concat()
}

impl Demo<'_> {
    async fn tell(&self, steps: &mut Steps) -> Result<()> {
        let token = self.sign_in(DESIGNER, ORG)?;
        steps.judge("sign-in", judge::sign_in, self.see_token(&token).await);

        let before = sandbox::photo::room_photo()?;
        fs::write(self.pictures.join("before.jpg"), &before)?;
        let upload =
            self.post("/v1/uploads", &token, &json!({ "content_type": "image/jpeg", "bytes": before.len() })).await?;
        let to = upload["url"].as_str().context("no upload URL")?;
        let put = self.client.put(to).header("content-type", "image/jpeg").body(before.clone()).send().await?;
        ensure!(put.status().is_success(), "the upload answered {}", put.status());
        steps.judge("photo-upload", judge::photo_upload, self.see_upload(&before, to));

        let wanted = json!({
            "project_id": PROJECT, "upload_id": upload["upload_id"],
            "parameters": {
                "style": "warm scandinavian", "walls": PERSONAL[0], "flooring": "woven rug over the boards",
                "lighting": "late afternoon sun",
            },
            "model": MODEL, "variants": 1,
        });
        let (status, admitted) = self.send("/v1/render-requests", &token, &wanted).await?;
        let seen = json!({ "status": status.as_u16(), "job": admitted["job"]["status"] });
        steps.judge("render-admitted", judge::render_admitted, Ok(seen));
        let id = admitted["id"].as_str().with_context(|| format!("no id: {admitted}"))?.to_owned();

        let render = self.wait(&id, &token).await?;
        let result = &render["results"][0];
        let seen = json!({
            "pictures": render["results"].as_array().map(Vec::len), "width": result["width"], "height": result["height"],
            "mime": result["mime"], "model": result["model_used"], "served_by": result["served_by"],
            "tokens": result["cost_tokens"], "cost": render["cost_micro_usd"],
        });
        steps.judge("render-completed", judge::render_completed, Ok(seen));

        let after = self
            .client
            .get(result["url"].as_str().context("no URL")?)
            .send()
            .await?
            .error_for_status()?
            .bytes()
            .await?;
        fs::write(self.pictures.join("after.png"), &after)?;
        steps.judge("render-picture", judge::render_picture, see_picture(&before, &after, result));
        steps.judge("render-cost", judge::render_cost, self.see_cost(&id, &render["cost_micro_usd"]).await);
        steps.judge("usage-settled", judge::usage_settled, self.see_usage().await);
        steps.judge("audit-trail", judge::audit_trail, self.see_audit(&id).await);
        steps.judge("mongo-document", judge::mongo_document, self.see_document(&id).await);
        steps.judge("isolation", judge::isolation, self.see_stranger(&id).await);
        self.tell_agents(steps).await?;
        self.tell_actions(steps).await?;
        self.tell_mail(steps).await?;
        self.tell_billing(steps).await?;
        self.tell_fortnox(steps).await?;
        self.tell_social(steps).await
    }

    fn sign_in(&self, (id, email): (&str, &str), org: &str) -> Result<String> {
        self.stack.sandbox.auth.sign_in(&User { id: id.parse()?, email: email.to_owned() }, Some(org.parse()?))
    }

    async fn send(&self, path: &str, token: &str, body: &Value) -> Result<(StatusCode, Value)> {
        let response = self
            .client
            .post(format!("{}{path}", self.stack.url))
            .bearer_auth(token)
            .header("idempotency-key", Uuid::new_v4().to_string())
            .json(body)
            .send()
            .await?;
        Ok((response.status(), response.json().await?))
    }

    /// The answer to a request that must succeed.
    async fn post(&self, path: &str, token: &str, body: &Value) -> Result<Value> {
        let (status, answer) = self.send(path, token, body).await?;
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
        let mut conn = database::connect(self.admin_url).await?;
        conn.execute("begin").await?;
        sqlx::query("select set_config('request.jwt.claims', $1, true), set_config('role', 'authenticated', true)")
            .bind(json!({ "sub": OWNER.0, "org_id": ORG, "role": "authenticated" }).to_string())
            .execute(&mut conn)
            .await?;
        Ok(conn)
    }

    async fn see_token(&self, token: &str) -> Result<Value> {
        let part = |number: usize| -> Result<Value> {
            let part = token.split('.').nth(number).context("it is no signed token")?;
            Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part)?)?)
        };
        let (with, _) = self.get("/v1/insights", token).await?;
        let without = self.client.get(format!("{}/v1/insights", self.stack.url)).send().await?.status();
        Ok(json!({
            "alg": part(0)?["alg"], "email": part(1)?["email"], "with": with.as_u16(), "without": without.as_u16(),
        }))
    }

    /// What storage has of the photo, beside what was sent to `to`.
    fn see_upload(&self, photo: &[u8], to: &str) -> Result<Value> {
        let object = Url::parse(to)?.path().trim_start_matches('/').to_owned();
        let stored = fs::metadata(self.stack.logs.with_file_name("storage").join(object))?.len();
        let orientation = exif_field(photo, exif::Tag::Orientation).and_then(|field| field.value.get_uint(0));
        Ok(json!({
            "bytes": photo.len(), "stored": stored, "orientation": orientation, "position": has_position(photo),
        }))
    }

    async fn see_cost(&self, id: &str, told: &Value) -> Result<Value> {
        let mut conn = self.as_owner().await?;
        // Computed again from what the providers counted and what they charged at that time.
        let (calls, cost): (i64, i64) = sqlx::query_as(
            "select count(*), coalesce(sum(cost), 0)::bigint from (
                 select ceil(sum(u.value::numeric * p.micro_usd_per_million) / 1000000) as cost
                   from public.provider_calls c
                   join public.render_requests r on r.org_id = c.org_id and r.job_id = c.job_id
                  cross join lateral jsonb_each_text(c.usage) u
                   join lateral (select m.micro_usd_per_million from public.model_prices m
                                  where m.provider = c.provider and m.model = c.model and m.unit = u.key and m.tier = 0
                                    and m.effective_from <= c.started_at
                                  order by m.effective_from desc limit 1) p on true
                  where r.id = $1::uuid and c.outcome = 'ok' group by c.id) per_call",
        )
        .bind(id)
        .fetch_one(&mut conn)
        .await?;
        let billed: Option<i64> = sqlx::query_scalar(
            "select sum(cost_micro_usd)::bigint from public.billing_events where source_id = $1::uuid",
        )
        .bind(id)
        .fetch_one(&mut conn)
        .await?;
        Ok(json!({ "calls": calls, "usage_times_price": cost, "told": told, "billed": billed }))
    }

    async fn see_usage(&self) -> Result<Value> {
        let (used, reserved, open): (Option<i64>, Option<i64>, i64) = sqlx::query_as(
            "select sum(used_requests)::bigint, sum(reserved_requests)::bigint,
                    (select count(*) from public.usage_reservations where state = 'active')
               from public.agent_usage where agent = 'renderer' and scope = 'agent' and period = 'month'",
        )
        .fetch_one(&mut self.as_owner().await?)
        .await?;
        Ok(json!({ "used": used, "reserved": reserved, "open": open }))
    }

    async fn see_audit(&self, id: &str) -> Result<Value> {
        let (actions, last): (Option<Vec<String>>, Option<Value>) = sqlx::query_as(
            "select array_agg(action order by occurred_at, id),
                    (array_agg(to_jsonb(a) order by occurred_at desc, id desc))[1] from public.audit_log a where record_id = $1",
        )
        .bind(id)
        .fetch_one(&mut self.as_owner().await?)
        .await?;
        let entry = last.unwrap_or_default();
        let parts: Vec<&str> =
            ["input", "decision", "output"].into_iter().filter(|part| entry[part].is_object()).collect();
        let text = entry.to_string();
        let readable: Vec<&str> = PERSONAL.into_iter().filter(|personal| text.contains(personal)).collect();
        Ok(json!({
            "entries": actions.as_ref().map(Vec::len), "actions": actions, "parts": parts, "readable": readable,
            "sealed": entry["input"]["wishes"]["sealed"].is_string(),
        }))
    }

    /// A document among the agents' outputs, once it is there.
    async fn document(&self, id: &str) -> Result<Value> {
        let find = || async { local::stack::find_document(self.mongodb_uri, "spine", ORG.parse()?, id.parse()?).await };
        let begun = Instant::now();
        let mut found = find().await?;
        // The writer gives MongoDB half a second; on a slow machine the sweep delivers, as it would in production.
        while found.is_none() && begun.elapsed() < PATIENCE {
            self.stack.sweep().await?;
            tokio::time::sleep(Duration::from_millis(500)).await;
            found = find().await?;
        }
        found.context("it is not there")
    }

    async fn see_document(&self, id: &str) -> Result<Value> {
        let document = self.document(id).await?;
        let other = local::stack::find_document(self.mongodb_uri, "spine", OTHER_ORG.parse()?, id.parse()?).await?;
        Ok(json!({ "id": id, "path": document["path"], "another_finds_it": other.is_some() }))
    }

    async fn see_stranger(&self, id: &str) -> Result<Value> {
        let token = self.sign_in(STRANGER, OTHER_ORG)?;
        let (status, problem) = self.get(&format!("/v1/render-requests/{id}"), &token).await?;
        Ok(json!({ "status": status.as_u16(), "code": problem["code"] }))
    }
}

fn exif_field(bytes: &[u8], tag: exif::Tag) -> Option<exif::Field> {
    let exif = exif::Reader::new().read_from_container(&mut std::io::Cursor::new(bytes)).ok()?;
    exif.get_field(tag, exif::In::PRIMARY).cloned()
}

fn has_position(bytes: &[u8]) -> bool {
    exif_field(bytes, exif::Tag::GPSLatitude).is_some()
}

/// The picture itself, beside the photo and what was told of it.
fn see_picture(before: &[u8], after: &[u8], told: &Value) -> Result<Value> {
    let checked = photo::check_render(after, 1600, 1200)?;
    let mark = mark::read_mark(after);
    Ok(json!({
        "width": checked.width, "height": checked.height, "told_width": told["width"], "told_height": told["height"],
        "photo_has_position": has_position(before), "has_position": has_position(after),
        "is_the_photo": photo::sha256(before) == photo::sha256(after),
        "mark": mark.as_deref().and_then(|mark| mark.rsplit('/').next()),
        "edges_kept": told["geometry"]["value"],
    }))
}
