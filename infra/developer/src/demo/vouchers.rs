//! A voucher is proposed, refused in every way that there is, approved by another person, and written once.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use sqlx::Executor;

use super::{
    Demo, ORG, OTHER_ORG, OWNER, PATIENCE, STRANGER, Steps,
    judge::{count, text},
};

/// A consultant, and their client.
const CONSULTANT: (&str, &str) = ("01900000-0000-7000-8000-000000000105", "cleo@consultants.example");
const CLIENT: &str = "01900000-0000-7000-8000-000000000c01";

/// A voucher that nothing is wrong with.
fn voucher() -> Value {
    json!({
        "series": "SP", "date": "2026-11-30", "description": "Rent for November",
        "rows": [{ "account": 5010, "debit": 1_250_050 }, { "account": 1930, "credit": 1_250_050 }],
    })
}

/// What is otherwise, where, and what refuses it.
fn wrong() -> [(&'static str, Value, &'static str); 9] {
    [
        ("/rows/0/debit", json!(1_250_051), "voucher_unbalanced"),
        ("/rows/0/debit", json!(100_000_000_000_000_i64), "amount_invalid"),
        ("/rows/0/account", json!(5999), "account_unknown"),
        ("/rows/0/account", json!(6990), "account_inactive"),
        ("/rows/0/account", json!(5800), "cost_center_missing"),
        ("/series", json!("A"), "series_not_manual"),
        ("/series", json!("ZZ"), "series_unknown"),
        ("/date", json!("1999-12-31"), "financial_year_missing"),
        ("/description", json!("Rent [November]"), "characters_refused"),
    ]
}

