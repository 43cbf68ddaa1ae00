//! An agent that is none of Spine's logs what it did, and is held to its limit.

use anyhow::{Context, Result, ensure};
use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::Executor;
use uuid::Uuid;

use super::{
    DESIGNER, Demo, ORG, Steps,
    judge::{count, flag, list, text},
};

/// What kind of agent it is, and what it says a draft costs, in micro-USD.
const AGENT: &str = "blogger";
const COST: i64 = 1_500;
/// How many drafts a month may have.
const LIMIT: i64 = 1;
/// What is nobody's to read.
const PERSONAL: &str = "Greta Lind";

impl Demo<'_> {
    pub(super) async fn tell_actions(&self, steps: &mut Steps) -> Result<()> {
        steps.judge("agent-action", judge, self.see_actions().await);
        Ok(())
    }

    /// Drafts until one is refused. One is recorded, and two if a month ends in between.
    async fn see_actions(&self) -> Result<Value> {
        let token = self.employ().await?;
        let body = json!({
            "action": "blog_post.drafted", "resource": { "type": "blog_post", "id": "draft-7" }, "subjects": [DESIGNER.0],
            "input": { "asked_by": { "personal": PERSONAL, "subject": DESIGNER.0 }, "topic": "lime plaster" },
            "decision": { "why": "asked for twice this week" }, "output": { "title": "Walls that breathe", "words": 812 },
            "cost": { "cost_micro_usd": COST },
        });
        let mut recorded = Vec::new();
        let refused = loop {
            let response = self
                .client
                .post(format!("{}/v1/agent-actions", self.stack.url))
                .bearer_auth(&token)
                .header("idempotency-key", Uuid::new_v4().to_string())
                .json(&body)
                .send()
                .await?;
            if response.status() != StatusCode::CREATED || recorded.len() > 2 {
                break response;
            }
            let answer: Value = response.json().await?;
            recorded.push(answer["id"].as_str().with_context(|| format!("no id: {answer}"))?.to_owned());
        };
        let (status, retry_after) = (refused.status().as_u16(), refused.headers().get("retry-after").cloned());
        let retry_after: Option<i64> = retry_after.and_then(|after| after.to_str().ok()?.parse().ok());
        let problem: Value = refused.json().await?;

        let mut owner = self.as_owner().await?;
        let (agent, entries, sealed, text): (Option<String>, i64, bool, Option<String>) = sqlx::query_as(
            "select max(a.agent), count(*), coalesce(bool_and(a.input #>> '{asked_by,sealed}' like 'v1.%'), false), string_agg(to_jsonb(a)::text, ' ')
               from public.audit_log a where a.action = $1 and a.actor = 'agent'",
        )
        .bind(body["action"].as_str())
        .fetch_one(&mut owner)
        .await?;
        let (used, charged): (Option<i64>, Option<i64>) = sqlx::query_as(
            "select (select sum(used_requests)::bigint from public.agent_usage where agent = $1 and scope = 'agent' and period = 'month'),
                    (select sum(cost_micro_usd)::bigint from public.billing_events where kind = 'agent_action')",
        )
        .bind(AGENT)
        .fetch_one(&mut owner)
        .await?;
        let (mut documents, mut written) = (0, text.unwrap_or_default());
        for id in &recorded {
            let document = self.document(id).await?;
            documents += i64::from(document["action"] == body["action"]);
            written.push_str(&document.to_string());
        }
        let readable: Vec<&str> = [PERSONAL].into_iter().filter(|personal| written.contains(personal)).collect();
        Ok(json!({
            "agent": agent, "limit": LIMIT, "recorded": recorded.len(), "entries": entries,
            "used": used, "documents": documents, "cost": COST, "charged": charged, "sealed": sealed,
            "readable": readable,
            "status": status, "code": problem["code"], "scope": problem["scope"], "retry_after": retry_after,
        }))
    }

    /// The owner makes an agent, with a limit, and gives it a token.
    async fn employ(&self) -> Result<String> {
        let mut owner = self.as_owner().await?;
        let agent: Uuid = sqlx::query_scalar(
            "insert into public.agents (org_id, name, kind, role_id)
             select $1::uuid, 'Bruno', $2, id from public.roles where org_id is null and name = 'agent' returning id",
        )
        .bind(ORG)
        .bind(AGENT)
        .fetch_one(&mut owner)
        .await?;
        sqlx::query(
            "insert into public.agent_limits (org_id, agent, scope, period, max_requests) values ($1::uuid, $2, 'agent', 'month', $3)",
        )
        .bind(ORG)
        .bind(AGENT)
        .bind(LIMIT)
        .execute(&mut owner)
        .await?;
        let token: String = sqlx::query_scalar("select token from public.issue_agent_token($1)")
            .bind(agent)
            .fetch_one(&mut owner)
            .await?;
        owner.execute("commit").await?;
        ensure!(token.starts_with("spine_agent_"), "it is no agent's token");
        Ok(token)
    }
}

fn judge(seen: &Value) -> Result<String> {
    let (agent, limit, recorded) = (text(seen, "agent")?, count(seen, "limit")?, count(seen, "recorded")?);
    let (entries, used, documents) = (count(seen, "entries")?, count(seen, "used")?, count(seen, "documents")?);
    let (cost, charged, readable) = (count(seen, "cost")?, count(seen, "charged")?, list(seen, "readable")?);
    let (status, code, scope) = (count(seen, "status")?, text(seen, "code")?, text(seen, "scope")?);
    let retry_after = count(seen, "retry_after")?;
    ensure!(agent == AGENT && recorded >= 1, "no agent's action was recorded: {seen}");
    ensure!(
        entries == recorded && used == recorded && documents == recorded,
        "it is not in the log, the limit's window and MongoDB alike: {seen}"
    );
    ensure!(cost > 0 && charged == cost * recorded, "it is not charged: {seen}");
    ensure!(readable.is_empty() && flag(seen, "sealed")?, "a personal value is not sealed: {seen}");
    ensure!(
        limit == 1 && status == 429 && code == "limit_reached" && scope == "agent" && retry_after > 0,
        "it is not held to its limit: {seen}"
    );
    Ok(format!(
        "{agent} logged {recorded} draft of {cost} micro-USD: entries {entries}, documents {documents}, requests used {used}, charged \
         {charged}, names sealed; over its limit of {limit} it gets {status} {code} and when to ask again: in {retry_after} s"
    ))
}

/// What the step sees where all is well.
#[cfg(test)]
pub(super) fn examples() -> Vec<super::judge::Example> {
    vec![(
        "agent-action",
        judge,
        json!({
            "agent": "blogger", "limit": 1, "recorded": 2, "entries": 2, "used": 2, "documents": 2, "cost": 1500,
            "charged": 3000, "sealed": true, "readable": [], "status": 429, "code": "limit_reached", "scope": "agent",
            "retry_after": 86_400,
        }),
    )]
}
