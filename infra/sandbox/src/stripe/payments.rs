//! Money that moved, or did not, as facts. What our provider page does not list of these objects is from general knowledge.

use serde_json::{Value, json};

use super::objects::Shape;

/// An attempt to take money for an invoice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentIntentFacts {
    pub id: String,
    pub created: i64,
    pub livemode: bool,
    pub amount: i64,
    pub currency: String,
    pub customer: String,
    /// Rendered in the legacy shape only.
    pub invoice: String,
    pub latest_charge: Option<String>,
    /// `requires_payment_method`, `requires_action` or `succeeded`.
    pub status: &'static str,
}

impl PaymentIntentFacts {
    /// As the API writes it.
    #[must_use]
    pub fn render(&self, shape: Shape) -> Value {
        let paid = self.status == "succeeded";
        let mut intent = json!({
            "id": self.id, "object": "payment_intent", "created": self.created, "livemode": self.livemode,
            "amount": self.amount, "amount_received": if paid { self.amount } else { 0 }, "currency": self.currency,
            "customer": self.customer, "latest_charge": self.latest_charge, "metadata": {}, "status": self.status,
            "last_payment_error": if self.status == "requires_payment_method" { declined() } else { Value::Null },
        });
        if shape == Shape::Legacy {
            intent["invoice"] = json!(self.invoice);
        }
        intent
    }
}

fn declined() -> Value {
    json!({ "type": "card_error", "code": "card_declined", "message": "Your card was declined." })
}

/// Money taken, or an attempt that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChargeFacts {
    pub id: String,
    pub created: i64,
    pub livemode: bool,
    pub amount: i64,
    pub amount_refunded: i64,
    pub currency: String,
    pub customer: String,
    /// Rendered in the legacy shape only.
    pub invoice: String,
    pub payment_intent: String,
    pub paid: bool,
    pub disputed: bool,
}

impl ChargeFacts {
    /// As the API writes it.
    #[must_use]
    pub fn render(&self, shape: Shape) -> Value {
        let mut charge = json!({
            "id": self.id, "object": "charge", "created": self.created, "livemode": self.livemode,
            "amount": self.amount, "amount_captured": if self.paid { self.amount } else { 0 },
            "amount_refunded": self.amount_refunded, "captured": self.paid, "currency": self.currency,
            "customer": self.customer, "disputed": self.disputed,
            "failure_code": if self.paid { Value::Null } else { declined()["code"].take() },
            "failure_message": if self.paid { Value::Null } else { declined()["message"].take() },
            "metadata": {}, "paid": self.paid, "payment_intent": self.payment_intent,
            "refunded": self.paid && self.amount_refunded == self.amount,
            "status": if self.paid { "succeeded" } else { "failed" },
        });
        if shape == Shape::Legacy {
            charge["invoice"] = json!(self.invoice);
        }
        charge
    }
}

/// Money given back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefundFacts {
    pub id: String,
    pub created: i64,
    pub amount: i64,
    pub currency: String,
    pub charge: String,
    pub payment_intent: String,
}

impl RefundFacts {
    /// As the API writes it.
    #[must_use]
    pub fn render(&self, _: Shape) -> Value {
        json!({
            "id": self.id, "object": "refund", "created": self.created, "amount": self.amount,
            "currency": self.currency, "charge": self.charge, "payment_intent": self.payment_intent, "metadata": {},
            "reason": "requested_by_customer", "receipt_number": null, "status": "succeeded",
        })
    }
}

/// Money the payer's bank wants back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DisputeFacts {
    pub id: String,
    pub created: i64,
    pub livemode: bool,
    pub amount: i64,
    pub currency: String,
    pub charge: String,
    pub payment_intent: String,
    /// `needs_response`, `won` or `lost`.
    pub status: &'static str,
}

impl DisputeFacts {
    /// As the API writes it.
    #[must_use]
    pub fn render(&self, _: Shape) -> Value {
        json!({
            "id": self.id, "object": "dispute", "created": self.created, "livemode": self.livemode,
            "amount": self.amount, "currency": self.currency, "charge": self.charge,
            "payment_intent": self.payment_intent, "is_charge_refundable": false, "metadata": {},
            "reason": "fraudulent", "status": self.status, "balance_transactions": [],
        })
    }
}
