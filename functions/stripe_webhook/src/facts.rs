//! What billing needs of Stripe's objects, from either shape they come in: before API version 2025-03-31 and since.
//!
//! Facts hold no personal data: no name, no address, no card. They are a function of the object alone, and of whether the event
//! says that it was deleted or just made.

use serde_json::{Map, Value, json};
use shared::store::billing::State;
use url::Url;
use uuid::Uuid;

/// A field that is missing or of the wrong type. Names the field and never its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is missing or not as documented")]
pub struct Wrong(pub &'static str);

/// What an object says: its id, ids of others, and its state if billing needs it.
#[derive(Debug, Clone, PartialEq)]
pub struct Said {
    /// The object's own id; none if it has none that lasts, as the preview of a coming invoice.
    pub id: Option<String>,
    /// Ids that it names, each once, in order.
    pub refs: Vec<String>,
    /// Its state, if it is of a kind that billing needs.
    pub state: Option<State>,
    /// Whether it would have one if a list in it were not cut short.
    pub partial: bool,
}

/// How the event's type places the object in its life, where types tell what the object does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It was just made.
    Created,
    /// Any time after.
    Later,
    /// It is gone.
    Deleted,
}

impl Phase {
    /// From the event's type; what was fetched has none.
    #[must_use]
    pub fn of(event_type: Option<&str>) -> Self {
        match event_type {
            Some(kind) if kind.ends_with(".created") => Self::Created,
            Some(kind) if kind.ends_with(".deleted") => Self::Deleted,
            _ => Self::Later,
        }
    }

    const fn rank(self) -> i32 {
        match self {
            Self::Created => 0,
            Self::Later => 1,
            Self::Deleted => 2,
        }
    }
}

/// What billing needs.
const KINDS: [&str; 9] = [
    "customer",
    "invoice",
    "subscription",
    "checkout.session",
    "invoice_payment",
    "charge",
    "payment_intent",
    "refund",
    "dispute",
];

/// Reads `object`.
///
/// # Errors
/// [`Wrong`] if it is of a kind that billing needs and not as documented.
pub fn read(object: &Value, phase: Phase) -> Result<Said, Wrong> {
    let fields = Fields(object);
    // Of kinds that are of no use here an id that is none does no harm: some of them people may choose.
    let id = match object["object"].as_str() {
        Some(kind) if KINDS.contains(&kind) => fields.id("id")?,
        _ => fields.id("id").ok().flatten(),
    };
    let phase = if fields.flag("deleted")? { Phase::Deleted } else { phase };
    let mut refs = Refs::default();
    refs.add(fields.id("customer").ok().flatten());
    // The preview of a coming invoice has no id that lasts.
    let lasting = id.as_deref().filter(|id| !id.starts_with("upcoming_"));
    let needed = object["object"].as_str().filter(|kind| lasting.is_some() && KINDS.contains(kind));
    let state = match needed {
        Some("customer") => Some(customer(&fields, phase)?),
        Some("invoice") => invoice(&fields, phase, &mut refs)?,
        Some("subscription") => subscription(&fields, phase)?,
        Some("checkout.session") => Some(checkout_session(&fields, &mut refs)?),
        Some("invoice_payment") => Some(invoice_payment(&fields, &mut refs)?),
        Some("charge") => Some(charge(&fields, &mut refs)?),
        Some("payment_intent") => Some(payment_intent(&fields, &mut refs)?),
        Some("refund") => Some(refund(&fields, &mut refs)?),
        Some("dispute") => Some(dispute(&fields, &mut refs)?),
        _ => None,
    };
    let partial = needed.is_some() && state.is_none();
    Ok(Said { id: lasting.map(str::to_owned), refs: refs.sorted(), state, partial })
}

/// Whether a list within an object may have more entries than it shows: Stripe shows ten, and says so. One that does not say that it
/// is all is taken for cut.
pub(crate) fn is_cut(list: &Value) -> bool {
    list.is_object() && list["has_more"] != json!(false)
}

fn customer(fields: &Fields<'_>, phase: Phase) -> Result<State, Wrong> {
    let deleted = phase == Phase::Deleted;
    let facts = json!({
        "status": if deleted { "deleted" } else { "active" }, "delinquent": fields.flag("delinquent")?,
    });
    Ok(state("customer", facts, deleted, phase.rank()))
}

/// Statuses in the order an invoice goes through them; from uncollectible it can still be paid or voided.
const INVOICE: [&str; 5] = ["draft", "open", "uncollectible", "paid", "void"];

