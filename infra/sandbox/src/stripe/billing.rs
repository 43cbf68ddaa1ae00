//! What acts are made of: an invoice is drawn up, finalized, and paid or not.
//!
//! Our provider page lists what can happen to what; the order of the events of one act is that of cause and effect, which Stripe
//! does not promise.

use super::{
    invoices::{InvoiceFacts, InvoicePaymentFacts, InvoiceStatus, LineFacts},
    objects::{ItemFacts, SubscriptionFacts, SubscriptionStatus},
    payments::{ChargeFacts, PaymentIntentFacts},
    refusal::Refusal,
    sessions::MeterEvent,
    world::{Resource, World, new_id},
};

/// A day, in seconds.
const DAY: i64 = 24 * 3600;
/// When a payment that failed is tried again.
const RETRY_AFTER: i64 = 3 * DAY;

/// How an attempt to take the money ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is taken.
    Paid,
    /// The card is declined.
    Failed,
    /// The payer must confirm it, and has not yet.
    ActionRequired,
}

impl World {
    /// An invoice that may still be had.
    pub(super) fn invoice(&self, id: &str) -> Result<InvoiceFacts, Refusal> {
        let found = self.invoices.find(id).filter(|invoice| !invoice.deleted);
        found.cloned().ok_or_else(|| Refusal::missing(InvoiceFacts::KIND, id))
    }

    /// A draft for the current period of this subscription, and for what was used since `since`, under the id it says is its
    /// latest invoice.
    pub(super) fn draft_for(
        &mut self,
        subscription: &SubscriptionFacts,
        reason: &'static str,
        since: i64,
    ) -> InvoiceFacts {
        let customer = self.customers.find(&subscription.customer);
        let id = subscription.latest_invoice.clone().unwrap_or_else(|| new_id("in"));
        let currency = subscription.items.first().map(|item| item.price.currency.clone());
        let lines = subscription.items.iter().map(|item| self.line_for(&subscription.customer, item, since));
        let invoice = InvoiceFacts {
            customer_email: customer.and_then(|customer| customer.email.clone()),
            subscription: Some(subscription.id.clone()),
            subscription_metadata: subscription.metadata.clone(),
            currency: currency.unwrap_or_default(),
            billing_reason: reason,
            period_start: since,
            period_end: subscription.current_period().0,
            lines: lines.collect(),
            ..InvoiceFacts::new(id, &subscription.customer, self.now())
        };
        self.invoices.put(&invoice);
        self.emit("invoice.created", &invoice);
        invoice
    }

    /// What is paid for in advance, or what was used.
    fn line_for(&self, customer: &str, item: &ItemFacts, since: i64) -> LineFacts {
        let (quantity, period_start, period_end) = match &item.price.meter {
            None => (item.quantity, item.current_period_start, item.current_period_end),
            Some(meter) => {
                let until = item.current_period_start;
                let used = self.meter_events.iter().filter(|event| {
                    event.event_name == *meter
                        && event.payload.get("stripe_customer_id").is_some_and(|of| of == customer)
                        && (since..until).contains(&event.timestamp)
                });
                (used.map(MeterEvent::value).sum(), since, until)
            }
        };
        LineFacts {
            id: new_id("il"),
            amount: item.price.unit_amount * i64::try_from(quantity).unwrap_or(i64::MAX),
            description: format!("{quantity} × {}", item.price.product),
            price: Some(item.price.clone()),
            quantity,
            period_start,
            period_end,
            subscription_item: Some(item.id.clone()),
            proration: false,
        }
    }

    /// draft → open. One that is sent to the customer is due so many days later.
    pub(super) fn finalize(&mut self, mut invoice: InvoiceFacts) -> Result<InvoiceFacts, Refusal> {
        if invoice.status != InvoiceStatus::Draft {
            return Err(Refusal::state(
                "This invoice is already finalized, you can't re-finalize a non-draft invoice.",
            ));
        }
        self.numbered += 1;
        invoice.status = InvoiceStatus::Open;
        invoice.number = Some(format!("SANDBOX-{:04}", self.numbered));
        invoice.finalized_at = Some(self.now());
        let subscription = invoice.subscription.as_ref().and_then(|id| self.subscriptions.find(id));
        let days = subscription.and_then(|subscription| subscription.days_until_due);
        invoice.due_date = days.map(|days| self.now() + days * DAY).or(invoice.due_date);
        self.invoices.put(&invoice);
        self.emit("invoice.finalized", &invoice);
        if invoice.due_date.is_some() {
            self.emit("invoice.sent", &invoice);
        }
        Ok(invoice)
    }

