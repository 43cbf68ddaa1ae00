//! What a verified body says: an observation of one object, or why it is none.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use shared::store::billing::Observation;

use crate::facts::{self, Phase, Said};

pub use shared::clients::stripe::API_VERSION;
/// The type of an event of our own, which keeps what was fetched.
const FETCHED: &str = "fetched";

/// A delivery as it was understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// What to record.
    pub observation: Observation,
    /// Whether it says that it is of live mode; `None` if it says neither.
    pub livemode: Option<bool>,
}

/// Reads a body whose signature was checked. Everything that was signed becomes an observation: what cannot be understood is one with
/// status `unparsed`, what is of no use to billing one with status `ignored`, and what must be asked for one with status `received`. An
/// object with a list that was cut short is partial: it has no state.
///
/// `now_s`, Unix time, stands in for a time of which nothing is said.
#[must_use]
pub fn read(body: &[u8], now_s: i64) -> Delivery {
    let parsed = serde_json::from_slice::<Value>(body);
    let event = parsed.as_ref().unwrap_or(&Value::Null);
    let observation = understand(event, now_s).unwrap_or_else(|error| {
        let id = event["id"].as_str().filter(|id| is_event_id(id)).map(str::to_owned);
        Observation {
            event_id: id.unwrap_or_else(|| format!("sha256:{}", hex::encode(Sha256::digest(body)))),
            event_type: event_type(event),
            status: Some("unparsed"),
            error: Some(if parsed.is_err() { "the body is not JSON".to_owned() } else { error.to_string() }),
            // Whose it is may still be told.
            refs: event["data"]["object"]["customer"]
                .as_str()
                .filter(|id| facts::is_id(id))
                .map(str::to_owned)
                .into_iter()
                .collect(),
            object_id: event["data"]["object"]["id"].as_str().filter(|id| facts::is_id(id)).map(str::to_owned),
            ..empty(String::new(), now_s)
        }
    });
    Delivery { observation, livemode: event["livemode"].as_bool() }
}

fn understand(event: &Value, now_s: i64) -> Result<Observation, facts::Wrong> {
    let id = event["id"].as_str().filter(|id| is_event_id(id)).ok_or(facts::Wrong("id"))?;
    let kind = event_type(event).ok_or(facts::Wrong("type"))?;
    let base = empty(id.to_owned(), now_s);
    if event["object"] == "v2.core.event" {
        let related = event["related_object"]["id"].as_str().filter(|id| facts::is_id(id)).map(str::to_owned);
        let created = event["created"].as_str().and_then(|text| chrono::DateTime::parse_from_rfc3339(text).ok());
        return Ok(Observation {
            event_type: Some(kind),
            object_id: related,
            occurred_at: created.ok_or(facts::Wrong("created"))?.timestamp(),
            // It carries no object: that is asked for later.
            status: Some("received"),
            ..base
        });
    }
    if event["object"] != "event" {
        return Err(facts::Wrong("object"));
    }
    let created = event["created"].as_i64().filter(|at| (0..=253_402_300_799).contains(at));
    let object = event["data"].get("object").filter(|object| object.is_object()).ok_or(facts::Wrong("data.object"))?;
    let Said { id: object_id, refs, state, partial } = facts::read(object, Phase::of(Some(&kind)))?;
    let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let version = event["api_version"].as_str().filter(|text| text.len() <= 60 && text.bytes().all(word));
    Ok(Observation {
        status: (state.is_none() && !partial).then_some("ignored"),
        error: partial.then(|| "a list in it was cut short".to_owned()),
        partial,
        event_type: Some(kind),
        api_version: version.map(str::to_owned),
        occurred_at: created.ok_or(facts::Wrong("created"))?,
        object_id,
        refs,
        state,
        ..base
    })
}

fn empty(event_id: String, now_s: i64) -> Observation {
    Observation {
        event_id,
        event_type: None,
        api_version: None,
        occurred_at: now_s,
        object_id: None,
        refs: Vec::new(),
        state: None,
        status: None,
        error: None,
        partial: false,
        again: false,
    }
}

/// Ids of Stripe's events, and of ours.
fn is_event_id(id: &str) -> bool {
    let body = id.strip_prefix("fetched:").map_or_else(|| id.to_owned(), |rest| rest.replace(':', "_"));
    facts::is_id(&body)
}

fn event_type(event: &Value) -> Option<String> {
    let kind = event["type"].as_str()?;
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'.' || byte == b'_';
    ((1..=90).contains(&kind.len()) && kind.bytes().all(word)).then(|| kind.to_owned())
}

/// An object that was fetched, as an event of our own, so that what is stored is all of one form and can be applied again. The id
/// tells the object, the second it was so, and what it said: the same answer is the same event.
#[must_use]
pub fn fetched(object: &Value, observed_at_s: i64) -> Vec<u8> {
    let digest = hex::encode(Sha256::digest(object.to_string().as_bytes()));
    let id = object["id"].as_str().unwrap_or_default();
    let short = digest.get(..16).unwrap_or_default();
    json!({
        "id": format!("fetched:{id}:{observed_at_s}:{short}"), "object": "event", "type": FETCHED, "created": observed_at_s,
        "api_version": API_VERSION, "livemode": object["livemode"], "data": { "object": object },
    })
    .to_string()
    .into_bytes()
}

/// An object of which Stripe said that there is none, as the API shows what was deleted.
#[must_use]
pub fn gone(object_id: &str) -> Value {
    let kind = match object_id.split('_').next() {
        Some("in") => "invoice",
        Some("cus") => "customer",
        // Nothing else can be deleted.
        _ => "",
    };
    json!({ "id": object_id, "object": kind, "deleted": true })
}

/// The same event, kept without its effect.
#[must_use]
pub(crate) fn without_effect(observation: Observation, why: &str) -> Observation {
    Observation { state: None, partial: false, status: Some("ignored"), error: Some(why.to_owned()), ..observation }
}