impl Demo<'_> {
    pub(super) async fn tell_vouchers(&self, steps: &mut Steps, company: i64) -> Result<()> {
        steps.judge("fortnox-refused", judge_refused, self.see_refused(company).await);
        steps.judge("fortnox-voucher", judge_voucher, self.see_voucher(company).await);
        Ok(())
    }

    /// Tries what must not come through. What each was refused with, and how many vouchers there are.
    async fn see_refused(&self, company: i64) -> Result<Value> {
        let (consultant, owner) = (self.sign_in(CONSULTANT, ORG)?, self.sign_in(OWNER, ORG)?);
        let mut refused = Vec::new();
        for (place, value, code) in wrong() {
            let mut voucher = voucher();
            *voucher.pointer_mut(place).context("no such place")? = value;
            let body = json!({ "client_id": CLIENT, "voucher": voucher });
            let (_, answer) = self.send("/v1/accounting/vouchers", &consultant, &body).await?;
            refused.push((code, answer["code"].clone()));
        }
        let (id, digest) = self.propose(&consultant).await?;
        let (own, own_digest) = self.propose(&owner).await?;
        let stranger = self.sign_in(STRANGER, OTHER_ORG)?;
        for (token, id, digest, code) in [
            (&consultant, &id, &digest, "approval_not_allowed"),
            (&stranger, &id, &digest, "approval_not_found"),
            (&owner, &id, &"0".repeat(64), "payload_changed"),
            (&owner, &own, &own_digest, "own_proposal"),
        ] {
            let path = format!("/v1/approvals/{id}/approve");
            let (_, answer) = self.send(&path, token, &json!({ "digest": digest })).await?;
            refused.push((code, answer["code"].clone()));
        }
        // Approved, where nobody has opened the client's books: it waits for that, and is taken back.
        self.approve(&owner, &id, &digest).await?;
        let reason = self.until(&owner, &id, "approved").await?;
        refused.push(("writing_not_allowed", reason));
        for id in [id, own] {
            self.post(&format!("/v1/approvals/{id}/refuse"), &owner, &json!({})).await?;
        }
        let otherwise: Vec<_> = refused.iter().filter(|(code, was)| was != code).collect();
        Ok(json!({
            "ways": refused.len(), "otherwise": otherwise, "vouchers": self.stack.sandbox.fortnox.vouchers(company).len(),
        }))
    }

    /// Opens the client's books, and has a voucher approved.
    async fn see_voucher(&self, company: i64) -> Result<Value> {
        let (consultant, owner) = (self.sign_in(CONSULTANT, ORG)?, self.sign_in(OWNER, ORG)?);
        let mut conn = self.as_owner().await?;
        let open = format!(
            "insert into public.client_accounting (org_id, client_id, customer_number) values ('{ORG}', '{CLIENT}', '1') on conflict do nothing;
             update public.client_accounting set can_write = true where client_id = '{CLIENT}'; commit"
        );
        conn.execute(sqlx::AssertSqlSafe(open)).await?;
        let (id, digest) = self.propose(&consultant).await?;
        self.approve(&owner, &id, &digest).await?;
        self.until(&owner, &id, "executed").await?;
        let (_, approval) = self.get(&format!("/v1/approvals/{id}"), &owner).await?;
        let vouchers = self.stack.sandbox.fortnox.vouchers(company);
        let written = vouchers.first().context("nothing was written")?;
        let token = approval["token"].as_str().unwrap_or_default();
        Ok(json!({
            "vouchers": vouchers.len(), "series": approval["series"], "number": approval["voucher_number"], "year": written.year,
            "year_id": approval["year_id"], "found_by_token": written.description.contains(token), "token": token,
            "debit": written.rows.iter().map(|row| row.debit).sum::<i64>(), "credit": written.rows.iter().map(|row| row.credit).sum::<i64>(),
        }))
    }

    /// The approval of a voucher that nothing is wrong with, and its digest.
    async fn propose(&self, token: &str) -> Result<(String, String)> {
        let body = json!({ "client_id": CLIENT, "voucher": voucher() });
        let proposed = self.post("/v1/accounting/vouchers", token, &body).await?;
        let id = proposed["approval_id"].as_str().with_context(|| format!("no approval: {proposed}"))?.to_owned();
        let (_, shown) = self.get(&format!("/v1/approvals/{id}"), token).await?;
        let digest = shown["digest"].as_str().with_context(|| format!("no digest: {shown}"))?.to_owned();
        Ok((id, digest))
    }

    async fn approve(&self, token: &str, id: &str, digest: &str) -> Result<()> {
        self.post(&format!("/v1/approvals/{id}/approve"), token, &json!({ "digest": digest })).await.map(drop)
    }

    /// Waits until a worker has looked at an approval and it is of this status. Why its job waits, if it does.
    async fn until(&self, token: &str, id: &str, status: &str) -> Result<Value> {
        let mut conn = local::database::connect(self.admin_url).await?;
        let begun = Instant::now();
        loop {
            let waits: Option<String> = sqlx::query_scalar(
                "select wait_reason ->> 'reason' from public.jobs where job_type = 'accounting_write' and unique_key = $1",
            )
            .bind(id)
            .fetch_one(&mut conn)
            .await?;
            let (_, shown) = self.get(&format!("/v1/approvals/{id}"), token).await?;
            if shown["status"] == status && (waits.is_some() || status != "approved") {
                return Ok(json!(waits));
            }
            if begun.elapsed() > PATIENCE {
                bail!("the approval is not {status}: {shown}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn judge_refused(seen: &Value) -> Result<String> {
    let (ways, vouchers) = (count(seen, "ways")?, count(seen, "vouchers")?);
    let otherwise = seen["otherwise"].as_array().context("nothing was tried")?;
    ensure!(ways == 14 && otherwise.is_empty(), "not all were refused as they should be: {seen}");
    ensure!(vouchers == 0, "a voucher came through: {seen}");
    Ok(format!("a voucher was refused in {ways} ways, each by its name; vouchers at Fortnox: {vouchers}"))
}

fn judge_voucher(seen: &Value) -> Result<String> {
    let (series, number, year) = (text(seen, "series")?, count(seen, "number")?, count(seen, "year")?);
    let (vouchers, debit, credit) = (count(seen, "vouchers")?, count(seen, "debit")?, count(seen, "credit")?);
    ensure!(vouchers == 1 && number == 1 && series == "SP", "it was not written once: {seen}");
    ensure!(seen["found_by_token"] == true && seen["year_id"] == year, "it is not what was approved: {seen}");
    let token = text(seen, "token")?;
    ensure!(token.len() == 15 && token.starts_with("sp-"), "its token is none: {seen}");
    ensure!(debit == credit && debit == 1_250_050, "it does not balance: {seen}");
    Ok(format!(
        "proposed by a consultant, approved by an owner, written once: {series} {number}, year {year}, {}; {debit} öre on both sides",
        token
    ))
}

/// What the steps see where all is well.
#[cfg(test)]
pub(super) fn examples() -> Vec<super::judge::Example> {
    vec![
        ("fortnox-refused", judge_refused, json!({ "ways": 14, "otherwise": [], "vouchers": 0 })),
        (
            "fortnox-voucher",
            judge_voucher,
            json!({
                "vouchers": 1, "series": "SP", "number": 1, "year": 2, "year_id": 2, "found_by_token": true, "token": "sp-0123456789ab",
                "debit": 1_250_050, "credit": 1_250_050,
            }),
        ),
    ]
}
