//! Answers that list, page by page.

use serde_json::{Value, json};

use super::{
    form::Form,
    invoices::InvoiceFacts,
    objects::{CustomerFacts, PriceFacts, SubscriptionStatus},
    refusal::Refusal,
    rest::Asked,
    world::{Logged, Resource, Table, World},
};

/// How long events are kept.
const EVENTS_KEPT: i64 = 30 * 24 * 3600;

/// The page of `rows` that is asked for, and whether there are more. A cursor counts even if `keep` does not keep it.
fn page<'a, T>(
    form: &Form,
    rows: &[&'a T],
    id: impl Fn(&T) -> &str,
    keep: impl Fn(&T) -> bool,
) -> Result<(Vec<&'a T>, bool), Refusal> {
    let limit = match form.integer("limit")?.map(usize::try_from) {
        None => 10,
        Some(Ok(limit @ 1..=100)) => limit,
        Some(_) => return Err(Refusal::invalid("limit", "This value must be between 1 and 100.")),
    };
    let find = |param: &str| {
        let cursor = form.get(param).map(|cursor| {
            let at = rows.iter().position(|row| id(row) == cursor);
            at.ok_or_else(|| Refusal::missing("object", cursor).named_by(param))
        });
        cursor.transpose()
    };
    let kept = |rows: &[&'a T]| rows.iter().copied().filter(|row| keep(row)).collect::<Vec<_>>();
    match (find("starting_after")?, find("ending_before")?) {
        (Some(_), Some(_)) => {
            Err(Refusal::invalid("", "You may only specify one of these: starting_after, ending_before."))
        }
        // The nearest before the cursor, not the first of all.
        (None, Some(before)) => {
            let mut found = kept(&rows[..before]);
            let more = found.len().saturating_sub(limit);
            Ok((found.split_off(more), more > 0))
        }
        (after, None) => {
            let mut found = kept(&rows[after.map_or(0, |after| after + 1)..]);
            let more = found.len() > limit;
            found.truncate(limit);
            Ok((found, more))
        }
    }
}

fn listed(asked: &Asked<'_>, data: Vec<Value>, has_more: bool) -> Value {
    json!({ "object": "list", "data": data, "has_more": has_more, "url": asked.path })
}

/// Whether `created`, or its `gt`, `gte`, `lt` and `lte`, admits this moment.
struct Created(Vec<(&'static str, i64)>);

impl Created {
    fn parse(form: &Form) -> Result<Self, Refusal> {
        let mut bounds = Vec::new();
        for name in ["created", "created[gt]", "created[gte]", "created[lt]", "created[lte]"] {
            bounds.extend(form.integer(name)?.map(|bound| (name, bound)));
        }
        Ok(Self(bounds))
    }

    fn admits(&self, at: i64) -> bool {
        self.0.iter().all(|(name, bound)| match *name {
            "created[gt]" => at > *bound,
            "created[gte]" => at >= *bound,
            "created[lt]" => at < *bound,
            "created[lte]" => at <= *bound,
            _ => at == *bound,
        })
    }
}

/// Whether a parameter is absent, or is this.
fn is(form: &Form, name: &str, value: Option<&str>) -> bool {
    form.get(name).is_none_or(|wanted| value == Some(wanted))
}

fn list<T: Resource>(
    asked: &Asked<'_>,
    table: &Table<T>,
    keep: impl Fn(&T) -> bool,
    render: impl Fn(&T) -> Value,
) -> Result<Value, Refusal> {
    let created = Created::parse(&asked.form)?;
    let rows = table.newest_first();
    let (found, more) = page(&asked.form, &rows, T::id, |row| created.admits(row.created()) && keep(row))?;
    Ok(listed(asked, found.into_iter().map(render).collect(), more))
}

impl World {
    fn remembers(&self, logged: &Logged) -> bool {
        logged.created >= self.now() - EVENTS_KEPT
    }

    pub(super) fn list_events(&self, asked: &Asked<'_>) -> Result<Value, Refusal> {
        let types: Vec<&str> = asked.form.all("types").into_iter().chain(asked.form.get("type")).collect();
        let wanted = |kind: &str| {
            let matches =
                |wanted: &&str| wanted.strip_suffix('*').map_or(*wanted == kind, |start| kind.starts_with(start));
            types.is_empty() || types.iter().any(matches)
        };
        let keep = |logged: &Logged| {
            logged.payload["object"] == "event"
                && self.remembers(logged)
                && wanted(logged.payload["type"].as_str().unwrap_or_default())
                && is(&asked.form, "delivery_success", Some(if logged.delivered { "true" } else { "false" }))
        };
        list(asked, &self.log, keep, |logged| logged.render(asked.shape))
    }

    pub(super) fn event(&self, id: &str) -> Result<Value, Refusal> {
        let found = self.log.find(id).filter(|logged| logged.full.is_none() && self.remembers(logged));
        found.map(|logged| logged.render(self.shape)).ok_or_else(|| Refusal::missing(Logged::KIND, id))
    }

    pub(super) fn thin_event(&self, id: &str) -> Result<Value, Refusal> {
        let found = self.log.find(id).filter(|logged| self.remembers(logged)).and_then(|logged| logged.full.clone());
        found.ok_or_else(|| Refusal { code: Some("not_found"), ..Refusal::missing("v2.core.event", id) })
    }

    pub(super) fn list_customers(&self, asked: &Asked<'_>) -> Result<Value, Refusal> {
        let keep = |customer: &CustomerFacts| !customer.deleted && is(&asked.form, "email", customer.email.as_deref());
        list(asked, &self.customers, keep, |customer| customer.render(asked.shape))
    }

    pub(super) fn list_prices(&self, asked: &Asked<'_>) -> Result<Value, Refusal> {
        let keep = |price: &PriceFacts| is(&asked.form, "product", Some(&price.product));
        list(asked, &self.prices, keep, |price| price.render(asked.shape))
    }

    pub(super) fn list_subscriptions(&self, asked: &Asked<'_>) -> Result<Value, Refusal> {
        let form = &asked.form;
        let status = |found: SubscriptionStatus| match form.get("status") {
            None => found != SubscriptionStatus::Canceled,
            Some("all") => true,
            Some("ended") => found.has_ended(),
            Some(wanted) => json!(found) == wanted,
        };
        list(
            asked,
            &self.subscriptions,
            |found| status(found.status) && is(form, "customer", Some(&found.customer)),
            |found| found.render(asked.shape),
        )
    }

    pub(super) fn list_items(&self, asked: &Asked<'_>) -> Result<Value, Refusal> {
        let subscription = self.subscriptions.get(asked.form.required("subscription")?);
        let subscription = subscription.map_err(|refusal| refusal.named_by("subscription"))?;
        let rows: Vec<_> = subscription.items.iter().collect();
        let (found, more) = page(&asked.form, &rows, |item| item.id.as_str(), |_| true)?;
        Ok(listed(asked, found.into_iter().map(|item| subscription.render_item(item, asked.shape)).collect(), more))
    }

    pub(super) fn list_invoices(&self, asked: &Asked<'_>) -> Result<Value, Refusal> {
        let form = &asked.form;
        let keep = |invoice: &InvoiceFacts| {
            !invoice.deleted
                && is(form, "customer", Some(&invoice.customer))
                && is(form, "subscription", invoice.subscription.as_deref())
                && is(form, "status", json!(invoice.status).as_str())
        };
        list(asked, &self.invoices, keep, |invoice| invoice.render(asked.shape))
    }

    pub(super) fn list_lines(&self, asked: &Asked<'_>, id: &str) -> Result<Value, Refusal> {
        let invoice = self.invoice(id)?;
        let rows: Vec<_> = invoice.lines.iter().collect();
        let (found, more) = page(&asked.form, &rows, |line| line.id.as_str(), |_| true)?;
        Ok(listed(asked, found.into_iter().map(|line| invoice.render_line(line, asked.shape)).collect(), more))
    }

    pub(super) fn list_payments(&self, asked: &Asked<'_>) -> Result<Value, Refusal> {
        let form = &asked.form;
        list(
            asked,
            &self.invoice_payments,
            |payment| {
                is(form, "invoice", Some(&payment.invoice))
                    && is(form, "status", Some(payment.status))
                    && is(form, "payment[type]", Some("payment_intent"))
                    && is(form, "payment[payment_intent]", Some(&payment.payment_intent))
            },
            |payment| payment.render(asked.shape),
        )
    }

    pub(super) fn list_charges(&self, asked: &Asked<'_>) -> Result<Value, Refusal> {
        let form = &asked.form;
        list(
            asked,
            &self.charges,
            |charge| {
                is(form, "customer", Some(&charge.customer)) && is(form, "payment_intent", Some(&charge.payment_intent))
            },
            |charge| charge.render(asked.shape),
        )
    }

    pub(super) fn list_disputes(&self, asked: &Asked<'_>) -> Result<Value, Refusal> {
        let form = &asked.form;
        list(
            asked,
            &self.disputes,
            |dispute| {
                is(form, "charge", Some(&dispute.charge)) && is(form, "payment_intent", Some(&dispute.payment_intent))
            },
            |dispute| dispute.render(asked.shape),
        )
    }

    pub(super) fn list_refunds(&self, asked: &Asked<'_>) -> Result<Value, Refusal> {
        let form = &asked.form;
        list(
            asked,
            &self.refunds,
            |refund| {
                is(form, "charge", Some(&refund.charge)) && is(form, "payment_intent", Some(&refund.payment_intent))
            },
            |refund| refund.render(asked.shape),
        )
    }

    pub(super) fn list_checkouts(&self, asked: &Asked<'_>) -> Result<Value, Refusal> {
        let form = &asked.form;
        list(
            asked,
            &self.checkouts,
            |session| {
                is(form, "customer", session.customer.as_deref())
                    && is(form, "subscription", session.subscription.as_deref())
                    && is(form, "status", Some(session.status))
            },
            |session| session.render(asked.shape),
        )
    }
}
