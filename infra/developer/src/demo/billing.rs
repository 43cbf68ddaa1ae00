//! An organisation subscribes, misses a payment and pays, and its billing follows, whatever Stripe delivers and how often.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use chrono::Utc;
use local::database;
use operator::rebuild;
use sandbox::stripe::{
    self, CURRENT, Delivery, Metadata, Order, Outcome, PRICE, PriceFacts, Shape, SubscriptionFacts, SubscriptionStatus,
};
use serde_json::{Value, json};

use super::{Demo, ORG, OWNER, PATIENCE, Steps, judge};

/// What the sandbox's price is, in hundredths of a krona.
pub(super) const PRICE_MINOR: i64 = 12_500;

/// An app of the organisation's, which Stripe sends people back to.
const APP: &str = "http://localhost:3000/billing";
const SLUG: &str = "atelier-nord";

/// What the owner's dashboard shows.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
struct Overview {
    plan: String,
    state: String,
    open_amount: Option<i64>,
    open_currency: Option<String>,
}

impl Demo<'_> {
    pub(super) async fn tell_billing(&self, steps: &mut Steps) -> Result<()> {
        let token = self.sign_in(OWNER, ORG)?;
        let stripe = &self.stack.sandbox.stripe;
        let before = self.overview().await?;
        ensure!(before.state == "none", "somebody pays already: {before:?}");

        let wanted = json!({
            "price": PRICE, "success_url": format!("{APP}?session={{CHECKOUT_SESSION_ID}}"), "cancel_url": APP,
        });
        let page = self.post("/v1/billing/checkout", &token, &wanted).await?;
        let (session, price): (String, String) =
            sqlx::query_as("select session_id, stripe_price_id from public.billing_checkouts where id = $1::uuid")
                .bind(page["id"].as_str())
                .fetch_one(&mut self.as_owner().await?)
                .await?;
        let seen = json!({ "status": self.page_status(&page).await?, "price": price, "session": session });
        steps.judge("billing-checkout", judge::billing_checkout, Ok(seen));

        let subscription = stripe.complete_checkout(&session)?.id;
        let (deliveries, events) = self.deliver().await?;
        let now = self.becomes("active").await?;
        let seen = json!({
            "deliveries": deliveries, "events": events, "before": before.plan, "plan": now.plan, "state": now.state,
        });
        steps.judge("billing-subscribed", judge::billing_subscribed, Ok(seen));

        let invoice = stripe.renew(&subscription, Outcome::Failed)?.id;
        self.deliver().await?;
        let now = self.becomes("past_due").await?;
        let seen = json!({
            "state": now.state, "plan": now.plan, "open": now.open_amount, "currency": now.open_currency,
        });
        steps.judge("billing-unpaid", judge::billing_unpaid, Ok(seen));

        stripe.retry_payment(&invoice, Outcome::Paid)?;
        self.deliver().await?;
        let now = self.becomes("active").await?;
        let seen = json!({ "state": now.state, "plan": now.plan, "open": now.open_amount.unwrap_or(0) });
        steps.judge("billing-paid", judge::billing_paid, Ok(seen));

        let portal = self.post("/v1/billing/portal", &token, &json!({ "return_url": APP })).await?;
        let seen = self.page_status(&portal).await.map(|status| json!({ "status": status }));
        steps.judge("billing-portal", judge::billing_portal, seen);
        steps.judge("billing-stranger", judge::billing_stranger, self.see_unknown_customer().await);
        steps.judge("billing-forged", judge::billing_forged, self.see_forged().await);
        steps.judge("billing-rebuilt", judge::billing_rebuilt, self.see_rebuilt().await);
        Ok(())
    }

    /// With what the page answers that `link` leads to.
    async fn page_status(&self, link: &Value) -> Result<u16> {
        let url = link["url"].as_str().with_context(|| format!("no URL: {link}"))?;
        Ok(self.client.get(url).send().await?.status().as_u16())
    }

    /// Has Stripe send what it has to tell, in any order and twice. How many deliveries, and of how many events.
    async fn deliver(&self) -> Result<(usize, usize)> {
        let delivery =
            Delivery { order: Order::Shuffled(rand::random()), copies: 2, at_once: 4, ..Delivery::default() };
        let attempts = self.stack.sandbox.stripe.deliver_with(delivery).await;
        let failed = attempts.iter().find(|attempt| !attempt.succeeded());
        ensure!(failed.is_none() && !attempts.is_empty(), "a delivery was refused: {failed:?}");
        let events: HashSet<&str> = attempts.iter().map(|attempt| attempt.event.as_str()).collect();
        Ok((attempts.len(), events.len()))
    }

    /// What an owner reads through the Data API.
    async fn overview(&self) -> Result<Overview> {
        sqlx::query_as("select plan, state, open_amount, open_currency from public.billing_overview")
            .fetch_one(&mut self.as_owner().await?)
            .await
            .context("the owner sees no overview")
    }

    /// Waits for billing to be in this state. Of two states in one second Stripe is asked which is the later, by the schedule.
    async fn becomes(&self, state: &str) -> Result<Overview> {
        let begun = Instant::now();
        loop {
            let now = self.overview().await?;
            if now.state == state && self.settled().await? {
                return Ok(now);
            }
            ensure!(begun.elapsed() < PATIENCE, "billing does not become {state}: {now:?}");
            self.stack.reconcile().await?;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    async fn settled(&self) -> Result<bool> {
        let mut conn = database::connect(self.admin_url).await?;
        let open = "select not exists (select from public.jobs where job_type like 'stripe%' and status in ('queued', 'running'))";
        Ok(sqlx::query_scalar(open).fetch_one(&mut conn).await?)
    }

    /// A customer whom nobody knows subscribes, and claims to be of the organisation.
    async fn see_unknown_customer(&self) -> Result<Value> {
        let stripe = &self.stack.sandbox.stripe;
        let now = stripe.now();
        let subscription = SubscriptionFacts {
            status: SubscriptionStatus::Active,
            metadata: Metadata::from([("org_id".to_owned(), ORG.to_owned())]),
            ..SubscriptionFacts::new("sub_stranger", "cus_stranger", PriceFacts::new(PRICE, 12_500, now), now)
        };
        let before = self.plans().await?;
        let event = stripe::event(
            "evt_stranger",
            "customer.subscription.created",
            now,
            false,
            CURRENT,
            subscription.render(Shape::Current),
        );
        stripe.push_event(event);
        self.deliver().await?;
        let mut conn = database::connect(self.admin_url).await?;
        let (event, owned, subscriptions): (String, bool, i64) = sqlx::query_as(
            "select e.status, e.org_id is not null, (select count(*) from public.subscriptions where stripe_subscription_id = 'sub_stranger')
               from public.webhook_events e where e.event_id = 'evt_stranger'",
        )
        .fetch_one(&mut conn)
        .await?;
        let after = self.plans().await?;
        let changed = before.iter().filter(|(slug, plan)| after.get(*slug) != Some(plan)).count();
        Ok(json!({
            "event": event, "owned": owned, "subscriptions": subscriptions, "plans_changed": changed,
        }))
    }

    /// Each organisation's plan, by its slug.
    async fn plans(&self) -> Result<HashMap<String, String>> {
        let mut conn = database::connect(self.admin_url).await?;
        let plans: Vec<(String, String)> =
            sqlx::query_as("select slug, plan from public.organizations").fetch_all(&mut conn).await?;
        Ok(plans.into_iter().collect())
    }

    /// Somebody signs with a secret of their own.
    async fn see_forged(&self) -> Result<Value> {
        let body = json!({ "id": "evt_forged", "object": "event", "type": "invoice.paid" }).to_string();
        let signature = stripe::sign(body.as_bytes(), &["whsec_guessed".to_owned()], Utc::now().timestamp());
        let response = self
            .client
            .post(format!("{}/webhooks/stripe", self.stack.url))
            .header("stripe-signature", signature)
            .body(body)
            .send()
            .await?;
        let status = response.status().as_u16();
        let problem: Value = response.json().await?;
        let mut conn = database::connect(self.admin_url).await?;
        let rows: i64 = sqlx::query_scalar("select count(*) from public.webhook_events where event_id = 'evt_forged'")
            .fetch_one(&mut conn)
            .await?;
        Ok(json!({ "status": status, "code": problem["code"], "rows": rows }))
    }

    /// What is stored is enough to make all of it again.
    async fn see_rebuilt(&self) -> Result<Value> {
        let mut conn = database::connect(self.admin_url).await?;
        let stored: i64 = sqlx::query_scalar(
            "select count(*) from public.webhook_events
              where org_id = $1::uuid and provider = 'stripe' and status in ('applied', 'superseded', 'unparsed')",
        )
        .bind(ORG)
        .fetch_one(&mut conn)
        .await?;
        let done = rebuild::rebuild(self.admin_url, SLUG).await?;
        Ok(json!({ "stored": stored, "events": done.events, "changes": done.changes }))
    }
}
