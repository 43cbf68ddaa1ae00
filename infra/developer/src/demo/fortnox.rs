//! An organisation connects its Fortnox, its books are read, and customers become clients.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use reqwest::header;
use serde_json::{Value, json};
use url::Url;

use super::{
    Demo, ORG, OWNER, PATIENCE, Steps,
    judge::{count, flag, text},
};

/// An app of the organisation's, which Fortnox' page leads people back to by way of the function.
const APP: &str = "http://localhost:3000/settings";
const COMPANY: &str = "Atelier Nord AB";
/// How many customers the company has beside the three that every company of the sandbox has.
const CUSTOMERS: usize = 600;
/// How many become clients at once.
const IMPORTED: i64 = 500;

impl Demo<'_> {
    pub(super) async fn tell_fortnox(&self, steps: &mut Steps) -> Result<()> {
        let fortnox = &self.stack.sandbox.fortnox;
        let company = fortnox.create_company(COMPANY, "556677-8899");
        steps.judge("fortnox-connected", judge_connected, self.see_connected(company).await);
        fortnox.create_customers(company, CUSTOMERS)?;
        steps.judge("fortnox-imported", judge_imported, self.see_imported(company).await);
        self.tell_vouchers(steps, company).await
    }

    /// Consents as the owner does, in their browser.
    async fn see_connected(&self, company: i64) -> Result<Value> {
        let token = self.sign_in(OWNER, ORG)?;
        let mut start = Url::parse(&format!("{}/oauth/fortnox/start", self.stack.url))?;
        start.query_pairs_mut().append_pair("redirect_to", APP);
        let request = self.client.get(start).bearer_auth(&token).header(header::ACCEPT, "application/json");
        let begun = request.send().await?.error_for_status()?;
        let cookie = begun.headers().get(header::SET_COOKIE).context("no cookie binds it to a browser")?.to_str()?;
        let cookie = cookie.split(';').next().unwrap_or_default().to_owned();
        let begun: Value = begun.json().await?;
        let consent = begun["url"].as_str().with_context(|| format!("no URL: {begun}"))?;
        let back = self.stack.sandbox.fortnox.consent(consent, company, true)?;
        let led = self.client.get(back).header(header::COOKIE, cookie).send().await?;
        let to = led.headers().get(header::LOCATION).context("the browser is led nowhere")?.to_str()?.to_owned();
        let (_, shown) = self.get("/v1/fortnox/connection", &token).await?;
        let readable: i64 = sqlx::query_scalar(
            "select count(*) from public.org_integrations where access_token not like 'v1.%' or refresh_token not like 'v1.%'",
        )
        .fetch_one(&mut local::database::connect(self.admin_url).await?)
        .await?;
        Ok(json!({
            "to": to, "status": shown["status"], "company": shown["company"]["name"],
            "years": shown["company"]["financial_years"].as_array().map(Vec::len),
            "series": shown["company"]["voucher_series"].as_array().map(Vec::len), "readable_tokens": readable,
        }))
    }

    async fn see_imported(&self, company: i64) -> Result<Value> {
        let token = self.sign_in(OWNER, ORG)?;
        let admitted = self.post("/v1/fortnox/sync", &token, &json!({ "full": true })).await?;
        let job = admitted["job"]["href"].as_str().with_context(|| format!("no job: {admitted}"))?.to_owned();
        let begun = Instant::now();
        let read = loop {
            let (_, job) = self.get(&job, &token).await?;
            match job["status"].as_str() {
                Some("succeeded") => break job["result"].clone(),
                Some("queued" | "running") if begun.elapsed() < PATIENCE => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                _ => bail!("Fortnox was not read: {job}"),
            }
        };
        let wanted = json!({ "all": true, "limit": IMPORTED });
        let first = self.post("/v1/fortnox/customers/import", &token, &wanted).await?;
        let second = self.post("/v1/fortnox/customers/import", &token, &wanted).await?;
        let sizes = |report: &Value, outcome: &str| report[outcome].as_array().map(Vec::len);
        let writable: i64 = sqlx::query_scalar(
            "select count(*) from public.client_accounting where can_write and customer_number is not null",
        )
        .fetch_one(&mut self.as_owner().await?)
        .await?;
        let fortnox = &self.stack.sandbox.fortnox;
        Ok(json!({
            "customers": read["read"]["customers"], "accounts": read["read"]["accounts"],
            "whole": read["full"], "created": sizes(&first, "created"), "linked": sizes(&first, "linked"),
            "conflicting": sizes(&first, "conflicting"), "skipped": sizes(&first, "skipped"),
            "created_again": sizes(&second, "created"), "already": sizes(&second, "already"), "writable": writable,
            "most_in_5_s": fortnox.most_in_any_window(company), "refused": fortnox.refused_by_limit(company),
        }))
    }
}

fn judge_connected(seen: &Value) -> Result<String> {
    let (to, status, company) = (text(seen, "to")?, text(seen, "status")?, text(seen, "company")?);
    let (years, series) = (count(seen, "years")?, count(seen, "series")?);
    ensure!(to == format!("{APP}?fortnox=connected") && status == "connected", "it is not connected: {seen}");
    ensure!(company == COMPANY && years > 0 && series > 0, "the company was not read: {seen}");
    let readable = count(seen, "readable_tokens")?;
    ensure!(readable == 0, "tokens are stored as they are: {seen}");
    Ok(format!(
        "{company}, {years} financial years, {series} voucher series; tokens that can be read: {readable}; the browser is back in the app"
    ))
}

fn judge_imported(seen: &Value) -> Result<String> {
    let (customers, accounts) = (count(seen, "customers")?, count(seen, "accounts")?);
    let (created, linked, conflicting) = (count(seen, "created")?, count(seen, "linked")?, count(seen, "conflicting")?);
    let (skipped, again, already) = (count(seen, "skipped")?, count(seen, "created_again")?, count(seen, "already")?);
    let (most, refused, writable) = (count(seen, "most_in_5_s")?, count(seen, "refused")?, count(seen, "writable")?);
    ensure!(flag(seen, "whole")? && customers > IMPORTED && accounts > 0, "Fortnox was not read: {seen}");
    ensure!(created + linked + conflicting + skipped == IMPORTED && created > 0, "not all are accounted for: {seen}");
    ensure!(again == 0 && already == created + linked, "the same import again was another: {seen}");
    ensure!(writable == 0, "an import lets books be written to: {seen}");
    ensure!((1..=25).contains(&most) && refused == 0, "Fortnox was asked too often: {seen}");
    Ok(format!(
        "{customers} customers and {accounts} accounts read, at most {most} calls in 5 s, {refused} refused; of {IMPORTED} customers {created} \
         became clients, {linked} linked, {conflicting} conflicting, {skipped} skipped; once more: {again}, and {already} were already; \
         may be written to: {writable}"
    ))
}

/// What the steps see where all is well.
#[cfg(test)]
pub(super) fn examples() -> Vec<super::judge::Example> {
    vec![
        (
            "fortnox-connected",
            judge_connected,
            json!({
                "to": format!("{APP}?fortnox=connected"), "status": "connected", "company": COMPANY, "years": 4, "series": 3,
                "readable_tokens": 0,
            }),
        ),
        (
            "fortnox-imported",
            judge_imported,
            json!({
                "customers": 603, "accounts": 120, "whole": true, "created": 495, "linked": 3, "conflicting": 1, "skipped": 1,
                "created_again": 0, "already": 498, "writable": 0, "most_in_5_s": 25, "refused": 0,
            }),
        ),
    ]
}
