//! What each step of the demo saw, and whether that is right.
//!
//! A step gathers what it saw as JSON. Its judge says in a sentence what was checked, with the figures, or what is wrong. Judges are pure:
//! tests spoil each figure by itself, and the step must fail.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{DESIGNER, ORG, agents::SALES, billing::PRICE_MINOR};

/// A step, its judge, and what it sees where all is well.
#[cfg(test)]
pub(super) type Example = (&'static str, fn(&Value) -> Result<String>, Value);

pub(super) fn text<'a>(seen: &'a Value, name: &str) -> Result<&'a str> {
    seen[name].as_str().with_context(|| format!("{name} is no text: {seen}"))
}

pub(super) fn count(seen: &Value, name: &str) -> Result<i64> {
    seen[name].as_i64().with_context(|| format!("{name} is no whole number: {seen}"))
}

fn decimal(seen: &Value, name: &str) -> Result<f64> {
    seen[name].as_f64().with_context(|| format!("{name} is no number: {seen}"))
}

pub(super) fn flag(seen: &Value, name: &str) -> Result<bool> {
    seen[name].as_bool().with_context(|| format!("{name} is neither true nor false: {seen}"))
}

/// A list of texts, separated by commas.
pub(super) fn list(seen: &Value, name: &str) -> Result<String> {
    let items = seen[name].as_array().with_context(|| format!("{name} is no list: {seen}"))?;
    Ok(items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "))
}

pub(super) fn sign_in(seen: &Value) -> Result<String> {
    let (alg, email) = (text(seen, "alg")?, text(seen, "email")?);
    let (with, without) = (count(seen, "with")?, count(seen, "without")?);
    ensure!(
        alg == "ES256" && email == DESIGNER.1 && with == 200 && without == 401,
        "the token is not as it should be: {seen}"
    );
    Ok(format!("{email} of Atelier Nord has an {alg} token: {with} with it, {without} without"))
}

pub(super) fn photo_upload(seen: &Value) -> Result<String> {
    let (bytes, stored, orientation) = (count(seen, "bytes")?, count(seen, "stored")?, count(seen, "orientation")?);
    ensure!(bytes > 0 && stored == bytes, "{stored} of {bytes} bytes were stored");
    ensure!(orientation == 6 && flag(seen, "position")?, "it is no photo as a phone stores it: {seen}");
    Ok(format!(
        "{bytes} bytes sent, {stored} stored, on its side (orientation {orientation}), with a position in its EXIF"
    ))
}

pub(super) fn render_admitted(seen: &Value) -> Result<String> {
    let (status, job) = (count(seen, "status")?, text(seen, "job")?);
    ensure!(status == 202 && job == "queued", "it was not admitted: {seen}");
    Ok(format!("{status}, job {job}"))
}

pub(super) fn render_completed(seen: &Value) -> Result<String> {
    let (pictures, width, height) = (count(seen, "pictures")?, count(seen, "width")?, count(seen, "height")?);
    let (mime, model, served_by) = (text(seen, "mime")?, text(seen, "model")?, text(seen, "served_by")?);
    let (tokens, cost) = (count(seen, "tokens")?, count(seen, "cost")?);
    ensure!(pictures == 1 && width > 0 && width * 3 == height * 4, "it is no picture of the photo's shape: {seen}");
    ensure!(
        mime == "image/png" && model == super::MODEL && served_by == "model",
        "it is not what was asked for: {seen}"
    );
    ensure!(tokens > 0 && cost > 0, "it was for nothing: {seen}");
    Ok(format!(
        "{pictures} picture, {width}x{height} {mime} by {model}, {tokens} tokens, {cost} micro-USD, served by {served_by}"
    ))
}

pub(super) fn render_picture(seen: &Value) -> Result<String> {
    let (width, height, mark) = (count(seen, "width")?, count(seen, "height")?, text(seen, "mark")?);
    ensure!(flag(seen, "photo_has_position")?, "the photo has no position to lose");
    ensure!(!flag(seen, "has_position")?, "the picture tells where it was taken");
    ensure!(!flag(seen, "is_the_photo")?, "it is the photo");
    ensure!(
        width == count(seen, "told_width")? && height == count(seen, "told_height")?,
        "it has another size than was told: {seen}"
    );
    ensure!(mark == "compositeWithTrainedAlgorithmicMedia", "it is not marked as AI-generated: {seen}");
    let kept = seen["edges_kept"].as_f64().context("how much of the room it keeps is not said")?;
    ensure!(kept > 0.5, "it is another room: it keeps {kept} of the photo's long edges");
    Ok(format!("{width}x{height} as told, upright, no position, marked {mark}, edges kept: {kept}"))
}

pub(super) fn render_cost(seen: &Value) -> Result<String> {
    let (calls, cost) = (count(seen, "calls")?, count(seen, "usage_times_price")?);
    let (told, billed) = (count(seen, "told")?, count(seen, "billed")?);
    ensure!(calls == 2 && cost > 0 && cost == told && billed == told, "the cost is not what it should be: {seen}");
    Ok(format!("{cost} micro-USD over {calls} model calls = usage x price = what is told = what is billed"))
}

pub(super) fn usage_settled(seen: &Value) -> Result<String> {
    let (used, reserved, open) = (count(seen, "used")?, count(seen, "reserved")?, count(seen, "open")?);
    ensure!(used > 0 && reserved == 0 && open == 0, "use is not settled: {seen}");
    Ok(format!("requests used: {used}, still reserved: {reserved}; open reservations: {open}"))
}

pub(super) fn audit_trail(seen: &Value) -> Result<String> {
    let (actions, parts, readable) = (list(seen, "actions")?, list(seen, "parts")?, list(seen, "readable")?);
    let entries = count(seen, "entries")?;
    ensure!(entries == 2 && actions == "render.requested, render.completed", "the trail is {seen}");
    ensure!(parts == "input, decision, output", "of an entry there is only {parts}");
    ensure!(readable.is_empty(), "a personal value is readable: {readable}");
    ensure!(flag(seen, "sealed")?, "the wishes are not sealed");
    Ok(format!("{entries} entries, {actions}: {parts}, wishes sealed, no personal value readable"))
}

pub(super) fn mongo_document(seen: &Value) -> Result<String> {
    let (id, path) = (text(seen, "id")?, text(seen, "path")?);
    ensure!(path == format!("orgs/{ORG}/agent_outputs/{id}"), "it is somewhere else: {seen}");
    ensure!(!flag(seen, "another_finds_it")?, "another organisation finds it");
    Ok(format!("{path}; another organisation does not find it"))
}

pub(super) fn isolation(seen: &Value) -> Result<String> {
    let (status, code) = (count(seen, "status")?, text(seen, "code")?);
    ensure!(status == 404 && code == "render_request_not_found", "a stranger gets something else: {seen}");
    Ok(format!("a designer of Brick & Beam gets {status} {code}"))
}

pub(super) fn leads_dry_run(seen: &Value) -> Result<String> {
    let (there, leads, given) = (count(seen, "there")?, count(seen, "leads")?, count(seen, "given")?);
    let written = count(seen, "written")?;
    ensure!(leads > 0 && leads == there && given == leads, "not every lead would have been given to somebody: {seen}");
    ensure!(written == 0, "it wrote: {seen}");
    Ok(format!(
        "of {there} leads {leads} were looked at, {given} would have been given to somebody; assignments written: {written}"
    ))
}

pub(super) fn lead_assigned(seen: &Value) -> Result<String> {
    let (by_rules, moved, score) = (decimal(seen, "by_rules")?, decimal(seen, "moved")?, decimal(seen, "score")?);
    ensure!(
        text(seen, "served_by")? == "model" && text(seen, "assigned_to")? == SALES,
        "it was not assigned as it should: {seen}"
    );
    ensure!(
        by_rules > 0.0 && moved != 0.0 && moved.abs() <= 10.0,
        "the model did not move the score, or too far: {seen}"
    );
    ensure!((by_rules + moved - score).abs() < 0.005, "the score is not that of the rules, moved: {seen}");
    Ok(format!("score {by_rules} by rules, moved by {moved} to {score}: given to sven, who knows kitchens"))
}

pub(super) fn insight_written(seen: &Value) -> Result<String> {
    let (total, counted, figures) = (count(seen, "total")?, count(seen, "counted")?, count(seen, "figures")?);
    let headline = text(seen, "headline")?;
    ensure!(text(seen, "served_by")? == "model", "no model wrote it: {seen}");
    ensure!(counted > 0 && total == counted && figures > 0, "the figures are not what is stored: {seen}");
    ensure!(headline.contains(&total.to_string()), "the text has another figure: {seen}");
    Ok(format!("{figures} figures; {total} of {counted} leads in it: {headline}"))
}

pub(super) fn nothing_personal(seen: &Value) -> Result<String> {
    let (calls, recorded, people) = (count(seen, "calls")?, count(seen, "recorded")?, count(seen, "people")?);
    let readable = list(seen, "readable")?;
    ensure!(calls >= 2 && calls == recorded, "not every call was seen: {seen}");
    ensure!(people > 0, "there is nobody to name");
    ensure!(readable.is_empty(), "the provider was told {readable}");
    Ok(format!("{calls} calls made, {recorded} recorded, and no name, address or number of {people} people in them"))
}

pub(super) fn limit_reached(seen: &Value) -> Result<String> {
    let (percent, total, called) = (decimal(seen, "percent")?, count(seen, "total")?, count(seen, "called")?);
    let (state, served_by, because) = (text(seen, "state")?, text(seen, "served_by")?, text(seen, "because")?);
    ensure!(state == "reached" && percent >= 100.0, "the limit is not reached: {seen}");
    ensure!(total > 0, "there was nothing to tell, so no model would have been asked: {seen}");
    ensure!(
        served_by == "default_template" && because == "limit_reached" && called == 0,
        "it was not the template: {seen}"
    );
    Ok(format!(
        "{percent} % of the analyst's limit used: {total} leads told by {served_by}, {because}, models called: {called}"
    ))
}

pub(super) fn billing_checkout(seen: &Value) -> Result<String> {
    let (status, price, session) = (count(seen, "status")?, text(seen, "price")?, text(seen, "session")?);
    ensure!(
        status == 200 && price == sandbox::stripe::PRICE && session.starts_with("cs_"),
        "there is no page to pay on: {seen}"
    );
    Ok(format!("a page for {price}, which answers {status}, in session {}…", session.get(..11).unwrap_or(session)))
}

pub(super) fn billing_subscribed(seen: &Value) -> Result<String> {
    let (deliveries, events) = (count(seen, "deliveries")?, count(seen, "events")?);
    let (before, plan, state) = (text(seen, "before")?, text(seen, "plan")?, text(seen, "state")?);
    ensure!(events > 0 && deliveries == 2 * events, "not every event came twice: {seen}");
    ensure!(before == "free" && plan == "studio" && state == "active", "the plan does not follow: {seen}");
    Ok(format!("{deliveries} deliveries of {events} events in any order; the plan was {before}, is {plan}, {state}"))
}

pub(super) fn billing_unpaid(seen: &Value) -> Result<String> {
    let (state, plan, currency) = (text(seen, "state")?, text(seen, "plan")?, text(seen, "currency")?);
    let amount = count(seen, "open")?;
    ensure!(state == "past_due" && amount == PRICE_MINOR && currency == "SEK", "what is open is not told: {seen}");
    ensure!(plan == "studio", "the plan was lost while Stripe still tries: {seen}");
    Ok(format!("a renewal failed: {state}, {amount} hundredths of {currency} open, the plan still {plan}"))
}

pub(super) fn billing_paid(seen: &Value) -> Result<String> {
    let (state, plan, open) = (text(seen, "state")?, text(seen, "plan")?, count(seen, "open")?);
    ensure!(state == "active" && plan == "studio" && open == 0, "the payment is not seen: {seen}");
    Ok(format!("the next attempt was paid: {state}, {open} open, the plan {plan}"))
}

pub(super) fn billing_portal(seen: &Value) -> Result<String> {
    let status = count(seen, "status")?;
    ensure!(status == 200, "the page answered {status}");
    Ok(format!("a page to change card and plan, or to cancel, which answers {status}"))
}

pub(super) fn billing_stranger(seen: &Value) -> Result<String> {
    let (event, subscriptions, plans) =
        (text(seen, "event")?, count(seen, "subscriptions")?, count(seen, "plans_changed")?);
    ensure!(
        event == "unowned" && !flag(seen, "owned")? && subscriptions == 0,
        "a stranger's event is somebody's: {seen}"
    );
    ensure!(plans == 0, "a stranger's event changed a plan: {seen}");
    Ok(format!(
        "a stranger's event that names Atelier Nord is {event}; subscriptions made: {subscriptions}, plans changed: {plans}"
    ))
}

pub(super) fn billing_forged(seen: &Value) -> Result<String> {
    let (status, code, rows) = (count(seen, "status")?, text(seen, "code")?, count(seen, "rows")?);
    ensure!(status == 400 && code == "signature_invalid" && rows == 0, "a forged event was taken: {seen}");
    Ok(format!("a forged signature gets {status} {code} and leaves {rows} rows"))
}

pub(super) fn billing_rebuilt(seen: &Value) -> Result<String> {
    let (events, stored) = (count(seen, "events")?, count(seen, "stored")?);
    let changes = list(seen, "changes")?;
    ensure!(events > 0 && events == stored, "not every stored event was applied: {seen}");
    ensure!(changes.is_empty(), "it is other than it was: {changes}");
    Ok(format!("of {stored} stored events {events} applied again make the same billing"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Every step, with what it sees where all is well.
    fn steps() -> Vec<Example> {
        let mut steps = own_steps();
        steps.extend(super::super::examples());
        steps
    }

    fn own_steps() -> Vec<Example> {
        let path = format!("orgs/{ORG}/agent_outputs/01a2292e");
        vec![
            ("sign-in", sign_in, json!({ "alg": "ES256", "email": DESIGNER.1, "with": 200, "without": 401 })),
            (
                "photo-upload",
                photo_upload,
                json!({ "bytes": 238_971, "stored": 238_971, "orientation": 6, "position": true }),
            ),
            ("render-admitted", render_admitted, json!({ "status": 202, "job": "queued" })),
            (
                "render-completed",
                render_completed,
                json!({
                    "pictures": 1, "width": 1024, "height": 768, "mime": "image/png", "model": "gemini-3.1-flash-image",
                    "served_by": "model", "tokens": 1756, "cost": 67_619,
                }),
            ),
            (
                "render-picture",
                render_picture,
                json!({
                    "width": 1024, "height": 768, "told_width": 1024, "told_height": 768, "photo_has_position": true,
                    "has_position": false, "is_the_photo": false, "mark": "compositeWithTrainedAlgorithmicMedia",
                    "edges_kept": 0.97,
                }),
            ),
            (
                "render-cost",
                render_cost,
                json!({ "calls": 2, "usage_times_price": 67_619, "told": 67_619, "billed": 67_619 }),
            ),
            ("usage-settled", usage_settled, json!({ "used": 1, "reserved": 0, "open": 0 })),
            (
                "audit-trail",
                audit_trail,
                json!({
                    "entries": 2, "actions": ["render.requested", "render.completed"],
                    "parts": ["input", "decision", "output"], "readable": [], "sealed": true,
                }),
            ),
            ("mongo-document", mongo_document, json!({ "id": "01a2292e", "path": path, "another_finds_it": false })),
            ("isolation", isolation, json!({ "status": 404, "code": "render_request_not_found" })),
            ("leads-dry-run", leads_dry_run, json!({ "there": 40, "leads": 40, "given": 40, "written": 0 })),
            (
                "lead-assigned",
                lead_assigned,
                json!({ "served_by": "model", "assigned_to": SALES, "by_rules": 47.13, "moved": 1.0, "score": 48.13 }),
            ),
            (
                "insight-written",
                insight_written,
                json!({
                    "served_by": "model", "figures": 9, "total": 13, "counted": 13,
                    "headline": "Analyst: new leads in the period: 13.",
                }),
            ),
            ("nothing-personal", nothing_personal, json!({ "calls": 2, "recorded": 2, "people": 41, "readable": [] })),
            (
                "limit-reached",
                limit_reached,
                json!({
                    "state": "reached", "percent": 100.0, "total": 10, "served_by": "default_template",
                    "because": "limit_reached", "called": 0,
                }),
            ),
            (
                "billing-checkout",
                billing_checkout,
                json!({ "status": 200, "price": "price_sandbox", "session": "cs_test_1234" }),
            ),
            (
                "billing-subscribed",
                billing_subscribed,
                json!({ "deliveries": 20, "events": 10, "before": "free", "plan": "studio", "state": "active" }),
            ),
            (
                "billing-unpaid",
                billing_unpaid,
                json!({ "state": "past_due", "plan": "studio", "open": PRICE_MINOR, "currency": "SEK" }),
            ),
            ("billing-paid", billing_paid, json!({ "state": "active", "plan": "studio", "open": 0 })),
            ("billing-portal", billing_portal, json!({ "status": 200 })),
            (
                "billing-stranger",
                billing_stranger,
                json!({ "event": "unowned", "owned": false, "subscriptions": 0, "plans_changed": 0 }),
            ),
            ("billing-forged", billing_forged, json!({ "status": 400, "code": "signature_invalid", "rows": 0 })),
            ("billing-rebuilt", billing_rebuilt, json!({ "stored": 24, "events": 24, "changes": [] })),
        ]
    }

    /// What could stand in place of a value, and be wrong.
    fn spoilt(value: &Value) -> Vec<Value> {
        let wrong = match value {
            Value::Number(number) if number.as_f64() == Some(0.0) => vec![json!(1)],
            Value::Number(_) => vec![json!(0), json!(-1)],
            Value::String(_) => vec![json!(""), json!("other"), json!("?")],
            Value::Bool(value) => vec![json!(!value)],
            Value::Array(items) if items.is_empty() => vec![json!(["other"])],
            _ => vec![json!([]), json!(["other"])],
        };
        [vec![Value::Null], wrong].concat()
    }

    #[test]
    fn every_single_thing_that_a_step_saw_can_fail_it() {
        for (name, judge, seen) in steps() {
            assert!(judge(&seen).is_ok(), "{name}: {:?}", judge(&seen));
            for (part, value) in seen.as_object().unwrap() {
                for wrong in spoilt(value) {
                    let mut spoilt = seen.clone();
                    spoilt[part] = wrong.clone();
                    assert!(judge(&spoilt).is_err(), "{name} passes with {part} {wrong}: {:?}", judge(&spoilt));
                }
            }
            assert!(judge(&json!({})).is_err(), "{name} passes having seen nothing");
        }
    }

    #[test]
    fn what_a_step_says_has_every_figure_that_it_checked() {
        for (name, judge, seen) in steps() {
            let said = judge(&seen).unwrap();
            let mut figures = 0;
            for (part, value) in seen.as_object().unwrap() {
                let figure = match value {
                    Value::Number(number) => number.as_f64().unwrap().to_string(),
                    Value::String(text) if part == "path" => text.clone(),
                    _ => continue,
                };
                assert!(said.contains(&figure), "{name} does not say {part}, {figure}: {said}");
                figures += 1;
            }
            assert!(figures > 0, "{name} checks no figure");
        }
    }

    #[test]
    fn limit_reached_does_not_pass_where_there_was_nothing_to_tell() {
        let seen = json!({
            "state": "reached", "percent": 100.0, "total": 0, "served_by": "default_template",
            "because": "nothing_to_tell", "called": 0,
        });
        assert!(limit_reached(&seen).is_err());
    }
}
