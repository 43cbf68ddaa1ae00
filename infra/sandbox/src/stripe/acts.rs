//! What people and time do. Each changes what Stripe knows and appends the events that say so.

use serde_json::json;

use super::{
    Act, Stripe,
    billing::Outcome,
    form::Form,
    invoices::{InvoiceFacts, InvoiceStatus, LineFacts},
    objects::{CustomerFacts, ItemFacts, Metadata, PriceFacts, SubscriptionFacts, SubscriptionStatus},
    payments::{ChargeFacts, DisputeFacts, RefundFacts},
    refusal::Refusal,
    world::{Resource, World, new_id, period_after},
};

/// What an act comes to: the id of what was made or changed, or why not.
type Done = Result<String, Refusal>;

impl Stripe {
    /// Makes a customer.
    pub fn create_customer(&self, email: Option<&str>, metadata: Metadata) -> Act {
        let (id, events) = self.watch(|world| world.create_customer(email.map(str::to_owned), None, metadata));
        Act { id, events }
    }

    /// Makes a monthly price known, for each of a quantity.
    pub fn create_price(&self, id: &str, unit_amount: i64) -> Act {
        let (id, events) = self.watch(|world| world.create_price(id, unit_amount, None));
        Act { id, events }
    }

    /// Makes a price known for what is used, as meter events of this name report it. It is paid when the period has ended.
    pub fn create_metered_price(&self, id: &str, unit_amount: i64, event_name: &str) -> Act {
        let (id, events) = self.watch(|world| world.create_price(id, unit_amount, Some(event_name)));
        Act { id, events }
    }

    /// Subscribes and pays, as the visitor of the session's page does. The id is the subscription's.
    ///
    /// # Errors
    /// If there is no such session, or it is not open.
    pub fn complete_checkout(&self, session: &str) -> Result<Act, Refusal> {
        self.act(|world| world.complete_checkout(session))
    }

    /// Lets a session expire.
    ///
    /// # Errors
    /// If there is no such session, or it is not open.
    pub fn expire_checkout(&self, session: &str) -> Result<Act, Refusal> {
        self.act(|world| world.expire_checkout(session))
    }

    /// Begins the next period, or ends a subscription that was to end with this one. An invoice that is sent is not tried to be
    /// collected, whatever the outcome. The id is the new invoice's, or the subscription's if it ended.
    ///
    /// # Errors
    /// If there is no such subscription, or it has ended.
    pub fn renew(&self, subscription: &str, outcome: Outcome) -> Result<Act, Refusal> {
        self.act(|world| world.renew(subscription, outcome))
    }

    /// Has the customer be sent invoices from now on, to pay within so many days, instead of charging them.
    ///
    /// # Errors
    /// If there is no such subscription, or it has ended.
    pub fn send_invoices(&self, subscription: &str, days_until_due: i64) -> Result<Act, Refusal> {
        self.act(|world| {
            let before = world.running(subscription)?;
            let after = SubscriptionFacts { days_until_due: Some(days_until_due), ..before.clone() };
            world.update(&before, after);
            Ok(before.id)
        })
    }

    /// An invoice that was sent is not paid in time.
    ///
    /// # Errors
    /// If it is not open, or not due yet.
    pub fn fall_due(&self, invoice: &str) -> Result<Act, Refusal> {
        self.act(|world| world.fall_due(invoice))
    }

    /// Tries again to take the money.
    ///
    /// # Errors
    /// If the invoice is neither open nor uncollectible.
    pub fn retry_payment(&self, invoice: &str, outcome: Outcome) -> Result<Act, Refusal> {
        self.act(|world| {
            let invoice = world.invoice(invoice)?;
            Ok(world.attempt(invoice, outcome)?.id)
        })
    }

    /// Puts the first item of a subscription on another price, without proration.
    ///
    /// # Errors
    /// If either is unknown, or the subscription has ended.
    pub fn change_price(&self, subscription: &str, price: &str) -> Result<Act, Refusal> {
        self.act(|world| world.change_price(subscription, price))
    }

