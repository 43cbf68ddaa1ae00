//! What clients send, and what it becomes. No I/O.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Map, Value};
use shared::{
    http::ApiError,
    limits::Amounts,
    store::agent_actions::{Deploy, Wanted},
};
use uuid::Uuid;

use crate::personal;

/// The most a body may hold, in bytes: three objects and what stands around them.
pub(crate) const MAX_BODY: usize = 256 * 1024;
/// The most that `input`, `decision` and `output` may hold each, in bytes of JSON without spaces.
const MAX_OBJECT: usize = 64 * 1024;
/// The most that a deploy's metadata may hold: as jsonb, which takes up to six times as much, they fit into their column.
const MAX_METADATA: usize = 8 * 1024;
/// How deep objects and lists may lie in each other. MongoDB takes 100, with what lies around.
const MAX_DEPTH: usize = 20;
const MAX_SUBJECTS: usize = 20;
const MAX_ASSETS: usize = 10;
const MAX_REQUESTS: i64 = 10_000;
/// Tokens, and a thousand dollars in micro-USD.
const MAX_SPENT: i64 = 1_000_000_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewActionBody {
    agent: Option<String>,
    action: String,
    resource: ResourceBody,
    project_id: Option<Uuid>,
    #[serde(default)]
    input: Map<String, Value>,
    #[serde(default)]
    decision: Map<String, Value>,
    #[serde(default)]
    output: Map<String, Value>,
    #[serde(default)]
    subjects: Vec<Uuid>,
    #[serde(default)]
    assets: Vec<AssetBody>,
    deploy: Option<DeployBody>,
    cost: Option<CostBody>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ResourceBody {
    #[serde(rename = "type")]
    kind: String,
    id: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AssetBody {
    upload_id: Option<Uuid>,
    path: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeployBody {
    target: String,
    version: String,
    status: String,
    started_at: String,
    finished_at: Option<String>,
    #[serde(default)]
    metadata: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CostBody {
    requests: Option<i64>,
    #[serde(default)]
    tokens: i64,
    #[serde(default)]
    cost_micro_usd: i64,
}

/// A file that was uploaded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AssetRef {
    /// By the caller, under this id of `POST /v1/uploads`.
    Upload(Uuid),
    /// By a member of the organisation, at this `bucket/path`.
    Path(String),
}

/// An action to be recorded.
#[derive(Debug)]
pub(crate) struct NewAction {
    pub(crate) agent: Option<String>,
    pub(crate) action: String,
    pub(crate) resource_type: String,
    pub(crate) resource_id: String,
    pub(crate) project_id: Option<Uuid>,
    pub(crate) input: Value,
    pub(crate) decision: Value,
    pub(crate) output: Value,
    pub(crate) subjects: Vec<Uuid>,
    /// Those of them who have personal values in it, each once.
    pub(crate) sealed_for: Vec<Uuid>,
    pub(crate) assets: Vec<AssetRef>,
    pub(crate) deploy: Option<Deploy>,
    pub(crate) cost: Amounts,
}

impl NewAction {
    pub(crate) fn parse(body: NewActionBody) -> Result<Self, ApiError> {
        if body.agent.as_deref().is_some_and(|agent| !is_line(agent, 60)) {
            return Err(ApiError::unprocessable("agent_invalid", "agent takes 1 to 60 characters of plain text."));
        }
        if !is_action(&body.action) {
            return Err(ApiError::unprocessable(
                "action_invalid",
                "action reads thing.done, as in blog_post.drafted: lower-case letters and underscores, at most 60 and 39 of them.",
            ));
        }
        if !is_name(&body.resource.kind, 60) || !is_line(&body.resource.id, 200) {
            return Err(ApiError::unprocessable(
                "resource_invalid",
                "resource.type takes up to 60 lower-case letters and underscores, resource.id 1 to 200 characters of plain text.",
            ));
        }
        let subjects = body.subjects;
        let mut each = subjects.clone();
        each.sort_unstable();
        each.dedup();
        if each.len() != subjects.len() || each.len() > MAX_SUBJECTS {
            return Err(ApiError::unprocessable(
                "subjects_invalid",
                format!("subjects takes at most {MAX_SUBJECTS} people, each once."),
            ));
        }
        let mut sealed_for = Vec::new();
        let mut object = |name, value| {
            let value = checked(name, value, MAX_OBJECT)?;
            let marked = personal::subjects(&value, &mut sealed_for);
            let listed = sealed_for.iter().all(|subject| subjects.contains(subject));
            if marked.is_err() || !listed {
                return Err(ApiError::unprocessable(
                    "personal_invalid",
                    format!(
                        "A personal value in {name} reads {{\"personal\": text, \"subject\": id}}, with an id that is among subjects, and has \
                         nothing beside."
                    ),
                ));
            }
            Ok(value)
        };
        let (input, decision, output) =
            (object("input", body.input)?, object("decision", body.decision)?, object("output", body.output)?);
        sealed_for.sort_unstable();
        sealed_for.dedup();
        Ok(Self {
            agent: body.agent,
            action: body.action,
            resource_type: body.resource.kind,
            resource_id: body.resource.id,
            project_id: body.project_id,
            input,
            decision,
            output,
            subjects,
            sealed_for,
            assets: assets(body.assets)?,
            deploy: body.deploy.map(deploy).transpose()?,
            cost: cost(body.cost)?,
        })
    }
}

fn assets(bodies: Vec<AssetBody>) -> Result<Vec<AssetRef>, ApiError> {
    if bodies.len() > MAX_ASSETS {
        return Err(ApiError::unprocessable("assets_invalid", format!("assets takes at most {MAX_ASSETS} files.")));
    }
    let mut named = Vec::with_capacity(bodies.len());
    for (place, body) in bodies.into_iter().enumerate() {
        let asset = match (body.upload_id, body.path) {
            (Some(id), None) => AssetRef::Upload(id),
            (None, Some(path)) if is_line(&path, 600) => AssetRef::Path(path),
            _ => {
                return Err(ApiError::unprocessable(
                    "assets_invalid",
                    format!("assets[{place}] takes an upload_id or a path, which reads bucket/path."),
                ));
            }
        };
        if named.contains(&asset) {
            return Err(ApiError::unprocessable("assets_invalid", format!("assets[{place}] is there twice.")));
        }
        named.push(asset);
    }
    Ok(named)
}

fn deploy(body: DeployBody) -> Result<Deploy, ApiError> {
    let invalid = |detail: &'static str| ApiError::unprocessable("deploy_invalid", detail);
    if !is_line(&body.target, 200) || !is_line(&body.version, 200) {
        return Err(invalid("deploy.target and deploy.version take 1 to 200 characters of plain text each."));
    }
    let (status, ended) = match body.status.as_str() {
        "pending" => ("pending", false),
        "running" => ("running", false),
        "succeeded" => ("succeeded", true),
        "failed" => ("failed", true),
        "cancelled" => ("cancelled", true),
        _ => return Err(invalid("deploy.status is pending, running, succeeded, failed or cancelled.")),
    };
    let time = |text: &str| time(text).ok_or_else(|| invalid("Times of a deploy are as in RFC 3339, with an offset."));
    let (started_at, finished_at) = (time(&body.started_at)?, body.finished_at.as_deref().map(time).transpose()?);
    if finished_at.is_some() != ended || finished_at.is_some_and(|finished| finished < started_at) {
        return Err(invalid("deploy.finished_at is there once the deploy has ended, and not before it began."));
    }
    let metadata = checked("deploy.metadata", body.metadata, MAX_METADATA)?;
    let mut marked = Vec::new();
    if personal::subjects(&metadata, &mut marked).is_err() || !marked.is_empty() {
        return Err(invalid("deploy.metadata takes no personal values; put them into input, decision or output."));
    }
    Ok(Deploy { target: body.target, version: body.version, status, started_at, finished_at, metadata })
}

fn cost(body: Option<CostBody>) -> Result<Amounts, ApiError> {
    let Some(body) = body else { return Ok(Amounts { requests: 1, ..Amounts::default() }) };
    let cost =
        Amounts { requests: body.requests.unwrap_or(1), tokens: body.tokens, cost_micro_usd: body.cost_micro_usd };
    let spent = 0..=MAX_SPENT;
    if !(1..=MAX_REQUESTS).contains(&cost.requests)
        || !spent.contains(&cost.tokens)
        || !spent.contains(&cost.cost_micro_usd)
    {
        return Err(ApiError::unprocessable(
            "cost_invalid",
            format!(
                "cost.requests is 1 to {MAX_REQUESTS}, cost.tokens and cost.cost_micro_usd are 0 to {MAX_SPENT} each."
            ),
        ));
    }
    Ok(cost)
}

/// An object that Postgres and MongoDB both take as it is.
fn checked(name: &'static str, object: Map<String, Value>, most: usize) -> Result<Value, ApiError> {
    let value = Value::Object(object);
    if let Some(wrong) = unfit(&value, 1) {
        return Err(ApiError::unprocessable("value_invalid", format!("{name} has {wrong}.")));
    }
    if value.to_string().len() > most {
        return Err(ApiError::unprocessable(
            "value_too_large",
            format!("{name} may hold at most {most} bytes of JSON."),
        ));
    }
    Ok(value)
}

/// What a value has that one of the databases does not take.
fn unfit(value: &Value, depth: usize) -> Option<&'static str> {
    match value {
        Value::String(text) if text.contains('\0') => Some("a NUL in a text"),
        // MongoDB counts to the largest signed integer.
        Value::Number(number) if number.is_u64() && number.as_i64().is_none() => Some("a number that is too large"),
        Value::Object(_) | Value::Array(_) if depth > MAX_DEPTH => Some("objects or lists too deep in each other"),
        Value::Array(values) => values.iter().find_map(|value| unfit(value, depth + 1)),
        Value::Object(fields) => fields.iter().find_map(|(name, value)| {
            if name.contains('\0') {
                return Some("a NUL in a name");
            }
            // To MongoDB such a name is an operator, or a value of another type.
            if name.starts_with('$') {
                return Some("a name that begins with $");
            }
            unfit(value, depth + 1)
        }),
        _ => None,
    }
}

fn is_name(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

/// As the audit log's own actions are named.
fn is_action(text: &str) -> bool {
    text.split_once('.').is_some_and(|(thing, done)| is_name(thing, 60) && is_name(done, 39))
}

/// One line of plain text.
fn is_line(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}

fn time(text: &str) -> Option<DateTime<Utc>> {
    Some(DateTime::parse_from_rfc3339(text).ok()?.to_utc())
}

/// The query of a list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    agent: Option<String>,
    action: Option<String>,
    from: Option<String>,
    to: Option<String>,
    after: Option<String>,
    limit: Option<String>,
}

impl ListQuery {
    /// The most actions in one page, and how many without a wish.
    const MOST: u8 = 100;
    const USUAL: u8 = 50;

    pub(crate) fn parse(&self, now: DateTime<Utc>) -> Result<Wanted<'_>, ApiError> {
        let invalid = |detail: &'static str| ApiError::bad_request("query_invalid", detail);
        if self.agent.as_deref().is_some_and(|agent| !is_line(agent, 60)) {
            return Err(invalid("agent takes 1 to 60 characters of plain text."));
        }
        if self.action.as_deref().is_some_and(|action| !is_action(action)) {
            return Err(invalid("action reads thing.done, as in blog_post.drafted."));
        }
        let bound = |text: &Option<String>, otherwise| match text {
            Some(text) => time(text).ok_or_else(|| invalid("from and to are times as in RFC 3339, with an offset.")),
            None => Ok(otherwise),
        };
        let after =
            self.after.as_deref().map(|id| Uuid::try_parse(id).map_err(|_| invalid("after is the id of an action.")));
        let most = match self.limit.as_deref().map(str::parse) {
            None => Self::USUAL,
            Some(Ok(most)) if (1..=Self::MOST).contains(&most) => most,
            Some(_) => return Err(invalid("limit is 1 to 100.")),
        };
        Ok(Wanted {
            agent: self.agent.as_deref(),
            action: self.action.as_deref(),
            from: bound(&self.from, DateTime::UNIX_EPOCH)?,
            // What is recorded while the list is made belongs to it; a clock may be a day off.
            to: bound(&self.to, now + chrono::TimeDelta::days(1))?,
            after: after.transpose()?,
            most,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn parsed(change: impl FnOnce(&mut Value)) -> Result<NewAction, String> {
        let mut body = json!({ "action": "blog_post.drafted", "resource": { "type": "blog_post", "id": "7" } });
        change(&mut body);
        let body = serde_json::from_value(body).map_err(|_| "body".to_owned())?;
        NewAction::parse(body).map_err(|error| {
            let body: Value = serde_json::from_str(&error.into_response("r").body).unwrap();
            body["code"].as_str().unwrap().to_owned()
        })
    }

    fn nested(depth: usize) -> Value {
        (1..depth).fold(json!({}), |value, _| json!({ "a": value }))
    }

    #[test]
    fn an_action_without_a_cost_is_one_request() {
        assert_eq!(parsed(|_| {}).unwrap().cost, Amounts { requests: 1, tokens: 0, cost_micro_usd: 0 });
        let cost = parsed(|body| body["cost"] = json!({ "tokens": 5 })).unwrap().cost;
        assert_eq!(cost, Amounts { requests: 1, tokens: 5, cost_micro_usd: 0 });
    }

    #[test]
    fn every_bound_holds_at_its_edge_and_not_beside_it() {
        let text = |length: usize| json!("é".repeat(length));
        let name = |length: usize| json!("a".repeat(length));
        let ids = |count: u128| json!((0..count).map(Uuid::from_u128).collect::<Vec<_>>());
        let uploads =
            |count: u128| json!((0..count).map(|n| json!({ "upload_id": Uuid::from_u128(n) })).collect::<Vec<_>>());
        let sized = |bytes: usize| json!({ "a": "x".repeat(bytes - r#"{"a":""}"#.len()) });
        let deploy = |name: &'static str, value: Value| {
            let mut deploy =
                json!({ "target": "web", "version": "1", "status": "pending", "started_at": "2026-01-01T00:00:00Z" });
            deploy[name] = value;
            deploy
        };
        let action = |thing: usize, done: usize| json!(format!("{}.{}", "a".repeat(thing), "b".repeat(done)));
        for (place, within, beside, code) in [
            ("/agent", text(1), text(0), "agent_invalid"),
            ("/agent", text(60), text(61), "agent_invalid"),
            ("/action", action(1, 1), action(0, 1), "action_invalid"),
            ("/action", action(60, 1), action(61, 1), "action_invalid"),
            ("/action", action(1, 39), action(1, 40), "action_invalid"),
            ("/action", json!("a_b.c_d"), json!("a.b.c"), "action_invalid"),
            ("/resource/type", name(60), name(61), "resource_invalid"),
            ("/resource/type", name(1), name(0), "resource_invalid"),
            ("/resource/id", text(200), text(201), "resource_invalid"),
            ("/resource/id", text(1), text(0), "resource_invalid"),
            ("/input", nested(20), nested(21), "value_invalid"),
            ("/decision", nested(20), nested(21), "value_invalid"),
            ("/output", nested(20), nested(21), "value_invalid"),
            ("/input", sized(MAX_OBJECT), sized(MAX_OBJECT + 1), "value_too_large"),
            ("/decision", sized(MAX_OBJECT), sized(MAX_OBJECT + 1), "value_too_large"),
            ("/output", sized(MAX_OBJECT), sized(MAX_OBJECT + 1), "value_too_large"),
            ("/input", json!({ "a": i64::MAX }), json!({ "a": i64::MAX as u64 + 1 }), "value_invalid"),
            ("/input", json!({ "a$": 1 }), json!({ "$a": 1 }), "value_invalid"),
            ("/input", json!({ "a": ["\n"] }), json!({ "a": ["\0"] }), "value_invalid"),
            ("/output", json!({ "a\n": 1 }), json!({ "a\0": 1 }), "value_invalid"),
            ("/subjects", ids(20), ids(21), "subjects_invalid"),
            ("/subjects", ids(2), json!([Uuid::nil(), Uuid::nil()]), "subjects_invalid"),
            ("/assets", uploads(10), uploads(11), "assets_invalid"),
            ("/assets", json!([{ "path": "a/b" }]), json!([{ "path": "a/b" }, { "path": "a/b" }]), "assets_invalid"),
            ("/assets", json!([{ "path": "a/b" }]), json!([{}]), "assets_invalid"),
            (
                "/assets",
                json!([{ "upload_id": Uuid::nil() }]),
                json!([{ "upload_id": Uuid::nil(), "path": "a/b" }]),
                "assets_invalid",
            ),
            ("/deploy", deploy("target", text(200)), deploy("target", text(201)), "deploy_invalid"),
            ("/deploy", deploy("version", text(200)), deploy("version", text(0)), "deploy_invalid"),
            ("/deploy", deploy("status", json!("running")), deploy("status", json!("gone")), "deploy_invalid"),
            ("/deploy", deploy("status", json!("running")), deploy("status", json!("failed")), "deploy_invalid"),
            (
                "/deploy",
                deploy("started_at", json!("2026-01-01T00:00:00+02:00")),
                deploy("started_at", json!("2026-01-01")),
                "deploy_invalid",
            ),
            (
                "/deploy",
                deploy("metadata", sized(MAX_METADATA)),
                deploy("metadata", sized(MAX_METADATA + 1)),
                "value_too_large",
            ),
            (
                "/deploy",
                deploy("metadata", json!({ "a": 1 })),
                deploy("metadata", json!({ "personal": "x", "subject": Uuid::nil() })),
                "deploy_invalid",
            ),
            ("/cost", json!({ "requests": 1 }), json!({ "requests": 0 }), "cost_invalid"),
            ("/cost", json!({ "requests": MAX_REQUESTS }), json!({ "requests": MAX_REQUESTS + 1 }), "cost_invalid"),
            ("/cost", json!({ "tokens": 0 }), json!({ "tokens": -1 }), "cost_invalid"),
            ("/cost", json!({ "tokens": MAX_SPENT }), json!({ "tokens": MAX_SPENT + 1 }), "cost_invalid"),
            ("/cost", json!({ "cost_micro_usd": 0 }), json!({ "cost_micro_usd": -1 }), "cost_invalid"),
            (
                "/cost",
                json!({ "cost_micro_usd": MAX_SPENT }),
                json!({ "cost_micro_usd": MAX_SPENT + 1 }),
                "cost_invalid",
            ),
        ] {
            let set = |value: Value| {
                parsed(|body| match place.split('/').collect::<Vec<_>>()[..] {
                    [_, outer, inner] => body[outer][inner] = value,
                    [_, outer] => body[outer] = value,
                    _ => panic!("{place}"),
                })
            };
            assert!(
                set(within.clone()).is_ok(),
                "{place} refuses {:.80}: {:?}",
                within.to_string(),
                set(within.clone()).err()
            );
            assert_eq!(set(beside.clone()).err().as_deref(), Some(code), "{place} {:.80}", beside.to_string());
        }
    }

    #[test]
    fn a_deploy_that_ended_ended_after_it_began() {
        let ended = |started: &str, finished: &str| {
            parsed(|body| {
                body["deploy"] = json!({
                    "target": "web", "version": "1", "status": "succeeded", "started_at": started, "finished_at": finished,
                });
            })
            .err()
        };
        assert_eq!(ended("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"), None);
        assert_eq!(ended("2026-01-01T00:00:00Z", "2025-12-31T23:59:59Z").as_deref(), Some("deploy_invalid"));
        assert_eq!(ended("2026-01-01T00:00:00Z", "yesterday").as_deref(), Some("deploy_invalid"));
    }

    #[test]
    fn a_personal_value_is_of_somebody_who_is_named() {
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let with = |subjects: Value, value: Value| {
            parsed(|body| {
                body["subjects"] = subjects;
                body["output"] = json!({ "deep": [value] });
            })
        };
        let value = json!({ "personal": "Greta", "subject": one });
        assert_eq!(with(json!([other, one]), value.clone()).unwrap().sealed_for, [one]);
        assert_eq!(with(json!([other]), value.clone()).err().as_deref(), Some("personal_invalid"));
        assert_eq!(with(json!([]), value).err().as_deref(), Some("personal_invalid"));
        let unfinished = json!({ "personal": "Greta" });
        assert_eq!(with(json!([one]), unfinished).err().as_deref(), Some("personal_invalid"));
    }

    #[test]
    fn a_list_has_one_to_a_hundred_actions() {
        let query = |name: &str, value: &str| -> Result<u8, ()> {
            let query: ListQuery = serde_json::from_value(json!({ name: value })).map_err(drop)?;
            query.parse(DateTime::UNIX_EPOCH).map(|wanted| wanted.most).map_err(drop)
        };
        assert_eq!((query("limit", "1"), query("limit", "100"), query("agent", "x")), (Ok(1), Ok(100), Ok(50)));
        for (name, value) in [
            ("limit", "0"),
            ("limit", "101"),
            ("limit", "-1"),
            ("limit", "x"),
            ("agent", ""),
            ("action", "drafted"),
            ("from", "yesterday"),
            ("to", "2026-01-01"),
            ("after", "x"),
            ("order", "asc"),
        ] {
            assert_eq!(query(name, value), Err(()), "{name}={value}");
        }
    }

    proptest! {
        #[test]
        fn no_body_makes_it_panic(text in "\\PC{0,60}", number in any::<i64>(), place in 0..5usize) {
            let places = ["agent", "action", "resource", "cost", "deploy"];
            let _ = parsed(|body| body[places[place]] = json!({ "requests": number, "type": text, "id": text }));
            let _ = parsed(|body| body[places[place]] = json!(text));
        }
    }
}
