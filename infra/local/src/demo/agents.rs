//! A lead finds whoever suits it best, figures become words, and both stay within limits.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};
use uuid::Uuid;

use super::{Demo, ORG, OWNER, PATIENCE, Steps};

const SALES: &str = "01900000-0000-7000-8000-000000000104";
const ADMIN: &str = "01900000-0000-7000-8000-000000000102";
/// What must never leave the house.
const PERSONAL: [&str; 3] = ["Greta", "greta@lakeside.example", "555 01 99"];

/// Three weeks of leads, forty of them, a third of which ended; and two people who take leads, one of whom knows kitchens.
const LEADS: &str = "
    insert into public.lead_capacity (org_id, user_id, max_open, skills) values ('{ORG}', '{SALES}', 20, '{kitchen}'), ('{ORG}', '{ADMIN}', 20, '{}');
    insert into public.leads (org_id, client_name, email, phone, source, status, closed_at, created_at)
    select '{ORG}', 'Greta ' || n, 'greta@lakeside.example', '+46 70 555 01 99', (array['referral', 'website', 'ads'])[1 + n % 3],
           case n % 6 when 0 then 'won' when 3 then 'lost' else 'new' end, case when n % 3 = 0 then now() end,
           date_trunc('week', now(), 'UTC') - interval '1 week' * (1 + n % 3) + interval '1 hour' * n
      from generate_series(1, 40) n";