    /// Puts a subscription on these prices, an item each, without proration.
    ///
    /// # Errors
    /// If any is unknown, or the subscription has ended.
    pub fn change_prices(&self, subscription: &str, prices: &[&str]) -> Result<Act, Refusal> {
        self.act(|world| world.change_prices(subscription, prices))
    }

    /// Ends a subscription, now or with its period.
    ///
    /// # Errors
    /// If there is none, or it has ended.
    pub fn cancel(&self, subscription: &str, at_period_end: bool) -> Result<Act, Refusal> {
        self.act(|world| world.cancel(subscription, at_period_end))
    }

    /// Draws up an invoice by hand, of one line.
    ///
    /// # Errors
    /// If there is no such customer.
    pub fn create_draft_invoice(&self, customer: &str, amount: i64) -> Result<Act, Refusal> {
        self.act(|world| world.create_draft_invoice(customer, amount))
    }

    /// Deletes a draft: it is no longer to be had.
    ///
    /// # Errors
    /// If it is no draft, or one of a subscription.
    pub fn delete_draft(&self, invoice: &str) -> Result<Act, Refusal> {
        self.act(|world| world.delete_draft(invoice))
    }

    /// draft → open.
    ///
    /// # Errors
    /// If it is no draft.
    pub fn finalize(&self, invoice: &str) -> Result<Act, Refusal> {
        self.act(|world| {
            let invoice = world.invoice(invoice)?;
            Ok(world.finalize(invoice)?.id)
        })
    }

    /// open, uncollectible → void.
    ///
    /// # Errors
    /// If it is neither.
    pub fn void(&self, invoice: &str) -> Result<Act, Refusal> {
        self.act(|world| world.void(invoice))
    }

    /// open → uncollectible.
    ///
    /// # Errors
    /// If it is not open.
    pub fn mark_uncollectible(&self, invoice: &str) -> Result<Act, Refusal> {
        self.act(|world| world.mark_uncollectible(invoice))
    }

    /// Gives back money that was paid for an invoice. The id is the refund's.
    ///
    /// # Errors
    /// If it was not paid, or not so much is left of it.
    pub fn refund(&self, invoice: &str, amount: i64) -> Result<Act, Refusal> {
        self.act(|world| world.refund(invoice, amount))
    }

    /// The payer's bank wants the money back. The id is the dispute's.
    ///
    /// # Errors
    /// If it was not paid, or is disputed already.
    pub fn dispute(&self, invoice: &str) -> Result<Act, Refusal> {
        self.act(|world| world.dispute(invoice))
    }

    /// The bank decides.
    ///
    /// # Errors
    /// If it has already.
    pub fn close_dispute(&self, dispute: &str, won: bool) -> Result<Act, Refusal> {
        self.act(|world| world.close_dispute(dispute, won))
    }

    /// Deletes a customer, and ends their subscriptions.
    ///
    /// # Errors
    /// If there is none, or it was deleted.
    pub fn delete_customer(&self, customer: &str) -> Result<Act, Refusal> {
        self.act(|world| world.delete_customer(customer))
    }

    /// Gives a customer another card.
    ///
    /// # Errors
    /// If there is none, or it was deleted.
    pub fn update_card(&self, customer: &str) -> Result<Act, Refusal> {
        self.act(|world| world.update_card(customer))
    }
}

impl World {
    /// A customer who was not deleted.
    pub(super) fn customer(&self, id: &str) -> Result<CustomerFacts, Refusal> {
        let found = self.customers.find(id).filter(|customer| !customer.deleted);
        found.cloned().ok_or_else(|| Refusal::missing(CustomerFacts::KIND, id))
    }

    /// A subscription that has not ended.
    fn running(&self, id: &str) -> Result<SubscriptionFacts, Refusal> {
        let found = self.subscriptions.get(id)?;
        if found.status.has_ended() {
            return Err(Refusal::missing(SubscriptionFacts::KIND, id));
        }
        Ok(found)
    }

    pub(super) fn create_customer(
        &mut self,
        email: Option<String>,
        name: Option<String>,
        metadata: Metadata,
    ) -> String {
        let customer = CustomerFacts { email, name, metadata, ..CustomerFacts::new(new_id("cus"), self.now()) };
        self.customers.put(&customer);
        self.emit("customer.created", &customer);
        customer.id
    }