/// `None` if a list in it was cut short.
fn invoice(fields: &Fields<'_>, phase: Phase, refs: &mut Refs) -> Result<Option<State>, Wrong> {
    if phase == Phase::Deleted && fields.0.get("total").is_none_or(Value::is_null) {
        // As the API answers for what is gone: nothing but that. XXX is ISO 4217's "no currency". What was told before is kept.
        let facts =
            json!({ "status": "deleted", "amount": 0, "currency": "XXX", "attempted": false, "attempt_count": 0 });
        return Ok(Some(state("invoice", facts, true, 5000)));
    }
    let status = fields.one_of("status", &INVOICE)?;
    let (status, rank) = if phase == Phase::Deleted { ("deleted", INVOICE.len()) } else { (INVOICE[status], status) };
    let attempts = fields.int("attempt_count")?.unwrap_or(0).clamp(0, 999);
    let parent = Fields(&fields.0["parent"]["subscription_details"]);
    let subscription = parent.id("subscription")?.or(fields.id("subscription")?);
    refs.add(subscription.clone());
    for name in ["charge", "payment_intent"] {
        refs.add(fields.id(name)?);
    }
    let ((lines, all_lines), (payments, all_payments)) = (fields.list("lines")?, fields.list("payments")?);
    for payment in payments {
        for name in ["charge", "payment_intent"] {
            refs.add(Fields(&payment["payment"]).id(name)?);
        }
    }
    let (start, end) = match (all_lines && all_payments, phase) {
        (true, _) => service_period(fields, lines)?,
        // A draft that is gone has no more lines to ask for, and needs none.
        (false, Phase::Deleted) => (None, None),
        (false, _) => return Ok(None),
    };
    let at = Fields(&fields.0["status_transitions"]);
    let facts = json!({
        "status": status, "amount": fields.amount("total")?, "currency": fields.currency("currency")?,
        "amount_due": fields.int("amount_due")?, "amount_paid": fields.int("amount_paid")?,
        "amount_remaining": fields.int("amount_remaining")?, "subscription": subscription,
        "number": fields.short("number")?, "created": fields.time("created")?, "due_at": fields.time("due_date")?,
        "period_start": start, "period_end": end, "finalized_at": at.time("finalized_at")?, "paid_at": at.time("paid_at")?,
        "voided_at": at.time("voided_at")?, "attempted": fields.flag("attempted")?, "attempt_count": attempts,
        "next_payment_attempt": fields.time("next_payment_attempt")?, "billing_reason": fields.short("billing_reason")?,
        "hosted_invoice_url": fields.web("hosted_invoice_url")?, "invoice_pdf": fields.web("invoice_pdf")?,
    });
    let terminal = matches!(status, "paid" | "void" | "deleted");
    let rank = i32::try_from(rank).unwrap_or_default() * 1000 + i32::try_from(attempts).unwrap_or_default();
    Ok(Some(state("invoice", facts, terminal, rank)))
}

/// When the service begins and ends that an invoice bills. Its own period says when items could be added to it, and counts only if
/// no line says more.
fn service_period(fields: &Fields<'_>, lines: &[Value]) -> Result<(Option<i64>, Option<i64>), Wrong> {
    let (mut start, mut end) = (None, None);
    for line in lines {
        let period = Fields(&line["period"]);
        start = start.into_iter().chain(period.time("start")?).min();
        end = end.into_iter().chain(period.time("end")?).max();
    }
    match (start, end) {
        (Some(_), Some(_)) => Ok((start, end)),
        _ => Ok((fields.time("period_start")?, fields.time("period_end")?)),
    }
}

const SUBSCRIPTION: [&str; 8] =
    ["incomplete", "incomplete_expired", "trialing", "active", "past_due", "canceled", "unpaid", "paused"];

/// `None` if its items were cut short.
fn subscription(fields: &Fields<'_>, phase: Phase) -> Result<Option<State>, Wrong> {
    let status = SUBSCRIPTION[fields.one_of("status", &SUBSCRIPTION)?];
    let latest_invoice = fields.id("latest_invoice")?;
    let (mut start, mut end) = (fields.time("current_period_start")?, fields.time("current_period_end")?);
    let (mut prices, mut quantity) = (Vec::new(), None);
    let (items, all) = fields.list("items")?;
    if !all {
        return Ok(None);
    }
    for item in items {
        let item = Fields(item);
        prices.extend(item.name("price")?.or(item.name("plan")?));
        quantity = quantity.or(item.int("quantity")?);
        start = start.into_iter().chain(item.time("current_period_start")?).min();
        end = end.into_iter().chain(item.time("current_period_end")?).max();
    }
    if prices.is_empty() {
        return Err(Wrong("items"));
    }
    let facts = json!({
        "status": status, "prices": prices, "quantity": quantity.unwrap_or(1), "current_period_start": start,
        "current_period_end": end, "cancel_at": fields.time("cancel_at")?, "canceled_at": fields.time("canceled_at")?,
        "cancel_at_period_end": fields.flag("cancel_at_period_end")?, "ended_at": fields.time("ended_at")?,
        "trial_end": fields.time("trial_end")?, "collection_paused": fields.0["pause_collection"].is_object(),
        "latest_invoice": latest_invoice, "created": fields.time("created")?.or(fields.time("start_date")?).ok_or(Wrong("created"))?,
    });
    Ok(Some(state("subscription", facts, matches!(status, "canceled" | "incomplete_expired"), phase.rank())))
}

