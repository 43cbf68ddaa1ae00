//! Invoices and the payments of them, as facts.

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    objects::{Metadata, PriceFacts, SHOWN, Shape, collection_method},
    world::merge,
};

/// Where an invoice stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum InvoiceStatus {
    Draft,
    Open,
    Paid,
    Uncollectible,
    Void,
}

/// One line of an invoice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineFacts {
    pub id: String,
    pub amount: i64,
    pub description: String,
    pub price: Option<PriceFacts>,
    pub quantity: u64,
    /// The service period.
    pub period_start: i64,
    pub period_end: i64,
    /// None on a line that was added by hand.
    pub subscription_item: Option<String>,
    pub proration: bool,
}

/// An invoice.
#[derive(Debug, Clone, PartialEq)]
pub struct InvoiceFacts {
    pub id: String,
    pub created: i64,
    pub livemode: bool,
    pub customer: String,
    pub customer_email: Option<String>,
    pub subscription: Option<String>,
    pub subscription_metadata: Metadata,
    pub status: InvoiceStatus,
    pub currency: String,
    pub lines: Vec<LineFacts>,
    pub amount_paid: i64,
    pub attempt_count: u64,
    pub billing_reason: &'static str,
    pub number: Option<String>,
    /// The window in which items could be attached, which is not the service period.
    pub period_start: i64,
    pub period_end: i64,
    pub finalized_at: Option<i64>,
    pub paid_at: Option<i64>,
    pub voided_at: Option<i64>,
    pub marked_uncollectible_at: Option<i64>,
    pub next_payment_attempt: Option<i64>,
    /// Until when it is to be paid, if it is sent to the customer rather than charged.
    pub due_date: Option<i64>,
    pub metadata: Metadata,
    /// Rendered in the legacy shape only, as is `payment_intent`.
    pub charge: Option<String>,
    pub payment_intent: Option<String>,
    /// A draft that was deleted: no longer to be had.
    pub deleted: bool,
}

impl InvoiceFacts {
    /// A draft without lines, of no subscription.
    #[must_use]
    pub fn new(id: impl Into<String>, customer: impl Into<String>, created: i64) -> Self {
        Self {
            id: id.into(),
            created,
            livemode: false,
            customer: customer.into(),
            customer_email: None,
            subscription: None,
            subscription_metadata: Metadata::new(),
            status: InvoiceStatus::Draft,
            currency: "sek".to_owned(),
            lines: Vec::new(),
            amount_paid: 0,
            attempt_count: 0,
            billing_reason: "manual",
            number: None,
            period_start: created,
            period_end: created,
            finalized_at: None,
            paid_at: None,
            voided_at: None,
            marked_uncollectible_at: None,
            next_payment_attempt: None,
            due_date: None,
            metadata: Metadata::new(),
            charge: None,
            payment_intent: None,
            deleted: false,
        }
    }

    /// The sum of its lines.
    #[must_use]
    pub fn total(&self) -> i64 {
        self.lines.iter().map(|line| line.amount).sum()
    }

    /// What is to be paid in all.
    #[must_use]
    pub fn amount_due(&self) -> i64 {
        self.total().max(0)
    }

    /// What is still to be paid.
    #[must_use]
    pub fn amount_remaining(&self) -> i64 {
        self.amount_due() - self.amount_paid
    }