    pub(super) fn create_price(&mut self, id: &str, unit_amount: i64, meter: Option<&str>) -> String {
        let meter = meter.map(str::to_owned);
        let price = PriceFacts { meter, ..PriceFacts::new(id, unit_amount, self.now()) };
        self.prices.put(&price);
        self.emit("price.created", &price);
        price.id
    }

    pub(super) fn complete_checkout(&mut self, session: &str) -> Done {
        let mut session = self.checkouts.get(session)?;
        if session.status != "open" {
            return Err(Refusal::state(format!("This Checkout Session is {}.", session.status)));
        }
        let customer = match &session.customer {
            Some(customer) => self.customer(customer)?.id,
            None => self.create_customer(session.customer_email.clone(), None, Metadata::new()),
        };
        let now = self.now();
        let items = session.line_items.iter().map(|(price, quantity)| ItemFacts {
            id: new_id("si"),
            price: price.clone(),
            quantity: *quantity,
            current_period_start: now,
            current_period_end: period_after(now, price.interval),
        });
        let subscription = SubscriptionFacts {
            id: new_id("sub"),
            created: now,
            livemode: session.livemode,
            customer: customer.clone(),
            status: SubscriptionStatus::Active,
            items: items.collect(),
            cancel_at: None,
            cancel_at_period_end: false,
            canceled_at: None,
            ended_at: None,
            trial_end: None,
            latest_invoice: Some(new_id("in")),
            days_until_due: None,
            metadata: session.subscription_metadata.clone(),
        };
        self.subscriptions.put(&subscription);
        self.emit("customer.subscription.created", &subscription);
        let draft = self.draft_for(&subscription, "subscription_create", now);
        let open = self.finalize(draft)?;
        let paid = self.attempt(open, Outcome::Paid)?;
        session.status = "complete";
        session.customer = Some(customer);
        session.subscription = Some(subscription.id.clone());
        session.invoice = Some(paid.id);
        self.checkouts.put(&session);
        self.emit("checkout.session.completed", &session);
        Ok(subscription.id)
    }

    pub(super) fn expire_checkout(&mut self, session: &str) -> Done {
        let mut session = self.checkouts.get(session)?;
        if session.status != "open" {
            return Err(Refusal::state("Only Checkout Sessions with a status in [\"open\"] can be expired."));
        }
        session.status = "expired";
        self.checkouts.put(&session);
        self.emit("checkout.session.expired", &session);
        Ok(session.id)
    }

    pub(super) fn renew(&mut self, subscription: &str, outcome: Outcome) -> Done {
        let before = self.running(subscription)?;
        if before.cancel_at_period_end {
            let id = before.id.clone();
            self.end(before);
            return Ok(id);
        }
        let mut next = SubscriptionFacts { latest_invoice: Some(new_id("in")), ..before.clone() };
        for item in &mut next.items {
            item.current_period_start = item.current_period_end;
            item.current_period_end = period_after(item.current_period_start, item.price.interval);
        }
        self.update(&before, next.clone());
        let draft = self.draft_for(&next, "subscription_cycle", before.current_period().0);
        let open = self.finalize(draft)?;
        if open.due_date.is_some() {
            return Ok(open.id);
        }
        Ok(self.attempt(open, outcome)?.id)
    }

    fn fall_due(&mut self, invoice: &str) -> Done {
        let invoice = self.invoice(invoice)?;
        if invoice.status != InvoiceStatus::Open || invoice.due_date.is_none_or(|due| due > self.now()) {
            return Err(Refusal::state("This invoice is not overdue."));
        }
        self.emit("invoice.overdue", &invoice);
        let late = self.subscriptions.all().iter().find(|found| {
            found.latest_invoice.as_ref() == Some(&invoice.id) && found.status == SubscriptionStatus::Active
        });
        if let Some(before) = late.cloned() {
            self.update(&before, SubscriptionFacts { status: SubscriptionStatus::PastDue, ..before.clone() });
        }
        Ok(invoice.id)
    }

