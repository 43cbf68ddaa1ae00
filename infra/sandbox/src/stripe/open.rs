//! What the API makes: checkout and portal sessions, and meter events.

use serde_json::Value;
use url::Url;

use super::{
    form::Form,
    objects::PriceFacts,
    refusal::Refusal,
    rest::Asked,
    sessions::{CheckoutSessionFacts, MeterEvent, PortalSessionFacts},
    world::{World, new_id},
};

/// For how long a meter event's identifier is known.
const IDENTIFIERS_KEPT: i64 = 24 * 3600;
/// How old a meter event may be, and how far ahead. Not on our provider page.
const METER_WINDOW: (i64, i64) = (35 * 24 * 3600, 5 * 60);

/// An address on the web to send people to, if there is one. Not on our provider page: what Stripe takes for none; here it is whatever
/// a browser would read as another than it was written.
fn address(form: &Form, name: &str) -> Result<Option<String>, Refusal> {
    let Some(text) = form.get(name) else { return Ok(None) };
    let web = Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let plain = !text.contains(|c: char| c.is_control() || c.is_whitespace() || c == '\\');
    if web && plain && text.contains("://") {
        return Ok(Some(text.to_owned()));
    }
    Err(Refusal { code: Some("url_invalid"), ..Refusal::invalid(name, "Not a valid URL") })
}

impl World {
    pub(super) fn open_checkout(&mut self, asked: &Asked<'_>) -> Result<Value, Refusal> {
        let form = &asked.form;
        form.only(&[
            "mode",
            "line_items",
            "customer",
            "customer_email",
            "client_reference_id",
            "metadata",
            "subscription_data",
            "success_url",
            "cancel_url",
            "expires_at",
            "ui_mode",
            "allow_promotion_codes",
            "automatic_tax",
            "billing_address_collection",
            "locale",
            "payment_method_types",
            "tax_id_collection",
        ])?;
        if form.required("mode")? != "subscription" {
            return Err(Refusal::invalid("mode", "The sandbox has subscriptions only."));
        }
        let unknown = form
            .0
            .iter()
            .find(|(key, _)| key.starts_with("subscription_data[") && !key.starts_with("subscription_data[metadata]"));
        if let Some((key, _)) = unknown {
            return Err(Refusal::invalid(key, "The sandbox knows subscription_data[metadata] only."));
        }
        let line_items = self.line_items(form)?;
        let customer = form.get("customer").map(|id| self.customer(id).map_err(|refusal| refusal.named_by("customer")));
        let customer = customer.transpose()?;
        if customer.is_some() && form.get("customer_email").is_some() {
            return Err(Refusal::invalid("", "You may only specify one of these: customer, customer_email."));
        }
        let now = self.now();
        let expires_at = form.integer("expires_at")?.unwrap_or(now + 24 * 3600);
        if !(now + 1800..=now + 24 * 3600).contains(&expires_at) {
            return Err(Refusal::invalid("expires_at", "The expiry must be 30 minutes to 24 hours from now."));
        }
        let id = new_id("cs_test");
        let session = CheckoutSessionFacts {
            customer_email: form.owned("customer_email").or_else(|| customer.as_ref()?.email.clone()),
            customer: customer.map(|customer| customer.id),
            client_reference_id: form.owned("client_reference_id"),
            metadata: form.map("metadata"),
            subscription_metadata: form.map("subscription_data[metadata]"),
            success_url: Some(address(form, "success_url")?.ok_or_else(|| Refusal::required("success_url"))?),
            cancel_url: address(form, "cancel_url")?,
            expires_at,
            ..CheckoutSessionFacts::new(&id, line_items, &self.url, now)
        };
        self.checkouts.put(&session);
        Ok(session.render(asked.shape))
    }

    /// At least one. A quantity is for what is paid in advance, not for what is used.
    fn line_items(&self, form: &Form) -> Result<Vec<(PriceFacts, u64)>, Refusal> {
        let mut items = Vec::new();
        loop {
            let (price, quantity) =
                (format!("line_items[{}][price]", items.len()), format!("line_items[{}][quantity]", items.len()));
            if !items.is_empty() && form.get(&price).is_none() {
                break;
            }
            let found = self.prices.get(form.required(&price)?).map_err(|refusal| refusal.named_by(&price))?;
            let given = form.integer(&quantity)?;
            let counted = match (&found.meter, given.map(u64::try_from)) {
                (None, Some(Ok(counted))) if counted > 0 => counted,
                (None, None) => return Err(Refusal::required(&quantity)),
                (Some(_), None) => 1,
                _ => return Err(Refusal::invalid(&quantity, "Invalid quantity.")),
            };
            items.push((found, counted));
        }
        let lines = form.0.iter().filter(|(key, _)| key.starts_with("line_items[") && key.ends_with("[price]"));
        if lines.count() == items.len() { Ok(items) } else { Err(Refusal::invalid("line_items", "Invalid array")) }
    }

    pub(super) fn open_portal(&mut self, asked: &Asked<'_>) -> Result<Value, Refusal> {
        let form = &asked.form;
        form.only(&["customer", "return_url", "configuration", "locale", "flow_data"])?;
        let customer = self.customer(form.required("customer")?).map_err(|refusal| refusal.named_by("customer"))?;
        let id = new_id("bps");
        let session = PortalSessionFacts {
            created: self.now(),
            customer: customer.id,
            return_url: address(form, "return_url")?,
            url: format!("{}/p/session/{id}", self.url),
            id,
        };
        self.portals.put(&session);
        Ok(session.render(asked.shape))
    }

    pub(super) fn report_usage(&mut self, asked: &Asked<'_>) -> Result<Value, Refusal> {
        let (form, now) = (&asked.form, self.now());
        form.only(&["event_name", "identifier", "timestamp", "payload"])?;
        let event_name = form.required("event_name")?.to_owned();
        form.required("payload[stripe_customer_id]")?;
        // Not on our provider page: fractions, which the sandbox does not add up.
        let value = form.required("payload[value]")?;
        if value.parse::<u64>().is_err() {
            return Err(Refusal::invalid("payload[value]", format!("Invalid value: {value}")));
        }
        let timestamp = form.integer("timestamp")?.unwrap_or(now);
        if !(now - METER_WINDOW.0..=now + METER_WINDOW.1).contains(&timestamp) {
            let message = "The timestamp must be within the past 35 calendar days or up to 5 minutes in the future.";
            return Err(Refusal::invalid("timestamp", message));
        }
        let identifier = form.owned("identifier").unwrap_or_else(|| new_id("mevt"));
        let mut recent = self.meter_events.iter().filter(|known| now - known.created < IDENTIFIERS_KEPT);
        if recent.any(|known| known.identifier == identifier) {
            let message = format!("An event already exists with identifier {identifier}.");
            return Err(Refusal::invalid("identifier", message));
        }
        let reported = MeterEvent { event_name, identifier, timestamp, payload: form.map("payload"), created: now };
        let rendered = reported.render();
        self.meter_events.push(reported);
        Ok(rendered)
    }
}