    /// open, uncollectible → paid, or not.
    pub(super) fn attempt(&mut self, mut invoice: InvoiceFacts, outcome: Outcome) -> Result<InvoiceFacts, Refusal> {
        if !matches!(invoice.status, InvoiceStatus::Open | InvoiceStatus::Uncollectible) {
            return Err(Refusal::state("Invoice is not payable in its current status."));
        }
        let now = self.now();
        invoice.attempt_count += 1;
        if invoice.amount_remaining() > 0 {
            self.take(&mut invoice, outcome);
        }
        match outcome {
            Outcome::Paid => {
                invoice.status = InvoiceStatus::Paid;
                invoice.amount_paid = invoice.amount_due();
                invoice.paid_at = Some(now);
                invoice.next_payment_attempt = None;
                self.emit("invoice.paid", &invoice);
                self.emit("invoice.payment_succeeded", &invoice);
            }
            Outcome::Failed => {
                // The customer of an invoice that was sent tries again themselves.
                invoice.next_payment_attempt = invoice.due_date.is_none().then_some(now + RETRY_AFTER);
                self.emit("invoice.payment_failed", &invoice);
            }
            Outcome::ActionRequired => {
                self.emit("invoice.payment_action_required", &invoice);
            }
        }
        self.invoices.put(&invoice);
        self.follow(&invoice, outcome);
        Ok(invoice)
    }

    /// The intent, the charge and the invoice's payment of one attempt.
    fn take(&mut self, invoice: &mut InvoiceFacts, outcome: Outcome) {
        let now = self.now();
        let (amount, currency) = (invoice.amount_remaining(), invoice.currency.clone());
        let known = invoice.payment_intent.as_ref().and_then(|intent| self.payment_intents.find(intent)).cloned();
        let mut intent = known.unwrap_or_else(|| PaymentIntentFacts {
            id: new_id("pi"),
            created: now,
            livemode: invoice.livemode,
            amount,
            currency: currency.clone(),
            customer: invoice.customer.clone(),
            invoice: invoice.id.clone(),
            latest_charge: None,
            status: "requires_payment_method",
        });
        // Found only where there was an attempt before.
        let tried = invoice.payment_intent.as_ref();
        let payment = tried.and_then(|intent| {
            self.invoice_payments.all().iter().rev().find(|payment| payment.payment_intent == *intent).cloned()
        });
        let mut payment = payment.unwrap_or_else(|| InvoicePaymentFacts {
            id: new_id("inpay"),
            created: now,
            livemode: invoice.livemode,
            invoice: invoice.id.clone(),
            payment_intent: intent.id.clone(),
            amount_requested: amount,
            amount_paid: None,
            currency: currency.clone(),
            status: "open",
            paid_at: None,
            canceled_at: None,
        });
        if outcome != Outcome::ActionRequired {
            let charge = ChargeFacts {
                id: new_id("ch"),
                created: now,
                livemode: invoice.livemode,
                amount,
                amount_refunded: 0,
                currency,
                customer: invoice.customer.clone(),
                invoice: invoice.id.clone(),
                payment_intent: intent.id.clone(),
                paid: outcome == Outcome::Paid,
                disputed: false,
            };
            intent.latest_charge = Some(charge.id.clone());
            invoice.charge = Some(charge.id.clone());
            self.charges.put(&charge);
            self.emit(if charge.paid { "charge.succeeded" } else { "charge.failed" }, &charge);
        }
        invoice.payment_intent = Some(intent.id.clone());
        let (status, event) = match outcome {
            Outcome::Paid => ("succeeded", "payment_intent.succeeded"),
            Outcome::Failed => ("requires_payment_method", "payment_intent.payment_failed"),
            Outcome::ActionRequired => ("requires_action", "payment_intent.requires_action"),
        };
        intent.status = status;
        self.payment_intents.put(&intent);
        self.emit(event, &intent);
        if outcome == Outcome::Paid {
            (payment.status, payment.amount_paid, payment.paid_at) = ("paid", Some(amount), Some(now));
            self.emit("invoice_payment.paid", &payment);
        }
        self.invoice_payments.put(&payment);
    }

    /// A subscription stands as its latest invoice does. Not on our provider page: that earlier ones do not count.
    fn follow(&mut self, invoice: &InvoiceFacts, outcome: Outcome) {
        let Some(before) = invoice.subscription.as_ref().and_then(|id| self.subscriptions.find(id)).cloned() else {
            return;
        };
        let status = match (before.status, outcome) {
            (
                SubscriptionStatus::PastDue | SubscriptionStatus::Unpaid | SubscriptionStatus::Incomplete,
                Outcome::Paid,
            ) => SubscriptionStatus::Active,
            (SubscriptionStatus::Active, Outcome::Failed | Outcome::ActionRequired) if invoice.due_date.is_none() => {
                SubscriptionStatus::PastDue
            }
            _ => return,
        };
        if before.latest_invoice.as_ref() == Some(&invoice.id) {
            self.update(&before, SubscriptionFacts { status, ..before.clone() });
        }
    }

    /// Keeps a subscription that changed, and says so.
    pub(super) fn update(&mut self, before: &SubscriptionFacts, after: SubscriptionFacts) {
        self.subscriptions.put(&after);
        self.emit_changed("customer.subscription.updated", before, &after);
    }

    /// Ends a subscription.
    pub(super) fn end(&mut self, mut subscription: SubscriptionFacts) {
        let now = self.now();
        subscription.status = SubscriptionStatus::Canceled;
        subscription.canceled_at = subscription.canceled_at.or(Some(now));
        subscription.ended_at = Some(now);
        self.subscriptions.put(&subscription);
        self.emit("customer.subscription.deleted", &subscription);
    }
}