    pub(super) fn change_price(&mut self, subscription: &str, price: &str) -> Done {
        let before = self.running(subscription)?;
        let price = self.prices.get(price)?;
        let mut after = before.clone();
        if let Some(item) = after.items.first_mut() {
            item.price = price;
        }
        self.update(&before, after);
        Ok(before.id)
    }

    fn change_prices(&mut self, subscription: &str, prices: &[&str]) -> Done {
        let before = self.running(subscription)?;
        let (current_period_start, current_period_end) = before.current_period();
        let items = prices.iter().map(|price| {
            let price = self.prices.get(price)?;
            Ok(ItemFacts { id: new_id("si"), price, quantity: 1, current_period_start, current_period_end })
        });
        let after = SubscriptionFacts { items: items.collect::<Result<_, Refusal>>()?, ..before.clone() };
        self.update(&before, after);
        Ok(before.id)
    }

    pub(super) fn cancel(&mut self, subscription: &str, at_period_end: bool) -> Done {
        let before = self.running(subscription)?;
        let id = before.id.clone();
        if at_period_end {
            let after = SubscriptionFacts {
                cancel_at: Some(before.current_period().1),
                cancel_at_period_end: true,
                canceled_at: Some(self.now()),
                ..before.clone()
            };
            self.update(&before, after);
        } else {
            self.end(before);
        }
        Ok(id)
    }

    /// Ends what a customer has, each with its period.
    pub(super) fn cancel_all(&mut self, customer: &str) {
        let theirs = self.subscriptions.all().iter();
        let theirs = theirs.filter(|found| found.customer == customer && !found.cancel_at_period_end);
        for id in theirs.map(|found| found.id.clone()).collect::<Vec<_>>() {
            // What has ended already stays as it is.
            let _ = self.cancel(&id, true);
        }
    }

    pub(super) fn create_draft_invoice(&mut self, customer: &str, amount: i64) -> Done {
        let (customer, now) = (self.customer(customer)?, self.now());
        let line = LineFacts {
            id: new_id("il"),
            amount,
            description: "By hand".to_owned(),
            price: None,
            quantity: 1,
            period_start: now,
            period_end: now,
            subscription_item: None,
            proration: false,
        };
        let invoice = InvoiceFacts {
            customer_email: customer.email,
            lines: vec![line],
            ..InvoiceFacts::new(new_id("in"), customer.id, now)
        };
        self.invoices.put(&invoice);
        self.emit("invoice.created", &invoice);
        Ok(invoice.id)
    }

    pub(super) fn delete_draft(&mut self, invoice: &str) -> Done {
        let mut invoice = self.invoice(invoice)?;
        if invoice.status != InvoiceStatus::Draft || invoice.subscription.is_some() {
            return Err(Refusal::state("You can only delete draft invoices that belong to no subscription."));
        }
        invoice.deleted = true;
        self.invoices.put(&invoice);
        self.emit("invoice.deleted", &invoice);
        Ok(invoice.id)
    }

    pub(super) fn void(&mut self, invoice: &str) -> Done {
        let mut invoice = self.invoice(invoice)?;
        if !matches!(invoice.status, InvoiceStatus::Open | InvoiceStatus::Uncollectible) {
            return Err(Refusal::state("You can only pass in open or uncollectible invoices."));
        }
        invoice.status = InvoiceStatus::Void;
        invoice.voided_at = Some(self.now());
        invoice.next_payment_attempt = None;
        self.invoices.put(&invoice);
        self.emit("invoice.voided", &invoice);
        Ok(invoice.id)
    }

    pub(super) fn mark_uncollectible(&mut self, invoice: &str) -> Done {
        let mut invoice = self.invoice(invoice)?;
        if invoice.status != InvoiceStatus::Open {
            return Err(Refusal::state("You can only pass in open invoices."));
        }
        invoice.status = InvoiceStatus::Uncollectible;
        invoice.marked_uncollectible_at = Some(self.now());
        invoice.next_payment_attempt = None;
        self.invoices.put(&invoice);
        self.emit("invoice.marked_uncollectible", &invoice);
        Ok(invoice.id)
    }

