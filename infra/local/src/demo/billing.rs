//! An organisation subscribes, misses a payment and pays, and its billing follows, whatever Stripe delivers and how often.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use chrono::Utc;
use local::rebuild;
use reqwest::StatusCode;
use sandbox::stripe::{
    self, CURRENT, Delivery, Metadata, Order, Outcome, PRICE, PriceFacts, Shape, SubscriptionFacts, SubscriptionStatus,
};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use super::{Demo, ORG, OWNER, PATIENCE, Steps};

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
        let session: String = sqlx::query_scalar("select session_id from public.billing_checkouts where id = $1::uuid")
            .bind(page["id"].as_str())
            .fetch_one(&mut self.as_owner().await?)
            .await?;
        steps.step("billing-checkout", Ok(format!("{} of Atelier Nord is sent to a page for {PRICE}", OWNER.1)));

        let subscription = stripe.complete_checkout(&session)?.id;
        let told = self.deliver().await?;
        let now = self.becomes("active").await?;
        ensure!(now.plan == "studio", "the plan is {}", now.plan);
        steps.step("billing-subscribed", Ok(format!("{told}; the plan was {}, is {}", before.plan, now.plan)));

        let invoice = stripe.renew(&subscription, Outcome::Failed)?.id;
        self.deliver().await?;
        let now = self.becomes("past_due").await?;
        let (Some(amount), Some(currency)) = (now.open_amount, now.open_currency) else { bail!("no invoice is open") };
        ensure!(now.plan == "studio", "the plan was lost while Stripe still tries");
        steps.step(
            "billing-unpaid",
            Ok(format!("a renewal failed: past_due, {:.2} {currency} open", amount as f64 / 100.0)),
        );

        stripe.retry_payment(&invoice, Outcome::Paid)?;
        self.deliver().await?;
        let now = self.becomes("active").await?;
        ensure!(now.open_amount.is_none(), "something is open still: {now:?}");
        steps.step("billing-paid", Ok("the next attempt was paid: active, nothing open".to_owned()));

        let portal = self.post("/v1/billing/portal", &token, &json!({ "return_url": APP })).await?;
        let url = portal["url"].as_str().context("no URL")?;
        steps.step(
            "billing-portal",
            self.client.get(url).send().await.map(|page| page.status()).map_or_else(
                |error| Err(error.into()),
                |status| {
                    ensure!(status.is_success(), "the page answered {status}");
                    Ok("a page to change card and plan, or to cancel".to_owned())
                },
            ),
        );
        steps.step("billing-stranger", self.check_stranger().await);
        steps.step("billing-forged", self.check_forged().await);
        steps.step("billing-rebuilt", self.check_rebuilt().await);
        Ok(())
    }

    /// Has Stripe send what it has to tell, in any order and twice.
    async fn deliver(&self) -> Result<String> {
        let delivery =
            Delivery { order: Order::Shuffled(rand::random()), copies: 2, at_once: 4, ..Delivery::default() };
        let attempts = self.stack.sandbox.stripe.deliver_with(delivery).await;
        let failed = attempts.iter().find(|attempt| !attempt.succeeded());
        ensure!(failed.is_none() && !attempts.is_empty(), "a delivery was refused: {failed:?}");
        Ok(format!("{} deliveries of {} events in any order", attempts.len(), attempts.len() / 2))
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
        let mut conn = PgConnection::connect(self.admin_url).await?;
        let open = "select not exists (select from public.jobs where job_type like 'stripe%' and status in ('queued', 'running'))";
        Ok(sqlx::query_scalar(open).fetch_one(&mut conn).await?)
    }

    /// A customer whom nobody knows subscribes, and claims to be of the organisation.
    async fn check_stranger(&self) -> Result<String> {
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
        let mut conn = PgConnection::connect(self.admin_url).await?;
        let kept: (String, bool, bool) = sqlx::query_as(
            "select e.status, e.org_id is null, exists (select from public.subscriptions where stripe_subscription_id = 'sub_stranger')
               from public.webhook_events e where e.event_id = 'evt_stranger'",
        )
        .fetch_one(&mut conn)
        .await?;
        ensure!(kept == ("unowned".to_owned(), true, false), "a stranger's event is somebody's: {kept:?}");
        ensure!(self.plans().await? == before, "a stranger's event changed a plan");
        Ok("a stranger's subscription that names Atelier Nord is kept as unowned, and no plan changes".to_owned())
    }

    async fn plans(&self) -> Result<Value> {
        let mut conn = PgConnection::connect(self.admin_url).await?;
        Ok(sqlx::query_scalar("select jsonb_object_agg(slug, plan) from public.organizations")
            .fetch_one(&mut conn)
            .await?)
    }

    /// Somebody signs with a secret of their own.
    async fn check_forged(&self) -> Result<String> {
        let body = json!({ "id": "evt_forged", "object": "event", "type": "invoice.paid" }).to_string();
        let signature = stripe::sign(body.as_bytes(), &["whsec_guessed".to_owned()], Utc::now().timestamp());
        let response = self
            .client
            .post(format!("{}/webhooks/stripe", self.stack.url))
            .header("stripe-signature", signature)
            .body(body)
            .send()
            .await?;
        ensure!(response.status() == StatusCode::BAD_REQUEST, "it was answered with {}", response.status());
        let problem: Value = response.json().await?;
        let mut conn = PgConnection::connect(self.admin_url).await?;
        let rows: i64 = sqlx::query_scalar("select count(*) from public.webhook_events where event_id = 'evt_forged'")
            .fetch_one(&mut conn)
            .await?;
        ensure!(rows == 0, "it left a row");
        Ok(format!("a forged signature gets 400 {} and leaves no row", problem["code"].as_str().unwrap_or("?")))
    }

    /// What is stored is enough to make all of it again.
    async fn check_rebuilt(&self) -> Result<String> {
        let done = rebuild::rebuild(self.admin_url, SLUG).await?;
        ensure!(done.changes.is_empty(), "it is other than it was: {}", done.changes.join("; "));
        Ok(format!("{} stored events applied again make the same billing", done.events))
    }
}