fn checkout_session(fields: &Fields<'_>, refs: &mut Refs) -> Result<State, Wrong> {
    const STATUSES: [&str; 3] = ["open", "expired", "complete"];
    let status = fields.one_of("status", &STATUSES)?;
    for name in ["subscription", "invoice", "payment_intent"] {
        refs.add(fields.id(name)?);
    }
    // Anyone may choose it in the address of a payment link: it counts only if it is the random id of a checkout of ours.
    let reference = fields.0["client_reference_id"].as_str().and_then(|text| Uuid::try_parse(text).ok());
    refs.add(reference.map(|id| format!("checkout:{id}")));
    let facts = json!({
        "status": STATUSES[status], "mode": fields.short("mode")?,
        "payment_status": fields.short("payment_status")?, "amount": fields.int("amount_total")?,
        "currency": fields.currency_if_any("currency")?, "subscription": fields.id("subscription")?,
        "customer": fields.id("customer")?,
    });
    Ok(state("checkout_session", facts, status > 0, i32::try_from(status).unwrap_or_default()))
}

fn invoice_payment(fields: &Fields<'_>, refs: &mut Refs) -> Result<State, Wrong> {
    const STATUSES: [&str; 3] = ["open", "canceled", "paid"];
    let status = fields.one_of("status", &STATUSES)?;
    let invoice = fields.id("invoice")?.ok_or(Wrong("invoice"))?;
    refs.add(Some(invoice.clone()));
    let payment = Fields(&fields.0["payment"]);
    for name in ["charge", "payment_intent"] {
        refs.add(payment.id(name)?);
    }
    let facts = json!({
        "status": STATUSES[status], "invoice": invoice, "amount": fields.int("amount_paid")?.or(fields.int("amount_requested")?),
        "currency": fields.currency("currency")?,
    });
    Ok(state("invoice_payment", facts, status > 0, i32::try_from(status).unwrap_or_default()))
}

fn charge(fields: &Fields<'_>, refs: &mut Refs) -> Result<State, Wrong> {
    const STATUSES: [&str; 3] = ["pending", "failed", "succeeded"];
    let status = fields.one_of("status", &STATUSES)?;
    for name in ["payment_intent", "invoice"] {
        refs.add(fields.id(name)?);
    }
    let refunded = fields.int("amount_refunded")?.unwrap_or(0);
    let disputed = fields.flag("disputed")?;
    let facts = json!({
        "status": STATUSES[status], "amount": fields.amount("amount")?, "amount_refunded": refunded, "disputed": disputed,
        "currency": fields.currency("currency")?,
    });
    let rank = i32::try_from(status).unwrap_or_default() * 10 + i32::from(refunded > 0) + 2 * i32::from(disputed);
    Ok(state("charge", facts, false, rank))
}

fn payment_intent(fields: &Fields<'_>, refs: &mut Refs) -> Result<State, Wrong> {
    for name in ["latest_charge", "invoice"] {
        refs.add(fields.id(name)?);
    }
    let status = fields.short("status")?.ok_or(Wrong("status"))?;
    let terminal = matches!(status.as_str(), "succeeded" | "canceled");
    let facts =
        json!({ "status": status, "amount": fields.amount("amount")?, "currency": fields.currency("currency")? });
    Ok(state("payment_intent", facts, terminal, 0))
}

fn refund(fields: &Fields<'_>, refs: &mut Refs) -> Result<State, Wrong> {
    const STATUSES: [&str; 5] = ["pending", "requires_action", "succeeded", "failed", "canceled"];
    let status = fields.one_of("status", &STATUSES)?;
    for name in ["charge", "payment_intent"] {
        refs.add(fields.id(name)?);
    }
    let facts = json!({
        "status": STATUSES[status], "amount": fields.amount("amount")?, "currency": fields.currency("currency")?,
        "reason": fields.short("reason")?,
    });
    // A refund that succeeded can still fail.
    Ok(state("refund", facts, false, i32::try_from(status).unwrap_or_default()))
}

fn dispute(fields: &Fields<'_>, refs: &mut Refs) -> Result<State, Wrong> {
    const STATUSES: [&str; 8] = [
        "warning_needs_response",
        "warning_under_review",
        "warning_closed",
        "needs_response",
        "under_review",
        "prevented",
        "lost",
        "won",
    ];
    let status = fields.one_of("status", &STATUSES)?;
    for name in ["charge", "payment_intent"] {
        refs.add(fields.id(name)?);
    }
    let facts = json!({
        "status": STATUSES[status], "amount": fields.amount("amount")?, "currency": fields.currency("currency")?,
        "reason": fields.short("reason")?, "due_by": Fields(&fields.0["evidence_details"]).time("due_by")?,
    });
    Ok(state("dispute", facts, false, i32::try_from(status).unwrap_or_default()))
}