    pub(super) fn refund(&mut self, invoice: &str, amount: i64) -> Done {
        let mut charge = self.charge_of(invoice)?;
        if amount <= 0 || amount > charge.amount - charge.amount_refunded {
            return Err(Refusal::invalid("amount", "Refund amount is greater than unrefunded amount on charge."));
        }
        let before = charge.clone();
        charge.amount_refunded += amount;
        let refund = RefundFacts {
            id: new_id("re"),
            created: self.now(),
            amount,
            currency: charge.currency.clone(),
            charge: charge.id.clone(),
            payment_intent: charge.payment_intent.clone(),
        };
        self.charges.put(&charge);
        self.refunds.put(&refund);
        self.emit("refund.created", &refund);
        self.emit_changed("charge.refunded", &before, &charge);
        Ok(refund.id)
    }

    pub(super) fn dispute(&mut self, invoice: &str) -> Done {
        let mut charge = self.charge_of(invoice)?;
        if charge.disputed {
            return Err(Refusal::state("This charge is already disputed."));
        }
        charge.disputed = true;
        let dispute = DisputeFacts {
            id: new_id("du"),
            created: self.now(),
            livemode: charge.livemode,
            amount: charge.amount,
            currency: charge.currency.clone(),
            charge: charge.id.clone(),
            payment_intent: charge.payment_intent.clone(),
            status: "needs_response",
        };
        self.charges.put(&charge);
        self.disputes.put(&dispute);
        self.emit("charge.dispute.created", &dispute);
        self.emit("charge.dispute.funds_withdrawn", &dispute);
        Ok(dispute.id)
    }

    pub(super) fn close_dispute(&mut self, dispute: &str, won: bool) -> Done {
        let mut dispute = self.disputes.get(dispute)?;
        if dispute.status != "needs_response" {
            return Err(Refusal::state("This dispute is already closed"));
        }
        dispute.status = if won { "won" } else { "lost" };
        self.disputes.put(&dispute);
        self.emit("charge.dispute.closed", &dispute);
        if won {
            self.emit("charge.dispute.funds_reinstated", &dispute);
        }
        Ok(dispute.id)
    }

    pub(super) fn delete_customer(&mut self, customer: &str) -> Done {
        let mut customer = self.customer(customer)?;
        let running = self.subscriptions.all().iter();
        let running = running.filter(|found| found.customer == customer.id && !found.status.has_ended());
        for subscription in running.cloned().collect::<Vec<_>>() {
            self.end(subscription);
        }
        // The event carries the customer as they were; the API has no more than the id from now on.
        self.emit("customer.deleted", &customer);
        customer.deleted = true;
        self.customers.put(&customer);
        Ok(customer.id)
    }

    /// Changes what the API lets an owner change. Empty metadata values remove their keys.
    pub(super) fn update_customer(&mut self, customer: &str, form: &Form) -> Done {
        let before = self.customer(customer)?;
        let mut after = before.clone();
        after.email = form.owned("email").or(after.email);
        after.name = form.owned("name").or(after.name);
        after.metadata.extend(form.map("metadata"));
        after.metadata.retain(|_, value| !value.is_empty());
        self.customers.put(&after);
        if after != before {
            self.emit_changed("customer.updated", &before, &after);
        }
        Ok(after.id)
    }

    pub(super) fn update_card(&mut self, customer: &str) -> Done {
        let before = self.customer(customer)?;
        let card = new_id("pm");
        let method = json!({
            "id": card, "object": "payment_method", "type": "card", "created": self.now(), "customer": before.id,
            "livemode": false, "metadata": {}, "card": { "brand": "visa", "last4": "4242" },
        });
        self.emit_value("payment_method.attached", method);
        let after = CustomerFacts { default_payment_method: Some(card), ..before.clone() };
        self.customers.put(&after);
        self.emit_changed("customer.updated", &before, &after);
        Ok(after.id)
    }

    /// The charge that paid an invoice.
    fn charge_of(&self, invoice: &str) -> Result<ChargeFacts, Refusal> {
        let invoice = self.invoice(invoice)?;
        let charge = invoice.charge.as_ref().and_then(|charge| self.charges.find(charge)).filter(|charge| charge.paid);
        charge.cloned().ok_or_else(|| Refusal::state(format!("Invoice {} was not paid by a charge.", invoice.id)))
    }
}
