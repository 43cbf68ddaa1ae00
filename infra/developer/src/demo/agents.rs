//! A lead finds whoever suits it best, figures become words, and both stay within limits.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use chrono::{DateTime, Datelike, Days, NaiveTime, TimeDelta, Utc};
use local::database;
use serde_json::{Value, json};
use sqlx::Executor;
use uuid::Uuid;

use super::{Demo, ORG, OWNER, PATIENCE, Steps, judge};

/// Who takes leads, and knows kitchens.
pub(super) const SALES: &str = "01900000-0000-7000-8000-000000000104";
const ADMIN: &str = "01900000-0000-7000-8000-000000000102";
/// What must never leave the house.
const PERSONAL: [&str; 3] = ["Greta", "greta@lakeside.example", "555 01 99"];
/// How far back the dry run looks: to before the first lead.
const DAYS: u32 = 60;

/// Leads of those times, a third of which ended, by three sources.
const LEADS: &str = "
    insert into public.leads (org_id, client_name, email, phone, source, status, closed_at, created_at)
    select $1::uuid, 'Greta ' || n, 'greta@lakeside.example', '+46 70 555 01 99', (array['referral', 'website', 'ads'])[1 + n % 3],
           case n % 6 when 0 then 'won' when 3 then 'lost' else 'new' end, case when n % 3 = 0 then now() end, created_at
      from unnest($2::timestamptz[]) with ordinality t (created_at, n)";

/// When forty leads came, as seen at `now`: thirty in the three weeks before this one, and ten towards the end of last month, which those
/// weeks may not reach back to. So there is something to tell of the last whole week and of the last whole month.
fn lead_times(now: DateTime<Utc>) -> Vec<DateTime<Utc>> {
    let midnight = now.date_naive().and_time(NaiveTime::MIN).and_utc();
    let week = midnight - Days::new(now.weekday().num_days_from_monday().into());
    let month = midnight - Days::new(now.day0().into());
    let weekly = (1..=30).map(|n| week - TimeDelta::weeks(1 + n % 3) + TimeDelta::hours(n));
    weekly.chain((1..=10).map(|n| month - TimeDelta::days(10) + TimeDelta::hours(n))).collect()
}

/// The month of limits goes on for a day at least, on any date: a limit that opens within the hour is waited for.
const MONTH_GOES_ON: &str = "
    insert into public.limit_windows (org_id, period, period_start, period_end, first_day)
    select o.id, 'month', w.period_start, w.period_end + interval '1 day', w.first_day
      from public.organizations o, app.limit_window(o.id, o.time_zone, 'month', now()) w where o.id = $1::uuid";

