//! Objects as Stripe shows them now, each list in them read to its end.

use serde_json::{Value, json};
use shared::{
    clients::stripe::{Pages, StripeError, path_of},
    store::billing,
};
use uuid::Uuid;

use crate::{
    error::StepError,
    event,
    facts::{is_cut, is_id},
    state::State,
};

/// The object as Stripe shows it now, as an event of our own. Written down as asked about, whatever comes of it.
pub(crate) async fn fetch(state: &State, org: Uuid, object_id: &str) -> Result<Vec<u8>, StepError> {
    let status = state.db.service(org, async |tx| billing::compare_object(tx, object_id).await).await?;
    let path = path_of(object_id).ok_or(StripeError::Missing)?;
    // Payments are not part of an invoice unless asked for.
    let query: &[(&str, &str)] = if object_id.starts_with("in_") { &[("expand[]", "payments")] } else { &[] };
    match get(state, &path, query).await {
        Ok((object, observed_at_s)) => Ok(whole(state, object, observed_at_s).await?),
        // Only a draft can be deleted. Dated before everything, so that the event that says so itself counts more.
        Err(StripeError::Missing) if status.as_deref() == Some("draft") => {
            Ok(event::fetched(&event::gone(object_id), 0))
        }
        Err(error) => Err(error.into()),
    }
}

/// The object at `path`, and when it was so, as of [`shared::clients::stripe::Fetched`]. An answer about anything but what the path names says nothing.
pub(crate) async fn get(state: &State, path: &str, query: &[(&str, &str)]) -> Result<(Value, i64), StripeError> {
    let fetched = state.stripe.get(path, query).await?;
    let object = fetched.json()?;
    if object["id"].as_str() != path.rsplit('/').next() {
        return Err(StripeError::Malformed);
    }
    Ok((object, fetched.observed_at_s))
}

/// An object that Stripe showed, as an event of our own, with all of each list in it.
///
/// # Errors
/// [`StripeError`] if the rest of a list cannot be had: then the object says nothing yet.
pub(crate) async fn whole(state: &State, mut object: Value, observed_at_s: i64) -> Result<Vec<u8>, StripeError> {
    of_mode(state, &object)?;
    for (name, path, query) in lists(&object) {
        if !is_cut(&object[name]) {
            continue;
        }
        let shown = object[name]["data"].as_array().cloned().unwrap_or_default();
        let all = list(state, path, query).await?;
        // Two answers are of one state only if the second has what the first had.
        if !shown.iter().all(|entry| all.iter().any(|listed| listed["id"] == entry["id"])) {
            return Err(StripeError::Unavailable("a list changed while it was read".to_owned()));
        }
        object[name]["data"] = Value::Array(all);
        object[name]["has_more"] = json!(false);
    }
    Ok(event::fetched(&object, observed_at_s))
}

/// A list within an object: its field, the path where it is listed in full, and the query there.
type Within = (&'static str, String, Vec<(&'static str, String)>);

/// The lists within an object that [`crate::facts`] reads, and where each is listed in full.
fn lists(object: &Value) -> Vec<Within> {
    let Some(id) = object["id"].as_str().filter(|id| is_id(id)) else { return Vec::new() };
    match object["object"].as_str() {
        Some("subscription") => {
            vec![("items", "/v1/subscription_items".to_owned(), vec![("subscription", id.to_owned())])]
        }
        Some("invoice") => vec![
            ("lines", format!("/v1/invoices/{id}/lines"), Vec::new()),
            ("payments", "/v1/invoice_payments".to_owned(), vec![("invoice", id.to_owned())]),
        ],
        _ => Vec::new(),
    }
}

async fn list(state: &State, path: String, query: Vec<(&'static str, String)>) -> Result<Vec<Value>, StripeError> {
    let (mut pages, mut all) = (Pages::of(path, query), Vec::new());
    loop {
        match pages.next(&state.stripe).await {
            Ok(Some(page)) => {
                for item in page.items {
                    all.push(serde_json::from_str(item.raw.get()).map_err(|_| StripeError::Malformed)?);
                }
            }
            Ok(None) => return Ok(all),
            // What has a list is there, so its list is.
            Err(StripeError::Missing) => return Err(StripeError::Malformed),
            Err(error) => return Err(error),
        }
    }
}

/// Refuses what is not of the mode that counts here: a key of the other would fill the books with tests.
fn of_mode(state: &State, object: &Value) -> Result<(), StripeError> {
    match object["livemode"].as_bool() {
        Some(live) if live != state.mode.livemode() => Err(StripeError::WrongMode),
        _ => Ok(()),
    }
}