fn state(kind: &'static str, facts: Value, terminal: bool, rank: i32) -> State {
    let Value::Object(facts) = facts else { return State { kind, facts: Map::new(), terminal, rank } };
    State { kind, facts, terminal, rank }
}

/// Whether `text` can be one of Stripe's ids: the database is asked by it, and people are shown it.
#[must_use]
pub fn is_id(text: &str) -> bool {
    (1..=255).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// Whether `text` can be the id of a price: those made before prices were called so could be chosen.
#[must_use]
pub fn is_name(text: &str) -> bool {
    (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Ids, each once.
#[derive(Default)]
struct Refs(Vec<String>);

impl Refs {
    fn add(&mut self, id: Option<String>) {
        self.0.extend(id);
    }

    fn sorted(mut self) -> Vec<String> {
        self.0.sort_unstable();
        self.0.dedup();
        self.0.truncate(50);
        self.0
    }
}

/// Reads fields: null and absent are the same, and anything of another type than documented is [`Wrong`].
struct Fields<'a>(&'a Value);

impl Fields<'_> {
    fn get(&self, name: &'static str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// An id, or the object itself that the id would name.
    fn id(&self, name: &'static str) -> Result<Option<String>, Wrong> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let text = value.as_str().or_else(|| value.get("id").and_then(Value::as_str));
        text.filter(|text| is_id(text)).map(|text| Some(text.to_owned())).ok_or(Wrong(name))
    }

    /// An id that people may have chosen, as of a plan of old.
    fn name(&self, name: &'static str) -> Result<Option<String>, Wrong> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let text = value.as_str().or_else(|| value.get("id").and_then(Value::as_str));
        text.filter(|text| is_name(text)).map(|text| Some(text.to_owned())).ok_or(Wrong(name))
    }

    /// The entries that a list shows, and whether they are all. Nothing, and all of it, if there is no such list.
    fn list(&self, name: &'static str) -> Result<(&[Value], bool), Wrong> {
        let Some(list) = self.get(name) else { return Ok((&[], true)) };
        let entries = list.get("data").and_then(Value::as_array).ok_or(Wrong(name))?;
        Ok((entries, !is_cut(list)))
    }

    fn flag(&self, name: &'static str) -> Result<bool, Wrong> {
        self.get(name).map_or(Ok(false), |value| value.as_bool().ok_or(Wrong(name)))
    }

    fn int(&self, name: &'static str) -> Result<Option<i64>, Wrong> {
        self.get(name).map(|value| value.as_i64().ok_or(Wrong(name))).transpose()
    }

    /// An amount in minor units, which there must be.
    fn amount(&self, name: &'static str) -> Result<i64, Wrong> {
        self.int(name)?.ok_or(Wrong(name))
    }

    /// Unix seconds, up to the year 9999.
    fn time(&self, name: &'static str) -> Result<Option<i64>, Wrong> {
        match self.int(name)? {
            Some(seconds) if !(0..=253_402_300_799).contains(&seconds) => Err(Wrong(name)),
            time => Ok(time),
        }
    }

    /// A word of Stripe's.
    fn short(&self, name: &'static str) -> Result<Option<String>, Wrong> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let text = value.as_str().filter(|text| text.len() <= 255 && !text.contains(char::is_control));
        text.map(|text| Some(text.to_owned())).ok_or(Wrong(name))
    }

    /// An address on the web; any other has no business in a dashboard.
    fn web(&self, name: &'static str) -> Result<Option<String>, Wrong> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let text = value.as_str().filter(|text| text.len() <= 2000).ok_or(Wrong(name))?;
        let url = Url::parse(text).map_err(|_| Wrong(name))?;
        if url.scheme() == "https" { Ok(Some(url.into())) } else { Err(Wrong(name)) }
    }

    fn one_of(&self, name: &'static str, known: &[&str]) -> Result<usize, Wrong> {
        let text = self.get(name).and_then(Value::as_str).ok_or(Wrong(name))?;
        known.iter().position(|status| *status == text).ok_or(Wrong(name))
    }

    fn currency(&self, name: &'static str) -> Result<String, Wrong> {
        self.currency_if_any(name)?.ok_or(Wrong(name))
    }

    fn currency_if_any(&self, name: &'static str) -> Result<Option<String>, Wrong> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let text = value.as_str().filter(|text| text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_alphabetic()));
        text.map(|text| Some(text.to_ascii_uppercase())).ok_or(Wrong(name))
    }
}
