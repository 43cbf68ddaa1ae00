//! What customers write on Instagram and TikTok comes into one inbox: delivered, or read after an outage.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use local::database;
use reqwest::header;
use sandbox::{Calls, Consent, Delivery, Fault, Order, Written, instagram::MediaKind, tiktok::Platform};
use serde_json::{Value, json};
use url::Url;
use uuid::Uuid;

use super::{
    Demo, ORG, OTHER_ORG, OWNER, PATIENCE, Steps,
    agents::SALES,
    judge::{count, flag, text},
};

const INSTAGRAM: &str = "{instagram_business_basic,instagram_business_manage_messages,instagram_business_manage_comments,instagram_business_manage_insights}";
const TIKTOK: &str = "{user.info.basic,user.insights,comment.list,video.list,video.insights,message.list.read}";
/// Who owns another organisation.
const STRANGER: (&str, &str) = ("01900000-0000-7000-8000-000000000201", "oscar@brick-and-beam.example");
/// An app of the organisation's, which platforms' pages lead people back to by way of the function.
const APP: &str = "http://localhost:3000/settings";
/// The agent that drafts.
const AGENT: &str = "01900000-0000-7000-8000-000000000a01";
const DRAFTED: &str = "Vi har öppet till klockan sex.";
const FIRST: &str = "Hej! Vad kostar fåtöljen?";
const EDITED: &str = "Hej! Vad kostar soffan?";
const MISSED: &str = "Finns den i grönt?";
const WISH: &str = "Vi vill ha ett NYTT KÖK. Ring 070-123 45 67!";
const PHONE: &str = "070-123 45 67";

/// Accounts of both platforms, connected.
struct Accounts {
    instagram: sandbox::instagram::Connected,
    tiktok: sandbox::tiktok::Connected,
    ids: [Uuid; 2],
}