impl Demo<'_> {
    pub(super) async fn tell_agents(&self, steps: &mut Steps) -> Result<()> {
        let token = self.sign_in(OWNER, ORG)?;
        let asked = self.stack.sandbox.anthropic.asked().len();
        let mut admin = database::connect(self.admin_url).await?;
        let people = "insert into public.lead_capacity (org_id, user_id, max_open, skills)
                      values ($1::uuid, $2::uuid, 20, '{kitchen}'), ($1::uuid, $3::uuid, 20, '{}')";
        sqlx::query(people).bind(ORG).bind(SALES).bind(ADMIN).execute(&mut admin).await?;
        sqlx::query(MONTH_GOES_ON).bind(ORG).execute(&mut admin).await?;
        let now: DateTime<Utc> = sqlx::query_scalar("select now()").fetch_one(&mut admin).await?;
        sqlx::query(LEADS).bind(ORG).bind(lead_times(now)).execute(&mut admin).await?;

        steps.judge("leads-dry-run", judge::leads_dry_run, self.see_dry_run(&token).await);
        self.post("/v1/leads/assignments/settings", &token, &json!({ "ai_bound": 10 })).await?;
        steps.judge("lead-assigned", judge::lead_assigned, self.see_assigned(&token).await);
        steps.judge("insight-written", judge::insight_written, self.see_insight(&token).await);
        steps.judge("nothing-personal", judge::nothing_personal, self.see_told(asked).await);
        steps.judge("limit-reached", judge::limit_reached, self.see_limit(&token).await);
        Ok(())
    }

    async fn see_dry_run(&self, token: &str) -> Result<Value> {
        let tried = self.post("/v1/leads/assignments/dry-run", token, &json!({ "days": DAYS })).await?;
        let (there, written): (i64, i64) = sqlx::query_as(
            "select (select count(*) from public.leads), (select count(*) from public.lead_assignments)",
        )
        .fetch_one(&mut self.as_owner().await?)
        .await?;
        Ok(json!({ "there": there, "leads": tried["leads"], "given": tried["given"], "written": written }))
    }

    /// A lead that wants a kitchen goes to whoever knows them, with a score that a model moved no further than it may.
    async fn see_assigned(&self, token: &str) -> Result<Value> {
        let mut owner = self.as_owner().await?;
        let lead: Uuid = sqlx::query_scalar(
            "insert into public.leads (org_id, client_name, email, source, wanted_skills)
             values ($1::uuid, 'Greta Lind', 'greta@lakeside.example', 'referral', '{kitchen}') returning id",
        )
        .bind(ORG)
        .fetch_one(&mut owner)
        .await?;
        owner.execute("commit").await?;
        let admitted = self.post(&format!("/v1/leads/{lead}/assign"), token, &json!({})).await?;
        let job = self.ended(admitted["job"]["href"].as_str().context("no job")?, token).await?;
        let (told, assignment) = (&job["result"], &job["result"]["assignment"]);
        let reason = &assignment["reason"];
        Ok(json!({
            "served_by": told["served_by"], "assigned_to": assignment["assigned_to"],
            "by_rules": reason["rules_score"], "moved": reason["ai_moved"], "score": reason["score"],
        }))
    }

    /// Every figure is what SQL counts, and the text tells it.
    async fn see_insight(&self, token: &str) -> Result<Value> {
        self.post("/v1/insights/leads", token, &json!({ "period": "week" })).await?;
        let insight = self.insight("week", token).await?;
        // By the insight's own week: another may have begun meanwhile.
        let counted: i64 = sqlx::query_scalar(
            "select count(*) from public.leads where created_at >= $1::timestamptz and created_at < $2::timestamptz",
        )
        .bind(insight["period_start"].as_str())
        .bind(insight["period_end"].as_str())
        .fetch_one(&mut self.as_owner().await?)
        .await?;
        Ok(json!({
            "served_by": insight["served_by"], "figures": insight["figures"].as_array().map(Vec::len),
            "total": total(&insight), "counted": counted, "headline": insight["headline"],
        }))
    }

    /// What the provider was told since it had been asked so often.
    async fn see_told(&self, before: usize) -> Result<Value> {
        let asked = self.stack.sandbox.anthropic.asked();
        let asked: Vec<String> = asked.iter().skip(before).map(Value::to_string).collect();
        let readable: Vec<&str> =
            PERSONAL.into_iter().filter(|personal| asked.iter().any(|told| told.contains(personal))).collect();
        let (recorded, people): (i64, i64) = sqlx::query_as(
            "select (select count(*) from public.provider_calls where purpose in ('lead_adjustment', 'insight_summary')),
                    (select count(*) from public.leads where client_name like $1 || '%' and email = $2)",
        )
        .bind(PERSONAL[0])
        .bind(PERSONAL[1])
        .fetch_one(&mut self.as_owner().await?)
        .await?;
        Ok(json!({ "calls": asked.len(), "recorded": recorded, "people": people, "readable": readable }))
    }

    /// With its limit spent the analyst calls nobody, and the template tells the figures.
    async fn see_limit(&self, token: &str) -> Result<Value> {
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
        let (state, percent): (String, Option<f64>) = sqlx::query_as(
            "select state, percent::float8 from public.usage_report where agent = 'analyst' and scope = 'agent' and period = 'month'",
        )
        .fetch_one(&mut self.as_owner().await?)
        .await?;
        Ok(json!({
            "state": state, "percent": percent, "total": total(&insight), "served_by": insight["served_by"],
            "because": insight["instead_because"], "called": self.stack.sandbox.anthropic.asked().len() - asked,
        }))
    }

    pub(super) async fn ended(&self, href: &str, token: &str) -> Result<Value> {
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

/// How many rows the insight says there are.
fn total(insight: &Value) -> &Value {
    let figures = insight["figures"].as_array().map_or([].as_slice(), Vec::as_slice);
    figures.iter().find(|figure| figure["id"] == "total.current").map_or(&Value::Null, |figure| &figure["value"])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of them lie between.
    fn within(times: &[DateTime<Utc>], from: DateTime<Utc>, until: DateTime<Utc>) -> usize {
        times.iter().filter(|time| (from..until).contains(*time)).count()
    }

    #[test]
    fn on_any_date_leads_came_in_the_last_whole_week_and_month_and_none_is_yet_to_come() {
        // Leap years, years of 53 weeks, and each weekday as the first of a month among them.
        let first = chrono::NaiveDate::from_ymd_opt(2024, 1, 1).unwrap();
        for day in first.iter_days().take(8 * 366) {
            for seconds in [0, 1, 43_200, 86_399] {
                let now = day.and_time(NaiveTime::MIN).and_utc() + TimeDelta::seconds(seconds);
                let times = lead_times(now);
                let midnight = day.and_time(NaiveTime::MIN).and_utc();
                let week = midnight - Days::new(day.weekday().num_days_from_monday().into());
                let month = midnight - Days::new(day.day0().into());
                // Fewer than five are told of nobody.
                for (what, from, until) in [
                    ("week", week - Days::new(7), week),
                    ("week before", week - Days::new(14), week - Days::new(7)),
                    ("month", month - chrono::Months::new(1), month),
                ] {
                    let came = within(&times, from, until);
                    assert!(came >= 5, "{now}: {came} in the last {what}");
                }
                let looked_at = now - Days::new(DAYS.into());
                assert_eq!(within(&times, looked_at, now), 40, "{now}");
            }
        }
    }
}