    /// As the API writes it.
    #[must_use]
    pub fn render(&self, shape: Shape) -> Value {
        let total = self.total();
        let shown: Vec<Value> = self.lines.iter().take(SHOWN).map(|line| self.render_line(line, shape)).collect();
        let hosted = self.number.as_ref().map(|_| format!("https://invoice.stripe.com/i/acct_sandbox/{}", self.id));
        let pdf = self.number.as_ref().map(|_| format!("https://pay.stripe.com/invoice/acct_sandbox/{}/pdf", self.id));
        let mut invoice = json!({
            "id": self.id, "object": "invoice", "created": self.created, "livemode": self.livemode,
            "account_country": "SE", "account_name": "Sandbox", "account_tax_ids": null, "customer": self.customer,
            "customer_email": self.customer_email, "customer_name": null, "customer_address": null, "customer_tax_ids": [],
            "issuer": { "type": "self" }, "automatic_tax": { "enabled": false, "liability": null, "status": null },
            "payment_settings": { "default_mandate": null, "payment_method_options": null, "payment_method_types": null },
            "status": self.status, "billing_reason": self.billing_reason, "collection_method": collection_method(self.due_date.is_some()),
            "number": self.number, "hosted_invoice_url": hosted, "invoice_pdf": pdf,
            "attempt_count": self.attempt_count, "attempted": self.attempt_count > 0,
            "auto_advance": matches!(self.status, InvoiceStatus::Draft | InvoiceStatus::Open) && self.subscription.is_some(),
            "automatically_finalizes_at": null, "next_payment_attempt": self.next_payment_attempt,
            "default_payment_method": null, "description": null, "due_date": self.due_date, "effective_at": self.finalized_at,
            "footer": null, "last_finalization_error": null, "metadata": self.metadata, "receipt_number": null,
            "period_start": self.period_start, "period_end": self.period_end, "webhooks_delivered_at": null,
        });
        let amounts = json!({
            "currency": self.currency, "amount_due": self.amount_due(), "amount_paid": self.amount_paid,
            "amount_remaining": self.amount_remaining(), "amount_overpaid": 0, "amount_shipping": 0,
            "subtotal": total, "subtotal_excluding_tax": total, "total": total, "total_excluding_tax": total,
            "total_discount_amounts": [], "discounts": [], "starting_balance": 0, "ending_balance": null,
            "pre_payment_credit_notes_amount": 0, "post_payment_credit_notes_amount": 0,
            "lines": {
                "object": "list", "data": shown, "has_more": self.lines.len() > SHOWN,
                "total_count": self.lines.len(), "url": format!("/v1/invoices/{}/lines", self.id),
            },
            "status_transitions": {
                "finalized_at": self.finalized_at, "paid_at": self.paid_at, "voided_at": self.voided_at,
                "marked_uncollectible_at": self.marked_uncollectible_at,
            },
        });
        merge(&mut invoice, &amounts);
        match shape {
            Shape::Current => {
                invoice["total_taxes"] = json!([]);
                invoice["parent"] = match &self.subscription {
                    Some(subscription) => json!({
                        "type": "subscription_details", "quote_details": null,
                        "subscription_details": { "subscription": subscription, "metadata": self.subscription_metadata },
                    }),
                    None => Value::Null,
                };
            }
            Shape::Legacy => {
                invoice["subscription"] = json!(self.subscription);
                invoice["subscription_details"] =
                    json!({ "metadata": self.subscription.as_ref().map(|_| &self.subscription_metadata) });
                invoice["paid"] = json!(self.status == InvoiceStatus::Paid);
                invoice["charge"] = json!(self.charge);
                invoice["payment_intent"] = json!(self.payment_intent);
                invoice["quote"] = Value::Null;
                invoice["discount"] = Value::Null;
                invoice["tax"] = Value::Null;
                invoice["total_tax_amounts"] = json!([]);
            }
        }
        invoice
    }

    /// One of its lines, as the API writes it.
    #[must_use]
    pub fn render_line(&self, line: &LineFacts, shape: Shape) -> Value {
        let mut rendered = json!({
            "id": line.id, "object": "line_item", "amount": line.amount, "subtotal": line.amount,
            "currency": self.currency, "description": line.description, "discountable": true, "discount_amounts": [],
            "discounts": [], "invoice": self.id, "livemode": self.livemode, "metadata": {},
            "period": { "start": line.period_start, "end": line.period_end }, "pretax_credit_amounts": [],
            "quantity": line.quantity, "subscription": self.subscription,
        });
        match shape {
            Shape::Current => {
                let (kind, details) = match &line.subscription_item {
                    Some(item) => (
                        "subscription_item_details",
                        json!({ "invoice_item": null, "proration": line.proration, "proration_details": null,
                                "subscription": self.subscription, "subscription_item": item }),
                    ),
                    None => (
                        "invoice_item_details",
                        json!({ "invoice_item": line.id.replacen("il_", "ii_", 1), "proration": line.proration,
                                "proration_details": null, "subscription": self.subscription }),
                    ),
                };
                rendered["parent"] =
                    json!({ "type": kind, "subscription_item_details": null, "invoice_item_details": null });
                rendered["parent"][kind] = details;
                rendered["pricing"] = match &line.price {
                    Some(price) => json!({
                        "type": "price_details", "price_details": { "price": price.id, "product": price.product },
                        "unit_amount_decimal": price.unit_amount.to_string(),
                    }),
                    None => Value::Null,
                };
                rendered["quantity_decimal"] = json!(line.quantity.to_string());
                rendered["taxes"] = json!([]);
            }
            Shape::Legacy => {
                rendered["type"] = json!(if line.subscription_item.is_some() { "subscription" } else { "invoiceitem" });
                rendered["subscription_item"] = json!(line.subscription_item);
                rendered["proration"] = json!(line.proration);
                rendered["price"] = json!(line.price.as_ref().map(|price| price.render(shape)));
                rendered["plan"] = json!(line.price.as_ref().map(PriceFacts::render_plan));
                rendered["tax_amounts"] = json!([]);
            }
        }
        rendered
    }
}

/// One payment of an invoice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvoicePaymentFacts {
    pub id: String,
    pub created: i64,
    pub livemode: bool,
    pub invoice: String,
    pub payment_intent: String,
    pub amount_requested: i64,
    pub amount_paid: Option<i64>,
    pub currency: String,
    /// `open`, `paid` or `canceled`.
    pub status: &'static str,
    pub paid_at: Option<i64>,
    pub canceled_at: Option<i64>,
}

impl InvoicePaymentFacts {
    /// As the API writes it.
    #[must_use]
    pub fn render(&self, _: Shape) -> Value {
        json!({
            "id": self.id, "object": "invoice_payment", "created": self.created, "livemode": self.livemode,
            "invoice": self.invoice, "amount_requested": self.amount_requested, "amount_paid": self.amount_paid,
            "currency": self.currency, "is_default": true, "status": self.status,
            "payment": { "type": "payment_intent", "payment_intent": self.payment_intent },
            "status_transitions": { "paid_at": self.paid_at, "canceled_at": self.canceled_at },
        })
    }
}