impl Demo<'_> {
    pub(super) async fn tell_social(&self, steps: &mut Steps) -> Result<()> {
        steps.judge("social-connected", judge_connected, self.see_accounts_connected().await);
        let accounts = self.connect_accounts().await?;
        steps.judge("social-push", judge_push, self.see_push(&accounts).await);
        steps.judge("social-pull", judge_pull, self.see_pull(&accounts).await);
        steps.judge("social-inbox", judge_inbox, self.see_inbox().await);
        steps.judge("social-answered", judge_answered, self.see_answered(&accounts).await);
        steps.judge("social-lead", judge_lead, self.see_lead(&accounts).await);
        Ok(())
    }

    /// Consents at both platforms as the owner does, in their browser, after having said no at the first.
    async fn see_accounts_connected(&self) -> Result<Value> {
        let (instagram, tiktok) = (&self.stack.sandbox.instagram, &self.stack.sandbox.tiktok);
        let (account, _) = instagram.add_unconnected("atelier.nord.shop", "Atelier Nord Shop");
        let shop = tiktok.add_account("ateliernord.shop", "Atelier Nord Shop", &[]);
        let denied = self.consent("instagram", |url| instagram.decide(url, &account, Consent::Denied)).await?;
        let mut ways = Vec::new();
        ways.push(self.consent("instagram", |url| instagram.decide(url, &account, Consent::All)).await?);
        for path in ["tiktok", "tiktok-business"] {
            ways.push(self.consent(path, |url| tiktok.decide(url, &shop.open_id, Consent::All)).await?);
        }
        self.stack.social.drained().await;
        let (connected, readable, subscribed): (i64, i64, i64) = sqlx::query_as(
            "select count(*) filter (where status = 'active'),
                    count(*) filter (where access_token not like 'v1.%' or refresh_token not like 'v1.%'),
                    count(*) filter (where subscribed_at is not null)
               from public.social_accounts where connected_at is not null",
        )
        .fetch_one(&mut database::connect(self.admin_url).await?)
        .await?;
        Ok(json!({
            "denied": denied, "ways": ways, "connected": connected, "readable_tokens": readable, "subscribed": subscribed,
            "delivered": instagram.subscribed(&account)?.len(),
        }))
    }

    /// What the app reads from the address that the browser is led to at the end.
    async fn consent(&self, path: &str, decide: impl FnOnce(&str) -> Result<Url>) -> Result<String> {
        let token = self.sign_in(OWNER, ORG)?;
        let mut start = Url::parse(&format!("{}/oauth/{path}/start", self.stack.url))?;
        start.query_pairs_mut().append_pair("redirect_to", APP);
        let request = self.client.get(start).bearer_auth(&token).header(header::ACCEPT, "application/json");
        let begun = request.send().await?.error_for_status()?;
        let cookie = begun.headers().get(header::SET_COOKIE).context("no cookie binds it to a browser")?.to_str()?;
        let cookie = cookie.split(';').next().unwrap_or_default().to_owned();
        let begun: Value = begun.json().await?;
        let mut back = decide(begun["url"].as_str().with_context(|| format!("no URL: {begun}"))?)?;
        // A browser keeps what follows the hash to itself.
        back.set_fragment(None);
        let led = self.client.get(back).header(header::COOKIE, cookie).send().await?;
        let to = led.headers().get(header::LOCATION).context("the browser is led nowhere")?.to_str()?;
        Ok(to.strip_prefix(&format!("{APP}?")).context("the browser is led elsewhere")?.to_owned())
    }

    /// A person answers; an agent's draft waits for a person; and an answer that the platform does not confirm is found.
    async fn see_answered(&self, accounts: &Accounts) -> Result<Value> {
        let instagram = &self.stack.sandbox.instagram;
        let token = self.sign_in(OWNER, ORG)?;
        let (_, listed) = self.get("/v1/inbox/threads?kind=message", &token).await?;
        let threads = listed["threads"].as_array().context("no threads")?;
        let thread = threads.iter().find(|thread| thread["account"]["platform"] == "instagram");
        let thread = thread.context("no conversation on Instagram")?["id"].clone();
        let body = |text: &str| json!({ "thread_id": thread, "kind": "message", "text": text });
        let by_person = self.post("/v1/social/replies", &token, &body("Ja, den finns i butiken.")).await?;
        let by_person = self.reply_ended(&by_person["reply"]["id"], &token).await?;
        let mut owner = self.as_owner().await?;
        let agent: String = sqlx::query_scalar("select token from public.issue_agent_token($1)")
            .bind(AGENT.parse::<Uuid>()?)
            .fetch_one(&mut owner)
            .await?;
        sqlx::query("commit").execute(&mut owner).await?;
        let drafted = self.post("/v1/social/replies", &agent, &body(DRAFTED)).await?;
        let sent_before = instagram.sent(&accounts.instagram.id).len();
        let approval = drafted["approval"]["href"].as_str().with_context(|| format!("no approval: {drafted}"))?;
        let (_, shown) = self.get(approval, &token).await?;
        self.post(&format!("{approval}/approve"), &token, &json!({ "digest": shown["digest"] })).await?;
        let by_agent = self.reply_ended(&drafted["reply"]["id"], &token).await?;
        instagram.arrange(sandbox::instagram::Call::Send, Fault::Lost, Calls::Next(1));
        let lost = self.post("/v1/social/replies", &token, &body("Välkommen in!")).await?;
        let lost = self.reply_ended(&lost["reply"]["id"], &token).await?;
        let stranger = self.sign_in(STRANGER, OTHER_ORG)?;
        let (status, _) = self.send("/v1/social/replies", &stranger, &body("Hej")).await?;
        let logged: i64 = sqlx::query_scalar(
            "select count(*) from public.audit_log where action = 'social_reply.sent' and decision ->> 'approved_by' = $1",
        )
        .bind(OWNER.0)
        .fetch_one(&mut database::connect(self.admin_url).await?)
        .await?;
        let sent = instagram.sent(&accounts.instagram.id);
        Ok(json!({
            "by_person": by_person, "draft_sent_before": sent_before, "by_agent": by_agent, "lost": lost, "sent": sent.len(),
            "text": sent.get(1).map(|sent| sent.text.clone()), "approved_in_log": logged, "stranger": status.as_u16(),
        }))
    }

    /// Waits for the end of a reply. What it came to.
    async fn reply_ended(&self, id: &Value, token: &str) -> Result<Value> {
        let path = format!("/v1/social/replies/{}", id.as_str().context("no reply")?);
        let begun = Instant::now();
        loop {
            let (_, reply) = self.get(&path, token).await?;
            if !reply["ended_at"].is_null() {
                return Ok(reply["status"].clone());
            }
            ensure!(begun.elapsed() < PATIENCE, "the reply has no end: {reply}");
            // What waits for its time is woken by the sweep.
            self.stack.sweep().await?;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// Connects accounts as consents would.
    async fn connect_accounts(&self) -> Result<Accounts> {
        let instagram = self.stack.sandbox.instagram.add_account("atelier.nord", "Atelier Nord");
        let tiktok = self.stack.sandbox.tiktok.add_account("ateliernord", "Atelier Nord", &[Platform::Business]);
        let ids = [Uuid::now_v7(), Uuid::now_v7()];
        let business = tiktok.business_token.as_deref().context("no token for TikTok")?;
        let mut conn = database::connect(self.admin_url).await?;
        for (id, platform, api, platform_id, scopes, token) in [
            (ids[0], "instagram", "instagram_login", &instagram.id, INSTAGRAM, instagram.token.as_str()),
            (ids[1], "tiktok", "tiktok_business", &tiktok.open_id, TIKTOK, business),
        ] {
            sqlx::query(
                "insert into public.social_accounts (id, org_id, platform, api, platform_id, scopes, access_token, username, fetch_after)
                 values ($1, $2::text::uuid, $3, $4, $5, $6::text::text[], $7, 'atelier.nord', 'infinity')",
            )
            .bind(id)
            .bind(ORG)
            .bind(platform)
            .bind(api)
            .bind(platform_id)
            .bind(scopes)
            .bind(self.stack.seal_account_token(ORG.parse()?, token)?)
            .execute(&mut conn)
            .await?;
        }
        Ok(Accounts { instagram, tiktok, ids })
    }

    /// A customer writes, thinks better of it and takes something back; all of it is delivered twice and in any order.
    async fn see_push(&self, accounts: &Accounts) -> Result<Value> {
        let (instagram, tiktok) = (&self.stack.sandbox.instagram, &self.stack.sandbox.tiktok);
        let greta = instagram.add_person("greta", Some("Greta"));
        let first = instagram.message(&accounts.instagram.id, &greta, FIRST)?;
        instagram.edit_message(&first, EDITED)?;
        let unsent = instagram.message(&accounts.instagram.id, &greta, "glöm det")?;
        instagram.unsend(&unsent)?;
        // Nobody answers within the millisecond, and of one millisecond's messages none is the later.
        instagram.advance(1);
        instagram.answer(&accounts.instagram.id, &greta, "4 900 kr")?;
        let ture = tiktok.add_person("ture");
        tiktok.message(&accounts.tiktok.open_id, &ture, "Levererar ni till Umeå?")?;
        let badly = Delivery { order: Order::Shuffled(7), copies: 2, batch: 3, ..Delivery::default() };
        let mut attempts = instagram.deliver_with(badly.clone()).await;
        attempts.extend(tiktok.deliver_with(badly).await);
        let taken = attempts.iter().filter(|attempt| attempt.succeeded).count();
        self.stack.queue("social-events")?.drained().await;
        let forged = sandbox::instagram::body(&[], Written::Escaped);
        let mut request = self.client.post(format!("{}/webhooks/meta", self.stack.url)).body(forged.clone());
        for (name, value) in sandbox::instagram::headers(&forged, "not the secret") {
            request = request.header(name, value);
        }
        let forged = request.send().await?.status();
        let mut conn = self.as_owner().await?;
        let (messages, deleted, content): (i64, i64, Option<String>) = sqlx::query_as(
            "select count(*), count(*) filter (where deleted_at is not null and content is null), max(content) filter (where platform_id = $1)
               from public.social_messages",
        )
        .bind(&first)
        .fetch_one(&mut conn)
        .await?;
        Ok(json!({
            "posted": attempts.len(), "taken": taken, "messages": messages, "deleted": deleted, "text": content, "forged": forged.as_u16(),
        }))
    }

    /// What was written while nothing was delivered is read.
    async fn see_pull(&self, accounts: &Accounts) -> Result<Value> {
        let (instagram, tiktok) = (&self.stack.sandbox.instagram, &self.stack.sandbox.tiktok);
        let greta = instagram.add_person("greta2", None);
        let post = instagram.publish(&accounts.instagram.id, MediaKind::Image, Some("Ny fåtölj"))?;
        instagram.comment(&post, &greta, MISSED, None)?;
        let video = tiktok.publish(&accounts.tiktok.open_id, "Så gör vi en fåtölj")?;
        let ture = tiktok.add_person("ture2");
        tiktok.comment(&video, &ture, "Snyggt!", None)?;
        // Lost: they are not delivered.
        instagram.take(&Delivery::default());
        tiktok.take(&Delivery::default());
        let token = self.sign_in(OWNER, ORG)?;
        let mut read = Vec::new();
        for id in accounts.ids {
            for _ in 0..2 {
                read.push(self.read_account(id, &token).await?);
            }
        }
        let (comments, texts): (i64, Option<String>) = sqlx::query_as(
            "select count(*), string_agg(content, ', ' order by content) from public.social_messages where message_type = 'comment'",
        )
        .fetch_one(&mut self.as_owner().await?)
        .await?;
        let stranger = self.sign_in(STRANGER, OTHER_ORG)?;
        let (status, _) =
            self.send(&format!("/v1/social/accounts/{}/fetch", accounts.ids[0]), &stranger, &json!({})).await?;
        Ok(json!({
            "readings": read.len(), "failed": read.iter().filter(|failed| **failed).count(), "comments": comments, "texts": texts,
            "stranger": status.as_u16(),
        }))
    }

    /// Has an account read. Whether something of it failed.
    async fn read_account(&self, id: Uuid, token: &str) -> Result<bool> {
        let admitted = self.post(&format!("/v1/social/accounts/{id}/fetch"), token, &json!({})).await?;
        let job = admitted["job"]["href"].as_str().with_context(|| format!("no job: {admitted}"))?.to_owned();
        let begun = Instant::now();
        loop {
            let (_, job) = self.get(&job, token).await?;
            match job["status"].as_str() {
                Some("succeeded") => return Ok(job["result"]["failed"] != json!({})),
                Some("queued" | "running") if begun.elapsed() < PATIENCE => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                _ => bail!("the account was not read: {job}"),
            }
        }
    }

    async fn see_inbox(&self) -> Result<Value> {
        let token = self.sign_in(OWNER, ORG)?;
        let (_, before) = self.get("/v1/inbox/threads", &token).await?;
        let threads = before["threads"].as_array().context("no threads")?;
        let unread = |threads: &[Value]| threads.iter().filter_map(|thread| thread["unread"].as_i64()).sum::<i64>();
        let direct = threads.iter().find(|thread| thread["kind"] == "message" && thread["messages_total"] == 3);
        let href = direct.and_then(|thread| thread["href"].as_str()).context("no conversation of three messages")?;
        let (_, shown) = self.get(href, &token).await?;
        let mut owner = self.as_owner().await?;
        sqlx::query("update public.social_messages set status = 'read' where direction = 'in' and status = 'new'")
            .execute(&mut owner)
            .await?;
        sqlx::query("commit").execute(&mut owner).await?;
        let (_, after) = self.get("/v1/inbox/threads", &token).await?;
        let (_, found) = self.get("/v1/inbox/search?q=soff", &token).await?;
        let stranger = self.sign_in(STRANGER, OTHER_ORG)?;
        let (status, _) = self.get(href, &stranger).await?;
        Ok(json!({
            "threads": threads.len(), "unread": unread(threads), "unread_after": unread(after["threads"].as_array().context("no threads")?),
            "latest_is_ours": shown["messages"][0]["direction"] == "out", "found": found["messages"].as_array().map(Vec::len),
            "found_text": found["messages"][0]["text"], "stranger": status.as_u16(),
        }))
    }

    /// A rule makes a lead of what a customer writes, and a person one of another thread.
    async fn see_lead(&self, accounts: &Accounts) -> Result<Value> {
        let token = self.sign_in(OWNER, ORG)?;
        let mut owner = self.as_owner().await?;
        sqlx::query(
            "insert into public.social_lead_rules (org_id, name, words, wanted_skills) values ($1::uuid, 'Kök', '{nytt kök}', '{kitchen}')",
        )
        .bind(ORG)
        .execute(&mut owner)
        .await?;
        sqlx::query("commit").execute(&mut owner).await?;
        let instagram = &self.stack.sandbox.instagram;
        let lina = instagram.add_person("lina", Some("Lina"));
        instagram.message(&accounts.instagram.id, &lina, WISH)?;
        instagram.deliver_with(Delivery { copies: 2, ..Delivery::default() }).await;
        self.stack.queue("social-events")?.drained().await;
        let (_, listed) = self.get("/v1/inbox/threads?kind=message", &token).await?;
        let of_ture = listed["threads"].as_array().and_then(|threads| {
            threads
                .iter()
                .find(|thread| thread["account"]["platform"] == "tiktok")
                .and_then(|thread| thread["href"].as_str())
        });
        let path = format!("{}/lead", of_ture.context("no conversation on TikTok")?);
        let first = self.post(&path, &token, &json!({})).await?;
        let again = self.post(&path, &token, &json!({})).await?;
        let stranger = self.sign_in(STRANGER, OTHER_ORG)?;
        let (status, _) = self.send(&path, &stranger, &json!({})).await?;
        let (lead, phone): (Uuid, Option<String>) = sqlx::query_as(
            "select l.id, l.phone from public.leads l join public.social_leads s on s.lead_id = l.id
              where l.source = 'instagram' and s.rule_id is not null",
        )
        .fetch_one(&mut self.as_owner().await?)
        .await?;
        let admitted = self.post(&format!("/v1/leads/{lead}/assign"), &token, &json!({})).await?;
        self.ended(admitted["job"]["href"].as_str().context("no job")?, &token).await?;
        let (by_rule, by_hand, assigned_to, points): (i64, i64, Option<String>, Option<String>) = sqlx::query_as(
            "select (select count(*) from public.social_leads where rule_id is not null),
                    (select count(*) from public.social_leads where made_by is not null), l.assigned_to::text,
                    (select c.factors -> 'source' ->> 'points' from public.lead_scoring c where c.lead_id = l.id order by c.created_at desc limit 1)
               from public.leads l where l.id = $1",
        )
        .bind(lead)
        .fetch_one(&mut self.as_owner().await?)
        .await?;
        Ok(json!({
            "by_rule": by_rule, "by_hand": by_hand, "same": first == again, "phone": phone, "points": points, "assigned_to": assigned_to,
            "stranger": status.as_u16(),
        }))
    }
}

fn judge_connected(seen: &Value) -> Result<String> {
    let (denied, connected, readable) =
        (text(seen, "denied")?, count(seen, "connected")?, count(seen, "readable_tokens")?);
    let (subscribed, delivered) = (count(seen, "subscribed")?, count(seen, "delivered")?);
    ensure!(denied == "instagram=consent_refused", "a refusal is not named: {seen}");
    ensure!(
        seen["ways"] == json!(["instagram=connected", "tiktok=connected", "tiktok_business=connected"]),
        "not all are connected: {seen}"
    );
    // TikTok's account is the same by either interface.
    ensure!(connected == 2 && readable == 0, "accounts or their tokens are not as they should be: {seen}");
    ensure!(subscribed == 1 && delivered > 0, "Instagram was not asked to deliver: {seen}");
    Ok(format!(
        "said no at Instagram: {denied}; then {connected} accounts by three consents, {readable} tokens that can be read; Instagram delivers {delivered} kinds of events of {subscribed}"
    ))
}

fn judge_answered(seen: &Value) -> Result<String> {
    let (before, sent, logged) =
        (count(seen, "draft_sent_before")?, count(seen, "sent")?, count(seen, "approved_in_log")?);
    let (person, agent, lost) = (text(seen, "by_person")?, text(seen, "by_agent")?, text(seen, "lost")?);
    let (content, stranger) = (text(seen, "text")?, count(seen, "stranger")?);
    ensure!(person == "sent" && before == 1, "a person's answer was not sent, or a draft was: {seen}");
    ensure!(
        agent == "sent" && content == DRAFTED && logged == 1,
        "a draft was not sent on a person's approval: {seen}"
    );
    ensure!(lost == "sent" && sent == 3, "an answer that was not confirmed was not found, or sent twice: {seen}");
    ensure!(stranger == 404, "another organisation answers: {seen}");
    Ok(format!(
        "a person's answer: {person}; an agent's draft “{content}” with {before} sent before it: {agent} once approved, {logged} such entry in the log; one whose \
         answer was lost: {lost}; Instagram has {sent}; another organisation gets {stranger}"
    ))
}

fn judge_push(seen: &Value) -> Result<String> {
    let (posted, taken, messages) = (count(seen, "posted")?, count(seen, "taken")?, count(seen, "messages")?);
    let (deleted, refused, content) = (count(seen, "deleted")?, count(seen, "forged")?, text(seen, "text")?);
    ensure!(posted > 0 && taken == posted, "not all deliveries were taken: {seen}");
    ensure!(messages == 4 && deleted == 1, "not four messages, one of them deleted: {seen}");
    ensure!(content == EDITED, "the message is not as it was edited: {seen}");
    ensure!(refused == 400, "a forged delivery was not refused: {seen}");
    Ok(format!(
        "{posted} deliveries of Instagram and TikTok, twice and in any order: {messages} messages, {deleted} deleted there and empty here, one edited: “{content}”; a forged one gets {refused}"
    ))
}

fn judge_pull(seen: &Value) -> Result<String> {
    let (readings, failed, comments) = (count(seen, "readings")?, count(seen, "failed")?, count(seen, "comments")?);
    let (texts, stranger) = (text(seen, "texts")?, count(seen, "stranger")?);
    ensure!(readings == 4 && failed == 0, "a reading failed: {seen}");
    ensure!(comments == 2 && texts.contains(MISSED), "what was not delivered is not there once: {seen}");
    ensure!(stranger == 404, "an owner of another organisation has an account read: {seen}");
    Ok(format!(
        "two accounts read twice: {comments} comments that were not delivered, once each: “{texts}”; another organisation gets {stranger}"
    ))
}

fn judge_inbox(seen: &Value) -> Result<String> {
    let (threads, unread, after) = (count(seen, "threads")?, count(seen, "unread")?, count(seen, "unread_after")?);
    let (found, found_text, stranger) = (count(seen, "found")?, text(seen, "found_text")?, count(seen, "stranger")?);
    ensure!(threads == 4 && unread == 4 && after == 0, "threads are not counted right: {seen}");
    ensure!(flag(seen, "latest_is_ours")?, "the conversation does not end with our answer: {seen}");
    ensure!(found == 1 && found_text == EDITED, "the search does not find the edited message: {seen}");
    ensure!(stranger == 404, "another organisation sees a thread: {seen}");
    Ok(format!(
        "{threads} threads, {unread} unread, {after} once they are read; “soff” finds {found}: “{found_text}”; another organisation gets {stranger}"
    ))
}

fn judge_lead(seen: &Value) -> Result<String> {
    let (by_rule, by_hand, stranger) = (count(seen, "by_rule")?, count(seen, "by_hand")?, count(seen, "stranger")?);
    let (phone, points) = (text(seen, "phone")?, text(seen, "points")?);
    ensure!(by_rule == 1 && phone == PHONE, "the rule did not make one lead with the number that was written: {seen}");
    ensure!(by_hand == 1 && flag(seen, "same")?, "a person did not make one lead of a thread: {seen}");
    ensure!(points == "7.50" && text(seen, "assigned_to")? == SALES, "it was not scored and assigned: {seen}");
    ensure!(stranger == 404, "another organisation makes a lead of a thread: {seen}");
    Ok(format!(
        "“{WISH}” became {by_rule} lead by a rule, phone {phone}, {points} points for its source, given to sven; {by_hand} by hand, the same when asked twice; another organisation gets {stranger}"
    ))
}

/// What the steps see where all is well.
#[cfg(test)]
pub(super) fn examples() -> Vec<super::judge::Example> {
    vec![
        (
            "social-connected",
            judge_connected,
            json!({
                "denied": "instagram=consent_refused", "ways": ["instagram=connected", "tiktok=connected", "tiktok_business=connected"],
                "connected": 2, "readable_tokens": 0, "subscribed": 1, "delivered": 8,
            }),
        ),
        (
            "social-answered",
            judge_answered,
            json!({
                "by_person": "sent", "draft_sent_before": 1, "by_agent": "sent", "lost": "sent", "sent": 3, "text": DRAFTED,
                "approved_in_log": 1, "stranger": 404,
            }),
        ),
        (
            "social-push",
            judge_push,
            json!({ "posted": 8, "taken": 8, "messages": 4, "deleted": 1, "text": EDITED, "forged": 400 }),
        ),
        (
            "social-pull",
            judge_pull,
            json!({ "readings": 4, "failed": 0, "comments": 2, "texts": format!("{MISSED}, Snyggt!"), "stranger": 404 }),
        ),
        (
            "social-inbox",
            judge_inbox,
            json!({
                "threads": 4, "unread": 4, "unread_after": 0, "latest_is_ours": true, "found": 1, "found_text": EDITED, "stranger": 404,
            }),
        ),
        (
            "social-lead",
            judge_lead,
            json!({
                "by_rule": 1, "by_hand": 1, "same": true, "phone": PHONE, "points": "7.50", "assigned_to": SALES, "stranger": 404,
            }),
        ),
    ]
}
