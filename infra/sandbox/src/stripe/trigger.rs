//! Makes an event of a given type come about, as `stripe trigger` does.

use chrono::{DateTime, SecondsFormat};
use serde_json::{Value, json};

use super::{
    PRICE, Stripe,
    billing::Outcome,
    objects::{Metadata, Shape},
    refusal::Refusal,
    sessions::CheckoutSessionFacts,
    world::{Resource, Table, World, merge, new_id},
};

/// The thin event.
const METER_ERRORS: &str = "v1.billing.meter.error_report_triggered";

/// The types that come about through an act; any other is made up.
const TYPES: [&str; 29] = [
    "charge.dispute.closed",
    "charge.dispute.created",
    "charge.dispute.funds_withdrawn",
    "charge.failed",
    "charge.refunded",
    "charge.succeeded",
    "checkout.session.completed",
    "checkout.session.expired",
    "customer.created",
    "customer.deleted",
    "customer.subscription.created",
    "customer.subscription.deleted",
    "customer.subscription.updated",
    "customer.updated",
    "invoice.created",
    "invoice.deleted",
    "invoice.finalized",
    "invoice.marked_uncollectible",
    "invoice.paid",
    "invoice.payment_action_required",
    "invoice.payment_failed",
    "invoice.payment_succeeded",
    "invoice.voided",
    "invoice_payment.paid",
    "payment_intent.payment_failed",
    "payment_intent.requires_action",
    "payment_intent.succeeded",
    "refund.created",
    METER_ERRORS,
];

/// The event types that [`Stripe::trigger`] brings about by what leads to them. It makes up any other.
#[must_use]
pub fn trigger_types() -> &'static [&'static str] {
    &TYPES
}

impl Stripe {
    /// Does to the newest customer and subscription, or to fresh ones, what leads to an event of this type. The ids of all events
    /// that this made, in order.
    ///
    /// `overrides` is merged into the object that events of this type carry, and into no object of the API. Any other type becomes an
    /// event about the newest object of its kind as it is, or about a minimal one where the sandbox has no such kind.
    ///
    /// # Errors
    /// If it is no event type.
    pub fn trigger(&self, kind: &str, overrides: Option<Value>) -> Result<Vec<String>, Refusal> {
        let (done, events) = self.watch(|world| {
            world.overrides = overrides.map(|overrides| (kind.to_owned(), overrides));
            let done = world.trigger(kind);
            world.overrides = None;
            done
        });
        done.map(|()| events)
    }
}

impl World {
    fn trigger(&mut self, kind: &str) -> Result<(), Refusal> {
        match kind {
            "customer.created" => {
                self.create_customer(Some("payer@sandbox.example".to_owned()), None, Metadata::new());
            }
            "customer.updated" => {
                let customer = self.any_customer();
                self.update_card(&customer)?;
            }
            "customer.deleted" => {
                let customer = self.any_customer();
                self.delete_customer(&customer)?;
            }
            "customer.subscription.created" | "checkout.session.completed" => {
                self.subscribe()?;
            }
            "customer.subscription.updated" => {
                let subscription = self.any_subscription()?;
                self.cancel(&subscription, true)?;
            }
            "customer.subscription.deleted" => {
                let subscription = self.any_subscription()?;
                self.cancel(&subscription, false)?;
            }
            "checkout.session.expired" => {
                let session = self.any_session()?;
                self.expire_checkout(&session)?;
            }
            "invoice.created"
            | "invoice.finalized"
            | "invoice.paid"
            | "invoice.payment_succeeded"
            | "invoice_payment.paid"
            | "charge.succeeded"
            | "payment_intent.succeeded" => {
                self.billed(Outcome::Paid)?;
            }
            "invoice.payment_failed" | "charge.failed" | "payment_intent.payment_failed" => {
                self.billed(Outcome::Failed)?;
            }
            "invoice.payment_action_required" | "payment_intent.requires_action" => {
                self.billed(Outcome::ActionRequired)?;
            }
            "invoice.voided" => {
                let invoice = self.billed(Outcome::Failed)?;
                self.void(&invoice)?;
            }
            "invoice.marked_uncollectible" => {
                let invoice = self.billed(Outcome::Failed)?;
                self.mark_uncollectible(&invoice)?;
            }
            "invoice.deleted" => {
                let customer = self.any_customer();
                let draft = self.create_draft_invoice(&customer, 5000)?;
                self.delete_draft(&draft)?;
            }
            "charge.refunded" | "refund.created" => {
                let invoice = self.billed(Outcome::Paid)?;
                self.refund(&invoice, 2500)?;
            }
            "charge.dispute.created" | "charge.dispute.closed" | "charge.dispute.funds_withdrawn" => {
                let invoice = self.billed(Outcome::Paid)?;
                let dispute = self.dispute(&invoice)?;
                if kind == "charge.dispute.closed" {
                    self.close_dispute(&dispute, false)?;
                }
            }
            METER_ERRORS => self.report_meter_errors(),
            _ => self.make_up(kind)?,
        }
        Ok(())
    }