impl Demo<'_> {
    pub(super) async fn tell_agents(&self, steps: &mut Steps) -> Result<()> {
        let token = self.sign_in(OWNER, ORG)?;
        let leads = LEADS.replace("{ORG}", ORG).replace("{SALES}", SALES).replace("{ADMIN}", ADMIN);
        let mut admin = PgConnection::connect(self.admin_url).await?;
        admin.execute(sqlx::AssertSqlSafe(leads)).await?;

        let tried = self.post("/v1/leads/assignments/dry-run", &token, &json!({})).await?;
        steps.step(
            "leads-dry-run",
            Ok(format!(
                "of {} leads {} would have been given to somebody; nothing was written",
                tried["leads"], tried["given"]
            )),
        );
        self.post("/v1/leads/assignments/settings", &token, &json!({ "ai_bound": 10 })).await?;
        steps.step("lead-assigned", self.check_assigned(&token).await);
        steps.step("insight-written", self.check_insight(&token).await);
        steps.step("nothing-personal", self.check_told());
        steps.step("limit-reached", self.check_limit(&token).await);
        Ok(())
    }

    /// A lead that wants a kitchen goes to whoever knows them, with a score that a model moved no further than it may.
    async fn check_assigned(&self, token: &str) -> Result<String> {
        let mut owner = self.as_owner().await?;
        let lead: Uuid = sqlx::query_scalar(
            "insert into public.leads (org_id, client_name, email, source, wanted_skills)
             values ($1::uuid, 'Greta Lind', 'greta@lakeside.example', 'referral', '{kitchen}') returning id",
        )
        .bind(ORG)
        .fetch_one(&mut owner)
        .await?;
        let rules: String =
            sqlx::query_scalar("select public.update_lead_score($1)::text").bind(lead).fetch_one(&mut owner).await?;
        owner.execute("commit").await?;
        let admitted = self.post(&format!("/v1/leads/{lead}/assign"), token, &json!({})).await?;
        let job = self.ended(admitted["job"]["href"].as_str().context("no job")?, token).await?;
        let told = &job["result"];
        let assignment = &told["assignment"];
        ensure!(
            told["served_by"] == "model" && assignment["assigned_to"] == SALES,
            "it was not assigned as it should: {job}"
        );
        let moved = assignment["reason"]["ai_moved"].as_f64().context("no reason")?;
        ensure!(moved.abs() <= 10.0, "the model moved the score by {moved}");
        Ok(format!("score {} by rules, moved by {moved}: given to sven, who knows kitchens", rules))
    }

    /// Every figure is what SQL counts, and the text has no other number.
    async fn check_insight(&self, token: &str) -> Result<String> {
        self.post("/v1/insights/leads", token, &json!({ "period": "week" })).await?;
        let insight = self.insight("week", token).await?;
        ensure!(insight["served_by"] == "model", "no model wrote it: {insight}");
        let counted: i64 = sqlx::query_scalar(
            "select count(*) from public.leads
              where created_at >= date_trunc('week', now(), 'UTC') - interval '1 week' and created_at < date_trunc('week', now(), 'UTC')",
        )
        .fetch_one(&mut self.as_owner().await?)
        .await?;
        let figures = insight["figures"].as_array().context("no figures")?;
        let total = figures.iter().find(|figure| figure["id"] == "total.current").context("no total")?;
        ensure!(total["value"] == counted, "{total} of {counted}");
        Ok(format!("{} figures, {}", figures.len(), insight["headline"].as_str().unwrap_or_default()))
    }

    /// The provider was told of leads without who they are.
    fn check_told(&self) -> Result<String> {
        let asked = self.stack.sandbox.anthropic.asked();
        let of_agents = asked.iter().map(Value::to_string).filter(|told| told.contains("lead"));
        let mut count = 0;
        for told in of_agents {
            count += 1;
            for personal in PERSONAL {
                ensure!(!told.contains(personal), "{personal} was told: {told}");
            }
        }
        ensure!(count >= 2, "the provider was asked {count} times");
        Ok(format!("{count} calls, and no name, address or number in them"))
    }

    /// With its limit spent the analyst calls nobody, and the template tells the figures.
    async fn check_limit(&self, token: &str) -> Result<String> {
        let mut owner = self.as_owner().await?;
        sqlx::query(
            "update public.agent_limits set max_requests = 1 where org_id = $1::uuid and agent = 'analyst' and period = 'month'",
        )
        .bind(ORG)
        .execute(&mut owner)
        .await?;
        owner.execute("commit").await?;
        let asked = self.stack.sandbox.anthropic.asked().len();
        self.post("/v1/insights/leads", token, &json!({ "period": "month" })).await?;
        let insight = self.insight("month", token).await?;
        ensure!(
            insight["served_by"] == "default_template" && self.stack.sandbox.anthropic.asked().len() == asked,
            "it was not the template: {insight}"
        );
        let (state, percent): (String, String) = sqlx::query_as(
            "select state, percent::text from public.usage_report where agent = 'analyst' and scope = 'agent' and period = 'month'",
        )
        .fetch_one(&mut self.as_owner().await?)
        .await?;
        ensure!(state == "reached", "the limit is {state}");
        let because = insight["instead_because"].as_str().unwrap_or("?");
        Ok(format!("{percent} % of the analyst's limit used: served by default_template, {because}"))
    }

    async fn ended(&self, href: &str, token: &str) -> Result<Value> {
        let begun = Instant::now();
        loop {
            let (status, job) = self.get(href, token).await?;
            ensure!(status.is_success(), "GET {href} answered {status}: {job}");
            match job["status"].as_str() {
                Some("succeeded") => return Ok(job),
                Some("queued" | "running") if begun.elapsed() < PATIENCE => {
                    tokio::time::sleep(Duration::from_millis(50)).await
                }
                _ => bail!("the job did not succeed: {job}"),
            }
        }
    }

    /// The insight of leads for that period, once its text is there.
    async fn insight(&self, period: &str, token: &str) -> Result<Value> {
        let begun = Instant::now();
        loop {
            let (status, latest) = self.get("/v1/insights/leads", token).await?;
            ensure!(status.is_success(), "GET answered {status}: {latest}");
            let found = latest["insights"].as_array().into_iter().flatten().find(|insight| insight["period"] == period);
            match found {
                Some(insight) if insight["pending"] == false => return Ok(insight.clone()),
                _ if begun.elapsed() < PATIENCE => tokio::time::sleep(Duration::from_millis(50)).await,
                _ => bail!("no insight of leads was written: {latest}"),
            }
        }
    }
}