    fn any_customer(&mut self) -> String {
        let newest = self.customers.all().iter().rev().find(|customer| !customer.deleted);
        match newest.map(|customer| customer.id.clone()) {
            Some(customer) => customer,
            None => self.create_customer(Some("payer@sandbox.example".to_owned()), None, Metadata::new()),
        }
    }

    /// The newest that goes on after its period.
    fn any_subscription(&mut self) -> Result<String, Refusal> {
        let goes_on = self.subscriptions.all().iter().rev().find(|found| {
            !found.status.has_ended() && !found.cancel_at_period_end && self.customer(&found.customer).is_ok()
        });
        match goes_on.map(|subscription| subscription.id.clone()) {
            Some(subscription) => Ok(subscription),
            None => self.subscribe(),
        }
    }

    fn any_session(&mut self) -> Result<String, Refusal> {
        let customer = self.any_customer();
        let (id, now) = (new_id("cs_test"), self.now());
        let session = CheckoutSessionFacts {
            customer: Some(customer),
            success_url: Some(format!("{}/", self.url)),
            ..CheckoutSessionFacts::new(&id, vec![(self.prices.get(PRICE)?, 1)], &self.url, now)
        };
        self.checkouts.put(&session);
        Ok(id)
    }

    fn subscribe(&mut self) -> Result<String, Refusal> {
        let session = self.any_session()?;
        self.complete_checkout(&session)
    }

    /// The invoice of a further period.
    fn billed(&mut self, outcome: Outcome) -> Result<String, Refusal> {
        let subscription = self.any_subscription()?;
        self.renew(&subscription, outcome)
    }

    /// Not on our provider page: what the error report says.
    fn report_meter_errors(&mut self) {
        let meter = self.prices.all().iter().find_map(|price| price.meter.clone());
        let meter = format!("mtr_{}", meter.as_deref().unwrap_or("sandbox"));
        let related = json!({ "id": meter, "type": "billing.meter", "url": format!("/v1/billing/meters/{meter}") });
        let now = self.rfc3339();
        let data = json!({
            "developer_message_summary": "There is 1 invalid event", "validation_start": now, "validation_end": now,
            "reason": { "error_count": 1, "error_types": [{
                "code": "meter_event_customer_not_found", "error_count": 1,
                "sample_errors": [{ "error_message": "No such customer", "request": { "identifier": "none" } }],
            }] },
        });
        self.notify(METER_ERRORS, related, data);
    }

    /// Appends a thin event.
    fn notify(&mut self, kind: &str, related: Value, mut data: Value) {
        if let Some((_, overrides)) = &self.overrides {
            merge(&mut data, overrides);
        }
        let thin = json!({
            "id": new_id("evt_test"), "object": "v2.core.event", "type": kind, "livemode": false,
            "created": self.rfc3339(), "related_object": related,
        });
        self.append_thin(thin, data);
    }

    fn rfc3339(&self) -> String {
        DateTime::from_timestamp(self.now(), 0).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Millis, true)
    }

    fn make_up(&mut self, kind: &str) -> Result<(), Refusal> {
        let plain =
            |part: &str| !part.is_empty() && part.bytes().all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'_'));
        let parts: Vec<&str> = kind.split('.').collect();
        let [.., about, _] = parts.as_slice() else {
            return Err(Refusal::invalid("type", format!("{kind} is no event type")));
        };
        if !parts.iter().all(|part| plain(part)) {
            return Err(Refusal::invalid("type", format!("{kind} is no event type")));
        }
        if matches!(parts.first(), Some(&("v1" | "v2"))) {
            self.notify(kind, Value::Null, json!({}));
            return Ok(());
        }
        let object = match self.newest(&parts) {
            Some(object) => object,
            None => json!({ "id": new_id("obj"), "object": about, "livemode": false, "created": self.now() }),
        };
        self.emit_value(kind, object);
        Ok(())
    }

    /// The newest object of the kind that events of this type are about.
    fn newest(&self, parts: &[&str]) -> Option<Value> {
        fn of<T: Resource>(table: &Table<T>, shape: Shape) -> Option<Value> {
            table.all().last().map(|newest| newest.render(shape))
        }
        let shape = self.shape;
        match parts {
            ["customer", _] => of(&self.customers, shape),
            ["customer", "subscription", _] => of(&self.subscriptions, shape),
            ["invoice", "upcoming"] => {
                // There is no such invoice yet. Not on our provider page: that it had no id at all in old versions.
                let mut upcoming = of(&self.invoices, shape)?;
                upcoming["id"] = match shape {
                    Shape::Current => json!(new_id("upcoming_in")),
                    Shape::Legacy => Value::Null,
                };
                Some(upcoming)
            }
            ["invoice", _] => of(&self.invoices, shape),
            ["invoice_payment", _] => of(&self.invoice_payments, shape),
            ["payment_intent", _] => of(&self.payment_intents, shape),
            ["charge", _] => of(&self.charges, shape),
            ["charge", "dispute", _] => of(&self.disputes, shape),
            ["refund", _] | ["charge", "refund", _] => of(&self.refunds, shape),
            ["checkout", "session", _] => of(&self.checkouts, shape),
            ["price", _] => of(&self.prices, shape),
            _ => None,
        }
    }
}
